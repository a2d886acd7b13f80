"""A guest, as the command that holds the account sees it: what it orders, and what it is told.

What it may order is bounded, and whatever becomes of it, nobody else's streams notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, Protocol

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.options import CallOptions, SignalBy
from mxrtc_bridge.client.report import Person
from mxrtc_bridge.client.sharing import failures
from mxrtc_bridge.client.sharing.pool import SessionPool
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.errors import LocalError, MxrtcError, TransportError, WireError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.sharing.frames import Frame, FrameKind
from mxrtc_bridge.engine.lent_channel import LentChannel
from mxrtc_bridge.sinks.frame_socket import FrameSocket

log = logging.getLogger(__name__)

MAX_CHANNELS = 1024
"""Of one guest, with those that wait in line."""
MAX_QUESTIONS = 64
"""Of one guest, that wait for an answer of the peer."""
MAX_UNTAKEN_BYTES = 48 * 1024 * 1024
"""What may wait for a guest that takes nothing; more than the credit that an honest one gives."""
PAUSE_BYTES, RESUME_BYTES = 256 * 1024, 64 * 1024
"""How much of what a guest sends may wait for its turn, and when it may send again."""
MAX_TOLD_CHARS = 64
ORDER_S = 10.0
"""How long a guest may take to say what it wants."""

DeviceUse = Callable[[messages.DeviceRequest, Person], Awaitable[None]]
"""Does something with the device of the account; see :class:`mxrtc_bridge.client.sharing.device_work.DeviceWork`."""


class Host(Protocol):
    """What a guest needs of the command whose guest it is."""

    @property
    def pool(self) -> SessionPool: ...

    @property
    def device(self) -> DeviceUse: ...

    @property
    def login(self) -> Login: ...

    def takes(self, guest: Guest) -> bool:
        """Whether there is room for one more."""
        ...

    def left(self, guest: Guest) -> None:
        """It is gone."""
        ...

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Have something done beside all else."""
        ...


class _Borrower:
    """Hears one lent channel; implements :class:`mxrtc_bridge.engine.ports.ChannelListener`."""

    def __init__(self, guest: Guest, number: int) -> None:
        self._guest = guest
        self._number = number

    def channel_opened(self) -> None:
        self._guest.tell_frame(Frame(FrameKind.OPENED, self._number))

    def text_received(self, text: str) -> None:
        self._guest.tell_frame(Frame(FrameKind.TEXT, self._number, text.encode("utf-8", "replace")))

    def binary_received(self, data: bytes) -> None:
        self._guest.tell_frame(Frame(FrameKind.BINARY, self._number, data))

    def channel_closed(self) -> None:
        # A connection that is lost closes its channels first; why it was lost is known right after, and is told first.
        asyncio.get_running_loop().call_soon(self._guest.channel_closed, self._number)


