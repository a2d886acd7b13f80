"""Who may read what arrives: the group, the mode and the access list of files and directories.

A file is made in the state directory, where nobody else can open it, and gets its name when it is whole. So the kernel
never applies to it what it applies to a file that is made in its place: the umask, the group of a directory with the
setgid bit, a default access list. Therefore it is asked: a file without a name (O_TMPFILE) is made in the directory,
and what the kernel gave that one is given to ours by its descriptor, at the last moment before the name. Nobody ever
sees the file with other permissions, and no path is looked up a second time.

Directories are made in their place, so the kernel does the same by itself; what the admin wants beyond it only adds.

A service manager may forbid some of this: a filter of system calls fchown and any fchmod with a setgid bit, a user
namespace groups and users that it does not map. Then a file arrives all the same and is the owner's alone, and the log
says why.

All methods block.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import struct
from dataclasses import dataclass

from mxrtc_bridge import system
from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.system import files

log = logging.getLogger(__name__)
_SELDOM = RateLimitedLog(log)

_ACCESS_LIST = "system.posix_acl_access"
_DEFAULT_LIST = "system.posix_acl_default"
_NO_LIST = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS})
"""What a file system, or an old kernel, answers that has no files without a name."""
_ANY_FILE = 0o666
_PRIVATE_FILE = 0o600
_GROUP_READS = 0o640
_GROUP = 0o070
_NOT_GIVEN = frozenset({errno.EPERM, errno.EINVAL})
"""How the kernel refuses a group or a list: we may not, or it names somebody whom our user namespace does not map."""


@dataclass(frozen=True, slots=True)
class FilePermissions:
    """What the files of one directory get."""

    mode: int
    group: int
    access_list: bytes | None = None
    """As the kernel keeps it; its mask is in the mode as well."""
    as_made: bool = False
    """That is what a file has by which the state directory keeps it."""

    def apply(self, descriptor: int) -> None:
        """Give them to an open file of ours.

        Raises:
            OSError: as the kernel says.
        """
        mode, access_list = self.mode, self.access_list
        if not _give_to_group(descriptor, self.group):
            # Never to the group that it has by chance what was meant for another one.
            _SELDOM.warning(
                self.group,
                "a file could not be given to group %d, of which this user is no member, or the unit of the service "
                "does not allow it; its group may not read it",
                self.group,
            )
            mode, access_list = mode & ~_GROUP, None
        if access_list is not None:
            try:
                system.set_attribute(descriptor, _ACCESS_LIST, access_list)
            except OSError as error:
                if error.errno not in _NOT_GIVEN:
                    raise
                _SELDOM.warning(
                    "list",
                    "a file could not be given the access list of its directory, which names somebody whom this "
                    "process cannot know (PrivateUsers= in the unit of a service); nobody else may read it",
                )
                mode = _PRIVATE_FILE
            else:
                return
        try:
            system.remove_attribute(descriptor, _ACCESS_LIST)  # that the state directory may have handed down
        except OSError as error:
            if error.errno not in _NO_LIST:
                raise
        # File systems that have one mode for all (a USB stick, much of FUSE) refuse the call, whatever it says.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            files.fchmod(descriptor, mode)


class Permissions:
    """How they are chosen for what arrives in one directory and below.

    Args:
        umask: as for any file that a program makes: by the umask, or the default access list. Otherwise what arrives is
            the owner's alone, unless the directory has a default access list, which then decides, or the setgid bit,
            by which its group may read.
        mode: of files, whatever the umask; a default access list is cut down to it. Directories get in addition who
            may read may also enter.
        group: to whom files and directories belong, instead of the group that the kernel gives.
    """

    def __init__(self, *, umask: bool = False, mode: int | None = None, group: int | None = None) -> None:
        self._umask = umask
        self._mode = mode
        self._group = group

    def of_files(self, directory: int) -> FilePermissions:
        """Return what files get in the directory with this descriptor.

        Raises:
            OSError: as the kernel says.
        """
        if not files.HAS_MODES:
            return FilePermissions(_PRIVATE_FILE, files.effective_group(), as_made=True)
        listed = _attribute(directory, _DEFAULT_LIST) is not None
        inherits = bool(os.fstat(directory).st_mode & stat.S_ISGID)
        if not self._umask and not listed and not inherits and self._mode is None and self._group is None:
            return FilePermissions(_PRIVATE_FILE, files.effective_group(), as_made=True)
        with closing(_nameless_file(directory, _ANY_FILE if self._mode is None else self._mode)) as probe:
            status, access_list = os.fstat(probe), _attribute(probe, _ACCESS_LIST)
        mode = stat.S_IMODE(status.st_mode)
        if not self._umask and not listed:
            access_list, mode = None, self._mode if self._mode is not None else _GROUP_READS
        return FilePermissions(mode, status.st_gid if self._group is None else self._group, access_list)

    def make_directory(self, above: int, name: str | bytes) -> None:
        """Make a directory in the one that ``above`` is the descriptor of.

        Raises:
            OSError: as the kernel says.
        """
        if self._umask or not files.HAS_MODES:
            files.mkdir_at(name, 0o777, dir_fd=above)
            return
        if _attribute(above, _DEFAULT_LIST) is not None:
            files.mkdir_at(name, 0o777 if self._mode is None else _enterable(self._mode), dir_fd=above)
            self._adjust(above, name, None)
            return
        shared = self._group is not None or os.fstat(above).st_mode & stat.S_ISGID
        mode = _enterable(self._mode if self._mode is not None else _GROUP_READS if shared else _PRIVATE_FILE)
        # First for the owner alone: who must not enter never could.
        files.mkdir_at(name, 0o700, dir_fd=above)
        self._adjust(above, name, mode)

    def check(self, directory: int) -> None:
        """Find out whether the group can be given.

        Args:
            directory: the descriptor of one that only we use.

        Raises:
            LocalError: it cannot.
            OSError: as the kernel says.
        """
        if self._group is None:
            return
        with closing(_nameless_file(directory, _PRIVATE_FILE)) as probe:
            if not _give_to_group(probe, self._group):
                name = files.group_name(self._group)
                raise LocalError(
                    f"files cannot be given to the group {name}: the user that the bridge runs as "
                    "is no member of it (usermod -aG GROUP USER), or the unit of the service does not allow it "
                    "(PrivateUsers=no and SystemCallFilter=@chown do); mend that and restart"
                )

    def _adjust(self, above: int, name: str | bytes, mode: int | None) -> None:
        """Give a directory that was just made its group, and a mode that the umask has cut."""
        if mode == _enterable(_PRIVATE_FILE) and self._group is None:
            return
        flags = os.O_RDONLY | files.O_DIRECTORY | files.O_NOFOLLOW | files.O_CLOEXEC
        with closing(files.open_at(name, flags, dir_fd=above)) as descriptor:
            status = os.fstat(descriptor)
            if status.st_uid != files.effective_user():
                return  # Somebody has put another one in its place.
            if self._group is not None and not _give_to_group(descriptor, self._group):
                return  # It stays the owner's alone.
            if mode is not None:
                _set_directory_mode(descriptor, mode)


def group_id(name: str) -> int:
    """Return the number of a group of this machine, which may be given by it. Blocks.

    Raises:
        LocalError: there is none.
    """
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return files.group_number(name)
    except KeyError:
        raise LocalError(f"there is no group {name[:80]!a} on this machine") from None


def _give_to_group(descriptor: int, group: int) -> bool:
    """Return whether it belongs to the group now."""
    # Also a call that changes nothing may be forbidden.
    if os.fstat(descriptor).st_gid != group:
        try:
            files.fchown(descriptor, -1, group)
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise
            return False
    return True


def _set_directory_mode(descriptor: int, mode: int) -> None:
    """Set it, and keep the setgid bit that the kernel has handed down."""
    inherited = os.fstat(descriptor).st_mode & stat.S_ISGID
    if not inherited:
        files.fchmod(descriptor, mode)
        return
    try:
        # A list of the three classes alone is the mode, and leaves the bit as it is; RestrictSUIDSGID= of systemd
        # forbids every fchmod that has the bit, also one that only keeps it.
        system.set_attribute(descriptor, _ACCESS_LIST, _mode_as_list(mode))
    except OSError as error:
        if error.errno not in _NO_LIST:
            raise
        try:
            files.fchmod(descriptor, mode | inherited)
        except PermissionError:
            _SELDOM.warning("setgid", "a directory stays closed to its group: its mode could not be set with setgid")
            return
    if not os.fstat(descriptor).st_mode & stat.S_ISGID:
        _SELDOM.warning(
            "setgid",
            "a directory has lost its setgid bit, as this user is no member of its group: that may not read what "
            "arrives below; add the user to the group and restart",
        )


def _mode_as_list(mode: int) -> bytes:
    """An access list as the kernel takes it (linux/posix_acl_xattr.h): owner, group, others."""
    classes = ((0x01, mode >> 6), (0x04, mode >> 3), (0x20, mode))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits & 7, 0xFFFFFFFF) for tag, bits in classes)


def _enterable(mode: int) -> int:
    """The mode of a directory: who may read may also enter."""
    return mode | (mode & 0o444) >> 2


def _attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return system.get_attribute(descriptor, name)
    except OSError as error:
        if error.errno in _NO_LIST:
            return None
        raise


def _nameless_file(directory: int, mode: int) -> int:
    flags = os.O_WRONLY | files.O_CLOEXEC
    try:
        if system.O_TMPFILE:
            return files.open_at(".", flags | system.O_TMPFILE, mode, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    name = f".mxrtc-{secrets.token_hex(16)}"
    descriptor = files.open_at(name, flags | os.O_CREAT | os.O_EXCL | files.O_NOFOLLOW, mode, dir_fd=directory)
    with contextlib.suppress(OSError):
        files.unlink_at(name, dir_fd=directory)
    return descriptor
