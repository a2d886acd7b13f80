"""All calls of the bridge: routes events to sessions, and admits new ones.

What ends a session from outside is in :mod:`mxrtc_bridge.engine.live_sessions`.

The order of trust (docs/explanation/architecture.md) is the order of the checks in :meth:`CallManager.receive` and
:meth:`CallManager._judge`: nothing behind a step runs before it.

One file: the order of trust is one sequence of checks, which is proven by reading it in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.core.access.policy import UNCONFIRMED, Allow, Deny
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.early import EarlyMessages
from mxrtc_bridge.core.call.events import CallEvent, Hangup, Invite, Reject, Version
from mxrtc_bridge.core.call.limits import (
    BUSY,
    BUSY_ANSWERS_A_MINUTE,
    BUSY_ANSWERS_A_MINUTE_OF_SERVER,
    LIMIT_LOG_S,
    STRANGERS_A_MINUTE,
    CallLimits,
    LiveCalls,
    RateLimit,
    is_fresh,
)
from mxrtc_bridge.core.call.machine import CallMachine
from mxrtc_bridge.core.call.route import CallRoute, DevicePair, signalling_of
from mxrtc_bridge.core.call.to_device import STALE_INVITE
from mxrtc_bridge.core.crypto.records import CallerDevice
from mxrtc_bridge.core.errors import (
    DescriptionError,
    HomeserverError,
    LocalError,
    RefusalCode,
    StorageError,
    UnknownOutcomeError,
)
from mxrtc_bridge.core.ids import EventId, PartyId, UserId, server_of
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.sdp import Description, DescriptionType, parse_description
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from mxrtc_bridge.engine.call_ports import Auditor, CallRights, RoomMembers
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.live_sessions import LiveSession, LiveSessions
from mxrtc_bridge.engine.ports import CallDirectory, CallRecord, Counters, PeerConnectionFactory, Signaller
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.session import DISK_TIMEOUT_S, InviteAdmitted, InviteRefused, Session
from mxrtc_bridge.engine.side_by_side import each

log = logging.getLogger(__name__)

HANG_UPS_AT_A_TIME = 8
MAX_UNCLAIMED = 1000


@dataclass(frozen=True, slots=True)
class CallSettings:
    """What an admin may set about calls."""

    limits: CallLimits = field(default_factory=CallLimits)
    invites_per_minute: int = 30
    invites_per_minute_of_server: int = 120
    """Of all users of one other homeserver."""
    own_server: str = ""
    """Our homeserver."""
    session_max_s: float = 12 * 3600.0
    setup_s: float = 30.0
    """From our answer until the peer connection is up."""
    disk_timeout_s: float = DISK_TIMEOUT_S
    addresses: AddressPolicy = field(default_factory=AddressPolicy)


def _rate_limit(settings: CallSettings) -> RateLimit:
    return RateLimit(settings.invites_per_minute, settings.invites_per_minute_of_server, settings.own_server)


def _read_offer(invite: Invite, addresses: AddressPolicy) -> Description:
    if invite.fault is not None:
        raise DescriptionError(invite.fault, invite.fault_text)
    return parse_description(invite.sdp, DescriptionType.OFFER, addresses)


RefusalNotice = Callable[[CallRoute, UserId, UserId, str | None], Awaitable[None]]
"""Tells (route, peer, user, reason) in words that the call was refused: for want of a right where there is no reason,
or as a voice or video call. Rate-limited by whoever implements it."""


class CallManager:
    """All live calls of one process.

    Args:
        settings: limits.
        rights: the rules in force.
        rooms: membership, as the homeserver pushes it.
        directory: the durable list of calls.
        signaller: sends call events.
        peers: makes peer connections.
        make_links: makes the part that serves the channels of a call between (peer, user).
        refused: called for refused calls.
        new_party_id: draws a party id.
        new_number: gives a number that no session has had before, by which people name it.
        counters: what is counted.
        clock: where time comes from.
    """

    def __init__(
        self,
        *,
        settings: CallSettings,
        rights: CallRights,
        rooms: RoomMembers,
        directory: CallDirectory,
        signaller: Signaller,
        peers: PeerConnectionFactory,
        make_links: Callable[[UserId, UserId], BridgeChannels],
        auditor: Auditor,
        call_over: Callable[[CallRecord], Awaitable[None]],
        refused: RefusalNotice,
        new_party_id: Callable[[], PartyId],
        new_number: Callable[[], Awaitable[int]],
        counters: Counters,
        clock: Clock,
    ) -> None:
        self.settings = settings
        """Those in force; :meth:`reconfigure` replaces them."""
        self._rights = rights
        self._rooms = rooms
        self._directory = directory
        self._signaller = signaller
        self._peers = peers
        self._make_links = make_links
        self._auditor = auditor
        self._call_over = call_over
        self._refused = refused
        self._new_party_id = new_party_id
        self._counters = counters
        self._clock = clock
        self.live = LiveSessions(rights, rooms, counters.sessions_live, clock)
        """Sessions that have begun, and what ends them from outside."""
        self._call_counts = LiveCalls(settings.limits, settings.own_server)
        self._invites = _rate_limit(settings)
        self._busy_answers = RateLimit(BUSY_ANSWERS_A_MINUTE, BUSY_ANSWERS_A_MINUTE_OF_SERVER, settings.own_server)
        self._strangers = RateLimit(STRANGERS_A_MINUTE, STRANGERS_A_MINUTE)
        self._at_limit = RateLimitedLog(log, clock.monotonic, period_s=LIMIT_LOG_S)
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False
        self._drained = False
        self._unclaimed: dict[EventId, bool] = {}
        self._early = EarlyMessages()
        self.paused = False
        """Take no new calls; live ones go on."""
        self._new_number = new_number
        self._seldom = RateLimitedLog(log)

    async def run(self) -> None:
        """Own all sessions, until cancelled; must run before the first event comes."""
        self._draining = self._drained
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self.live.expiry.run(), name="grant-expiry")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                # Nobody owns a new call from now on, also where nobody has said farewell.
                self._draining = True

    async def leftovers(self) -> Sequence[CallRecord]:
        """The calls that the last run left open; to be asked for before the first new call."""
        return await self._directory.open_calls()

    async def hang_up_leftovers(
        self, records: Sequence[CallRecord], away: set[str]
    ) -> tuple[list[CallRecord], list[CallRecord]]:
        """Hang up calls that the last run left open, so that no client waits for a dead session.

        Args:
            records: the calls, by turns.
            away: servers whose users cannot be told now, be it they or our homeserver that do not answer; is added to.

        Returns:
            Those that are still open, to be tried again a moment later with an empty ``away``: those that have not had
            their turn, and those that failed, which must not keep the others from it by failing again.
        """
        skipped: list[CallRecord] = []
        failed: list[CallRecord] = []

        async def hang_up(record: CallRecord) -> None:
            server = server_of(record.remote)
            if server in away:
                skipped.append(record)  # it would only wait as well
                return
            hangup = Hangup(record.call_id, record.party_id, Version.V1, "unknown_error")
            try:
                await self._signaller.send(record.route, record.local, hangup, step="hangup")
            except (HomeserverError, LocalError) as error:
                self._seldom.warning(
                    record.remote, "! leftover call %s could not be hung up: %s", record.call_id, error
                )
                if isinstance(error, HomeserverError) and error.retryable:
                    away.add(server)
                    failed.append(record)
                    return
            except Exception as error:  # noqa: BLE001 - a defect with one call leaves no other open
                self._seldom.exception(record.remote, "! a leftover call could not be hung up", error=error)
            try:
                await self._directory.end(record, "restart", self._clock.wall_ms())
                # Its hangup stands in the room since a moment.
                await self._call_over(record)
            except StorageError as error:
                self._seldom.warning(record.remote, "! the end of call %s was not stored: %s", record.call_id, error)

        await each(records, hang_up, HANG_UPS_AT_A_TIME)
        return skipped, failed

    async def receive(self, event: CallEvent, local: UserId) -> None:
        """Take one call event of a room that ``local`` is in; events of a room must come in order."""
        if self._rooms.is_own(event.sender):
            return
        message = event.message
        live = self.live.get((event.route, message.call_id, local))
        if live is not None:
            live.session.feed(call.Remote(event.sender, message))
        elif isinstance(message, Invite):
            await self._begin(event, message, local)
        elif isinstance(self._rights.may_call(event.sender, local), Allow):
            self._early.put(self._clock.monotonic(), event, local)

    async def _begin(self, event: CallEvent, invite: Invite, local: UserId) -> None:
        if invite.invitee is not None and invite.invitee != local:
            return
        now_ms = self._clock.wall_ms()
        if not is_fresh(event.sent_at_ms, invite.lifetime_ms, now_ms):
            self._counters.refusal(RefusalCode.STALE_INVITE)
            self._seldom.info(event.sender, "x stale invite from %s ignored", event.sender)
            if isinstance(event.route, DevicePair):
                self._say_stale(event.route, event, invite, local)
            return
        counted = self._unclaimed.pop(event.event_id, False)
        if self._draining or not (counted or self._takes(event.sender, local)):
            self._refuse_for_now(event, invite, local)
            return
        record = CallRecord(event.route, invite.call_id, local, event.sender, self._new_party_id())
        claimed = False
        try:
            claimed = await self._claim(record, event.event_id, now_ms)
            if not claimed:
                self._counters.refusal(RefusalCode.REPLAY)
                return
            number = await self._new_number()
            if self._draining:
                # The farewell was said while the database was waited for. The next start hangs this call up.
                return
            self._start(record, number, event, invite)
        except BaseException as error:
            # Also when whoever waits here is cancelled, as one event is given a limited time only.
            if claimed or isinstance(error, UnknownOutcomeError) or not isinstance(error, Exception):
                self._turn_away_later(record, event, invite, now_ms, claimed=claimed)
            if not (claimed and isinstance(error, StorageError)):
                self._note_unclaimed(event.event_id, error)
                raise
            self._seldom.warning(record.remote, "! call %s is refused: %s", record.call_id, error)

    def _takes(self, user: UserId, local: UserId) -> bool:
        """Whether one more call of a user is looked at now."""
        now = self._clock.monotonic()
        if not self._invites.allow(user, now):
            return False
        if isinstance(self._rights.may_call(user, local), Allow):
            return True
        whose = "own" if server_of(user) == self.settings.own_server.lower() else "foreign"
        return self._strangers.allow(UserId(f"@all:{whose}.invalid"), now)

    def _say_stale(self, route: DevicePair, event: CallEvent, invite: Invite, local: UserId) -> None:
        """Tell a device whose clock is wrong. In a room nobody is told: there the time is not the caller's."""
        if self._tasks is not None and not self._draining and self._takes(event.sender, local):
            reject = Reject(invite.call_id, self._new_party_id(), Version.V1, STALE_INVITE)
            self._tasks.create_task(self._send_alone(route, local, reject), name="stale invite")

    async def _send_alone(self, route: CallRoute, local: UserId, reject: Reject | Hangup) -> None:
        try:
            await self._signaller.send(route, local, reject, step="reject")
        except (HomeserverError, LocalError) as error:
            self._seldom.info(route, "a call was not refused in words: %s", error)
        except Exception as error:  # noqa: BLE001 - what it raised would end the tasks of all sessions
            self._seldom.exception(route, "! a call was not refused in words", error=error)

    def _refuse_for_now(self, event: CallEvent, invite: Invite, local: UserId) -> None:
        """Tell a caller with a right that too many call at this moment: trying again helps.

        Nobody else is told, and nobody often: what can be had without end must not be answered without end.
        """
        if self._draining:
            self._counters.refusal(RefusalCode.RATE)
            return
        keys = "limits.invites_per_minute, invites_per_minute_per_server"
        self._note_limit(RefusalCode.RATE, event.sender, f"{keys}; {STRANGERS_A_MINUTE} a minute without a right")
        if self._tasks is None or not isinstance(self._rights.may_call(event.sender, local), Allow):
            return
        now = self._clock.monotonic()
        if self._busy_answers.allow(event.sender, now):
            party, v1 = self._new_party_id(), Version.V1
            busy: Reject | Hangup = Reject(invite.call_id, party, v1, BUSY, self._invites.reached(event.sender, now))
            if invite.version is not v1:
                busy = Hangup(invite.call_id, party, invite.version, BUSY)
            self._tasks.create_task(self._send_alone(event.route, local, busy), name="call refused by a limit")

    def _note_limit(self, code: RefusalCode, user: UserId, keys: str) -> None:
        self._counters.refusal(code)
        self._at_limit.warning(code, "! a call from %s is refused by a limit: %s", user, keys)

    def _note_unclaimed(self, event_id: EventId, error: BaseException) -> None:
        """Note an invite that the database did not take: it comes again, and was counted."""
        if isinstance(error, StorageError):
            self._unclaimed[event_id] = True
        while len(self._unclaimed) > MAX_UNCLAIMED:
            del self._unclaimed[next(iter(self._unclaimed))]

    def _start(self, record: CallRecord, number: int, event: CallEvent, invite: Invite) -> None:
        live = self._new_session(record, number, event.device)
        for message in (invite, *self._early.take(self._clock.monotonic(), event, record.local)):
            live.session.feed(call.Remote(event.sender, message))
        assert self._tasks is not None
        self._tasks.create_task(self._run_session(live, record), name=f"call {record.call_id}")
        self.live.add((record.route, record.call_id, record.local), live)

    def _turn_away_later(
        self, record: CallRecord, event: CallEvent, invite: Invite, now_ms: int, *, claimed: bool
    ) -> None:
        """Refuse a call that is claimed, or perhaps is, and has no session that could; unless the next start does."""
        if self._tasks is not None and not self._draining:
            self._counters.refusal(RefusalCode.UNAVAILABLE)
            work = self._turn_away(record, event, invite, now_ms, claimed=claimed)
            self._tasks.create_task(work, name=f"refused call {record.call_id}")

    async def _turn_away(
        self, record: CallRecord, event: CallEvent, invite: Invite, now_ms: int, *, claimed: bool
    ) -> None:
        try:
            if not claimed and not await self._directory.claim(record, event.event_id, now_ms, again=True):
                return
            machine = self._machine(record)
            for happens in (call.Remote(event.sender, invite), call.Refused(BUSY)):
                machine.handle(self._clock.monotonic(), happens)
            while (effect := machine.poll_effect()) is not None:
                if isinstance(effect, call.SendCallEvent):
                    await self._signaller.send(record.route, record.local, effect.message, step=effect.step)
        except (HomeserverError, LocalError) as error:
            self._seldom.warning(record.remote, "! call %s was not refused in words: %s", record.call_id, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours is written down, and leaves no call open
            self._seldom.exception(record.remote, "! call %s was not refused in words", record.call_id, error=error)
        await self._note_end(record, "unavailable")

    async def _claim(self, record: CallRecord, event_id: EventId, now_ms: int) -> bool:
        try:
            return await self._directory.claim(record, event_id, now_ms)
        except UnknownOutcomeError:
            # Perhaps it is stored: then nobody else can claim it, and it is for us to answer.
            return await self._directory.claim(record, event_id, now_ms, again=True)

    def _machine(self, record: CallRecord) -> CallMachine:
        assert record.party_id is not None
        return CallMachine(
            call.CallRole.CALLEE,
            call_id=record.call_id,
            local=record.local,
            party_id=record.party_id,
            remote=record.remote,
            addresses=self.settings.addresses,
            setup_timeout_s=self.settings.setup_s,
        )

    def _new_session(self, record: CallRecord, number: int, device: CallerDevice | None) -> LiveSession:
        counted = False

        async def admit(invite: Invite) -> InviteAdmitted | InviteRefused:
            nonlocal counted
            verdict: InviteAdmitted | InviteRefused
            live.confirming = True
            confirmed = await self._rights.confirm(record.remote, record.local)
            live.confirming = False
            if confirmed:
                verdict, rule = self._judge(record, invite)
            else:
                self._counters.refusal(RefusalCode.UNCONFIRMED)
                self._seldom.info(
                    record.remote,
                    "x call from %s: it cannot be found out now who is in a room that lets them in",
                    record.remote,
                )
                verdict, rule = InviteRefused(UNCONFIRMED), "membership not confirmed"
            if isinstance(verdict, InviteAdmitted):
                counted = self._call_counts.begin(record.remote)
                if not counted:
                    self._note_limit(
                        RefusalCode.CALLS_LIMIT, record.remote, "limits.calls_per_user, calls_per_server, calls_total"
                    )
                    verdict, rule = InviteRefused(BUSY, self._call_counts.reached(record.remote)), "limit of calls"
            admitted = isinstance(verdict, InviteAdmitted)
            # What changes meanwhile ends the session: it is judged again with all the others.
            durable = await self._auditor.call_decided(session, allowed=admitted, rule=rule)
            if admitted and not durable:
                self._counters.refusal(RefusalCode.AUDIT)
                return InviteRefused(BUSY)
            live.admitted = admitted
            if isinstance(verdict, InviteRefused) and verdict.reason in (None, RefusalCode.MEDIA_REFUSED):
                await self._refused(record.route, record.local, record.remote, verdict.reason)
            return verdict

        links = self._make_links(record.local, record.remote)
        session = Session(
            self._machine(record),
            call_id=record.call_id,
            route=record.route,
            local=record.local,
            remote=record.remote,
            number=number,
            device=device,
            signaller=self._signaller,
            peers=self._peers,
            links=links,
            addresses=self.settings.addresses,
            clock=self._clock,
            counters=self._counters,
            admission=admit,
            disk_timeout_s=self.settings.disk_timeout_s,
            seldom=self._seldom,
        )
        live = LiveSession(session, links, lambda: self._call_counts.end(record.remote) if counted else None)
        return live

    def _judge(self, record: CallRecord, invite: Invite) -> tuple[InviteAdmitted | InviteRefused, str]:
        """Right, room, description: in this order. The reasons tell a stranger nothing about what exists.

        Returns the verdict and the rule by which it is so, which is for the audit.
        """
        decision = self._rights.may_call(record.remote, record.local)
        if isinstance(decision, Deny):
            self._counters.refusal(RefusalCode.DENIED)
            self._seldom.info(record.remote, "x call from %s to %s denied", record.remote, record.local)
            return InviteRefused(None), decision.rule
        if self.paused:
            self._counters.refusal(RefusalCode.PAUSED)
            self._seldom.info(record.remote, "x call from %s: paused", record.remote)
            return InviteRefused(BUSY, "paused"), "paused"
        if self._rooms.members(record.route) != frozenset({record.local, record.remote}):
            self._counters.refusal(RefusalCode.ROOM)
            self._seldom.info(record.remote, "x call from %s: %s is not a room of two", record.remote, record.route)
            return InviteRefused("not_a_direct_room"), "not a room of two"
        try:
            offer = _read_offer(invite, self.settings.addresses)
        except DescriptionError as error:
            self._counters.refusal(error.code)
            self._seldom.info(record.remote, "x offer of %s refused: %s", record.remote, error.in_full)
            return InviteRefused(error.code), f"offer: {error.code}"
        return InviteAdmitted(offer), decision.rule

    async def _run_session(self, live: LiveSession, record: CallRecord) -> None:
        timer = self.live.end_after(live, self.settings.session_max_s)
        try:
            # A session that is cancelled has not said goodbye: it stays open in the directory, for the next start.
            reason = await self._outcome_of(live.session)
            self._note_audit(live, reason)
            await self._note_end(record, reason)
        except asyncio.CancelledError:
            self._note_audit(live, "shutdown")
            raise
        finally:
            timer.cancel()
            live.end_count()
            self.live.remove((record.route, record.call_id, record.local))

    async def _outcome_of(self, session: Session) -> str:
        """Run the session and say in a word how it ended; a defect in it ends this call and no other."""
        try:
            outcome = await session.run()
        except Exception as error:  # noqa: BLE001 - a defect of ours is written down, and ends this call only
            self._seldom.exception(session.remote, "! call %s: unexpected error", session.call_id, error=error)
            self._counters.call(call.CallOutcome.FAILED.name.lower(), signalling_of(session.route))
            return "internal_error"
        self._counters.call(outcome.outcome.name.lower(), signalling_of(session.route))
        return outcome.reason

    def _note_audit(self, live: LiveSession, reason: str) -> None:
        if live.admitted:
            self._auditor.session_ended(live.session, live.end_reason or reason)

    async def _note_end(self, record: CallRecord, reason: str) -> None:
        try:
            await self._directory.end(record, reason, self._clock.wall_ms())
            await self._call_over(record)
        except StorageError as error:
            self._seldom.warning(record.remote, "! the end of call %s was not stored: %s", record.call_id, error)
        except Exception as error:  # noqa: BLE001 - what it raised would end the tasks of all other sessions
            self._seldom.exception(record.remote, "! the end of call %s was not stored", record.call_id, error=error)

    # From outside

    def reconfigure(self, settings: CallSettings, peers: PeerConnectionFactory) -> None:
        """Take over new settings; calls that live keep what they began with."""
        rates = (settings.invites_per_minute, settings.invites_per_minute_of_server)
        if rates != (self.settings.invites_per_minute, self.settings.invites_per_minute_of_server):
            self._invites = _rate_limit(settings)
        self.settings = settings
        self._call_counts.limits = settings.limits
        self._peers = peers

    async def drain(self, timeout_s: float) -> None:
        """Take no new calls, tell live sessions that the bridge goes away, and wait for their end."""
        self._draining = self._drained = True
        await self.live.end_all(timeout_s)
