"""Reading standard input to its end, which may never come: it can be given up at any time.

Where the system can wait for any descriptor, it waits for the input and for the word that it is given up. Windows waits
for sockets only; there a thread reads, which nobody waits for once it is given up, and which ends with the process.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import Protocol

from mxrtc_bridge.system import WINDOWS

COPY_BYTES = 1024 * 1024


class GivenUpError(Exception):
    """It was given up before its end."""


class WholeInput:
    """What a descriptor brings. :meth:`give_up` may be called from any thread.

    Args:
        descriptor: open for reading; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._reader: _Reader
        if sys.platform != "win32" and not WINDOWS:
            self._reader = _PollingReader(descriptor)
        else:
            self._reader = _ThreadedReader(descriptor)

    def copy_to(self, target: int) -> None:
        """Write all of it to another descriptor. Blocks.

        Raises:
            GivenUpError: it was given up.
            OSError: it cannot be read, or not be written.
        """
        while data := self._reader.read():
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(target, rest) :]

    def give_up(self) -> None:
        """Have :meth:`copy_to` end soon."""
        self._reader.give_up()

    def close(self) -> None:
        """Let go, when nobody copies any more; a second call does nothing."""
        self._reader.close()


class _Reader(Protocol):
    def read(self) -> bytes: ...

    def give_up(self) -> None: ...

    def close(self) -> None: ...


if sys.platform != "win32":

    class _PollingReader:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor
            self._ends: tuple[int, ...] = os.pipe()
            self._waiting = select.poll()
            self._waiting.register(descriptor, select.POLLIN)
            self._waiting.register(self._ends[0], select.POLLIN)

        def read(self) -> bytes:
            while True:
                if any(ready == self._ends[0] for ready, _ in self._waiting.poll()):
                    raise GivenUpError
                try:
                    return os.read(self._descriptor, COPY_BYTES)
                except BlockingIOError:
                    continue  # another program reads it too

        def give_up(self) -> None:
            os.write(self._ends[1], b"x")

        def close(self) -> None:
            ends, self._ends = self._ends, ()
            for end in ends:
                os.close(end)


class _ThreadedReader:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._wanted = self._given_up = False
        self._came: bytes | OSError | None = None
        # A daemon, as nothing ends a read that brings nothing.
        self._thread = threading.Thread(target=self._run, name="reads standard input", daemon=True)

    def read(self) -> bytes:
        with self._changed:
            if self._thread.ident is None:
                self._thread.start()
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._came is not None or self._given_up)
            came, self._came = self._came, None
        if self._given_up or came is None:
            raise GivenUpError
        if isinstance(came, OSError):
            raise came
        return came

    def give_up(self) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def close(self) -> None:
        self.give_up()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._given_up)
                if self._given_up:
                    return
                self._wanted = False
            try:
                came: bytes | OSError = os.read(self._descriptor, COPY_BYTES)
            except OSError as error:
                came = error
            with self._changed:
                self._came = came
                self._changed.notify_all()
