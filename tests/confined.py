"""What the unit of systemd takes away from the bridge, for a child process of a test: groups and users that it does
not know, and system calls that change owners or set a setgid bit (PrivateUsers=, SystemCallFilter=, RestrictSUIDSGID=).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest

from tests.other_user import OTHER_UID
from tests.processor import needs_x86_64


def _can_confine() -> bool:
    """Whether somebody who is not root may make a user namespace here, which many containers forbid."""
    if os.geteuid() != 0:
        return False
    command = ["setpriv", f"--reuid={OTHER_UID}", "--clear-groups", "unshare", "--user", "true"]
    return shutil.which(command[0]) is not None and subprocess.run(command, check=False).returncode == 0


_needs_namespaces = pytest.mark.skipif(not _can_confine(), reason="needs root, and user namespaces")


def needs_confinement(test: Callable[..., None]) -> Callable[..., None]:
    """Skip a test that calls :func:`confine` where that cannot be done."""
    marked: Callable[..., None] = needs_x86_64(_needs_namespaces(test))
    return marked


_NEW_USER = 0x1000_0000
_SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 4, 22, 38
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_FORBID, _NO_FAMILY, _ALLOW = 0x5_0001, 0x5_0000 + errno.EAFNOSUPPORT, 0x7FFF_0000
_SOCKET = 41
_CHOWN = (92, 93, 94, 260)
"""chown, fchown, lchown, fchownat."""
_MODE = ((90, 1), (91, 1), (268, 2), (452, 2), (83, 1), (258, 2))
"""chmod, fchmod, fchmodat, fchmodat2, mkdir, mkdirat, each with the place of its mode."""
_SET_ID_BITS = 0o6000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(uid: int, groups: list[int], *, users: bool, calls: bool) -> None:
    """Become a user, in this process for good.

    Args:
        uid: also of its group.
        groups: of which it is a member besides.
        users: it knows no other user and group any more.
        calls: it may not change owners, nor set setgid bits.
    """
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if users:
        _done(libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0))
        _done(libc.unshare(_NEW_USER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{uid} {uid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if calls:
        steps = [(_LOAD, 0, 0, 0)]
        for number in _CHOWN:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FORBID)]
        for number, place in _MODE:
            steps += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * place), (_ANY_BIT, 0, 1, _SET_ID_BITS)]
            steps += [(_RETURN, 0, 0, _FORBID), (_RETURN, 0, 0, _ALLOW)]
        _filter_calls(steps)


def without_netlink() -> None:
    """Forbid this process for good to ask the system for its interfaces, as a unit does that names other families in
    RestrictAddressFamilies=.
    """
    is_socket, of_netlink = (_EQUAL, 0, 3, _SOCKET), (_EQUAL, 0, 1, socket.AF_NETLINK)
    _filter_calls([(_LOAD, 0, 0, 0), is_socket, (_LOAD, 0, 0, 16), of_netlink, (_RETURN, 0, 0, _NO_FAMILY)])


def _filter_calls(steps: list[tuple[int, int, int, int]]) -> None:
    """Have the system look at each call of this process by these steps; what they do not end is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [*steps, (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    _done(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _done(libc.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0))


def _done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
