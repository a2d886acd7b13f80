"""What must be ours alone, although the directory around it may be anybody's.

A name proves nothing: in a directory that others can write to, somebody may have made what we look for, or may put
another thing in its place at any moment. So what is private is opened by its descriptor, without following a link, and
what was opened is asked whose it is. What is not ours is refused and never mended: nobody knows what was put there.

All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.system import O_PATH, files

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
MAX_LINKS = 40
"""As the kernel follows them."""
_WRITE_BY_OTHERS = 0o022
"""An access list that lets others write shows in the bits of the group as well."""


def exposure(status: os.stat_result) -> str | None:
    """Why something cannot be trusted that must be ours: its owner, its mode, or a second name; None if it can.

    Args:
        status: of the thing itself, by its descriptor.
    """
    if not files.is_trusted_owner(status.st_uid):
        return f"it belongs to user {status.st_uid}, not to you (user {files.effective_user()})"
    mode = stat.S_IMODE(status.st_mode)
    if files.HAS_MODES and mode & _WRITE_BY_OTHERS:
        return f"others can write to it (mode {mode:04o})"
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return f"it has {status.st_nlink} names (hard links)"
    return None


def exposure_of_path(path: Path) -> str | None:
    """Why others could put another thing in the place of ``path``, now or later; None if they cannot.

    For what must be opened by its path. A link is followed, and so are the names in it. Below our home directory the
    directories above it are not asked, as sshd does it. A directory may let its group write, as many do where each user
    has a group of their own.

    Args:
        path: what is missing of it does not count.

    Raises:
        OSError: as the kernel says.
    """
    if not files.HAS_MODES:
        return None  # The access lists of its folders are the account's, and are not read here.
    us = files.effective_user()
    home, path = Path(os.environ.get("HOME") or "/"), path.absolute()
    for here, status, more in steps_to(path, home if path.is_relative_to(home) else Path(path.anchor)):
        is_link = stat.S_ISLNK(status.st_mode)
        if status.st_uid not in (us, 0):
            belongs = "is a link of user {}, not yours" if is_link else "belongs to user {}, not to you"
            return f"{here} {belongs.format(status.st_uid)} (user {us})"
        if more and not is_link and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            return f"others can rename what is in {here} (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def steps_to(path: Path, start: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """What the kernel passes on its way: ``start``, each directory and link, and what the path leads to.

    Args:
        path: absolute; what is missing of it is left out.
        start: a directory above it.

    Yields:
        Where it is, its status, and whether anything is looked for behind it.

    Raises:
        OSError: as the kernel says.
    """
    here, names, links = start, list(reversed(path.relative_to(start).parts)), 0
    yield here, here.stat(), bool(names)
    while names:
        below = here / names.pop()
        try:
            status = below.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISLNK(status.st_mode):
            # Also ``..``, as every directory on the way here is a real one.
            here = below.parent.parent if below.name == ".." else below
            yield here, status, bool(names)
            continue
        yield below, status, True
        if (links := links + 1) > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = below.readlink()
        names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        if target.is_absolute():
            here = Path(target.anchor)
            yield here, here.stat(), bool(names)


def open_private_directory(above: int | None, name: str | Path, shown: str) -> int:
    """Open a directory, made with mode 0700 where there is none; its parents must exist.

    Args:
        above: the descriptor of the directory that it is in; None for a path.
        name: of the directory, which must be no link if ``above`` is given.
        shown: how it is named in messages.

    Raises:
        LocalError: it is not ours alone.
        OSError: as the kernel says.
    """
    with contextlib.suppress(FileExistsError):
        files.mkdir_at(name, DIRECTORY_MODE, dir_fd=above)
    follow = 0 if above is None else files.O_NOFOLLOW
    descriptor = files.open_at(name, os.O_RDONLY | files.O_DIRECTORY | follow | files.O_CLOEXEC, dir_fd=above)
    # Also what was just made: somebody may have put another directory in its place.
    if (why := exposure(os.fstat(descriptor))) is not None:
        os.close(descriptor)
        raise LocalError(f"{shown} cannot be trusted: {why}. Remove it, or use a directory that is yours alone")
    return descriptor


def open_private_file(above: int, name: str, flags: int, shown: str) -> int:
    """Open a regular file; one that is made gets mode 0600.

    Args:
        above: the descriptor of the directory that it is in.
        name: of the file.
        flags: as of :func:`os.open`; never waits, and follows no link.
        shown: how it is named in messages.

    Raises:
        LocalError: it is not ours alone, or no regular file.
        OSError: as the kernel says.
    """
    flags |= files.O_NOFOLLOW | files.O_CLOEXEC | files.O_NONBLOCK | files.O_NOCTTY
    descriptor = files.open_at(name, flags, FILE_MODE, dir_fd=above)
    status = os.fstat(descriptor)
    why = exposure(status) if stat.S_ISREG(status.st_mode) else "it is no regular file"
    if why is not None:
        os.close(descriptor)
        raise LocalError(f"{shown} cannot be trusted: {why}. Remove it")
    return descriptor


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a file is to be, and its mode; -1 for the user or group that writes it."""

    user: int = -1
    group: int = -1
    mode: int = FILE_MODE


