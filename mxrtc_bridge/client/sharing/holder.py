"""The command that holds the account: it lends data channels of its sessions to others, by its socket.

Each connection to the socket is one guest, who has asked for one peer. What a guest may order is bounded, and whatever
becomes of it, nobody else's streams notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.options import CallOptions, SignalBy
from mxrtc_bridge.client.sharing import failures
from mxrtc_bridge.client.sharing.pool import SessionPool
from mxrtc_bridge.core.errors import LocalError, MxrtcError, TransportError, WireError
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.sharing.frames import Frame, FrameKind
from mxrtc_bridge.engine.lent_channel import LentChannel
from mxrtc_bridge.sinks.frame_socket import FrameSocket, bind, serve

log = logging.getLogger(__name__)

MAX_GUESTS = 64
"""Others are not answered, and call by themselves."""
MAX_CHANNELS = 1024
"""Of one guest, with those that wait in line."""
MAX_QUESTIONS = 64
"""Of one guest, that wait for an answer of the peer."""
MAX_UNTAKEN_BYTES = 48 * 1024 * 1024
"""What may wait for a guest that takes nothing; more than the credit that an honest one gives."""
PAUSE_BYTES, RESUME_BYTES = 256 * 1024, 64 * 1024
"""How much of what a guest sends may wait for its turn, and when it may send again."""
MAX_TOLD_CHARS = 64


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
        holder: whose guest it is.
        options: how to call, but for what the guest says.
        max_untaken: see :data:`MAX_UNTAKEN_BYTES`.
    """

    def __init__(self, socket: FrameSocket, holder: Holder, options: CallOptions, max_untaken: int) -> None:
        self._socket = socket
        self._holder = holder
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

    @property
    def waiting_bytes(self) -> int:
        """What it has sent, and waits here for its turn."""
        return self._queued

    # FrameListener

    def socket_open(self) -> None:
        if self._holder.takes(self):
            self.tell(messages.HolderHello(messages.VERSION, os.getpid()))
        else:
            self._socket.abort()

    def frame_received(self, frame: Frame) -> None:
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
        for lent in tuple(self._lent.values()):
            lent.abandon()
        self._lent.clear()
        for task in (self._serving, *self._questions):
            if task is not None:
                task.cancel()
        self._holder.left(self)

    # For the holder

    def end(self) -> None:
        """The holder ends, and every session with it."""
        self._tell_end(messages.SessionEnded(messages.HOLDER_ENDED, "", None, None))
        self._socket.close()

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

    # Says, for what a person should know

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        facts = {key: value for key, value in fields.items() if isinstance(value, str | int | float | None)}
        self.tell(messages.Said(kind[:MAX_TOLD_CHARS], sentence, facts))

    # Inside

    def _ordered(self, message: messages.GuestMessage | None) -> None:
        match message:
            case messages.CallRequest():
                if self._serving is not None:
                    raise WireError("unknown_message", "a guest asks for one call")
                self._serving = self._holder.start(self._serve(message), "guest")
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
        try:
            async with self._holder.pool.connection(wanted.peer, options, self) as connection:
                self._connection = connection
                self.tell(_connected(connection))
                await connection.links.lost.wait()
                self._tell_if_over()
                # Its streams end by themselves; until then whoever asks for the peer gets another session.
                await asyncio.get_running_loop().create_future()
        except Exception as error:
            if not isinstance(error, MxrtcError | OSError):
                log.exception("! a call for another command has failed")
            self.tell(failures.to_message(error))
            self._socket.close()

    def _question(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        if self._connection is None or len(self._questions) >= MAX_QUESTIONS:
            work.close()
            self.tell(messages.Unanswered(number, "too many questions wait for the peer"))
            return
        task = self._holder.start(work, "question of a guest")
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


class Holder:
    """Answers guests; from :meth:`open` to :meth:`close`.

    Args:
        pool: the sessions that it lends.
        options: how to call, but for what a guest says.
        max_guests: see :data:`MAX_GUESTS`.
        max_untaken: see :data:`MAX_UNTAKEN_BYTES`.
    """

    def __init__(
        self,
        pool: SessionPool,
        options: CallOptions,
        *,
        max_guests: int = MAX_GUESTS,
        max_untaken: int = MAX_UNTAKEN_BYTES,
    ) -> None:
        self.pool = pool
        self._options = options
        self._max_guests = max_guests
        self._max_untaken = max_untaken
        self._guests: set[Guest] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self, folder: int, path: Path) -> None:
        """Listen.

        Raises:
            OSError: as the kernel says.
        """
        sock = bind(folder, path)
        self._path = path
        self._server = await serve(sock, lambda socket: Guest(socket, self, self._options, self._max_untaken))

    @property
    def guests(self) -> int:
        """How many there are."""
        return len(self._guests)

    @property
    def waiting_bytes(self) -> int:
        """What guests have sent, and waits here for its turn."""
        return sum(each.waiting_bytes for each in self._guests)

    def turn_away(self) -> None:
        """Take no more guests; those who are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._path = None

    async def wait_until_empty(self) -> None:
        """Wait until the last guest has gone."""
        await self._empty.wait()

    async def close(self) -> None:
        """End, and tell every guest."""
        self.turn_away()
        for guest in tuple(self._guests):
            guest.end()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # For guests

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def takes(self, guest: Guest) -> bool:
        """Whether there is room for one more."""
        if self._server is None or len(self._guests) >= self._max_guests:
            return False
        self._guests.add(guest)
        self._empty.clear()
        return True

    def left(self, guest: Guest) -> None:
        self._guests.discard(guest)
        if not self._guests:
            self._empty.set()


def _connected(connection: Connection) -> messages.SessionUp:
    device = connection.device
    shown = None if device is None else messages.Device(device.device, device.ed25519, device.trust.value)
    return messages.SessionUp(connection.path, connection.packet_bytes, shown, connection.why_by_room)


def _text(frame: Frame) -> str:
    try:
        return frame.payload.decode()
    except UnicodeDecodeError:
        raise WireError("bad_frame", "a text message is not in UTF-8") from None
