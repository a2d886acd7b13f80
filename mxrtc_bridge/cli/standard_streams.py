"""Standard output and error of a program that others depend on: whoever reads them decides about nothing else.

A pipe that is not read fills up, a terminal is stopped by Ctrl-S, a disk is full, a reader goes away: a plain ``print``
would wait for ever, or raise in the middle of a tunnel. So a thread does the writing.

- Standard error holds messages. What nobody takes is left out and counted; a failure to write it is none of the
  program's, and may pass: a disk has space again, and somebody else reads a named pipe.
- Standard output holds data. All of it is kept and waited for at the end, and a failure is one of the program's. What
  is a message there too (the objects of ``--json``) is offered, and may be left out.

Text is always written as UTF-8, whatever the locale is called, and no name of a file can make it fail.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import select
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from mxrtc_bridge.cli.shutdown import SHUTDOWN, Shutdown
from mxrtc_bridge.client.exit_codes import Exit

MAX_WAITING_BYTES = 256 * 1024
"""Of messages that nobody has taken yet; what comes beyond is left out."""
MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Of data that nobody has taken yet; who writes more waits, unless a loop needs the thread."""
FLUSH_S = 1.0
"""How long a prompt, or the end of the program, waits for messages to be taken."""
INTERRUPTED = 130
"""Exit code after SIGINT, as shells count it."""
_PIECE_BYTES = 64 * 1024


class OutputError(OSError):
    """Data cannot be written to standard output any more; :func:`standard_streams` says why."""


class StandardStream(io.TextIOBase):
    """One of the two streams, for as long as the program runs.

    Args:
        descriptor: of the stream, 1 or 2; stays open.
        keeps: whether what is written is data.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, *, keeps: bool) -> None:
        self._descriptor = descriptor
        self._keeps = keeps
        self._changed = threading.Condition()
        self._pieces: deque[tuple[bytes, bool]] = deque()
        self._waiting = 0
        self._left_out = 0
        self._thread: threading.Thread | None = None
        self.failure: OSError | None = None
        """Why data is not written any more, or why messages are left out at the moment."""
        self._lost = False
        self._torn = False
        """Whether a line was begun, and could not be ended."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Where bytes can be written, as click does with what a shell completes."""
        return _Bytes(self)

    @property
    def waiting(self) -> int:
        """Bytes that nobody has taken yet."""
        return self._waiting

    def write(self, text: str, /) -> int:
        """Write data, or offer a message, as the stream is for the one or for the other.

        Raises:
            OutputError: data cannot be written any more.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        if self._keeps and self.failure is not None:
            raise OutputError(self.failure.errno, self.failure.strerror)
        self._put(text, keep=self._keeps)
        if self._waiting > MAX_KEPT_BYTES and self._may_wait():
            self.drain(None)
        return len(text)

    def offer(self, text: str) -> None:
        """Write a message, which is left out where nobody takes it; raises nothing."""
        self._put(text, keep=False)

    def flush(self) -> None:
        """Wait until all was taken, where a person may wait for it: not in a loop, nor in a thread that it needs."""
        if self._may_wait():
            self.drain(FLUSH_S)

    @staticmethod
    def _may_wait() -> bool:
        return threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() is None

    def drain(self, seconds: float | None) -> bool:
        """Wait until all was taken; False if data cannot be, or not all was within so many seconds."""
        with self._changed:
            ended = self._changed.wait_for(lambda: not self._waiting or self._is_over, seconds)
            return ended and not self._lost

    @property
    def _is_over(self) -> bool:
        # A number that is not open, or is for reading, may be another's next.
        return self.failure is not None and (self._keeps or self.failure.errno == errno.EBADF)

    def _put(self, text: str, *, keep: bool) -> None:
        data = text.encode(self.encoding, self.errors)
        with self._changed:
            if not data or self._is_over:
                return
            if not keep and self._waiting + len(data) > MAX_WAITING_BYTES:
                self._left_out += data.count(b"\n")
                return
            self._append(data, keep)

    def _append(self, data: bytes, keep: bool = False) -> None:
        self._pieces.append((data, keep))
        self._waiting += len(data)
        if self._thread is None:
            # A daemon, as nothing ends a write that nobody takes.
            self._thread = threading.Thread(target=self._run, name=f"writes {self._descriptor}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces)
                data, keep = self._pieces.popleft()
                while self._pieces and len(data) < _PIECE_BYTES:
                    more, kept = self._pieces.popleft()
                    data, keep = data + more, keep or kept
                # Behind a failure what is missing is missing before this, and else behind it.
                missing, why = (self._left_out, self.failure) if self.failure is not None else (0, None)
            begin = b"\n" if self._torn else b""
            rest, failure = self._write(begin + _left_out(missing, why) + data)
            with self._changed:
                self.failure = failure
                if self._is_over:
                    self._lost = keep or any(kept for _, kept in self._pieces)
                    self._pieces.clear()
                    self._changed.notify_all()
                    return
                self._waiting -= len(data)
                if failure is not None:
                    self._left_out += min(rest.count(b"\n"), data.count(b"\n"))
                else:
                    self._left_out -= missing
                    if self._left_out and not self._pieces:
                        count, self._left_out = self._left_out, 0
                        self._append(_left_out(count))
                self._changed.notify_all()

    def _write(self, data: bytes) -> tuple[bytes, OSError | None]:
        """Write all of it; returns what could not be written, and why."""
        while data:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                # Somebody who shares the terminal or the pipe has set it so.
                select.select((), (self._descriptor,), ())
            except OSError as error:
                return data, error
            else:
                self._torn = written < len(data) and data[written - 1 : written] != b"\n"
                data = data[written:]
        return data, None


def _left_out(lines: int, why: OSError | None = None) -> bytes:
    because = ", as nobody took them" if why is None or why.errno == errno.EPIPE else f": {os.strerror(why.errno or 0)}"
    return f"({lines} lines were left out here{because})\n".encode() if lines else b""


class _Bytes(io.BufferedIOBase):
    """Takes text as bytes."""

    def __init__(self, stream: StandardStream) -> None:
        self._stream = stream

    def write(self, data: Any, /) -> int:
        self._stream.write(bytes(data).decode(StandardStream.encoding, StandardStream.errors))
        return len(data)


def leave_now(code: int) -> NoReturn:
    """End the process at once, after what was written has had a moment to be taken."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, StandardStream):
            stream.drain(FLUSH_S)
    os._exit(code)