def write_private_file(
    above: int, name: str, data: bytes, shown: str, *, replace: bool = True, ownership: Ownership | None = None
) -> None:
    """Write a file with mode 0600; whoever reads, also after a crash, finds the old one or all of the new one.

    Args:
        above: the descriptor of the directory that it is in.
        name: of the file.
        data: the content.
        shown: how it is named in messages.
        replace: whether it may take the place of a file that is there already.
        ownership: what it has in place of ours and 0600, from the moment on in which it has its name.

    Raises:
        LocalError: it would not be ours alone, as with a file system without modes.
        OSError: as the kernel says; FileExistsError for what must not be replaced.
    """
    with written_aside(above, name, data, shown, ownership) as aside:
        if replace:
            files.rename_at(aside, name, src_dir_fd=above, dst_dir_fd=above)
        else:
            link(above, aside, name)


@contextlib.contextmanager
def written_aside(above: int, name: str, data: bytes, shown: str, ownership: Ownership | None = None) -> Iterator[str]:
    """Write all of a file under another name, which is gone at the end of the block unless it was renamed."""
    aside = f"{name}.{secrets.token_hex(8)}.new"
    try:
        # Created with its final mode: a chmod afterwards would leave a moment in which others can open it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(open_private_file(above, aside, flags, shown), "wb") as file:
            file.write(data)
            file.flush()
            if ownership is not None:
                files.fchown(file.fileno(), ownership.user, ownership.group)
                files.fchmod(file.fileno(), ownership.mode)
            os.fsync(file.fileno())
        yield aside
    finally:
        with contextlib.suppress(OSError):
            files.unlink_at(aside, dir_fd=above)


def link(above: int, aside: str, name: str) -> None:
    """Give a file its name, but never in the place of one that has appeared meanwhile, as rename(2) would."""
    # Whoever owns the folder may have put a link in its place, and what that leads to must not get a name by us.
    files.link_at(aside, name, src_dir_fd=above, dst_dir_fd=above)


def write_private(path: Path, text: str, *, replace: bool) -> None:
    """Like :func:`write_private_file`, for a path whose directory may be anybody's.

    Raises:
        ConfigError: it exists and must not be replaced, or cannot be written.
    """
    try:
        with closing(files.open_at(path.parent, O_PATH | files.O_DIRECTORY | files.O_CLOEXEC)) as folder:
            write_private_file(folder, path.name, text.encode(), str(path), replace=replace)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; use --force to replace it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of a block, however that ends."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_lock(descriptor: int) -> bool:
    """Take the lock on a file for this process alone, until it is closed; False if somebody else has it."""
    return files.lock(descriptor)
