"""The life of a local byte stream, whatever it is made of.

A sink has a reading and a writing half and a life of its own. Neither half ends the sink: after both directions have
ended it stays until its owner says :meth:`StreamSink.close` or :meth:`StreamSink.reset`, or until it fails.

    close      writes what was given (10 s at most, then the rest is dropped and the sink reset), half-closes, and reads
               what may still come into the void, so that the last bytes are not overtaken by a reset: the kernel
               answers data that nobody reads with RST, and RST makes the other side drop what it has not read yet
    reset      drops what was not written
    failure    what had already arrived is still delivered (1 MiB at most), unless reading is paused

After each of them ``sink_closed`` is called once. The listener is never called from within a call of one of our
methods. Texts of errors name no address.
"""

from __future__ import annotations

import asyncio
import errno
import os
from enum import Enum

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream.messages import GIVES_ONLY
from mxrtc_bridge.engine.ports import SinkListener
from mxrtc_bridge.sinks.reader_writer import Reader, Writer

CLOSE_TIMEOUT_S = 10.0

_WORDS = {
    errno.ECONNRESET: "the connection was reset by the local side",
    errno.EPIPE: "the local side does not read any more",
    errno.ETIMEDOUT: "the local side does not answer any more",
    errno.ENOSPC: "the disk is full",
}


class GivesOnlyError(OSError):
    """Something was written to what gives data and takes none."""


def describe(error: OSError) -> str:
    """Return a sentence about ``error`` without addresses or paths."""
    if isinstance(error, GivesOnlyError):
        return GIVES_ONLY
    if error.errno is None:
        return f"the local stream failed ({type(error).__name__})"
    return _WORDS.get(error.errno) or f"the local stream failed: {os.strerror(error.errno)}"


class _Reading(Enum):
    OPEN = "open"
    DISCARDING = "discarding"
    """We are closing: what comes is of no interest, only its end is."""
    ENDED = "ended"


class _Writing(Enum):
    OPEN = "open"
    FINISHING = "finishing"
    """The end was asked for; something is still to be written."""
    ENDED = "ended"


class StreamSink:
    """A :class:`mxrtc_bridge.engine.ports.Sink` over two halves; subclasses say how to end and free them."""

    lingers = True
    """Whether closing waits for the end of the other direction."""

    def __init__(self, *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._close_timeout_s = close_timeout_s
        self._loop = asyncio.get_running_loop()
        self._listener: SinkListener | None = None
        self._reading = _Reading.OPEN
        self._writing = _Writing.OPEN
        self.paused = False
        """Whether nothing is delivered until :meth:`resume_reading`."""
        self._closing = False
        self.closed = False
        """Whether the stream is gone."""
        self._outcome: str | None = None
        self._unreported = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._reader: Reader
        self._writer: Writer

    def _set_halves(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    # What subclasses do

    def _finish_writing(self) -> None:
        """Half-close, all having been written; may raise OSError."""
        raise NotImplementedError

    def _prepare_reset(self) -> None:
        """Arrange that the local side will see a reset, where it can see one."""

    def _release(self) -> None:
        """Free the descriptors that are not those of the halves, which are stopped."""

    # Sink

    @property
    def reads(self) -> bool:
        """Whether something may still be delivered."""
        return self._reading is _Reading.OPEN

    @property
    def writes(self) -> bool:
        """Whether more may still be written."""
        return self._writing is _Writing.OPEN

    def set_listener(self, listener: SinkListener) -> None:
        """Attach the receiver and start to read.

        Raises:
            StateError: there is one already.
        """
        if self._listener is not None:
            raise StateError("the sink has a listener already")
        self._listener = listener
        if self.closed:
            self._loop.call_soon(self._tell_closed)
            return
        if self._unreported:
            self._loop.call_soon(self._tell_written)
        if not self.paused:
            self._reader.resume()

    def write(self, data: bytes) -> None:
        """Write ``data`` after everything before it. Does nothing once the sink is gone.

        Raises:
            StateError: after :meth:`write_eof` or :meth:`close`, or 8 MiB are waiting to be written.
        """
        if self.closed:
            return
        if self._writing is not _Writing.OPEN:
            raise StateError("the sink was told that nothing more would be written")
        self._writer.write(data)

    def write_eof(self) -> None:
        """Half-close after all that was written. A second call does nothing."""
        if not self.closed and self._writing is _Writing.OPEN:
            self._writing = _Writing.FINISHING
            self._writer.finish()

    def pause_reading(self) -> None:
        """Deliver nothing until :meth:`resume_reading`."""
        self.paused = True
        if self._reading is _Reading.OPEN and not self.closed:
            self._reader.pause()

    def resume_reading(self) -> None:
        """Deliver again."""
        self.paused = False
        if self._reading is _Reading.OPEN and not self.closed and self._listener is not None:
            self._reader.resume()

    def reset(self) -> None:
        """End at once, so that the local side sees a reset and not an orderly end."""
        if not self.closed:
            self._prepare_reset()
            self._end(None)

    def close(self) -> None:
        """End in order, after all that was written; within 10 s in any case."""
        if self.closed or self._closing:
            return
        self._closing = True
        self._deadline = self._loop.call_later(self._close_timeout_s, self._close_timed_out)
        if self._reading is _Reading.OPEN:
            self._reading = _Reading.DISCARDING
            if self.lingers:
                self._reader.resume()
            else:
                self._reader.stop()
        self.write_eof()
        if self._writing is _Writing.ENDED:
            self._end_if_finished()

    # Owner of the halves

    def half_read(self, data: bytes) -> None:
        """Deliver."""
        if self._reading is _Reading.OPEN and self._listener is not None and not self.closed:
            self._listener.data_received(data)

    def half_ended(self) -> None:
        """Pass the end on."""
        was_open = self._reading is _Reading.OPEN
        self._reading = _Reading.ENDED
        if was_open and self._listener is not None:
            self._listener.eof_received()
        self._end_if_finished()

    def half_wrote(self, size: int) -> None:
        """Count what the system took, and tell."""
        self._unreported += size
        self._tell_written()

    def half_flushed(self) -> None:
        """Everything is out: half-close."""
        try:
            self._finish_writing()
        except OSError as error:
            self.half_failed(error)
            return
        self._writing = _Writing.ENDED
        self._end_if_finished()

    def half_failed(self, error: OSError) -> None:
        """End, with the last words of the local side if they can be had."""
        if self.closed:
            return
        if not self.paused:
            for data in self._reader.salvage():
                self.half_read(data)
        # The listener may have ended the sink itself.
        if not self.closed:
            self._prepare_reset()
            self._end(describe(error))

    # Ends

    def _end_if_finished(self) -> None:
        read = self._reading is _Reading.ENDED or not self.lingers
        if self._closing and not self.closed and read and self._writing is _Writing.ENDED:
            self._end(None)

    def _close_timed_out(self) -> None:
        if self._writing is _Writing.ENDED:
            self._end(None)
            return
        self._prepare_reset()
        self._end(f"the local side did not take the rest within {self._close_timeout_s:.0f} s")

    def _end(self, outcome: str | None) -> None:
        self.closed = True
        self._outcome = outcome
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._reader.stop()
        self._writer.stop()
        self._release()
        if self._listener is not None:
            self._loop.call_soon(self._tell_closed)

    def _tell_written(self) -> None:
        if self._listener is not None and self._unreported:
            size, self._unreported = self._unreported, 0
            self._listener.bytes_written(size)

    def _tell_closed(self) -> None:
        listener = self._listener
        assert listener is not None
        self._tell_written()
        listener.sink_closed(self._outcome)
