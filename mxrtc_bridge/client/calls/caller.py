"""A logged-in user who calls peers: homeserver, sync, rooms, and one peer connection for each call.

What comes out of a call is a :class:`~mxrtc_bridge.client.calls.connection.Connection`.

One file: all of it serves one call at a time, which begins, is signalled and ends here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.calls.device import (
    DeviceCalls,
    NoDeviceError,
    NoOwnDeviceError,
    SilentPeerError,
    UnreadableAnswerError,
    is_verified,
    no_call_by_device,
    shows_device,
)
from mxrtc_bridge.client.calls.shared_device import SharedDevice
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.tokens import tokens_of
from mxrtc_bridge.client.options import Context, SignalBy
from mxrtc_bridge.client.report import Says
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.client.waiting import HOMESERVER, Waiting
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import EVENT_TYPES, CallMessage, Invite
from mxrtc_bridge.core.call.machine import CallMachine
from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.errors import ConfigError, EventError, HomeserverError
from mxrtc_bridge.core.ids import CallId, PartyId, RoomId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.ports import NoCounters
from mxrtc_bridge.engine.session import Session
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.api.sync import SyncStream
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.call_rooms import DirectFailure, DirectRoomError, DirectRooms
from mxrtc_bridge.rtc.interfaces import choose_addresses, local_addresses
from mxrtc_bridge.rtc.settings import RtcSettings

log = logging.getLogger(__name__)

INVITE_LIFETIME_MS = 30_000
"""A person waits in front of this call; the bridge answers within a second or not at all."""

GOODBYE_S = 3.0
"""How long hanging up in order may take."""

LOADS_AFTER_S = 0.05
"""How long the homeserver has before what makes a connection is loaded, a quarter of all that is: where it is not
there, that is said sooner, and where it is far away, it is waited for meanwhile."""

_RTC = "mxrtc_bridge.rtc.factory"

TRIES = 3
"""Calls by devices that are placed, where the answer to the one before could not be read."""

_PROGRESS: dict[call.CallState, str] = {
    call.CallState.OFFERING: "STUN and TURN servers",
    call.CallState.INVITING: "the peer to answer",
    call.CallState.CONNECTING: "a network path to the peer",
}

_FAILURES: dict[DirectFailure, Exit] = {
    DirectFailure.NO_SUCH_PEER: Exit.DENIED,
    DirectFailure.DECLINED: Exit.DENIED,
    DirectFailure.NO_ANSWER: Exit.OFFLINE,
    DirectFailure.ENCRYPTED: Exit.USAGE,
}

Send = Callable[[UserId, CallMessage, str], Awaitable[object]]
"""Sends a message of our side as a step of a call; see :class:`mxrtc_bridge.engine.ports.Signaller`."""


class _Outgoing:
    """What goes out for one call: knows how far that got. Implements :class:`mxrtc_bridge.engine.ports.Signaller`.

    Args:
        send: by a room, or to a device.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.invited = False
        """Whether the homeserver has the invite."""
        self.failure: HomeserverError | None = None
        """Why something was not taken."""
        self.hears: Callable[[], bool] = lambda: True
        """Whether what the other side answers would have been heard."""

    async def send(self, route: CallRoute, sender: UserId, message: CallMessage, *, step: str) -> None:  # noqa: ARG002
        """Send a message; the route is that of the call, and known to what sends."""
        try:
            await self._send(sender, message, step)
        except HomeserverError as error:
            self.failure = error
            raise
        self.invited = self.invited or isinstance(message, Invite)


@dataclass(slots=True)
class _Placed:
    """A call that has been placed."""

    session: Session
    running: asyncio.Task[call.CallEnded]
    connection: Connection
    outgoing: _Outgoing


