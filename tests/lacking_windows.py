"""Makes modules of ours find what Windows has, and nothing else: what POSIX has beside it is not there for them.

Loaded first by a process (``python -m tests.lacking_windows``, or its :func:`begin`), it stands between the package and
the standard library: an import of what Windows lacks fails, and of :mod:`os`, :mod:`socket` and the like the package
gets what is left. ``mxrtc_bridge.system`` alone is let through, as both ways stand there side by side; what of that
runs on Windows is read by the type checker (:mod:`tests.user_side_types`).
"""

from __future__ import annotations

import builtins
import functools
import runpy
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = _names("fcntl termios tty pty pwd grp resource syslog readline curses uvloop")
"""Which Windows has not."""
NAMES = {
    "os": _names("""
        fork forkpty wait wait3 wait4 waitid setsid setpgid getpgid getpgrp tcgetpgrp tcsetpgrp ttyname ctermid getuid
        geteuid getgid getegid getgroups getresuid getresgid setuid seteuid setgid setegid setgroups initgroups chown
        fchown lchown fchmod chroot fchdir mkfifo mknod major minor makedev nice uname getloadavg sysconf pathconf
        fpathconf confstr statvfs fstatvfs pread pwrite preadv pwritev readv writev sendfile copy_file_range splice sync
        fdatasync posix_fadvise posix_fallocate lockf getxattr setxattr listxattr removexattr eventfd memfd_create
        pidfd_open pipe2 openpty register_at_fork sched_yield sched_setaffinity killpg get_blocking set_blocking
        O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_NOCTTY O_PATH O_TMPFILE O_SYNC O_DSYNC O_NOATIME O_NDELAY
        O_ACCMODE WNOHANG posix_spawn posix_spawnp getpriority setpriority
    """),
    "socket": _names("""
        AF_UNIX AF_NETLINK AF_PACKET SO_PEERCRED SO_REUSEPORT SO_BINDTODEVICE SO_MARK CMSG_LEN CMSG_SPACE SCM_RIGHTS
        MSG_DONTWAIT MSG_NOSIGNAL MSG_ERRQUEUE sethostname send_fds recv_fds
    """),
    "select": _names("poll epoll POLLIN POLLOUT EPOLLIN"),
    "signal": _names("""
        SIGHUP SIGQUIT SIGKILL SIGPIPE SIGALRM SIGUSR1 SIGUSR2 SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGWINCH
        SIG_BLOCK SIG_UNBLOCK SIG_SETMASK pthread_sigmask pthread_kill sigwait sigwaitinfo sigtimedwait sigpending pause
        alarm setitimer getitimer siginterrupt
    """),
    "time": _names("clock_gettime clock_gettime_ns clock_getres CLOCK_MONOTONIC CLOCK_BOOTTIME tzset"),
    "asyncio": _names("start_unix_server open_unix_connection"),
}
"""What else it lacks, by module; each name is one that Linux has."""
BY_DESCRIPTOR = frozenset({"scandir", "listdir", "utime", "chmod", "chdir", "execve"})
"""Calls of :mod:`os` that take a path there, and no descriptor."""
NOT_OF_A_LOOP = ("add_signal_handler", "remove_signal_handler", "create_unix_server", "create_unix_connection")


def is_fenced(importer: str) -> bool:
    """Whether a module gets only what Windows has."""
    return importer.partition(".")[0] == "mxrtc_bridge" and not importer.startswith("mxrtc_bridge.system")


def _without_descriptors(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def checked(*args: Any, **options: Any) -> Any:
        if any(options.get(each) is not None for each in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError(f"os.{name} by the descriptor of a directory")
        if options.get("follow_symlinks") is False and name not in {"stat", "lstat"}:
            raise NotImplementedError(f"os.{name} that follows no link")
        if name in BY_DESCRIPTOR and args and type(args[0]) is int:
            raise NotImplementedError(f"os.{name} of a descriptor")
        return call(*args, **options)

    return checked


def lacking(module: types.ModuleType) -> types.ModuleType:
    """Return what Windows has of a module."""
    left = types.ModuleType(module.__name__)
    for name, value in vars(module).items():
        if name not in NAMES[module.__name__]:
            wrapped = module.__name__ == "os" and isinstance(value, types.BuiltinFunctionType)
            setattr(left, name, _without_descriptors(name, value) if wrapped else value)
    if module.__name__ == "socket":
        left.socket = _socket_of(module.socket)  # type: ignore[attr-defined]
    return left


def _socket_of(whole: type) -> type:
    def refused(_sock: object, *_args: object) -> NoReturn:
        raise NotImplementedError("sendmsg(2) and recvmsg(2) are not there")

    return type("socket", (whole,), dict.fromkeys(("sendmsg", "recvmsg", "recvmsg_into"), refused))


def begin() -> None:
    """Stand between from now on, in this process; nothing of the package may be loaded already."""
    assert not [name for name in sys.modules if is_fenced(name)]
    import asyncio
    import os
    import select
    import signal
    import socket
    import time

    found = {module.__name__: module for module in (asyncio, os, select, signal, socket, time)}
    for name, module in found.items():
        unknown = NAMES[name] - set(dir(module))
        assert not unknown, f"not of {name}, so no test of anything: {sorted(unknown)}"
    left = {name: lacking(module) for name, module in found.items()}
    for name in NOT_OF_A_LOOP:

        def refused(*_args: object, __name: str = name, **_options: object) -> NoReturn:
            raise NotImplementedError(__name)

        setattr(asyncio.SelectorEventLoop, name, refused)
    whole = builtins.__import__

    def fenced(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - as it is called
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        importer = str((globals or {}).get("__name__", ""))
        if level == 0 and is_fenced(importer):
            if name.partition(".")[0] in MODULES:
                raise ModuleNotFoundError(f"Windows has no module {name}, which {importer} imports", name=name)
            if name in left:
                return left[name]
        return whole(name, globals, locals, fromlist, level)

    builtins.__import__ = fenced


def main() -> None:
    """Run a program of ours so: its module, then its arguments."""
    begin()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
