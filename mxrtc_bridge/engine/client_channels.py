"""The user's side of a session: opens the control channel, and one channel for each stream.

Many local connections at once (a browser, a test) wait in line rather than run into the limits that the other side has
for channels and for the rate at which they are opened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.acceptor import opened_transfer
from mxrtc_bridge.core.files.messages import PROTOCOL_FILE, Job
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.control_channel import Kinds, States
from mxrtc_bridge.core.stream.machine import StreamMachine
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.control_channel import ControlLink, Expiries
from mxrtc_bridge.engine.file_operations import FileExecutor, Spawn, executor_for
from mxrtc_bridge.engine.file_ports import FileReceiver, FileSource, Lister
from mxrtc_bridge.engine.file_transfer import Record, Transfer
from mxrtc_bridge.engine.lent_channel import LentChannel
from mxrtc_bridge.engine.ports import Channel, ChannelListener, ChannelOpener, Counters, PeerConnection, Sink
from mxrtc_bridge.engine.session_channels import Control, SessionChannels
from mxrtc_bridge.engine.stream_forwarder import StreamForwarder


class OpenedStream:
    """A stream that we opened."""

    def __init__(self, finished: asyncio.Future[stream.StreamFinished]) -> None:
        self.finished = finished
        self.accepted = asyncio.Event()
        """Set once the service is there."""
        self.pipe: StreamForwarder | None = None

    def reset(self, code: str, message: str) -> None:
        """End it at once; harmless after its end."""
        if self.pipe is not None and not self.finished.done():
            self.pipe.reset(code, message)


class OpenedTransfer:
    """A transfer that we opened."""

    def __init__(self, finished: asyncio.Future[tx.TransferFinished]) -> None:
        self.finished = finished
        self.transfer: Transfer | None = None

    @property
    def progress(self) -> tx.Progress:
        """How far it is, at any time."""
        return tx.Progress() if self.transfer is None else self.transfer.progress

    def reset(self, code: str, message: str) -> None:
        """End it at once; what is verified is kept. Harmless after its end."""
        if self.finished.done():
            return
        if self.transfer is None:
            self.give_up(code, message)
        else:
            self.transfer.reset(code, message)

    def give_up(self, code: str, message: str) -> None:
        """It never began."""
        if not self.finished.done():
            how = tx.TransferFinished(tx.TransferOutcome.INTERRUPTED, code, message, 0, 0, tx.Progress())
            self.finished.set_result(how)


@dataclass(frozen=True, slots=True)
class _StreamInLine:
    service: ServiceName
    sink: Sink
    opened: OpenedStream

    def give_up(self, reason: str) -> None:
        self.sink.reset()
        self.opened.finished.set_result(stream.StreamFinished(stream.StreamOutcome.LOST, "lost", reason, 0, 0))


@dataclass(frozen=True, slots=True)
class _TransferInLine:
    service: ServiceName
    job: Job
    files: FileExecutor | Lister
    record: Record | None
    opened: OpenedTransfer

    def give_up(self, reason: str) -> None:
        self.opened.give_up("lost", reason)


@dataclass(frozen=True, slots=True)
class _LoanInLine:
    service: ServiceName
    lent: LentChannel

    def give_up(self, reason: str) -> None:
        self.lent.reset("lost", reason)


_InLine = _StreamInLine | _TransferInLine | _LoanInLine


class ClientControl(Control, Protocol):
    """What a user's side asks by the control channel; see :class:`~mxrtc_bridge.engine.control_channel.ControlLink`."""

    @property
    def bye(self) -> tuple[str, str] | None: ...

    @property
    def expiries(self) -> Expiries: ...

    @property
    def kinds(self) -> Kinds: ...

    @property
    def states(self) -> States: ...

    def list_services(self, *, states: bool = False) -> Awaitable[dict[UserId, tuple[ServiceName, ...]]]: ...

    def ping(self) -> Awaitable[float]: ...


