"""What root does with the files of a bridge is done as the user to whom they belong, and not as root.

Whoever owns a configuration decides what it says, and which files it names; whoever owns a folder decides what lies in
it. If root read and wrote by their word, they could have root read what they may not (a link in the place of a token,
which is then sent to a homeserver of their choice), or write where they may not; and what root writes, as the journal
of a database, the bridge cannot use afterwards. So a command that root has started becomes the owner before it opens
anything, and is root again when it ends. The kernel then says no to all that the owner may not do.

The owner is that of the configuration itself; where root owns it, that of the database, as far as it is there. A link
on the way counts only if it belongs to root or to that owner.

Folders that are closed to the owner (systemd keeps what a dynamic user owns below one that only root may enter; this
program may be installed where nobody else can read it) are passed with ``CAP_DAC_READ_SEARCH`` kept: by it all can be
read, but nothing written. What could be read by it alone is no secret of ours (:mod:`mxrtc_bridge.config.secrets`), and
is served to nobody: the threads of services do without it (:mod:`mxrtc_bridge.engine.capabilities`).
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.outline import read_outline
from mxrtc_bridge.config.private_files import steps_to
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.engine.capabilities import DAC_READ_SEARCH, keep_effective

_ROOTS_GROUPS = os.getgroups()
"""Those that we were started with."""

PROGRAM = tuple(map(Path, (__file__, os.__file__, click.__file__)))
"""What is needed besides the files of the bridge: modules are loaded when they are first used."""


def load_as_owner(path: Path, *, for_good: bool = False, program: tuple[Path, ...] = PROGRAM) -> Config:
    """Become the owner of a configuration until the command ends, if root has started it, and read the configuration.

    Args:
        path: of the configuration.
        for_good: never become root again, for what serves others; where the owner can reach all that is needed.
        program: what is needed besides the files of the bridge.

    Raises:
        ConfigError: it cannot be read, has mistakes, or nobody can say whose it is.
    """
    if os.geteuid() == 0 and (owner := owner_of_bridge(path)) != 0:
        closed = _enter(owner, path, program)
        if for_good and closed is None:
            _never_be_root_again()
        else:
            click.get_current_context().call_on_close(_be_root)
            if for_good:
                click.echo(
                    f"{closed} is closed to user {owner}: root's right to read is kept for it, but not for services",
                    err=True,
                )
    return load_config(path)


@contextmanager
def acting_as_owner(path: Path) -> Iterator[None]:
    """Be the owner of a configuration, or of a folder to write to, while the block runs, if root has started us.

    Raises:
        ConfigError: nobody can say whose it is.
    """
    owner = decider(path) if os.geteuid() == 0 else 0
    if os.geteuid() == 0 and owner == 0 and not path.is_dir():
        owner = owner_of_bridge(path)
    if owner == 0:
        yield
        return
    _enter(owner, path)
    try:
        yield
    finally:
        _be_root()


def owner_of_bridge(path: Path) -> int:
    """Whose files a configuration is about: see the head of this module. To be called as root.

    Raises:
        ConfigError: a link on the way belongs to somebody else.
    """
    owner = decider(path)
    if owner != 0 or not path.is_file():
        return owner
    state = read_outline(path).state
    owner = decider(state)
    if owner != 0 and not state.is_file() and not _may_read(owner, path.stat(), _group_at(state)):
        # There is no database yet, and who owns its folder could not run a bridge by this file: root does.
        return 0
    return owner


def decider(path: Path) -> int:
    """Who decides what is at ``path``: the owner of what is there, of a link to it, or of the folder where it would be.

    Raises:
        ConfigError: a link on the way belongs to neither root nor that owner, or it cannot be followed.
    """
    decides, links = 0, dict[int, Path]()
    try:
        for here, status, _ in steps_to(path.absolute(), Path("/")):
            if not stat.S_ISLNK(status.st_mode):
                decides = status.st_uid
            elif status.st_uid != 0:
                links.setdefault(status.st_uid, here)
    except NotADirectoryError:
        pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    strange = [(owner, link) for owner, link in links.items() if owner != decides]
    if decides == 0 and len(strange) == 1:
        return strange[0][0]
    if strange:
        owner, link = strange[0]
        raise ConfigError(
            f"{link} is a link of user {owner} to a file of user {decides}, so root does not follow it; "
            "give the path of the file itself"
        )
    return decides


def _may_read(owner: int, status: os.stat_result, group: int) -> bool:
    """Whether somebody who is not root, with files of this group, may read a file with this status of root's."""
    group, groups = _groups_of(owner, group)
    return bool(status.st_mode & (stat.S_IRGRP if status.st_gid in (group, *groups) else stat.S_IROTH))


def _group_at(path: Path) -> int:
    """The group of what is there, or of the folder where it would be."""
    there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    return there.lstat().st_gid


def _groups_of(owner: int, group: int) -> tuple[int, list[int]]:
    """The groups of a user; a user without a name, as systemd makes them, has the one of their files."""
    try:
        entry = pwd.getpwuid(owner)
    except KeyError:
        return group, [group]
    return entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _enter(owner: int, path: Path, program: tuple[Path, ...] = PROGRAM) -> Path | None:
    """Be somebody else than root until :func:`_be_root`; returns what can be reached only by root's right to read.

    Raises:
        ConfigError: the system does not allow it; then we are root.
    """
    try:
        group, groups = _groups_of(owner, _group_at(path))
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(owner)
        closed = _closed((path, *program))
        # Of root's rights the one to read and to enter folders; root has none in many containers.
        if closed is not None and not keep_effective(DAC_READ_SEARCH):
            raise PermissionError(errno.EACCES, "a folder above it is closed")
    except OSError as error:
        _be_root()
        raise ConfigError(f"{path} cannot be reached as its owner, user {owner}: {error.strerror}") from error
    return closed


def _be_root() -> None:
    os.seteuid(0)
    os.setegid(os.getgid())
    os.setgroups(_ROOTS_GROUPS)


def _never_be_root_again() -> None:
    owner, group = os.geteuid(), os.getegid()
    os.seteuid(0)
    os.setresgid(group, group, group)
    os.setresuid(owner, owner, owner)


def _closed(wanted: tuple[Path, ...]) -> Path | None:
    """Which of what we need cannot be reached as whom we are now."""
    for needed in wanted:
        try:
            needed.parent.stat()
        except PermissionError:
            return needed
        except OSError:
            continue
        if not os.access(needed.parent, os.X_OK, effective_ids=True):
            return needed
    return None
