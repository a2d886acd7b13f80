"""What the halves of the association share: tasks, the order of events, and sending a packet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from aiortc.rtcsctptransport import AbortChunk, Chunk, RTCSctpTransport, serialize_packet

from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.settings import RtcSettings

State = RTCSctpTransport.State


class GuardedTransport(RTCSctpTransport):
    """An SCTP transport that owns its tasks, tells its listener in order, and never raises while sending.

    Args:
        dtls: an open transport.
        settings: limits.
    """

    def __init__(self, dtls: DtlsTransport, settings: RtcSettings) -> None:
        super().__init__(dtls)
        self._dtls = dtls
        self._running_loop = asyncio.get_running_loop()
        self._settings = settings
        self._end_reason = "the association ended"
        self._calls: deque[Callable[[], None]] = deque()
        self._handling = False
        self._delivery_due = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def established(self) -> bool:
        """Whether payload may flow."""
        return self._association_state is State.ESTABLISHED

    def abort(self, reason: str) -> None:
        """End the association at once and tell the other side."""
        if self._association_state is not State.CLOSED:
            self._end_reason = reason
            self._send_now(AbortChunk())
            self._set_state(State.CLOSED)

    def give_up(self, reason: str) -> None:
        """The transport below is gone: end without a word."""
        if self._association_state is not State.CLOSED:
            self._end_reason = reason
            self._set_state(State.CLOSED)

    async def stop(self) -> None:
        """End the association and everything that belongs to it."""
        await super().stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` soon, after those posted before it, and never in the middle of a packet."""
        self._calls.append(call)
        if not self._handling and not self._delivery_due:
            self._delivery_due = True
            self._running_loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery_due = False
        while self._calls:
            self._calls.popleft()()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._running_loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send_now(self, chunk: Chunk) -> None:
        assert self._remote_port is not None
        packet = serialize_packet(self._local_port, self._remote_port, self._remote_verification_tag, chunk)
        try:
            self._dtls.send_packet(packet)
        except ConnectionError:
            return  # a lost packet; whoever owns the transport below hears of its end

    async def _send_chunk(self, chunk: Chunk) -> None:
        self._send_now(chunk)
