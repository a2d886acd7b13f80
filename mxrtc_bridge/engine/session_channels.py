"""All channels of one session: whose turn it is to send, how large the windows are, and one end for everything.

The bridge's side, which judges what the caller opens, is :mod:`mxrtc_bridge.engine.bridge_channels`; the user's side,
which opens, is :mod:`mxrtc_bridge.engine.client_channels`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import Job
from mxrtc_bridge.core.files.sender import SenderMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.machine import StreamMachine
from mxrtc_bridge.core.stream.raw_machine import RawStreamMachine
from mxrtc_bridge.core.stream.scheduler import Scheduler, WindowBudget
from mxrtc_bridge.core.webrtc.ice import Path
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.control_channel import CLOSED
from mxrtc_bridge.engine.file_operations import FileExecutor, Spawn
from mxrtc_bridge.engine.file_ports import Lister
from mxrtc_bridge.engine.file_transfer import Record, Transfer, TransferMachine
from mxrtc_bridge.engine.lent_channel import LentChannel
from mxrtc_bridge.engine.ports import ENDED_BY_PEER, Channel, ChannelOpener, Counters, PeerConnection
from mxrtc_bridge.engine.stream_forwarder import StreamForwarder

Line = StreamForwarder | Transfer | LentChannel
"""What a channel carries: a byte stream, a transfer of files, or what another process has there. All count as streams,
and take turns."""


class Control(Protocol):
    """What a session needs of its control channel, be it ours or that of another process."""

    def traffic(self) -> None:
        """Something came on another channel."""
        ...

    def close(self) -> None:
        """Stop; whoever waits for an answer learns that there will be none."""
        ...


class SessionChannels(ABC):
    """What both sides share.

    Args:
        clock: where time comes from.
        counters: what is counted.
        max_streams: streams that may be open at a time.
    """

    def __init__(self, *, clock: Clock, counters: Counters, max_streams: int) -> None:
        self.up = asyncio.Event()
        self.lost = asyncio.Event()
        self._clock = clock
        self._counters = counters
        self.max_streams = max_streams
        """How many streams a session carries."""
        self._peer: ChannelOpener | None = None
        self._spawn: Spawn | None = None
        self._report_lost: Callable[[str], None] = lambda _reason: None
        self._scheduler: Scheduler[Line] = Scheduler()
        self._budget: WindowBudget[Line] = WindowBudget()
        self._pipes: set[Line] = set()
        self._control: Control | None = None
        self._ended = False
        self._sent = 0
        self._received = 0
        self._counted = 0, 0

    # What the session asks for

    def attach(self, peer: PeerConnection, *, spawn: Spawn, call_log: ContextLog) -> None:  # noqa: ARG002 - for subclasses
        self._peer = peer
        self._spawn = spawn

    def on_lost(self, report: Callable[[str], None]) -> None:
        self._report_lost = report

    def connected(self, path: Path) -> None:  # noqa: ARG002 - the path is the session's business
        self.up.set()

    def ended(self) -> None:
        """End all streams and transfers: local programs see a reset, never an orderly end that did not happen."""
        if self._ended:
            return
        self._ended = True
        for pipe in tuple(self._pipes):
            pipe.reset("unavailable", "the session has ended")
        if self._control is not None:
            self._control.close()
        self.lost.set()

    def totals(self) -> tuple[int, int, int]:
        """Open streams, and payload bytes sent and received, by them and by those that have ended."""
        carried = [pipe.carried for pipe in self._pipes]
        sent, received = (sum(each) for each in zip((self._sent, self._received), *carried, strict=True))
        return len(carried), sent, received

    def count_payload(self) -> None:
        """Count the payload that moved since this was last done: for whoever looks while streams run."""
        _, sent, received = self.totals()
        self._counters.payload("sent", sent - self._counted[0])
        self._counters.payload("received", received - self._counted[1])
        self._counted = sent, received

    # PeerListener

    @abstractmethod
    def channel_offered(self, channel: Channel) -> None: ...

    def send_space(self) -> None:
        self._take_turns()

    def connection_lost(self, reason: str) -> None:
        self._report_lost(CLOSED if reason in ENDED_BY_PEER else reason)

    # Turns

    def _ready(self, pipe: Line, pending: int) -> None:
        self._scheduler.ready(pipe, pending)
        self._take_turns()

    def _take_turns(self) -> None:
        """Let streams send, one message each in turn, while the transport's queue is short."""
        assert self._peer is not None
        while self._peer.can_send() and (turn := self._scheduler.next()) is not None:
            pipe, limit = turn
            pipe.turn(limit)

    # Streams

    def _add(
        self,
        machine: StreamMachine | RawStreamMachine,
        channel: Channel,
        finished: Callable[[stream.StreamFinished], None],
        *,
        accepted: Callable[[], None] | None = None,
        early: bool = False,
        idle_s: float | None = None,
    ) -> StreamForwarder:
        def end(pipe: StreamForwarder, how: stream.StreamFinished) -> None:
            self._forget(pipe, how)
            self._counters.stream(how.outcome.value)
            finished(how)

        pipe = StreamForwarder(
            machine,
            channel,
            clock=self._clock,
            ready=self._ready,
            finished=end,
            accepted=accepted,
            heard=self._heard,
            hold_early=(lambda size: self._budget.hold_early(pipe, size)) if early else None,
            idle_s=idle_s,
        )
        self._pipes.add(pipe)
        self._counters.streams_live(1)
        # Only now: what came early may end the stream at once.
        pipe.begin()
        return pipe

    def _add_transfer(
        self,
        machine: TransferMachine,
        channel: Channel,
        finished: Callable[[Transfer, tx.TransferFinished], None],
        *,
        files: FileExecutor | Lister | None = None,
        job_received: Callable[[Transfer, Job], None] | None = None,
        record: Record | None = None,
    ) -> Transfer:
        assert self._spawn is not None

        def end(transfer: Transfer, how: tx.TransferFinished) -> None:
            self._forget(transfer, how)
            self._counters.transfer(how.outcome.value)
            finished(transfer, how)

        transfer = Transfer(
            machine,
            channel,
            clock=self._clock,
            spawn=self._spawn,
            ready=self._ready,
            finished=end,
            heard=self._heard,
            job_received=None if job_received is None else lambda job: job_received(transfer, job),
            record=record,
        )
        if not isinstance(machine, SenderMachine):
            machine.set_window(self._budget.take(transfer))
        self._pipes.add(transfer)
        self._counters.streams_live(1)
        transfer.begin(files)
        return transfer

    def _forget(self, line: Line, how: stream.StreamFinished | tx.TransferFinished) -> None:
        self._scheduler.remove(line)
        self._budget.give_back(line)
        self._pipes.discard(line)
        self._sent += how.sent
        self._received += how.received
        self.count_payload()
        self._counters.streams_live(-1)

    def _over(self, reason: str) -> None:
        """The control channel says that the session is of no use any more."""
        if reason == CLOSED:
            # A connection that is lost closes its channels first; why it was lost comes right after, and counts.
            asyncio.get_running_loop().call_soon(self._report_lost, reason)
        else:
            self._report_lost(reason)

    def _heard(self) -> None:
        """Something came from the other side on a stream."""
        if self._control is not None:
            self._control.traffic()