OPENINGS_BURST = 200
OPENINGS_PER_S = 25.0
"""Channel openings stay below what docs/reference/protocol.md section 6 lets an acceptor close."""


class ClientChannels(SessionChannels):
    """The user's side of a session: opens the control channel and one channel for each stream."""

    def __init__(self, *, clock: Clock, counters: Counters, max_streams: int = 240) -> None:
        super().__init__(clock=clock, counters=counters, max_streams=max_streams)
        self._waiting: deque[_InLine] = deque()
        self._asked: ClientControl | None = None
        self._listing = asyncio.Lock()
        self._openings = float(OPENINGS_BURST)
        self._openings_at = clock.monotonic()
        self._opening_timer_armed = False

    @property
    def bye(self) -> tuple[str, str] | None:
        """Why the other side ended the session, if it said so."""
        return None if self._asked is None else self._asked.bye

    def attach(self, peer: PeerConnection, *, spawn: Spawn, call_log: ContextLog) -> None:
        super().attach(peer, spawn=spawn, call_log=call_log)
        self._control = self._asked = ControlLink(
            stream.StreamRole.OPENER,
            peer.open_channel("", messages.PROTOCOL_CTL),
            clock=self._clock,
            listing=None,
            over=self._over,
        )

    def borrow(self, transport: ChannelOpener, control: ClientControl, *, spawn: Spawn) -> None:
        """Use the session of another process, which is up; in the place of :meth:`attach`."""
        self._peer, self._spawn = transport, spawn
        self._control = self._asked = control
        self.up.set()

    def channel_offered(self, channel: Channel) -> None:
        """The peer opens nothing with us: a client offers no services."""
        channel.close()

    def open_stream(self, service: ServiceName, sink: Sink) -> OpenedStream:
        """Join ``sink`` to a service; opens wait in line where there are many at once."""
        opened = OpenedStream(asyncio.get_running_loop().create_future())
        self._line_up(_StreamInLine(service, sink, opened))
        return opened

    def open_transfer(
        self,
        service: ServiceName,
        job: Job,
        files: FileSource | FileReceiver | Lister,
        record: Record | None = None,
    ) -> OpenedTransfer:
        """Move files to or from a service; opens wait in line where there are many at once.

        Args:
            service: whose files.
            job: what is to be done.
            files: what there is for ``Put``, where it goes for ``Get``, and for ``Ls`` a function that shows an entry.
                To be closed by the caller, after the session has ended.
            record: told what became of each entry.
        """
        opened = OpenedTransfer(asyncio.get_running_loop().create_future())
        self._line_up(_TransferInLine(service, job, executor_for(job, files), record, opened))
        return opened

    def lend(
        self, service: ServiceName, protocol: str, borrower: ChannelListener, drained: Callable[[int], None]
    ) -> LentChannel:
        """Open a channel whose messages another process reads and writes; it waits in line like all others.

        Args:
            service: what it leads to.
            protocol: what is spoken on it.
            borrower: told what happens on it.
            drained: told how many bytes of what the borrower has sent are out of our hands.
        """
        lent = LentChannel(service, protocol, borrower, drained)
        self._line_up(_LoanInLine(service, lent))
        return lent

    async def list_services(self, *, states: bool = False) -> dict[UserId, tuple[ServiceName, ...]]:
        """Ask which services we may use.

        Args:
            states: ask too which of them are up, which may take some seconds.

        Raises:
            TransportError: the session ended before the answer.
        """
        assert self._asked is not None
        # One answer at a time, so that what is known of the services right after it belongs to it.
        async with self._listing:
            return await self._asked.list_services(states=states)

    @property
    def expiries(self) -> Expiries:
        """When what was listed last ends by itself."""
        return {} if self._asked is None else self._asked.expiries

    @property
    def kinds(self) -> Kinds:
        """What those services that were listed last are for, as far as the other side has said it."""
        return {} if self._asked is None else self._asked.kinds

    @property
    def states(self) -> States:
        """Whether those services that were listed last answer, as far as the other side has said it."""
        return {} if self._asked is None else self._asked.states

    async def ping(self) -> float:
        """Measure one round trip, in seconds.

        Raises:
            TransportError: the session ended before the answer.
        """
        assert self._asked is not None
        return await self._asked.ping()

    @property
    def is_full(self) -> bool:
        """Whether what waits does so for another stream to end, as there are as many as a session carries."""
        return bool(self._waiting) and len(self._pipes) >= self.max_streams

    def ended(self) -> None:
        super().ended()
        while self._waiting:
            self._waiting.popleft().give_up("the session has ended")

    def _line_up(self, wanted: _InLine) -> None:
        if self._ended:
            wanted.give_up("the session has ended")
        else:
            self._waiting.append(wanted)
            self._open_waiting()

    def _open_waiting(self) -> None:
        self._refill()
        while self._waiting and self._openings >= 1 and len(self._pipes) < self.max_streams:
            wanted = self._waiting.popleft()
            if isinstance(wanted, _TransferInLine) and wanted.opened.finished.done():
                continue  # reset while it waited
            if isinstance(wanted, _LoanInLine) and wanted.lent.is_over:
                continue
            self._openings -= 1
            self._open_now(wanted)
        if self._waiting and self._openings < 1 and not self._opening_timer_armed:
            self._opening_timer_armed = True
            self._clock.call_at(self._clock.monotonic() + 1 / OPENINGS_PER_S, self._opening_due)

    def _opening_due(self) -> None:
        self._opening_timer_armed = False
        self._open_waiting()

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._openings = min(float(OPENINGS_BURST), self._openings + (now - self._openings_at) * OPENINGS_PER_S)
        self._openings_at = now

    def _open_now(self, wanted: _InLine) -> None:
        assert self._peer is not None
        match wanted:
            case _StreamInLine():
                protocol = messages.PROTOCOL_TCP
            case _TransferInLine():
                protocol = PROTOCOL_FILE
            case _LoanInLine(lent=lent):
                protocol = lent.protocol
        try:
            channel = self._peer.open_channel(wanted.service, protocol)
        except LocalError as error:
            # The connection has just ended, or has no number left for a channel: this one's trouble alone.
            wanted.give_up(str(error))
            return
        match wanted:
            case _StreamInLine():
                self._begin_stream(wanted, channel)
            case _TransferInLine():
                self._begin_transfer(wanted, channel)
            case _LoanInLine(lent=lent):
                self._begin_loan(lent, channel)

    def _begin_stream(self, wanted: _StreamInLine, channel: Channel) -> None:
        def finished(how: stream.StreamFinished) -> None:
            if not wanted.opened.finished.done():
                wanted.opened.finished.set_result(how)
            self._open_waiting()

        machine = StreamMachine(stream.StreamRole.OPENER)
        pipe = self._add(machine, channel, finished, accepted=wanted.opened.accepted.set)
        machine.set_window(self._budget.take(pipe))
        wanted.opened.pipe = pipe
        pipe.connect_sink(wanted.sink)

    def _begin_transfer(self, wanted: _TransferInLine, channel: Channel) -> None:
        def finished(_transfer: Transfer, how: tx.TransferFinished) -> None:
            if not wanted.opened.finished.done():
                wanted.opened.finished.set_result(how)
            self._open_waiting()

        machine = opened_transfer(wanted.job)
        wanted.opened.transfer = self._add_transfer(
            machine, channel, finished, files=wanted.files, record=wanted.record
        )

    def _begin_loan(self, lent: LentChannel, channel: Channel) -> None:
        def finished(lent: LentChannel, how: stream.StreamFinished) -> None:
            self._forget(lent, how)
            self._open_waiting()

        self._pipes.add(lent)
        self._counters.streams_live(1)
        lent.attach(channel, ready=self._ready, finished=finished, heard=self._heard)