class Guest:
    """One guest; implements :class:`mxrtc_bridge.sinks.frame_socket.FrameListener`.

    Args:
        socket: where it is.
        host: whose guest it is.
        options: how to call, but for what the guest says.
        max_untaken: see :data:`MAX_UNTAKEN_BYTES`.
        order_s: see :data:`ORDER_S`.
    """

    def __init__(
        self, socket: FrameSocket, host: Host, options: CallOptions, *, max_untaken: int, order_s: float
    ) -> None:
        self._order_s = order_s
        self._socket = socket
        self._host = host
        self._options = options
        self._max_untaken = max_untaken
        self._connection: Connection | None = None
        self._serving: asyncio.Task[None] | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._lent: dict[int, LentChannel] = {}
        self._last = 0
        """The number of the channel that was opened last."""
        self._queued = 0
        self._paused = False
        self._told_end = False
        self._compared: asyncio.Future[bool] | None = None
        """What the person in front of the guest is asked at the moment."""
        self._late: asyncio.TimerHandle | None = None

    @property
    def is_served(self) -> bool:
        """Whether it has said what it wants."""
        return self._serving is not None

    @property
    def waiting_bytes(self) -> int:
        """What it has sent, and waits here for its turn."""
        return self._queued

    # FrameListener

    def socket_open(self) -> None:
        taken, login = self._host.takes(self), self._host.login
        self.tell(messages.HolderHello(messages.VERSION, os.getpid(), login.user_id, login.device_id, taken))
        if taken:
            self._late = asyncio.get_running_loop().call_later(self._order_s, self._socket.abort)
        else:
            self._socket.close()

    def frame_received(self, frame: Frame) -> None:
        if self._socket.is_closing:
            return  # it was refused, or cut off
        if frame.channel == 0:
            self._ordered(messages.GUEST.decode(_text(frame)))
            return
        lent = self._lent.get(frame.channel)
        if lent is None:
            return  # has just been closed by the other side
        match frame.kind:
            case FrameKind.CLOSE:
                lent.close()
            case FrameKind.TEXT | FrameKind.BINARY:
                self._queued += len(frame.payload)
                if self._queued > PAUSE_BYTES and not self._paused:
                    self._paused = True
                    self._socket.pause()
                try:
                    lent.send(_text(frame) if frame.kind is FrameKind.TEXT else frame.payload)
                except LocalError as error:
                    raise WireError("bad_frame", str(error)) from error
            case FrameKind.OPENED:
                raise WireError("bad_frame", "only the holder says that a channel is open")

    def send_space(self) -> None:
        """Nothing to do: what the peer sends is bounded by the guest's credit."""

    def socket_closed(self) -> None:
        if self._late is not None:
            self._late.cancel()
        for lent in tuple(self._lent.values()):
            lent.abandon()
        self._lent.clear()
        for task in (self._serving, *self._questions):
            if task is not None:
                task.cancel()
        self._host.left(self)

    # For the holder

    def end(self) -> None:
        """The holder ends, and every session with it."""
        self._tell_end(messages.SessionEnded(messages.HOLDER_ENDED, "", None, None))
        self._socket.close()

    def go(self) -> None:
        """Say that the holder's own work is done; who has not asked for anything yet asks the next one."""
        if self.is_served:
            self.tell(messages.Going())
        else:
            self._socket.abort()

    def beat(self) -> None:
        """Say that we live, unless the guest has something to read anyway."""
        if not self._socket.waiting_bytes:
            self.tell(messages.Beat())

    def tell(self, message: messages.HolderMessage) -> None:
        self.tell_frame(Frame(FrameKind.TEXT, 0, messages.HOLDER.encode(message).encode()))

    def tell_frame(self, frame: Frame) -> None:
        self._socket.send(frame)
        if self._socket.waiting_bytes > self._max_untaken:
            log.info("x a command takes nothing of what comes for it, and is cut off")
            self._socket.abort()

    def channel_closed(self, number: int) -> None:
        if self._lent.pop(number, None) is not None:
            self._tell_if_over()
            self.tell_frame(Frame(FrameKind.CLOSE, number))

    # Person, who is in front of the guest

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        self._tell_fact(messages.Said, kind, sentence, fields)

    def data(self, kind: str, line: str, **fields: object) -> None:
        self._tell_fact(messages.DeviceLine, kind, line, fields)

    async def compare(self, user: UserId, device: str, code: ShortCode) -> bool:
        self._compared = asyncio.get_running_loop().create_future()
        self.tell(messages.CompareRequest(user, device, code))
        return await self._compared

    def _tell_fact(
        self, made: type[messages.Said | messages.DeviceLine], kind: str, line: str, fields: dict[str, object]
    ) -> None:
        facts = {key: value for key, value in fields.items() if isinstance(value, str | int | float | None)}
        try:
            self.tell(made(kind[:MAX_TOLD_CHARS], line, facts))
        except WireError:
            # The sentence is for people; what programs read beside it is longer than a message.
            self.tell(made(kind[:MAX_TOLD_CHARS], line, {}))

    # Inside

    def _ordered(self, message: messages.GuestMessage | None) -> None:
        match message:
            case messages.CallRequest():
                self._begin(self._serve(message))
            case messages.DeviceRequest():
                self._begin(self._use_device(message))
            case messages.CompareReply(same=same):
                if self._compared is None or self._compared.done():
                    raise WireError("unknown_message", "nobody has asked for what was compared")
                self._compared.set_result(same)
            case messages.OpenChannel(channel=channel, service=service, protocol=protocol):
                if self._connection is None or channel <= self._last or len(self._lent) >= MAX_CHANNELS:
                    raise WireError("bad_field", f"channel {channel} cannot be opened now")
                self._last = channel
                # In the table first: where the session is over it is closed at once.
                borrower = _Borrower(self, channel)
                self._lent[channel] = self._connection.links.lend(service, protocol, borrower, self._drained)
            case messages.ListRequest(number=number, states=states):
                self._question(number, self._list(number, states=states))
            case messages.PingRequest(number=number):
                self._question(number, self._ping(number))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        if self._serving is not None:
            work.close()
            raise WireError("unknown_message", "a guest asks for one thing")
        if self._late is not None:
            self._late.cancel()
        self._serving = self._host.start(work, "guest")

    async def _use_device(self, asked: messages.DeviceRequest) -> None:
        with self._failure_told():
            await self._host.device(asked, self)
            self.tell(messages.DeviceDone())
        self._socket.close()

    @contextlib.contextmanager
    def _failure_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not isinstance(error, MxrtcError | OSError):
                log.exception("! a call for another command has failed")
            self.tell(failures.to_message(error))
            self._socket.close()

    async def _serve(self, wanted: messages.CallRequest) -> None:
        try:
            signal = SignalBy(wanted.signal)
        except ValueError:
            signal = self._options.signal
        options = replace(
            self._options,
            policy=wanted.policy,
            interfaces=wanted.interfaces,
            timeout_s=max(wanted.timeout_s, 1.0),
            signal=signal,
        )
        with self._failure_told():
            async with self._host.pool.connection(wanted.peer, options, self, lingers=True) as connection:
                self._connection = connection
                self.tell(_connected(connection))
                await connection.links.lost.wait()
                self._tell_if_over()
                # Its streams end by themselves; until then whoever asks for the peer gets another session.
                await asyncio.get_running_loop().create_future()

    def _question(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        if self._connection is None or len(self._questions) >= MAX_QUESTIONS:
            work.close()
            self.tell(messages.Unanswered(number, "too many questions wait for the peer"))
            return
        task = self._host.start(work, "question of a guest")
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _list(self, number: int, *, states: bool) -> None:
        assert self._connection is not None
        links = self._connection.links
        try:
            found = await links.list_services(states=states)
        except TransportError as error:
            self.tell(messages.Unanswered(number, str(error)))
            return
        for peer, services in found.items():
            for service in services:
                self.tell(
                    messages.ListEntry(
                        number,
                        peer,
                        service,
                        links.kinds.get((peer, service)),
                        links.states.get((peer, service)),
                        links.expiries.get((peer, service)),
                    )
                )
        self.tell(messages.ListDone(number))

    async def _ping(self, number: int) -> None:
        assert self._connection is not None
        try:
            seconds = await self._connection.links.ping()
        except TransportError as error:
            self.tell(messages.Unanswered(number, str(error)))
        else:
            self.tell(messages.PingReply(number, seconds, self._connection.packet_bytes))

    def _drained(self, size: int) -> None:
        self._queued -= size
        if self._paused and self._queued < RESUME_BYTES:
            self._paused = False
            self._socket.resume()

    def _tell_if_over(self) -> None:
        connection = self._connection
        if connection is None or (ended := connection.ended) is None:
            return
        bye = None if connection.links.bye is None else messages.Goodbye(*connection.links.bye)
        clocks = None if connection.clocks is None else messages.Clocks(*connection.clocks)
        self._tell_end(messages.SessionEnded(ended, connection.failure, bye, clocks))

    def _tell_end(self, ended: messages.SessionEnded) -> None:
        if not self._told_end:
            self._told_end = True
            self.tell(ended)


def _connected(connection: Connection) -> messages.SessionUp:
    device = connection.device
    shown = None if device is None else messages.Device(device.device, device.ed25519, device.trust.value)
    return messages.SessionUp(connection.path, connection.packet_bytes, shown, connection.why_by_room)


def _text(frame: Frame) -> str:
    try:
        return frame.payload.decode()
    except UnicodeDecodeError:
        raise WireError("bad_frame", "a text message is not in UTF-8") from None
