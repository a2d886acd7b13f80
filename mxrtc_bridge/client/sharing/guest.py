"""A command that uses the session of another one: its end of the socket, and a connection like one of its own.

One that gives no sign of life any more has been stopped, or hangs: that is told, and then its sessions count as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import CallOptions
from mxrtc_bridge.client.report import Person, Says
from mxrtc_bridge.client.sharing import failures
from mxrtc_bridge.client.sharing.heartbeat import BEAT_S, Heartbeat
from mxrtc_bridge.core.call.values import CallEnded
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.sharing.frames import Frame, FrameKind
from mxrtc_bridge.core.webrtc import ice
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.engine.borrowed_channels import BorrowedControl, BorrowedTransport
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.ports import NoCounters
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from mxrtc_bridge.sinks.frame_socket import FrameSocket

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SLACK_S = 5.0
"""How much longer than a call may take its answer is waited for."""
DISK_TIMEOUT_S = 2.0
"""How long the work of transfers may take to end, once nothing comes any more."""


class HolderGoneError(ClientError):
    """The command that holds the account has ended, or hangs, before it has answered."""


class _BorrowedCall:
    """What is known of the call; implements :class:`mxrtc_bridge.client.calls.connection.Call`."""

    def __init__(self, connected: messages.SessionUp) -> None:
        self.path: ice.Path | None = connected.path
        self.outcome: CallEnded | None = None
        self.failure = ""
        self.bytes = connected.packet_bytes

    def packet_bytes(self) -> int | None:
        return self.bytes

    def gathering_report(self) -> GatheringReport:
        """Nothing: whoever lends a session has found a path."""
        return GatheringReport()


class HolderLink:
    """The socket to the command that holds the account.

    Implements :class:`mxrtc_bridge.sinks.frame_socket.FrameListener`, and
    :class:`mxrtc_bridge.engine.borrowed_channels.HolderPort`.

    Args:
        socket: leads to it.
        beat_s: see :data:`~mxrtc_bridge.client.sharing.heartbeat.BEAT_S`.
    """

    def __init__(self, socket: FrameSocket, beat_s: float = BEAT_S) -> None:
        loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(beat_s, told=self._tell_life, lost=self._silent)
        self._person: Person | None = None
        self._done: asyncio.Future[None] = loop.create_future()
        self._asking: asyncio.Task[None] | None = None
        self._begun = False
        """Whether the person has heard something of what was asked of the device."""
        self.pid = 0
        """The process at the other end."""
        self.hello: asyncio.Future[messages.HolderHello] = loop.create_future()
        self._socket = socket
        self._answer: asyncio.Future[messages.SessionUp] = loop.create_future()
        for future in self._waited():
            # Nobody may be left who waits for it.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._says: Says | None = None
        self._transport = BorrowedTransport(self)
        self._control = BorrowedControl(self)
        self._links: ClientChannels | None = None
        self._call: _BorrowedCall | None = None
        self._connection: Connection | None = None
        self._is_going = False
        self._work: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def call(self, peer: UserId, options: CallOptions, says: Says) -> AsyncIterator[Connection]:
        """Use a session with a peer, which the other command has, or makes.

        Args:
            peer: whom.
            options: how to call.
            says: told what a person should know meanwhile.

        Raises:
            HolderGoneError: the other command is gone; somebody else can be asked.
            ClientError: there is none; says why, and whether to try again.
            HomeserverError: the homeserver refuses us, or is away.
        """
        began = asyncio.get_running_loop().time()
        self._says = says
        self._heartbeat.start()
        try:
            self.ask(
                messages.CallRequest(peer, options.policy, options.interfaces, options.signal.value, options.timeout_s)
            )
            try:
                async with asyncio.timeout(2 * options.timeout_s + SLACK_S):
                    connected = await asyncio.shield(self._answer)
            except TimeoutError:
                raise HolderGoneError(Exit.RETRY, f"{self._who} does not answer") from None
            connection = self._begin(peer, connected)
            connection.setup_s = asyncio.get_running_loop().time() - began
            yield connection
        finally:
            await self._end()

    async def ask_device(self, asked: messages.DeviceRequest, person: Person) -> None:
        """Have the other command do something with the device of the account.

        Args:
            asked: what.
            person: told and asked, as if the device was ours.

        Raises:
            HolderGoneError: the other command is gone, and the person has heard nothing of it.
            ClientError: it was not possible; says why.
            HomeserverError: the homeserver refuses us, or is away.
        """
        self._says = self._person = person
        self._heartbeat.start()
        try:
            self.ask(asked)
            # A person takes the time that it takes; whether the other command lives is watched beside it.
            patience = None if asked.task is messages.DeviceTask.VERIFY else 2 * asked.timeout_s + SLACK_S
            async with asyncio.timeout(patience):
                await asyncio.shield(self._done)
        except (TimeoutError, HolderGoneError) as error:
            words = str(error) or f"{self._who} does not answer"
            raise (ClientError if self._begun else HolderGoneError)(Exit.RETRY, words) from None
        finally:
            if self._asking is not None:
                self._asking.cancel()
            await self._end()

    # What the streams and transfers here ask

    def ask(self, message: messages.GuestMessage) -> None:
        self._socket.send(Frame(FrameKind.TEXT, 0, messages.GUEST.encode(message).encode()))

    def send(self, channel: int, message: str | bytes) -> None:
        if isinstance(message, str):
            self._socket.send(Frame(FrameKind.TEXT, channel, message.encode("utf-8", "replace")))
        else:
            self._socket.send(Frame(FrameKind.BINARY, channel, message))

    def close(self, channel: int) -> None:
        self._socket.send(Frame(FrameKind.CLOSE, channel))

    def can_send(self) -> bool:
        return self._socket.can_send()

    # FrameListener

    def socket_open(self) -> None:
        """Nothing to do: the other side speaks first."""

    def frame_received(self, frame: Frame) -> None:
        self._heartbeat.heard()
        if frame.channel == 0:
            self._told(messages.HOLDER.decode(_text(frame)))
            return
        if frame.kind is FrameKind.CLOSE:
            self._transport.closed(frame.channel)
            return
        channel = self._transport.channel(frame.channel)
        if channel is None:
            return
        match frame.kind:
            case FrameKind.OPENED:
                channel.opened()
            case FrameKind.TEXT:
                channel.received(_text(frame))
            case FrameKind.BINARY:
                channel.received(frame.payload)

    def send_space(self) -> None:
        if self._links is not None:
            self._links.send_space()

    def socket_closed(self) -> None:
        self._gone(HolderGoneError(Exit.RETRY, f"{self._who} has ended"), messages.HOLDER_ENDED)

    # Inside

    @property
    def _who(self) -> str:
        return f"the mxrtc command that holds the account (process {self.pid})"

    def _waited(self) -> tuple[asyncio.Future[Any], ...]:
        return self.hello, self._answer, self._done

    def _gone(self, error: HolderGoneError, ended: CallEnded) -> None:
        """Nothing comes any more."""
        for future in self._waited():
            _settle(future, error)
        self._over(messages.SessionEnded(ended, "", None, None))

    def _silent(self) -> None:
        self._gone(HolderGoneError(Exit.RETRY, f"{self._who} gives no sign of life"), messages.HOLDER_SILENT)
        self._socket.abort()

    def _tell_life(self, lives: bool) -> None:
        if self._says is not None:
            words = "is back" if lives else "gives no sign of life; it may be stopped, or hang"
            self._says.say("holder", f"{self._who} {words}", pid=self.pid, lives=lives)

    def _compare(self, shown: messages.CompareRequest) -> None:
        """Have our person compare; a newer question takes the place of an older one."""
        person = self._person
        if person is None:
            raise WireError("unknown_message", "there is nobody to compare")
        self._begun = True

        async def ask() -> None:
            try:
                same = await person.compare(shown.user, shown.device, shown.code)
            except ClientError as error:
                _settle(self._done, error)
            else:
                self.ask(messages.CompareReply(same))

        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.create_task(ask(), name="question")

    def _told(self, message: messages.HolderMessage | None) -> None:
        match message:
            case messages.HolderHello():
                self.pid = message.pid
                _settle(self.hello, message)
            case messages.Failed():
                _settle(self._answer, failures.to_error(message))
                _settle(self._done, failures.to_error(message))
            case messages.Going():
                self._is_going = True
                if self._connection is not None:
                    self._connection.leaving.set()
            case messages.Said(kind=kind, sentence=sentence, facts=facts) if self._says is not None:
                self._says.say(kind, sentence, **facts)
            case messages.DeviceLine() | messages.CompareRequest() | messages.DeviceDone():
                self._told_of_device(message)
            case _:
                self._told_of_session(message)

    def _told_of_device(self, message: messages.DeviceLine | messages.CompareRequest | messages.DeviceDone) -> None:
        match message:
            case messages.DeviceLine(kind=kind, line=line, facts=facts) if self._person is not None:
                self._begun = True
                self._person.data(kind, line, **facts)
            case messages.CompareRequest():
                self._compare(message)
            case messages.DeviceDone():
                _settle(self._done, None)

    def _told_of_session(self, message: messages.HolderMessage | None) -> None:
        match message:
            case messages.SessionUp():
                _settle(self._answer, message)
            case messages.SessionEnded():
                self._over(message)
            case messages.PingReply() | messages.ListEntry() | messages.ListDone() | messages.Unanswered():
                if isinstance(message, messages.PingReply) and self._call is not None:
                    self._call.bytes = message.packet_bytes
                self._control.answered(message)

    def _begin(self, peer: UserId, connected: messages.SessionUp) -> Connection:
        device = None
        if (shown := connected.device) is not None:
            trust = Trust(shown.trust) if shown.trust in {each.value for each in Trust} else Trust.UNSIGNED
            device = DeviceIdentity(peer, DeviceId(shown.device), shown.key, "", trust)
        links = self._links = ClientChannels(clock=LoopClock(), counters=NoCounters())
        self._call = _BorrowedCall(connected)
        connection = self._connection = Connection(peer, self._call, links, device)
        connection.why_by_room = connected.by_room_because
        if self._is_going:
            connection.leaving.set()
        links.borrow(self._transport, self._control, spawn=self._spawn)
        return connection

    def _over(self, ended: messages.SessionEnded) -> None:
        """The session is over; said once, before its channels are closed or right after."""
        if self._call is None or self._connection is None or self._links is None or self._call.outcome is not None:
            return
        self._call.outcome, self._call.failure = ended.call, ended.failure
        if ended.bye is not None:
            self._control.bye = ended.bye.code, ended.bye.message
        if ended.clocks is not None:
            self._connection.clocks = ended.clocks.here_ms, ended.clocks.there_ms
        self._transport.end()
        self._links.ended()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="transfer")
        self._work.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("! unexpected error", exc_info=error)
            if self._links is not None:
                self._links.ended()

    async def _end(self) -> None:
        self._heartbeat.stop()
        if self._links is not None:
            self._links.ended()
        self._socket.close()
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(self._work, timeout=DISK_TIMEOUT_S)


def _settle(waiting: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if waiting.done():
        return
    if isinstance(outcome, Exception):
        waiting.set_exception(outcome)
    else:
        waiting.set_result(outcome)


def _text(frame: Frame) -> str:
    try:
        return frame.payload.decode()
    except UnicodeDecodeError:
        raise WireError("bad_frame", "a text message is not in UTF-8") from None
