"""The terminal that a program is started from: its modes, as they were, and as they are put back.

Windows has a console instead, whose modes a prompt for a password puts back by itself; there nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from mxrtc_bridge.system import WINDOWS

Modes = list[Any]
T = TypeVar("T")

if sys.platform == "win32":
    from mxrtc_bridge.system import win32
else:
    import termios


def modes() -> Modes | None:
    """Return the modes of the terminal; None without one. A console is made one that takes what we write."""
    if sys.platform == "win32":
        win32.prepare_console()
    elif not WINDOWS:
        return _on_terminal(termios.tcgetattr)
    return None


def restore(before: Modes | None) -> bool:
    """Give the terminal its modes back, where we are in its foreground; returns whether that was done."""
    return sys.platform != "win32" and before is not None and bool(_on_terminal(partial(_put_back, before)))


def may_be_set_by_this_thread() -> None:
    """Let the calling thread set modes also where the process is in the background."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})


if sys.platform != "win32":

    def _put_back(before: Modes, terminal: int) -> bool:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return False
        termios.tcsetattr(terminal, termios.TCSANOW, before)
        return True

    def _on_terminal(act: Callable[[int], T]) -> T | None:
        """Do something with the terminal; None where that fails, or there is none."""
        # Opened each time: kept, it might take the number of a standard descriptor that is closed.
        with contextlib.suppress(OSError, termios.error):
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return act(terminal)
            finally:
                os.close(terminal)
        return None
