"""Files that commands of an admin make and change: one command at a time, and all of a change or nothing of it.

Whoever reads them, also after a command was killed, finds what was there before or what the command has made of it.
What is written aside on the way is private, and what a killed command has left of it goes with the next change.

All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from mxrtc_bridge.config.private_files import FILE_MODE, closing, link, take_lock, written_aside
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.system import get_attribute, set_attribute

MAX_COPIES = 99
"""Of a file beside it."""
_ASIDE = re.compile("[0-9a-f]{16}")
"""What a file has at its name while it is written."""
_ACCESS_LIST = "system.posix_acl_access"


def write_private_pair(paths: tuple[Path, Path], texts: tuple[str, str], *, replace: bool) -> None:
    """Write a file, and beside it one that is made out of it, both private and whole or not there.

    The second one is never there beside another first one than its own, at no moment and after no crash: what is cut
    off leaves both old ones, or a first one alone, out of which the second one can be made.

    Args:
        paths: of both, in one folder.
        texts: their content.
        replace: whether they may take the place of files that are there already.

    Raises:
        ConfigError: one exists and must not be replaced, they cannot be written, or another command writes there.
    """
    first, second = (path.name for path in paths)
    folder, shown = paths[0].parent, paths[0]
    try:
        with (
            changing(folder, first, second) as above,
            # Both, before anything is changed: a disk that is full shows here.
            written_aside(above, first, texts[0].encode(), str(paths[0])) as first_aside,
            written_aside(above, second, texts[1].encode(), str(paths[1])) as second_aside,
        ):
            if replace:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(second, dir_fd=above)
                os.fsync(above)
                os.rename(first_aside, first, src_dir_fd=above, dst_dir_fd=above)
                os.fsync(above)
                os.rename(second_aside, second, src_dir_fd=above, dst_dir_fd=above)
            else:
                link(above, first_aside, first)
                shown = paths[1]
                try:
                    link(above, second_aside, second)
                except FileExistsError:
                    # It is not the one of ours.
                    os.unlink(first, dir_fd=above)
                    raise
            os.fsync(above)
    except FileExistsError:
        raise ConfigError(f"{shown} exists already; use --force to replace it") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written to: {error.strerror}") from None


@contextlib.contextmanager
def changing(folder: Path, *names: str) -> Iterator[int]:
    """Be the only command that changes files of these names, and remove what killed ones have left of them.

    Yields:
        The descriptor of the folder.

    Raises:
        ConfigError: another command changes something there.
        OSError: as the kernel says.
    """
    with closing(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as above:
        if not take_lock(above):
            raise ConfigError(f"another command is changing files in {folder}, so nothing was written; try again")
        for left in os.listdir(above):  # noqa: PTH208 - by its descriptor
            name, _, random = left.removesuffix(".new").rpartition(".")
            if name in names and left.endswith(".new") and _ASIDE.fullmatch(random):
                with contextlib.suppress(OSError):
                    os.unlink(left, dir_fd=above)
        yield above


def replace_text(path: Path, text: str, *, before: str, keep_as: str | None = None) -> str | None:
    """Give a file another content at once, with the mode, owner, group and access list that it has.

    Args:
        path: of the file itself, not of a link to it.
        text: the new content.
        before: the old one: a file that says something else meanwhile is not replaced.
        keep_as: the name beside it under which the old file is kept, as it is; a number is added where that is taken.

    Returns:
        The name under which it is kept.

    Raises:
        ConfigError: it cannot be written, its owner or access list cannot be kept, or somebody else has changed it.
    """
    aside, kept = f"{path.name}.{secrets.token_hex(8)}.new", None
    try:
        # Of two commands that change it at the same time, the second one would undo the first.
        with changing(path.parent, path.name) as folder:
            try:
                _write_beside(folder, path, aside, text.encode(), before)
                if keep_as is not None:
                    kept = _second_name(folder, path.name, keep_as)
                os.rename(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(aside, dir_fd=folder)
    except OSError as error:
        why = error.strerror
        if error.errno in (errno.EBUSY, errno.EXDEV):
            # As containers often have it. Written in its place, it would be half there for whoever reads it meanwhile.
            why = "it is mounted by itself, without its folder; edit it where it comes from, or mount the folder"
        raise ConfigError(f"{path} cannot be written: {why}") from None
    return kept


def _second_name(folder: int, name: str, wanted: str) -> str:
    """Give a file another name beside its own: whoever owns it, and its mode, stay as they are without being asked.

    Raises:
        ConfigError: too many names are taken.
    """
    for number in range(1, MAX_COPIES + 1):
        other = wanted if number == 1 else f"{wanted}.{number}"
        with contextlib.suppress(FileExistsError):
            os.link(name, other, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            return other
        # Of an attempt that was cut off before the file got its new content.
        with contextlib.suppress(OSError):
            if os.path.samestat(
                os.stat(name, dir_fd=folder, follow_symlinks=False),
                os.stat(other, dir_fd=folder, follow_symlinks=False),
            ):
                return other
    raise ConfigError(f"{wanted} and {MAX_COPIES - 1} more copies of {name} are there already; remove some")


def _write_beside(folder: int, path: Path, aside: str, data: bytes, before: str) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with os.fdopen(os.open(path.name, os.O_RDONLY | flags, dir_fd=folder), "rb") as old:
        status, access = os.fstat(old.fileno()), _access_list(old.fileno())
        if old.read().decode("utf-8-sig", "replace") != before:
            raise ConfigError(f"{path} was changed meanwhile, so nothing was written; try again")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, FILE_MODE, dir_fd=folder), "wb") as new:
        made = os.fstat(new.fileno())
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            try:
                os.fchown(new.fileno(), status.st_uid, status.st_gid)
            except PermissionError:
                raise ConfigError(
                    f"{path} belongs to user {status.st_uid} and group {status.st_gid}, and user {made.st_uid} cannot "
                    "write another one that does; edit it by hand"
                ) from None
        os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
        if access is not None:
            # By it somebody may read it who would not by its mode, as the bridge's user.
            set_attribute(new.fileno(), _ACCESS_LIST, access)
        new.write(data)
        new.flush()
        os.fsync(new.fileno())


def _access_list(descriptor: int) -> bytes | None:
    """The access list of a file, as the kernel writes it; None where it has none, or the system knows none."""
    try:
        return get_attribute(descriptor, _ACCESS_LIST)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
