"""One call, from the first event to the last: runs a call machine and carries out its effects.

A session owns its peer connection, its links and every task that it starts; when :meth:`Session.run` returns, all of
them have ended. It never decides who may do what: the admission it was given does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.events import CallMessage, Candidates, Invite
from mxrtc_bridge.core.call.machine import CallMachine
from mxrtc_bridge.core.call.route import CallRoute, signalling_of
from mxrtc_bridge.core.crypto.records import CallerDevice
from mxrtc_bridge.core.errors import (
    ConfigError,
    DescriptionError,
    HomeserverError,
    Lack,
    LocalError,
    RemoteError,
    ResourceError,
    StorageError,
    lack_of,
)
from mxrtc_bridge.core.ids import CallId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.ice import Path
from mxrtc_bridge.core.webrtc.sdp import Description, DescriptionType, parse_description
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.control_channel import is_farewell
from mxrtc_bridge.engine.driver import Driver
from mxrtc_bridge.engine.ports import Counters, NoCounters, PeerConnection, PeerConnectionFactory, Signaller
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.session_channels import SessionChannels

log = logging.getLogger(__name__)

DISK_TIMEOUT_S = 2.0
"""How long the work of a session may take to end, once its connection is closed."""
FAREWELL_TIMEOUT_S = 10.0
"""How long the last messages of an ended call may take to reach the homeserver."""

MAX_UNSENT_MESSAGES = 64
"""More messages of one call than this can only be a homeserver that is away: the call ends."""


@dataclass(frozen=True, slots=True)
class InviteAdmitted:
    """The invite passed all checks; ``offer`` is what is left of it after the filter."""

    offer: Description


@dataclass(frozen=True, slots=True)
class InviteRefused:
    """The invite was refused; ``reason`` goes into the reject event and tells nothing about what exists."""

    reason: str | None
    limit: str | None = None
    """Which limit is reached, with its number: for those only who have a right."""


Admission = Callable[[Invite], Awaitable[InviteAdmitted | InviteRefused]]


class Session:
    """One call.

    Args:
        machine: a fresh call machine of either role.
        route: what the call goes by.
        local: our own side: a virtual user, or the user of the client.
        remote: the other side.
        number: what people call this session; 0 where there is one only.
        device: which device of the other side has called, where that is proven.
        signaller: sends our events.
        peers: makes the peer connection.
        links: serves its channels.
        addresses: which remote addresses may be used.
        clock: where time comes from.
        counters: told when the connection is up.
        admission: judges an invite; only the callee has one.
        disk_timeout_s: how long its end waits for the work of its streams.
        seldom: writes what the other side can repeat; shared by the sessions of a bridge.
    """

    def __init__(
        self,
        machine: CallMachine,
        *,
        call_id: CallId,
        route: CallRoute,
        local: UserId,
        remote: UserId,
        number: int,
        device: CallerDevice | None,
        signaller: Signaller,
        peers: PeerConnectionFactory,
        links: SessionChannels,
        addresses: AddressPolicy,
        clock: Clock,
        counters: Counters = NoCounters(),  # noqa: B008 - has no state
        admission: Admission | None = None,
        disk_timeout_s: float = DISK_TIMEOUT_S,
        seldom: RateLimitedLog | None = None,
    ) -> None:
        self._disk_timeout_s = disk_timeout_s
        self.call_id = call_id
        self.route = route
        self.local = local
        self.remote = remote
        self.links = links
        self.number = number
        self.device = device
        self.started_at = clock.monotonic()
        self.connected_at: float | None = None
        self.path: Path | None = None
        self.failure = ""
        """Why the connection did not come up, in a sentence, where our side knows."""
        self._log = ContextLog(log, f"call {call_id}")
        self._seldom = (seldom or RateLimitedLog(log)).of(log)
        self._machine = machine
        self._signaller = signaller
        self._peers = peers
        self._addresses = addresses
        self._clock = clock
        self._counters = counters
        self._admission = admission
        self._peer: PeerConnection | None = None
        self._offer: Description | None = None
        self._serving: asyncio.TaskGroup | None = None
        self._unsent: asyncio.Queue[tuple[CallMessage, str] | None] = asyncio.Queue(MAX_UNSENT_MESSAGES)
        self._finished = asyncio.Event()
        self.outcome: call.CallEnded | None = None
        """How the call ended, or None while it lives."""
        self._before_start: list[call.Event] = []
        self._driver: Driver[call.Event, call.Effect] = Driver(
            machine, perform=self._perform, tick=call.CallTick(), clock=clock
        )

    @property
    def state(self) -> call.CallState:
        return self._machine.state

    def gathering_report(self) -> GatheringReport:
        """What came of asking the STUN and TURN servers, so far."""
        return GatheringReport() if self._peer is None else self._peer.gathering_report()

    def packet_bytes(self) -> int | None:
        """How large IP packets may be on the path; None while that is not known."""
        return None if self._peer is None else self._peer.packet_bytes()

    def feed(self, event: call.Event) -> None:
        """Hand an event to the call, at once; before :meth:`run` has begun it waits for it, in order."""
        if self._serving is None:
            self._before_start.append(event)
        else:
            self._driver.feed(event)

    async def run(self) -> call.CallEnded:
        """Live through the call.

        Returns:
            how it ended. Whatever the other side does, no exception leaves this method but cancellation.
        """
        background = asyncio.create_task(self._serve(), name="call-serve")
        background.add_done_callback(lambda _task: self._finished.set())
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send_messages(), name="call-sender")
                await self._finished.wait()
                background.cancel()
                self._queue_end_of_messages()
                await asyncio.wait([sender], timeout=FAREWELL_TIMEOUT_S)
                sender.cancel()
        finally:
            background.cancel()
            self._driver.close()
            self.links.ended()
            # Before what still waits for a disk: the other side must be out, whatever hangs here.
            if self._peer is not None:
                await self._peer.close()
            await _end_soon(background, self._disk_timeout_s)
        assert self.outcome is not None
        if left_out := self._machine.counts.dropped_candidates:
            self._log.debug("%d candidates that came after the description were of no use or too many", left_out)
        if self.connected_at is not None:
            _, sent, received = self.links.totals()
            live_s = self._clock.monotonic() - self.connected_at
            self._log.info(
                "x session closed: %s with %s, %s, %.1f s, %d bytes sent, %d received",
                self.remote,
                self.local,
                self.outcome.reason,
                live_s,
                sent,
                received,
            )
        return self.outcome

    async def _serve(self) -> None:
        """Start the machine and hold the group of tasks that serve this call, so that they end with it."""
        async with asyncio.TaskGroup() as serving:
            self._serving = serving
            for event in self._before_start:
                self._driver.feed(event)
            self._before_start.clear()
            await asyncio.get_running_loop().create_future()

    # Effects

    def _perform(self, effect: call.Effect) -> None:
        match effect:
            case call.Admit(invite=invite):
                self._spawn(self._admit(invite))
            case call.CreateOffer():
                self._spawn(self._create_offer())
            case call.CreateAnswer():
                self._spawn(self._create_answer())
            case call.ApplyAnswer(sdp=sdp):
                self._apply_answer(sdp)
            case call.AddCandidates(candidates=candidates):
                assert self._peer is not None
                self._peer.add_candidates(candidates)
            case call.Connect():
                self._spawn(self._connect())
            case call.SendCallEvent(message=message, step=step):
                self._send(message, step)
            case call.ClosePeer():
                self.links.ended()
            case call.CallEnded():
                self.outcome = effect
                self._finished.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        assert self._serving is not None
        task = self._serving.create_task(self._guarded(work))
        # A task that is cancelled before its first step would leave its work neither run nor closed.
        task.add_done_callback(lambda _task: work.close())

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        """Turn what can go wrong into an event; a defect of ours ends this call, and no other."""
        try:
            await work
        except RemoteError as error:
            self._seldom.info(self.remote, "! the call has failed: %s", error.code, to=self._log)
            self._log.debug("%s", error)
            self.failure = str(error)
            self._driver.feed(call.TransportFailed(error.code))
        except HomeserverError as error:
            self._seldom.warning(self.remote, "! %s", error, to=self._log)
            self._driver.feed(call.SendFailed("homeserver"))
        except ResourceError as error:
            self._lacks(error.lack, str(error))
        except (StorageError, ConfigError) as error:
            self._seldom.warning(self.remote, "! %s", error, to=self._log)
            self.failure = str(error)
            self._driver.feed(call.TransportFailed("unavailable"))
        except Exception as error:  # noqa: BLE001 - a defect of ours is written down with its traceback, and ends this call
            lack = lack_of(error)
            if lack is not None:
                self._lacks(lack, "too many files are open" if lack is Lack.FILES else "there is no memory left")
                return
            self._seldom.exception(self.remote, "! unexpected error", error=error, to=self._log)
            self._driver.feed(call.TransportFailed("internal_error"))

    def _lacks(self, lack: Lack, text: str) -> None:
        self.failure = text
        if self._admission is None:
            self._log.debug("! %s", text)  # a user of their own machine reads it as the reason of the end
        else:
            self._seldom.warning(self.remote, "! this machine lacks what a call needs: %s", text, to=self._log)
        self._driver.feed(call.TransportFailed(lack, lack=lack))

    async def _admit(self, invite: Invite) -> None:
        assert self._admission is not None
        match await self._admission(invite):
            case InviteAdmitted(offer=offer):
                self._offer = offer
                self._driver.feed(call.Admitted())
            case InviteRefused(reason=reason, limit=limit):
                self._driver.feed(call.Refused(reason, limit))

    async def _make_peer(self) -> PeerConnection:
        peer = await self._peers.create(self.local)
        self._peer = peer
        self.links.on_lost(lambda reason: self._driver.feed(call.TransportFailed(reason, by_peer=is_farewell(reason))))
        peer.set_listener(self.links)
        self.links.attach(peer, spawn=self._spawn, call_log=self._log)
        return peer

    async def _create_offer(self) -> None:
        peer = await self._make_peer()
        self._driver.feed(call.OfferReady(await peer.create_offer()))
        await self._tell_late_candidates(peer)

    async def _create_answer(self) -> None:
        assert self._offer is not None
        peer = await self._make_peer()
        self._driver.feed(call.AnswerReady(await peer.create_answer(self._offer)))
        await self._tell_late_candidates(peer)

    async def _tell_late_candidates(self, peer: PeerConnection) -> None:
        end = True  # where none follow the description needs no word more
        while lines := await peer.late_candidates():
            end = peer.gathering_is_over()
            self._driver.feed(call.CandidatesFound(lines, end))
        if not end:
            self._driver.feed(call.CandidatesFound((), end=True))

    def _apply_answer(self, sdp: str) -> None:
        assert self._peer is not None
        try:
            self._peer.apply_answer(parse_description(sdp, DescriptionType.ANSWER, self._addresses))
        except DescriptionError as error:
            self._seldom.info(self.remote, "! answer refused: %s", error.in_full, to=self._log)
            self.failure = str(error)
            self._driver.feed(call.TransportFailed(error.code))

    async def _connect(self) -> None:
        assert self._peer is not None
        path = await self._peer.connect()
        self.path = path
        self.connected_at = self._clock.monotonic()
        setup_s = self.connected_at - self.started_at
        self._log.info("= session open: %s with %s, %s, %.0f ms", self.remote, self.local, path, setup_s * 1000)
        self._counters.session(path.kind, signalling_of(self.route), setup_s)
        self._driver.feed(call.Connected())
        self.links.connected(path)

    # Messages go out one after the other: an answer never overtakes what came before it.

    def _send(self, message: CallMessage, step: str) -> None:
        try:
            self._unsent.put_nowait((message, step))
        except asyncio.QueueFull:
            self._seldom.warning(
                self.remote, "! %d messages wait for the homeserver", MAX_UNSENT_MESSAGES, to=self._log
            )
            self._driver.feed(call.SendFailed("homeserver"))

    def _queue_end_of_messages(self) -> None:
        # A full queue means that the homeserver is away: then the bounded wait in run() ends the sender.
        if not self._unsent.full():
            self._unsent.put_nowait(None)

    async def _send_messages(self) -> None:
        while (item := await self._unsent.get()) is not None:
            message, step = item
            try:
                await self._signaller.send(self.route, self.local, message, step=step)
            except (HomeserverError, LocalError) as error:
                self._seldom.warning(self.remote, "! %s not sent: %s", step, error, to=self._log)
                if not isinstance(message, Candidates):  # the call may come up without them
                    self._driver.feed(call.SendFailed("homeserver"))


_BEHIND: set[asyncio.Task[None]] = set()
"""Tasks of sessions that are over, whose disks do not answer; the directories limit how many there can be."""


async def _end_soon(background: asyncio.Task[None], disk_timeout_s: float) -> None:
    """Wait for the work of a session that has ended, but not for a disk that hangs.

    Raises:
        ExceptionGroup: a defect has ended the work.
    """
    await asyncio.wait([background], timeout=disk_timeout_s)
    if not background.done():
        log.warning("! a session has ended while its disk does not answer; what it was about to do may still be done")
        _BEHIND.add(background)
        background.add_done_callback(_BEHIND.discard)
    elif not background.cancelled():
        background.result()
