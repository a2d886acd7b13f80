"""Halves for descriptors that nobody can wait for: regular files, ``/dev/null`` and the like.

Epoll refuses them, and reading a slow disk would block the loop. Each operation runs in a thread of its target, one at
a time; such operations end by themselves, so a half that is stopped lets the last one finish.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from mxrtc_bridge.engine.outside import TargetThreads
from mxrtc_bridge.sinks.buffer import WriteBuffer
from mxrtc_bridge.sinks.reader_writer import MAX_UNSENT_BYTES, READ_SIZE, nothing
from mxrtc_bridge.sinks.stream_sink import StreamSink


class _ThreadedHalf:
    """What both halves have.

    Args:
        descriptor: what is read or written.
        owner: told of it.
        released: called when the descriptor is not used any more.
        threads: of the target; its own without them.
    """

    def __init__(
        self,
        descriptor: int,
        owner: StreamSink,
        released: Callable[[], None] = nothing,
        threads: TargetThreads | None = None,
    ) -> None:
        self._threads = threads or TargetThreads(f"moves bytes of {descriptor}", 1)
        self._descriptor = descriptor
        self._owner = owner
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._running: asyncio.Future[Any] | None = None

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            if self._running is None:
                self._released()

    def _ends_with(self, future: asyncio.Future[Any]) -> bool:
        """Whether the half has nothing to do with what an operation brought, but to end or to fail."""
        if future.cancelled() or self._stopped:  # cancelled: the loop is going down
            self._stopped = True
            self._released()
        elif isinstance(error := future.exception(), OSError):
            self._owner.half_failed(error)
        else:
            return False
        return True


class ThreadedReader(_ThreadedHalf):
    """Reads a descriptor that cannot be waited for, in a thread; holds at most one piece of 64 KiB."""

    _paused = True
    _held: bytes | None = None

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused and not self._stopped:
            self._paused = False
            self._loop.call_soon(self._step)

    def salvage(self) -> list[bytes]:
        held, self._held = self._held, None
        return [held] if held else []

    def _step(self) -> None:
        if self._paused or self._stopped or self._running is not None:
            return
        if self._held is not None:
            held, self._held = self._held, None
            self._deliver(held)
            return
        self._running = self._threads.run(os.read, self._descriptor, READ_SIZE)
        self._running.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[bytes]) -> None:
        self._running = None
        if self._ends_with(future):
            return
        if self._paused:
            self._held = future.result()
        else:
            self._deliver(future.result())

    def _deliver(self, data: bytes) -> None:
        if not data:
            self.stop()
            self._owner.half_ended()
            return
        self._owner.half_read(data)
        self._loop.call_soon(self._step)


class ThreadedWriter(_ThreadedHalf):
    """Writes to a descriptor that cannot be waited for, in a thread; keeps up to 8 MiB."""

    def __init__(
        self,
        descriptor: int,
        owner: StreamSink,
        released: Callable[[], None] = nothing,
        threads: TargetThreads | None = None,
    ) -> None:
        super().__init__(descriptor, owner, released, threads)
        self._buffer = WriteBuffer(MAX_UNSENT_BYTES)
        self._finishing = False

    def write(self, data: bytes) -> None:
        if not self._stopped and data:
            self._buffer.append(data)
            self._loop.call_soon(self._step)

    def finish(self) -> None:
        self._finishing = True
        self._loop.call_soon(self._step)

    def stop(self) -> None:
        super().stop()
        self._buffer.clear()

    def _step(self) -> None:
        if self._stopped or self._running is not None:
            return
        if self._buffer.size:
            self._running = self._threads.run(os.write, self._descriptor, self._buffer.first())
            self._running.add_done_callback(self._done)
        elif self._finishing:
            self._finishing = False
            self._all_written()

    def _done(self, future: asyncio.Future[int]) -> None:
        self._running = None
        if self._ends_with(future):
            return
        self._buffer.consume(future.result())
        self._owner.half_wrote(future.result())
        self._step()

    def _all_written(self) -> None:
        """The system has taken everything, and nothing more will come."""
        self._owner.half_flushed()