class Caller:
    """Calls peers for one user, one after the other; use it as an asynchronous context manager.

    Args:
        context: what all commands share.
        login: as whom.
        device: our device, where other calls of this process use it too.
        says: told what a person should know meanwhile; that of the command where it is not given.
    """

    def __init__(
        self, context: Context, login: Login, device: SharedDevice | None = None, says: Says | None = None
    ) -> None:
        self.login = login
        self._state = context.state
        self._options = context.call
        self._device = device or SharedDevice(context.state, login)
        self._report = says or context.report
        self._waiting = Waiting(self._report, context.call.timeout_s)
        # One for all that is asked: on a line that loses much a connection that is up is worth seconds.
        self._transport = Transport(login.homeserver, tokens_of(context.state, login), self._waiting.patience)
        self._homeserver = Homeserver(self._transport)
        self._direct: DirectRooms | None = None
        self._began = 0.0
        """When the call has begun, by the clock of the loop."""
        self._sync = SyncStream(
            self._homeserver, types=[*EVENT_TYPES, "m.room.member"], on_change=self._homeserver_changed
        )
        self._outbox = Outbox(self._homeserver, masquerade=False)
        self._placed: _Placed | None = None
        """The call, as long as there is one."""
        self._syncing: asyncio.Task[None] | None = None
        self._turn: asyncio.Task[tuple[IceServer, ...]] | None = None
        self._loading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for task in (self._syncing, self._turn, self._loading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._device.done_with(self._transport)

    @contextlib.asynccontextmanager
    async def call(self, peer: UserId) -> AsyncIterator[Connection]:
        """Call ``peer``; the connection lives inside the context, and is hung up in order at its end.

        Raises:
            ClientError: the call did not get through; says why, and whether to try again.
            HomeserverError: the homeserver refuses us, or is away.
        """
        try:
            async with self._waiting.told(self._waited_for, self.login.name_of(peer)):
                placed = await self._place(peer)
            yield placed.connection
        finally:
            # Also of one that is up while what it was placed with is still being put away.
            if self._placed is not None:
                await self._end(self._placed)

    @property
    def _session(self) -> Session | None:
        return None if self._placed is None else self._placed.session

    async def _place(self, peer: UserId) -> _Placed:
        """Call by the devices of both sides, or by a room; returns once the connection is up.

        In a room everybody on the way can read and change what is said. So it is one only on demand, or where one side
        can have no device; never because one is silent, as whoever is in between can have it so.
        """
        self._waiting.cause = None
        try:
            choose_addresses(local_addresses(), self._options.interfaces)
        except ConfigError as error:
            raise ClientError(Exit.NO_PATH if self._options.interfaces else Exit.RETRY, str(error)) from error
        self._began, why = asyncio.get_running_loop().time(), ""
        if self._options.signal is not SignalBy.ROOM:
            try:
                placed = await self._place_by_device(peer)
            except NoDeviceError as error:
                deviceless = await self._is_deviceless(peer, error)
                if self._options.signal is SignalBy.DEVICE or not deviceless:
                    raise no_call_by_device(self.login.name_of(peer), error, deviceless=deviceless) from error
                why = str(error)
            else:
                if placed is not None:
                    return placed
                raise self._unanswered(peer, "its device")
        if await is_verified(self._state, self.login, peer):
            raise ClientError(
                Exit.DENIED,
                f"you have verified {self.login.name_of(peer)}, and a call by a room is not end to end: "
                + (
                    "leave out --signal room"
                    if self._options.signal is SignalBy.ROOM
                    else "one of you has no device now"
                ),
            )
        placed = await self._place_by_room(peer)
        placed.connection.why_by_room = why
        return placed

    async def _place_by_room(self, peer: UserId) -> _Placed:
        self._waiting.waits_for(f"{HOMESERVER}, and for the peer to join our room")
        try:
            async with asyncio.timeout(self._left_s()):
                room = await self._find_room(peer)
        except TimeoutError:
            if self._direct is not None and self._direct.awaits_join:
                words = f"did not join within {self._options.timeout_s:g} seconds; its bridge is probably not running"
                raise ClientError(Exit.OFFLINE, f"{peer} {words}") from None
            raise self._waiting.too_long(self._waiting.step) from None
        assert self._syncing is not None

        def send(sender: UserId, message: CallMessage, step: str) -> Awaitable[object]:
            return self._outbox.send(room, sender, message, step=step)

        placed = self._begin(peer, room, send)
        # Without events no answer can come: then it is of no use to wait for one.
        await self._wait_until_connected(placed, self._syncing)
        return placed

    def _left_s(self) -> float:
        return max(self._began + self._options.timeout_s - asyncio.get_running_loop().time(), 0.0)

    async def _is_deviceless(self, peer: UserId, error: NoDeviceError) -> bool:
        """Whether one of the two sides can have no device."""
        if isinstance(error, NoOwnDeviceError):
            return True
        self._waiting.waits_for(HOMESERVER)
        try:
            async with asyncio.timeout(self._left_s()):
                return not await shows_device(self._state, self.login, peer, self._waiting.patience)
        except TimeoutError:
            raise self._waiting.too_long(self._waiting.step) from None

    def _unanswered(self, peer: UserId, tried: str) -> ClientError:
        return ClientError(
            Exit.OFFLINE, f"{self.login.name_of(peer)}: no answer; the bridge may not be running (tried {tried})"
        )

    async def _place_by_device(self, peer: UserId) -> _Placed | None:
        """Call by devices; None if there is no sign of life from the other one.

        Raises:
            NoDeviceError: that is not possible now.
        """
        self._want_turn()
        self._waiting.waits_for(HOMESERVER)
        # A peer that was called by a room before has none for longer than that.
        by_room = self._options.signal is SignalBy.AUTO and self._state.load_room(self.login.user_id, peer) is not None
        async with contextlib.AsyncExitStack() as holding:
            try:
                async with asyncio.timeout(self._left_s()):
                    calls = await holding.enter_async_context(
                        self._device.calls(peer, self._transport, waits=self._waiting.waits_for, appears=not by_room)
                    )
            except TimeoutError:
                raise self._waiting.too_long(self._waiting.step) from None
            for _ in range(TRIES):
                with contextlib.suppress(UnreadableAnswerError):
                    return await self._place_with(calls)
        return None

    async def _place_with(self, calls: DeviceCalls) -> _Placed | None:
        """Place one call by devices; None if there is no sign of life from the other one.

        Raises:
            UnreadableAnswerError: the answer cannot be read, and that of another call can.
        """
        placed = self._begin(calls.peer.user, calls.route, calls.send, device=calls.peer)

        def heard(user: UserId, message: CallMessage) -> None:
            if message.call_id == placed.session.call_id:
                placed.connection.clocks = calls.clocks
                placed.session.feed(call.Remote(user, message))

        def is_unanswered() -> bool:
            return placed.session.state is call.CallState.INVITING

        calls.listener = heard
        placed.outgoing.hears = calls.heard.is_set
        seeing = asyncio.create_task(calls.see_through(placed.session.call_id, is_unanswered))
        try:
            await self._wait_until_connected(placed, seeing)
        except SilentPeerError:
            return None
        finally:
            seeing.cancel()
        placed.connection.device = calls.peer
        return placed

    def _begin(self, peer: UserId, route: CallRoute, send: Send, *, device: DeviceIdentity | None = None) -> _Placed:
        call_id = CallId(secrets.token_urlsafe(16))
        from mxrtc_bridge.rtc.certificates import NoCertificates  # noqa: PLC0415
        from mxrtc_bridge.rtc.factory import PeerFactory  # noqa: PLC0415

        lo = any(name in ("lo", "127.0.0.1", "127.0.0.0/8") for name in self._options.interfaces)
        addresses = AddressPolicy(private=True, loopback=lo)
        settings = RtcSettings(policy=self._options.policy, interfaces=self._options.interfaces)
        clock = LoopClock()
        links = ClientChannels(clock=clock, counters=NoCounters())
        outgoing = _Outgoing(send)
        session = Session(
            CallMachine(
                call.CallRole.CALLER,
                call_id=call_id,
                local=self.login.user_id,
                party_id=PartyId(secrets.token_hex(8)),
                remote=peer,
                addresses=addresses,
                lifetime_ms=INVITE_LIFETIME_MS,
            ),
            call_id=call_id,
            route=route,
            local=self.login.user_id,
            remote=peer,
            number=0,
            device=None,
            signaller=outgoing,
            peers=PeerFactory(settings, NoCertificates(), self._ice_servers),
            links=links,
            addresses=addresses,
            clock=clock,
        )
        running = asyncio.create_task(session.run(), name="call")
        session.feed(call.PlaceCall())
        connection = Connection(peer, session, links, device, self._no_servers)
        placed = self._placed = _Placed(session, running, connection, outgoing)
        return placed

    async def _end(self, placed: _Placed) -> None:
        """Hang up in order, as far as that goes quickly."""
        placed.session.feed(call.HangUp("user_hangup"))
        try:
            await asyncio.wait([placed.running], timeout=GOODBYE_S)
        finally:
            placed.running.cancel()
            self._placed = None
        # Not awaited itself: that it was cancelled must not be taken for our own end, nor the other way round.
        await asyncio.wait([placed.running])
        if not placed.running.cancelled():
            placed.running.result()

    def _waited_for(self) -> str:
        step = self._waiting.step
        return step if self._session is None else _PROGRESS.get(self._session.state, step)

    async def _wait_until_connected(self, placed: _Placed, breaking: asyncio.Task[None]) -> None:
        """Wait until the connection is up; what ends ``breaking`` makes waiting useless, and is raised.

        Whatever goes wrong ends the call.
        """
        try:
            await self._until_connected(placed, breaking)
        except BaseException:
            await self._end(placed)
            raise
        placed.connection.setup_s = asyncio.get_running_loop().time() - self._began

    async def _until_connected(self, placed: _Placed, breaking: asyncio.Task[None]) -> None:
        session, running, peer = placed.session, placed.running, placed.session.remote
        up = asyncio.create_task(placed.connection.links.up.wait())
        waited = [up, running, breaking]
        try:
            done, _ = await asyncio.wait(waited, timeout=self._left_s(), return_when=asyncio.FIRST_COMPLETED)
            if not done and session.state is call.CallState.CONNECTING:
                # It has answered, so it is not silent: the packets have a time of their own.
                done, _ = await asyncio.wait(
                    waited, timeout=self._options.timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            up.cancel()
        if up in done:
            return
        if running in done:
            if running.result().reason == "homeserver" and placed.outgoing.failure is not None:
                raise placed.outgoing.failure
            raise placed.connection.lost(self.login.name_of(peer))
        if breaking in done:
            breaking.result()
        if session.state is call.CallState.CONNECTING:
            raise placed.connection.without_path(self.login.name_of(peer))
        if placed.outgoing.invited and placed.outgoing.hears():
            raise self._unanswered(peer, "a room" if placed.connection.device is None else "its device")
        self._waiting.waits_for(HOMESERVER)
        raise self._waiting.too_long(self._waiting.step)

    def _want_turn(self) -> None:
        """Have TURN credentials fetched, if that is not under way."""
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._homeserver.turn_server(), name="turn-credentials")
            # Whether anybody asks for the result depends on how far the call gets.
            self._turn.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._loading = asyncio.create_task(self._load(self._turn), name="loading")

    async def _load(self, turn: asyncio.Task[tuple[IceServer, ...]]) -> None:
        """Load what makes a connection, unless the homeserver is known not to be there."""
        await asyncio.wait([turn], timeout=LOADS_AFTER_S)
        if self._waiting.cause is None and not (turn.done() and turn.exception() is not None):
            is_loaded = _RTC in sys.modules
            importlib.import_module(_RTC)
            if not is_loaded:
                gc.freeze()  # once: what is left of calls before would stay for ever

    async def _find_room(self, peer: UserId) -> RoomId:
        """Find the room while the point in the event stream is fixed and TURN credentials are fetched."""
        known = self._state.load_room(self.login.user_id, peer)
        self._want_turn()
        direct = DirectRooms(self._homeserver, self.login.user_id, join_timeout_s=self._options.timeout_s)
        self._direct = direct
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._start_sync())
                finding = tasks.create_task(direct.find_or_create_direct(peer, known=known))
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
            if isinstance(error, DirectRoomError):
                raise ClientError(_FAILURES[error.failure], str(error)) from error
            raise error from None
        room = finding.result()
        if room != known:
            self._state.save_room(self.login.user_id, peer, room)
        return room

    async def _start_sync(self) -> None:
        if self._syncing is not None and self._syncing.done():
            # It ends only when the homeserver refuses us for good: its error says why.
            self._syncing.result()
        if self._syncing is None:
            await self._sync.start()
            self._syncing = asyncio.create_task(self._receive(), name="sync")

    async def _ice_servers(self, _local: UserId) -> tuple[IceServer, ...]:
        assert self._turn is not None
        # Whoever waits too long must not end the question: the next call has the answer, or asks anew.
        return await asyncio.shield(self._turn)

    def _no_servers(self) -> str:
        if self._turn is None or not self._turn.done() or self._turn.cancelled():
            return "the homeserver has not said in time which TURN servers there are"
        error = self._turn.exception()
        return "" if error is None else f"no TURN servers are known: {error}"

    async def _receive(self) -> None:
        try:
            async for event in self._sync.events():
                self._route(event)
        except HomeserverError as error:
            if self._session is not None and self._session.state is call.CallState.CONNECTED:
                self._report.say(
                    "homeserver",
                    f"{error}; open connections are not affected, but they cannot be made again",
                    reachable=True,
                    refused=True,
                )
            raise

    def _route(self, event: RoomEvent) -> None:
        session = self._session
        if session is None or session.route != event.room_id:
            return
        if event.type == "m.room.member":
            left = event.content.get("membership") in ("leave", "ban")
            if left and event.state_key in (session.local, session.remote):
                session.feed(call.MemberLeft())
            return
        try:
            message = parse_message(event.type, event.content)
        except EventError as error:
            log.debug("call event ignored: %s", error)
            return
        if message.call_id == session.call_id:
            session.feed(call.Remote(event.sender, message))

    def _homeserver_changed(self, error: Exception | None) -> None:
        if error is None:
            self._report.say("homeserver", "the homeserver is back", reachable=True)
        else:
            self._report.say(
                "homeserver", "the homeserver does not answer; open connections are not affected", reachable=False
            )
