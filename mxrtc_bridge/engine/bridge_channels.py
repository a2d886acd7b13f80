"""The bridge's side of a session: judges each channel that the caller opens, and joins it to the service behind.

What a channel speaks must fit what the service is: streams of bytes go to a socket, the file protocol to a directory.
Nothing of a channel is looked at before its protocol and label are; nothing is connected before the right is there;
and a right that ends resets the streams that lived by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mxrtc_bridge.core.access.targets import FilesTarget, Target
from mxrtc_bridge.core.errors import EventError, RefusalCode, TargetError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.acceptor import AcceptedTransfer
from mxrtc_bridge.core.files.delivery import DeliveryTally
from mxrtc_bridge.core.files.messages import PROTOCOL_FILE, FileCode, FileError, Get, Job, Ls, Put
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.machine import StreamMachine
from mxrtc_bridge.core.stream.raw_machine import RawStreamMachine
from mxrtc_bridge.engine.call_ports import ServiceGate, ServiceGrant
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.control_channel import ControlLink, Look
from mxrtc_bridge.engine.file_operations import ReceiverExecutor, SourceExecutor, Spawn
from mxrtc_bridge.engine.file_ports import UserFileServices
from mxrtc_bridge.engine.file_transfer import Transfer
from mxrtc_bridge.engine.ports import Channel, Connector, Counters, PeerConnection, Sink
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.session_channels import SessionChannels
from mxrtc_bridge.engine.stream_forwarder import StreamForwarder

log = logging.getLogger(__name__)


LINES_A_MINUTE = 10
"""Of one kind about one service and one caller, who chooses how often it is used."""
MAX_CALLERS = 100
"""With a service each, of whom there are such lines in a minute."""


def log_of_callers() -> RateLimitedLog:
    """Make what writes about streams and transfers."""
    return RateLimitedLog(log, period_s=60.0, lines=LINES_A_MINUTE, subjects=MAX_CALLERS)


Served = StreamForwarder | Transfer
"""What a channel carries here: nobody lends one of ours."""


class BridgeChannels(SessionChannels):
    """The bridge's side of a session.

    Args:
        gate: decides about services.
        connector: reaches those that are sockets.
        files: those that are directories.
        clock: where time comes from.
        counters: what is counted.
        max_streams: streams that the caller may have open at a time.
        delivered: told what a transfer has brought, once it has ended; must not block and not raise.
        over: told that the session has ended, after all its streams; must not block and not raise.
        caller: who has called.
        look: finds out which services answer, for a caller who asks; None where nobody looks.
        seldom: writes what callers can repeat; shared by the sessions of a bridge, :func:`log_of_callers`.
    """

    def __init__(
        self,
        *,
        gate: ServiceGate,
        connector: Connector,
        files: UserFileServices,
        clock: Clock,
        counters: Counters,
        max_streams: int = 256,
        delivered: Callable[[ServiceName, DeliveryTally], None] = lambda _service, _tally: None,
        over: Callable[[], None] = lambda: None,
        caller: UserId | None = None,
        look: Look | None = None,
        seldom: RateLimitedLog | None = None,
    ) -> None:
        super().__init__(clock=clock, counters=counters, max_streams=max_streams)
        self._link: ControlLink | None = None
        self._gate = gate
        self._connector = connector
        self._files = files
        self._services: dict[Served, ServiceName] = {}
        self._directories: dict[Transfer, FilesTarget] = {}
        self._dialling: dict[StreamForwarder, asyncio.Future[Sink]] = {}
        self._delivered = delivered
        self._tell_over = over
        self._caller = caller
        self._look = look
        self._seldom = (seldom or log_of_callers()).of(log)

    def attach(self, peer: PeerConnection, *, spawn: Spawn, call_log: ContextLog) -> None:
        super().attach(peer, spawn=spawn, call_log=call_log)
        self._log = call_log.to(log)

    def ended(self) -> None:
        if not self._ended:
            super().ended()
            self._tell_over()

    def channel_offered(self, channel: Channel) -> None:
        if channel.protocol == messages.PROTOCOL_CTL:
            self._accept_control(channel)
            return
        if channel.protocol not in {messages.PROTOCOL_TCP, PROTOCOL_FILE, *messages.RAW_PROTOCOLS}:
            self._turn_away(channel, RefusalCode.UNKNOWN_PROTOCOL)
            return
        try:
            service = parse_service_name(channel.label)
        except EventError:
            self._turn_away(channel, RefusalCode.BAD_LABEL)
            return
        if channel.protocol == PROTOCOL_FILE:
            self._accept_transfer(channel, service)
        else:
            self._accept_stream(channel, service)

    def _accept_control(self, channel: Channel) -> None:
        if self._control is not None or self._ended:
            self._turn_away(channel, RefusalCode.SECOND_CONTROL)
            return
        self._control = self._link = ControlLink(
            stream.StreamRole.ACCEPTOR,
            channel,
            clock=self._clock,
            listing=self._gate.listing,
            over=self._over,
            expiries=self._gate.expiries,
            kind=self._gate.kind,
            look=self._look,
            spawn=self._spawn,
        )

    def _accept_stream(self, channel: Channel, service: ServiceName) -> None:
        raw = channel.protocol in messages.RAW_PROTOCOLS
        grant = self._gate.open(service)
        if grant is None or isinstance(grant.target, FilesTarget) or (raw and not grant.raw):
            self._gate.refused(service)
            # Who has the right may know what it is a right to.
            files = grant is not None and isinstance(grant.target, FilesTarget)
            self._refuse(channel, raw=raw, code=RefusalCode.DENIED, why=messages.ONLY_FILES if files else None)
        elif self._is_full(service, grant):
            self._refuse(channel, raw=raw, code=RefusalCode.LIMIT)
        else:
            self._serve(channel, service, grant, raw=raw)

    def _is_full(self, service: ServiceName, grant: ServiceGrant) -> bool:
        if self._ended or len(self._pipes) >= self.max_streams:
            return True
        return sum(name == service for name in self._services.values()) >= grant.max_streams

    def _refuse(self, channel: Channel, *, raw: bool, code: RefusalCode, why: str | None = None) -> None:
        """Say no in the words of the stream's language, which without ``why`` never tell what exists.

        A language without words has its channel closed.
        """
        if raw:
            self._turn_away(channel, code)
            return
        self._counters.refusal(code)
        why = why or ("too many streams" if code is RefusalCode.LIMIT else "no such service, or no right to it")
        self._add(StreamMachine(stream.StreamRole.ACCEPTOR), channel, lambda _how: None).refuse(code, why)

    def _serve(self, channel: Channel, service: ServiceName, grant: ServiceGrant, *, raw: bool) -> None:
        machine: StreamMachine | RawStreamMachine
        machine = RawStreamMachine(stream.StreamRole.ACCEPTOR) if raw else StreamMachine(stream.StreamRole.ACCEPTOR)
        pipe = self._add(
            machine,
            channel,
            lambda how: self._stream_ended(pipe, service, how),
            early=not raw,
            idle_s=grant.idle_s,
        )
        if pipe not in self._pipes:
            return  # what came early was a violation already
        self._services[pipe] = service
        if isinstance(machine, StreamMachine):
            machine.set_window(self._budget.take(pipe))
        self._counters.stream("opened")
        assert self._spawn is not None
        self._spawn(self._connect(pipe, service, grant))

    async def _connect(self, pipe: StreamForwarder, service: ServiceName, grant: ServiceGrant) -> None:
        try:
            target = await self._recorded(pipe, service, grant)
            if target is None or isinstance(target, FilesTarget):
                return
            sink = await self._dial(pipe, target)
        except _NotRecordedError:
            pipe.refuse("unavailable", "the service cannot be used at the moment")
        except TargetError as error:
            line = self._log.child(f"stream {service}")
            self._seldom.warning((self._caller, service, error.failure), "! %s", error, to=line)
            pipe.refuse(error.failure.value, messages.UNREACHABLE)
        else:
            if sink is None:
                return
            if self._fitting(pipe, service) is None:
                sink.reset()
                return
            self._budget.release_early(pipe)
            pipe.connect_sink(sink)

    async def _dial(self, pipe: StreamForwarder, target: Target) -> Sink | None:
        """Connect; None when the stream ends meanwhile, which ends the attempt at once, whatever it waits for."""
        # A task of its own, as it is cancelled by the end of the stream: a name may be resolved, and nothing dialled.
        dialling = self._dialling[pipe] = asyncio.ensure_future(self._connector.connect(target))
        try:
            await asyncio.wait([dialling])
        except asyncio.CancelledError:
            # Also where it has ended in the same moment: somebody must take what came of it.
            dialling.cancel()
            dialling.add_done_callback(_undialled)
            raise
        finally:
            self._dialling.pop(pipe, None)
        return None if dialling.cancelled() else dialling.result()

    async def _recorded(self, line: Served, service: ServiceName, grant: ServiceGrant) -> Target | FilesTarget | None:
        """Write down that a service is used, and return its target as it is then; None if the right is gone.

        What was judged before the wait may have been taken away meanwhile, or is allowed by another rule, which is
        written down as well.

        Raises:
            _NotRecordedError: it cannot be written down, so that the service must not be used.
        """
        while True:
            if not await self._gate.recorded(service, grant.rule):
                raise _NotRecordedError
            now = self._fitting(line, service)
            if now is None or now.rule == grant.rule:
                return None if now is None else now.target
            grant = now

    def _fitting(self, line: Served, service: ServiceName) -> ServiceGrant | None:
        """The service, if ``line`` may begin to use it; one that may not is refused here."""
        if line not in self._pipes:
            return None  # reset, by whichever side, or with the session
        grant = self._gate.open(service)
        if grant is None or not _fits(line, grant):
            line_log = self._log.child(f"stream {service}")
            self._seldom.info((self._caller, service), "x right withdrawn before it began", to=line_log)
            self._gate.refused(service)
            if isinstance(line, Transfer):
                line.refuse(FileCode.DENIED, "your right to this service has ended")
            else:
                line.refuse("denied", "your right to this service has ended")
            return None
        return grant

    def _stream_ended(self, pipe: StreamForwarder, service: ServiceName, how: stream.StreamFinished) -> None:
        self._services.pop(pipe, None)
        if (dialling := self._dialling.pop(pipe, None)) is not None:
            dialling.cancel()
        self._log.child(f"stream {service}").debug(
            "x %s %s, %d bytes out, %d in", how.outcome.value, how.code, how.sent, how.received
        )

    # Transfers of files

    def _accept_transfer(self, channel: Channel, service: ServiceName) -> None:
        """Hear what the caller wants; whether there is a right to it depends on that as well."""
        if self._ended or len(self._pipes) >= self.max_streams:
            self._turn_away(channel, RefusalCode.LIMIT)
            return
        tally = DeliveryTally()
        self._add_transfer(
            AcceptedTransfer(),
            channel,
            lambda transfer, how: self._transfer_ended(transfer, service, tally, how),
            job_received=lambda transfer, job: self._judge_job(transfer, service, job),
            record=tally.record,
        )

    def _judge_job(self, transfer: Transfer, service: ServiceName, job: Job) -> None:
        grant = self._gate.open(service)
        if grant is None or not isinstance(grant.target, FilesTarget) or not grant.allows(job):
            self._gate.refused(service)
            self._counters.refusal(RefusalCode.DENIED)
            # Who has the right may know what it is a right to.
            why = "no such service for files, or no right to do this with it" if grant is None else grant.refusal(job)
            transfer.refuse(FileCode.DENIED, why)
        elif sum(name == service for name in self._services.values()) >= grant.max_streams:
            self._counters.refusal(RefusalCode.LIMIT)
            transfer.refuse(FileCode.LIMIT, "too many transfers")
        else:
            self._services[transfer] = service
            self._directories[transfer] = grant.target
            self._counters.transfer("opened")
            assert self._spawn is not None
            self._spawn(self._begin_transfer(transfer, service, grant, job))

    async def _begin_transfer(self, transfer: Transfer, service: ServiceName, grant: ServiceGrant, job: Job) -> None:
        try:
            target = await self._recorded(transfer, service, grant)
            if not isinstance(target, FilesTarget):
                return
            self._directories[transfer] = target
            if not isinstance(job, Get | Ls):
                transfer.serve(ReceiverExecutor(self._files.receiver(target)))
                return
            source = await self._files.source(target, job)
            if self._fitting(transfer, service) is not None:
                transfer.serve(SourceExecutor(source))
        except _NotRecordedError:
            transfer.refuse(FileCode.UNAVAILABLE, "the service cannot be used at the moment")
        except FileError as error:
            line = self._log.child(f"transfer {service}")
            self._seldom.info((self._caller, service, error.code), "! %s", error, to=line)
            transfer.refuse(error.code, str(error))

    def _transfer_ended(
        self, transfer: Transfer, service: ServiceName, tally: DeliveryTally, how: tx.TransferFinished
    ) -> None:
        if self._services.pop(transfer, None) is not None and isinstance(transfer.job, Put):
            self._delivered(service, tally)
        self._directories.pop(transfer, None)
        self._seldom.info(
            (self._caller, service, how.outcome),
            "x %s %s, %d of %d files, %d bytes out, %d in",
            how.outcome.value,
            how.code,
            how.progress.files_done,
            how.progress.files,
            how.sent,
            how.received,
            to=self._log.child(f"transfer {service}"),
        )

    def judge_again(self) -> None:
        """Reset the streams and transfers that are not allowed any more."""
        for line, service in tuple(self._services.items()):
            grant = self._gate.open(service)
            if grant is None or not _fits(line, grant):
                self._log.child(f"stream {service}").info("x right withdrawn")
                line.reset("denied", "your right to this service has ended")
            elif isinstance(line, Transfer) and grant.target != self._directories[line]:
                # Nobody may read or write in a directory that the configuration does not name any more.
                line.reset("interrupted", "the settings of this service have changed; the same can be done again")

    def say_bye(self, code: str, message: str) -> bool:
        """Tell the other side that the session ends; False where it has no control channel."""
        if self._link is None:
            return False
        self._link.say_bye(code, message)
        return True

    def _turn_away(self, channel: Channel, code: RefusalCode) -> None:
        self._counters.refusal(code)
        channel.close()


class _NotRecordedError(Exception):
    """The use of a service cannot be written down."""


def _undialled(dialling: asyncio.Future[Sink]) -> None:
    """Close what came of an attempt that nobody waits for any more."""
    if not dialling.cancelled() and dialling.exception() is None:
        dialling.result().reset()


def _fits(line: Served, grant: ServiceGrant) -> bool:
    """Whether what was begun may go on."""
    if isinstance(line, Transfer):
        return line.job is not None and grant.allows(line.job)
    return not isinstance(grant.target, FilesTarget) and (
        grant.raw or line.channel.protocol not in messages.RAW_PROTOCOLS
    )
