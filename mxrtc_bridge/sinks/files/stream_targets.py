"""One file as a byte stream: ``append: /path`` takes what a peer sends, ``read: /path`` gives what the file has.

    append   a regular file (made with mode 0600 if it is not there) or a FIFO that somebody reads; the peer receives
             nothing, and its end makes what was written durable
    read     a regular file or a FIFO, to its end; what the peer sends has nowhere to go and resets the stream

The path is the admin's and may lead through links; devices, sockets and directories are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from functools import partial

from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.engine.outside import TargetThreads, threads_of
from mxrtc_bridge.sinks.files.rooted_dir import FILE_MODE
from mxrtc_bridge.sinks.pollable import PollableReader, PollableWriter
from mxrtc_bridge.sinks.stream_sink import GivesOnlyError, StreamSink
from mxrtc_bridge.sinks.threaded import ThreadedReader, ThreadedWriter

_WORDS = {
    errno.ENOENT: "the file of the service does not exist",
    errno.ENXIO: "nobody reads from the FIFO of the service at the moment",
    errno.EACCES: "the file of the service may not be opened by this user; check owner and mode",
    errno.EISDIR: "the path of the service is a directory",
    errno.ETIMEDOUT: "the disk of the service does not answer at the moment",
}


class _NoReader:
    """The reading half of a stream that gives nothing: its end comes at once."""

    def __init__(self, owner: StreamSink) -> None:
        self._owner = owner
        self._over = False
        self._loop = asyncio.get_running_loop()

    def pause(self) -> None:
        """Nothing to pause."""

    def resume(self) -> None:
        if not self._over:
            self._over = True
            self._loop.call_soon(self._owner.half_ended)

    def stop(self) -> None:
        self._over = True

    def salvage(self) -> list[bytes]:
        return []


class _NoWriter:
    """The writing half of a stream that takes nothing: whoever writes is told so by a failure."""

    def __init__(self, owner: StreamSink) -> None:
        self._owner = owner
        self._stopped = False
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:  # noqa: ARG002 - there is nowhere for it to go
        self._loop.call_soon(self._refuse)

    def finish(self) -> None:
        self._loop.call_soon(self._flushed)

    def stop(self) -> None:
        self._stopped = True

    def _flushed(self) -> None:
        if not self._stopped:
            self._owner.half_flushed()

    def _refuse(self) -> None:
        if not self._stopped:
            self._owner.half_failed(GivesOnlyError())


class _SyncedWriter(ThreadedWriter):
    """Makes durable what was written before it says that all is out."""

    def _all_written(self) -> None:
        # A descriptor of its own: the stream may be reset, and the other one closed, while the disk works.
        descriptor = os.dup(self._descriptor)
        future = self._threads.run(os.fsync, descriptor)
        future.add_done_callback(lambda done: self._synced(done, descriptor))

    def _synced(self, done: asyncio.Future[None], descriptor: int) -> None:
        os.close(descriptor)
        if done.cancelled():  # the loop is going down
            return
        error = done.exception()
        if isinstance(error, OSError):
            self._owner.half_failed(error)
        else:
            super()._all_written()


class AppendSink(StreamSink):
    """Appends to an open file or FIFO. Implements :class:`mxrtc_bridge.engine.ports.Sink`.

    Args:
        descriptor: open for writing, non-blocking if it is a FIFO; owned from now on.
        is_fifo: whether the loop can wait for it.
        threads: of the target.
    """

    lingers = False

    def __init__(self, descriptor: int, *, is_fifo: bool, threads: TargetThreads) -> None:
        super().__init__()
        close = partial(os.close, descriptor)
        self._set_halves(
            _NoReader(self),
            PollableWriter(descriptor, self, close) if is_fifo else _SyncedWriter(descriptor, self, close, threads),
        )

    def _finish_writing(self) -> None:
        # The end of a FIFO is that nobody has it open for writing any more; a file does not mind.
        self._writer.stop()


class ReadSink(StreamSink):
    """Reads an open file or FIFO to its end. Implements :class:`mxrtc_bridge.engine.ports.Sink`.

    Args:
        descriptor: open for reading, non-blocking if it is a FIFO; owned from now on.
        is_fifo: whether the loop can wait for it.
        threads: of the target.
    """

    lingers = False

    def __init__(self, descriptor: int, *, is_fifo: bool, threads: TargetThreads) -> None:
        super().__init__()
        close = partial(os.close, descriptor)
        self._set_halves(
            PollableReader(descriptor, self, close) if is_fifo else ThreadedReader(descriptor, self, close, threads),
            _NoWriter(self),
        )

    def _finish_writing(self) -> None:
        """Nothing: there is nobody to be told."""


async def open_append(path: str) -> AppendSink:
    """Open the file of an ``append`` service.

    Raises:
        TargetError: it cannot be written, or is neither a file nor a FIFO.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    threads = threads_of(path)
    descriptor, is_fifo = await _opened(path, flags, threads)
    return AppendSink(descriptor, is_fifo=is_fifo, threads=threads)


async def open_read(path: str) -> ReadSink:
    """Open the file of a ``read`` service.

    Raises:
        TargetError: it cannot be read, or is neither a file nor a FIFO.
    """
    threads = threads_of(path)
    descriptor, is_fifo = await _opened(path, os.O_RDONLY, threads)
    return ReadSink(descriptor, is_fifo=is_fifo, threads=threads)


async def _opened(path: str, flags: int, threads: TargetThreads) -> tuple[int, bool]:
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    future = threads.run(os.open, path, flags, FILE_MODE)
    try:
        descriptor = await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_result)
        raise
    except OSError as error:
        words = (
            _WORDS.get(error.errno or 0)
            or f"the file of the service cannot be opened ({os.strerror(error.errno or 0)})"
        )
        failure = TargetFailure.REFUSED if error.errno == errno.ENXIO else TargetFailure.UNAVAILABLE
        raise TargetError(failure, words) from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(descriptor)
        raise TargetError(TargetFailure.UNAVAILABLE, "the path of the service is neither a file nor a FIFO")
    return descriptor, stat.S_ISFIFO(mode)


def _close_result(future: asyncio.Future[int]) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        os.close(future.result())
