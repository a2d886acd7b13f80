"""Signals that a thread waits for, so that they are taken whatever the other threads do.

On POSIX they are blocked in all threads, and waited for by sigwait(2). Windows cannot block them: Ctrl-C calls a
handler in a thread of the system, which writes the number to a socket (:func:`signal.set_wakeup_fd`); whoever reads
that knows of it although the main thread is busy in a call that nothing interrupts.
"""

from __future__ import annotations

import signal
import socket
import sys

from mxrtc_bridge import system


class Signals:
    """Those that end a program. Made in the main thread before there are others, as they inherit what it sets."""

    def __init__(self) -> None:
        self._woken: socket.socket | None = None
        self._taken: set[signal.Signals] = {signal.SIGINT, signal.SIGTERM}
        if sys.platform == "win32" or system.WINDOWS:
            self._woken = _wakeups()
            return
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # An ignored one stays so, as ``nohup`` wants it.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            self._taken.add(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)

    def wait(self) -> int:
        """Wait for one, and return its number."""
        if sys.platform != "win32" and self._woken is None:
            return signal.sigwait(self._taken)
        assert self._woken is not None
        self._woken.settimeout(None)
        return self._woken.recv(1)[0]

    def came_within(self, seconds: float) -> bool:
        """Wait for one so long; returns whether one came in time."""
        if self._woken is None:
            return system.wait_for_signal(self._taken, seconds)
        self._woken.settimeout(max(seconds, 0.001))
        try:
            return bool(self._woken.recv(1))
        except TimeoutError:
            return False


def _wakeups() -> socket.socket:
    read, write = socket.socketpair()
    write.setblocking(False)
    # Kept as long as the process, as its handlers are.
    signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, _nothing)
    return read


def _nothing(_number: int, _frame: object) -> None:
    """The number is in the socket already."""