def reserve_descriptors() -> None:
    """Put something at the numbers 0 to 2 where a launcher has closed them.

    Otherwise the next file or socket gets the number, and is taken for standard output, or uvloop ends the program
    when it closes it. What is put there cannot be read or written, so that it is not taken for an empty input.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = io.StringIO()


@contextmanager
def standard_streams(cannot_write: int = 1) -> Iterator[None]:
    """Write by threads inside of the context; at its end all data is waited for.

    Args:
        cannot_write: exit code where data cannot be written, but for a reader who has had enough, which is 1.

    Raises:
        SystemExit: with the code of one inside; with 1, a defect; with 130, interrupted; or data could not be written.
    """
    reserve_descriptors()
    before = sys.stdout, sys.stderr
    out, err = StandardStream(1, keeps=True), StandardStream(2, keeps=False)
    sys.stdout, sys.stderr = out, err
    code: str | int | None = None
    if (shutdown := SHUTDOWN.get()) is not None:
        shutdown.failed_output = lambda: _failed_output(out, cannot_write)
    try:
        try:
            yield
        except SystemExit as error:
            code = error.code
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:  # noqa: BLE001 - told, as the interpreter would; which waits for a reader
            traceback.print_exc()
            code = 1
        # Whoever has pressed Ctrl-C once need not press it again.
        failed = _failed_output(out, cannot_write, FLUSH_S if code == INTERRUPTED else None)
        code = code or failed
    finally:
        with suppress(KeyboardInterrupt):
            err.drain(FLUSH_S)
        sys.stdout, sys.stderr = before
    if code:
        raise SystemExit(code)


def _failed_output(out: StandardStream, cannot_write: int, seconds: float | None = None) -> int:
    """Wait for all data; returns the exit code where it cannot be written, which is said, and else 0."""
    if _data_was_written(out, seconds):
        return 0
    had_enough = out.failure is not None and out.failure.errno == errno.EPIPE
    return 1 if had_enough else cannot_write


def _data_was_written(out: StandardStream, seconds: float | None) -> bool:
    try:
        written = out.drain(seconds)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    # Whoever read it and has had enough need not be told.
    if not written and out.failure is not None and out.failure.errno != errno.EPIPE:
        sys.stderr.write(f"the output cannot be written: {os.strerror(out.failure.errno or 0)}\n")
    return written


def run_program(work: Callable[[], object], cannot_write: int = 1) -> NoReturn:
    """Do the work of a process that has :func:`standard_streams`, and ends soon when it is told to."""
    shutdown = SHUTDOWN.get() or Shutdown()
    shutdown.begin()
    code: str | int | None = 0
    try:
        with standard_streams(cannot_write):
            work()
    except SystemExit as error:
        code = error.code
    shutdown.leave(code if isinstance(code, int) else int(code is not None))


class Program(click.Group):
    """A group of commands that is a program, called by its script: see :func:`run_program`."""

    def __call__(self, *args: object, **options: object) -> NoReturn:
        call = super().__call__
        run_program(lambda: call(*args, **options), int(Exit.LOCAL))
