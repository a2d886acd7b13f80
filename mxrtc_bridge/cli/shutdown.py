"""How a command ends when it is told to: within a second, whatever it waits for.

Left to Python, a signal waits for the main thread, a loop that is closed waits for its threads, and the interpreter
waits for them once more: for a name server or a disk that does not answer that is for ever. So a thread takes the
signals.

- The first one cancels what runs, which then says its goodbyes; what takes longer than that is cancelled again, and
  ends with the process after :data:`PATIENCE_S`.
- The second one ends the process at once.

Where other processes depend on this one, SIGINT and SIGHUP cancel what runs and set no limit; SIGTERM, or a second
SIGINT, is then the first one.

SIGINT counts also where it was ignored when the program was started, as shells do for what they start in the
background: Ctrl-C does not get there, so whoever sends it means this process. An ignored SIGHUP stays so, as ``nohup``
wants it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NoReturn

from mxrtc_bridge.system import signals, terminal

INTERRUPTED = 130
"""Exit code after each of the signals; it has always been the same for all."""
PATIENCE_S = 0.8
"""From the first signal until the process ends, whatever it does."""
AGAIN_S = 0.4
"""From the first signal until goodbyes are cancelled as well, whatever they are made of: again and again."""
SAME_S = 0.1
"""Signals so close together are one: a terminal that is closed sends several, and so do launchers that pass them on."""
TEARDOWN_S = 1.0
"""How long a loop may take to close, once all is done that it was for."""
LAST_WORDS_S = 0.1
"""How long messages that were given before may take to be written."""
SHOW_CURSOR = "\x1b[?25h"


class Shutdown:
    """The end of this process; :meth:`begin` before there are other threads, as they inherit what it sets."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._stays: Callable[[], bool] = lambda: False
        self._told = False
        self._terminal_modes: terminal.Modes | None = None
        self.failed_output: Callable[[], int] = lambda: 0
        """Waits until all that was printed is written, as data; returns the exit code where it cannot be, else 0."""

    @property
    def told(self) -> bool:
        """Whether there was a signal."""
        return self._told

    def begin(self) -> None:
        """Take signals from now on; a second time does nothing."""
        if SHUTDOWN.get() is self:
            return
        self._terminal_modes = terminal.modes()
        threading.Thread(target=self._wait, args=(signals.Signals(),), name="signals", daemon=True).start()
        SHUTDOWN.set(self)

    @contextlib.contextmanager
    def cancelling(self, cancel: Callable[[], object], stays: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Inside of the context a signal calls ``cancel``, in another thread; outside it ends the process.

        Args:
            cancel: must not block.
            stays: asked in that thread whether other processes depend on this one; must not block either.
        """
        with self._lock:
            self._cancel, self._stays = cancel, stays
            if self._told:
                cancel()
        try:
            yield
        finally:
            with self._lock:
                self._cancel = None

    @contextlib.contextmanager
    def bounded(self, code: Callable[[], int]) -> Iterator[None]:
        """End the process with ``code()`` if the context, which closes a loop, takes longer than :data:`TEARDOWN_S`."""
        timer = threading.Timer(TEARDOWN_S, lambda: self._leave_a_hanging_loop(code()))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def leave(self, code: int) -> NoReturn:
        """End the process in order, but for threads that hang."""
        # What the interpreter would do next is to wait for every thread.
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        os._exit(code)

    def _leave_a_hanging_loop(self, code: int) -> None:
        failed = self.failed_output()
        code = code or failed
        _drain(sys.stderr, LAST_WORDS_S)
        self.leave(code)

    def _wait(self, taken: signals.Signals) -> None:
        # A process in the background may give the terminal back its modes.
        terminal.may_be_set_by_this_thread()
        self._await_end(taken)
        first = time.monotonic()
        with self._lock:
            self._told = True
            running = self._cancel is not None
            if self._cancel is not None:
                self._cancel()
        pause = AGAIN_S
        while running and (left := first + PATIENCE_S - time.monotonic()) > 0:
            if not taken.came_within(min(pause, left)):
                pause = 0.05
                with self._lock:
                    if self._cancel is not None:
                        self._cancel()
            elif time.monotonic() - first > SAME_S:
                break
        self._end()

    def _await_end(self, taken: signals.Signals) -> None:
        """Wait for the signal that counts: those that are for our own work alone cancel that, once."""
        number, asked = taken.wait(), False
        while number != signal.SIGTERM and not (asked and number == signal.SIGINT):
            with self._lock:
                if self._cancel is None or not self._stays():
                    return
                if not asked:
                    self._cancel()
            asked, before, same_until = True, number, time.monotonic() + SAME_S
            number = taken.wait()
            while number == before and time.monotonic() < same_until:
                number = taken.wait()

    def _end(self) -> NoReturn:
        # A prompt for a password has switched off what is typed, and a bar of progress the cursor.
        if terminal.restore(self._terminal_modes) and os.isatty(2):
            sys.stderr.write(SHOW_CURSOR)
        _drain(sys.stderr, LAST_WORDS_S)
        os._exit(INTERRUPTED)


def _drain(stream: object, seconds: float | None) -> None:
    drain = getattr(stream, "drain", None)
    if drain is not None:
        drain(seconds)


SHUTDOWN: ContextVar[Shutdown | None] = ContextVar("shutdown", default=None)
"""That of this process; None where the program is called by another, as tests do, whose signals are its own."""
