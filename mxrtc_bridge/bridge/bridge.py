"""The running bridge: starts everything in order, keeps it together, stops it in order.

Start: database, endpoint (answers 503), homeserver, peers, calls left open by the last run, stored events; then ready,
and a ping so that the homeserver delivers what it holds. Stop: no new calls, farewell to live ones, then the reverse.

One file: what is started first is stopped last, and both are read side by side.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.admin.numbers import NumbersOfBridge
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.bridge.bot.announcements import Announcements
from mxrtc_bridge.bridge.bot.bot import Bot
from mxrtc_bridge.bridge.bot.rooms import ConfiguredRooms
from mxrtc_bridge.bridge.calls.redaction import CallRedaction
from mxrtc_bridge.bridge.calls.refusal_notices import RefusalNotices
from mxrtc_bridge.bridge.calls.to_device import ToDeviceSignalling
from mxrtc_bridge.bridge.config_mapping import Pem, call_settings, profiles, rtc_settings
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.decryption import EventDecryption
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.bridge.devices.identities import Identities
from mxrtc_bridge.bridge.devices.lookups import DeviceLookups
from mxrtc_bridge.bridge.devices.policy import DevicePolicy
from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.bridge.devices.verification_intake import VerificationIntake
from mxrtc_bridge.bridge.failures import outlive
from mxrtc_bridge.bridge.file_services import FileServices
from mxrtc_bridge.bridge.reload import Reload, ReloadStep, restart_only
from mxrtc_bridge.bridge.revocation import HANDLED, Revocation
from mxrtc_bridge.config import Config, UnixListen
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import CallEvent
from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.crypto.records import CallerDevice
from mxrtc_bridge.core.errors import AdminError, EventError, HomeserverError, first_error
from mxrtc_bridge.core.ids import PartyId, RoomId, UserId
from mxrtc_bridge.core.webrtc.ice import IceServer
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from mxrtc_bridge.engine.call_manager import CallManager
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.ping import ping_loop, wait_for_homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.encrypted_rooms import SealingHomeserver
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.inbox.inbox import Inbox
from mxrtc_bridge.matrix.inbox.lanes import lane_of
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.peers import Peers
from mxrtc_bridge.matrix.virtual_users import Consent, VirtualUsers
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.rtc.factory import AiortcPeerFactory
from mxrtc_bridge.sinks.connector import TargetConnector
from mxrtc_bridge.storage.tables import Stores
from mxrtc_bridge.web.appservice import AppserviceEndpoint
from mxrtc_bridge.web.control import SOCKET_MODE, control_application
from mxrtc_bridge.web.metrics import metrics_application
from mxrtc_bridge.web.server import Server

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long live sessions may take to end when the bridge stops."""
LAST_EVENTS_S = 2.0
"""How long the events that are being handled then may take; what does not end is handled again after the start."""
HOUSEKEEPING_S = 3600.0


class Bridge:
    """One running bridge.

    Args:
        config: the configuration to start with.
        stores: the open database.
        consent: what may be done to accounts and identities that are there.
    """

    def __init__(self, config: Config, stores: Stores, consent: Consent = Consent()) -> None:  # noqa: B008 - a value
        self._config = config
        self._stores = stores
        self._clock = LoopClock()
        self._metrics = Metrics()
        self._seldom = RateLimitedLog(log)
        self._serving = asyncio.Event()
        self._current = CurrentConfig(config)
        transport = Transport(config.homeserver.address, config.appservice.as_token)
        self._homeserver = SealingHomeserver(transport, self._seal)
        self._outbox = Outbox(self._homeserver, masquerade=True)
        self._notices = Notices(self._outbox)
        self._bulletins = Announcements(self._notices, self._current, self._named_room, self._direct_rooms)
        self._audit = AuditLog(
            stores.audit,
            config.audit,
            wall_ms=self._clock.wall_ms,
            tell_admins=self._bulletins.to_admins,
            mirror=self._bulletins.mirror,
        )
        self._audited = AuditEvents(self._audit, self._clock.wall_ms, self._clock.monotonic)
        self._own_users = VirtualUsers(
            self._homeserver,
            stores.own_users,
            Identities(config, transport),
            consent=consent,
            wall_ms=self._clock.wall_ms,
            taken_over=self._audited.taken_over,
        )
        table = GrantTable()
        self._named_rooms = ConfiguredRooms(
            self._homeserver, stores.policy_rules, config=self._current, given=table, judge_again=self._judge_again
        )
        self._bot_rooms = self._named_rooms.bot_rooms
        self._given = RuntimeGrants(
            stores.grants,
            table,
            config=self._current,
            rooms_of=self._named_rooms.rooms_of,
            changed=self._named_rooms.rights_changed,
            audited=self._audited,
            wall_ms=self._clock.wall_ms,
            elapsed_ms=self._clock.elapsed_ms,
            tell_admins=self._bulletins.to_admins,
        )
        self._rights = Rights(
            self._current,
            self._named_rooms,
            self._given,
            wall_ms=self._clock.wall_ms,
            elapsed_ms=self._clock.elapsed_ms,
        )
        self._encryption = Encryption(
            config,
            stores.crypto,
            wall_ms=self._clock.wall_ms,
            to_device=self._handle_to_device,
            has_right=self._rights.has_any,
            may_replace=self._own_users.may_replace_identity,
        )
        self._connector = TargetConnector()
        self._numbers = NumbersOfBridge(stores.counters)
        self._directories = FileServices()
        self._traces = CallRedaction(
            self._outbox,
            self._homeserver,
            stores.traces,
            wanted=lambda: self._current.in_force.rooms.redact_calls,
            wall_ms=self._clock.wall_ms,
        )
        self._lookups = DeviceLookups(self._encryption.lists_of, config.homeserver.domain)
        self._signals = ToDeviceSignalling(
            self._traces,
            self._encryption.device_of,
            self._receive_call,
            lookups=self._lookups,
            rights=self._rights,
            config=self._current,
            counters=self._metrics,
            wall_ms=self._clock.wall_ms,
        )
        self._calls = CallManager(
            settings=call_settings(config),
            rights=self._rights,
            rooms=self,
            directory=stores.calls,
            signaller=self._signals,
            peers=self._peer_factory(config),
            make_links=self._make_links,
            auditor=self._audited,
            call_over=self._traces.call_over,
            refused=RefusalNotices(self._outbox, stores.notices, self._clock.wall_ms).say,
            new_party_id=lambda: PartyId(secrets.token_hex(8)),
            new_number=self._numbers.sessions.next,
            counters=self._metrics,
            clock=self._clock,
        )
        self._device_policy = DevicePolicy(self._lookups, self._calls, lambda: self._current.in_force.encryption.least)
        self._peers = Peers(
            self._homeserver,
            stores.rooms,
            self._calls,
            profiles=profiles(config),
            bot_rooms=self._bot_rooms,
            tell=lambda room, sender, text, key: self._notices.post(room, sender, text, key=key),
            is_own=self.is_own,
            may_use=self._may_use,
            wall_ms=self._clock.wall_ms,
            reads_encrypted=lambda: self._encryption.is_on,
            acts_as=self._own_users.is_ours,
        )
        self._verifications = BridgeVerifications(
            self._encryption,
            self._outbox,
            rights=self._rights,
            config=self._current,
            audited=self._audited,
            tell_admins=self._bulletins.to_admins,
            new_number=self._numbers.verifications.next,
            clock=self._clock,
        )
        self._slow_work = FairWork("what asks other homeservers", config.homeserver.domain, self._rights.has_any)
        self._verification_intake = VerificationIntake(self._verifications, self._slow_work, self._clock.monotonic)
        self._private = EventDecryption(
            self._encryption,
            self._peers,
            self._outbox,
            stores.notices,
            lookups=self._lookups,
            rights=self._rights,
            config=self._current,
            counters=self._metrics,
            wall_ms=self._clock.wall_ms,
            later=self._slow_work.put,
            handle_call=self._handle_call,
            handle_message=self._hear,
            handle_verification=self._handle_verification,
        )
        self._reload = Reload(
            config.path,
            at_once=(self._put_rights_in_force, self._configure_calls, self._encryption.configure),
            steps=self._steps_of_reload,
            tell_admins=self._bulletins.to_admins,
        )
        self._withdrawn = WithdrawnEvents()
        self._people = Bot(
            self._homeserver,
            self._outbox,
            self._notices,
            self._peers,
            self._bot_rooms,
            config=self._current,
            rights=self._rights,
            given=self._given,
            calls=self._calls,
            requests=stores.requests,
            audit=self._audit,
            audited=self._audited,
            connector=self._connector,
            verifications=self._verifications,
            new_question=self._numbers.questions.next,
            clock=self._clock,
            reads_encrypted=lambda: self._encryption.is_on,
            reload=self._reload.ask,
            withdrawn=self._withdrawn.holds,
        )
        self._arrivals = Revocation(self._named_rooms, self._peers.membership, lambda: self._calls.sessions)
        self._taking: asyncio.Task[None] | None = None
        self._inbox = Inbox(
            stores.inbox,
            self._handle,
            wall_ms=self._clock.wall_ms,
            knows_user=self._knows_user,
            metrics=self._metrics,
            own_server=config.homeserver.domain,
            has_right=self._rights.has_any,
            types=HANDLED,
            arrived=self._arrivals.look,
            withdrawn=self._withdrawn,
        )

    async def run(self, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Run until ``stop`` is set.

        Raises:
            HomeserverError: the homeserver refuses us for good.
            LocalError: an address cannot be listened on, or the database cannot be used.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._homeserver.close)
            stack.push_async_callback(self._encryption.close)
            # After the sessions, which end with the tasks below.
            stack.push_async_callback(self._directories.close)
            stack.push_async_callback(self._audit.close)
            stack.push_async_callback(self._given.close)
            endpoint = AppserviceEndpoint(
                self._inbox, token=config.appservice.hs_token, metrics=self._metrics, hear=self._encryption.hear
            )
            await stack.enter_async_context(Server(endpoint.application(), config.appservice.listen))
            if config.metrics_listen is not None:
                await stack.enter_async_context(
                    Server(metrics_application(self._metrics.render), config.metrics_listen)
                )
            if config.control_socket is not None:
                control = control_application(self._people.control.handle, AdminError, ready=self._serving.is_set)
                listen = UnixListen(str(config.control_socket))
                await stack.enter_async_context(Server(control, listen, unix_mode=SOCKET_MODE))
            try:
                async with asyncio.TaskGroup() as tasks:
                    living = tasks.create_task(self._live(reload), name="bridge")
                    await stop.wait()
                    log.info("stopping")
                    await self._wind_down()
                    living.cancel()
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        log.info("stopped")

    async def _live(self, reload: asyncio.Event) -> None:
        """Get ready, then serve until cancelled; a stop is heard in every phase, also while the homeserver is away."""
        async with asyncio.TaskGroup() as tasks:
            await self._audit.start()
            tasks.create_task(self._audit.run(), name="audit")
            tasks.create_task(self._numbers.run(), name="numbers")
            await self._given.load()
            await self._named_rooms.recall()
            tasks.create_task(self._given.run(), name="ends of grants")
            tasks.create_task(self._calls.run(), name="calls")
            tasks.create_task(self._people.run(), name="people")
            await outlive("not all directories are open", self._directories.serve(self._config.files_targets()))
            await wait_for_homeserver(self._homeserver)
            await self._own_users.load()
            await self._own_users.take(profile.user_id for profile in profiles(self._config))
            await self._peers.start()
            tasks.create_task(self._arrivals.run(), name="arrivals")
            await self._encryption.start(profile.user_id for profile in profiles(self._config))
            tasks.create_task(self._signals.run(), name="calls by devices")
            tasks.create_task(self._encryption.run(), name="encryption")
            tasks.create_task(self._verifications.run(), name="verifications")
            tasks.create_task(self._slow_work.run(), name="slow work")
            tasks.create_task(self._device_policy.run(), name="policy for devices")
            await self._calls.hang_up_leftovers()
            await self._traces.start()
            # Before the first call: what was taken away while the bridge started is gone.
            await self._reload.catch_up(reload)
            tasks.create_task(self._reload.run(reload), name="reload")
            # Not earlier: what an earlier run has left in the inbox is judged by the rooms that the peers are in.
            tasks.create_task(self._notices.run(), name="notices")
            tasks.create_task(self._traces.run(), name="traces of calls")
            tasks.create_task(self._bot_rooms.run(), name="rooms of the bot")
            self._taking = tasks.create_task(self._inbox.run(), name="inbox")
            self._inbox.set_ready(True)
            self._serving.set()
            log.info("bridge ready: %d peers", len(self._config.peers))
            tasks.create_task(ping_loop(self._homeserver, self._config.appservice.id), name="ping")
            tasks.create_task(self._keep_house(), name="housekeeping")

    async def _wind_down(self) -> None:
        """Take nothing new, say goodbye, and let the events that are being handled end; all within some seconds."""
        self._inbox.set_ready(False)
        await self._calls.drain(DRAIN_S)
        self._inbox.close()
        if self._taking is not None:
            await asyncio.wait([self._taking], timeout=LAST_EVENTS_S)

    # Events

    async def _handle(self, event: RoomEvent) -> None:
        """Take one event of a room; those of one sender come in order, and so do changes of a room."""
        if lane_of(event):
            await self._peers.settled(event.room_id)
        await self._peers.handle(event)
        local = self._peers.speaker_in(event.room_id)
        if local is not None and not self.is_own(event.sender):
            await self._private.handle(event, local)

    async def _handle_call(self, event: RoomEvent, local: UserId, device: CallerDevice | None) -> None:
        """Take an event of a call in plain text, with whose device the policy agrees."""
        if self._withdrawn.holds(event.room_id, event.event_id):
            return  # Redacted, while its key was waited for.
        if self._peers.peer_in(event.room_id) is None:
            return  # A room that is named for the bot takes no calls.
        try:
            message = parse_message(event.type, event.content)
        except EventError as error:
            self._metrics.refusal(error.code)
            self._seldom.info(event.sender, "x %s from %s ignored: %s", event.type, event.sender, error.code)
            return
        call_event = CallEvent(event.room_id, event.event_id, event.sender, event.origin_server_ts, message, device)
        await self._calls.receive(call_event, local)

    async def _seal(
        self, room: RoomId, local: UserId, event_type: str, content: Mapping[str, object]
    ) -> tuple[str, Mapping[str, object]]:
        """Encrypt what is about to be sent, where the room is encrypted."""
        members, state = self._peers.members(room), self._peers.is_encrypted(room)
        if members is None:
            named = state and self._peers.speaker_in(room) == local
            members = await self._homeserver.joined_members(room, local) if named else frozenset({local})
        return await self._encryption.seal(room, local, event_type, content, state=state, members=members)

    async def _hear(self, event: RoomEvent, local: UserId) -> None:
        """Take what somebody has written, in plain text."""
        await self._people.hear(event, local)

    async def _handle_to_device(self, device: CryptoDevice, event: ToDeviceEvent) -> None:
        """Take what another device has sent to one of ours."""
        if not self._verification_intake.take(device, event):
            await self._signals.handle(device, event)

    def _handle_verification(self, event: RoomEvent, local: UserId) -> bool:
        device = None if self._withdrawn.holds(event.room_id, event.event_id) else self._encryption.device_of(local)
        return device is not None and self._verification_intake.take_in_room(device, event)

    async def _receive_call(self, event: CallEvent, local: UserId) -> None:
        # What comes while the bridge starts waits here, and the messages of this device behind it.
        await self._serving.wait()
        await self._calls.receive(event, local)

    # What the engine asks

    def _peer_factory(self, config: Config) -> AiortcPeerFactory:
        return AiortcPeerFactory(rtc_settings(config), Pem(self._stores.certificates), self._ice_servers)

    def members(self, route: CallRoute) -> frozenset[UserId] | None:
        if isinstance(route, DevicePair):
            return frozenset({route.local, route.remote})
        return self._peers.members(route)

    def is_own(self, user: UserId) -> bool:
        return self._current.in_force.claims(user)

    def _may_use(self, user: UserId, peer: UserId) -> bool:
        return isinstance(self._rights.may_call(user, peer), Allow)

    def _named_room(self, purpose: str) -> RoomId | None:
        return self._bot_rooms.room(purpose)

    def _direct_rooms(self, peer: UserId, user: UserId) -> list[RoomId]:
        return [room.room_id for room in self._peers.rooms_of(peer, user) if room.is_pair]

    def _knows_user(self, user: str) -> bool:
        return self._current.in_force.own_user(user)

    def _make_links(self, local: UserId, remote: UserId) -> BridgeChannels:
        gate = self._rights.gate(local, remote, self._audited.services(remote, local))
        return BridgeChannels(
            gate=gate,
            connector=self._connector,
            files=self._directories.for_user(remote),
            clock=self._clock,
            counters=self._metrics,
            max_streams=self._current.in_force.limits.streams_per_session,
            over=lambda: gate.over(self._given.session_ended),
            delivered=lambda service, tally: self._bulletins.delivered(tally.delivery(remote, local, service)),
        )

    async def _ice_servers(self, local: UserId) -> tuple[IceServer, ...]:
        ice = self._current.in_force.ice
        if not ice.use_homeserver_servers:
            return ice.servers
        try:
            return (*ice.servers, *await self._homeserver.turn_server(local))
        except HomeserverError as error:
            log.warning("no TURN servers from the homeserver: %s", error)
            return ice.servers

    # Reload, housekeeping

    def _judge_again(self) -> None:
        self._calls.rights_changed()

    def _configure_calls(self, config: Config) -> None:
        self._calls.reconfigure(call_settings(config), self._peer_factory(config))

    def _put_rights_in_force(self, config: Config) -> None:
        restart_only(self._config, config)
        self._current.put_in_force(config)
        self._named_rooms.configure()
        self._calls.rights_changed()
        self._device_policy.policy_changed()

    def _steps_of_reload(self, config: Config) -> list[list[ReloadStep]]:
        users, fit = [profile.user_id for profile in profiles(config)], self._own_users.is_fit
        return [
            [ReloadStep("devices of callers", self._device_policy.judge_again)],
            [ReloadStep("directories", lambda: self._directories.serve(config.files_targets()))],
            [
                ReloadStep("accounts of peers", lambda: self._own_users.take(users)),
                ReloadStep("rooms of peers", lambda: self._peers.reload(p for p in profiles(config) if fit(p.user_id))),
                ReloadStep("devices of peers", lambda: self._encryption.serve(filter(fit, users))),
            ],
            [ReloadStep("rooms of the bot", self._named_rooms.reload)],
        ]

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            await outlive("old rows were not forgotten", self._forget())
            await outlive("unfinished files were not removed", self._directories.keep_house())
            await outlive("idle rooms were not left", self._leave_idle_rooms())
            await outlive("old requests were not ended", self._people.keep_house())

    async def _forget(self) -> None:
        log.info("housekeeping: %d rows forgotten", await self._stores.prune(self._clock.wall_ms()))

    async def _leave_idle_rooms(self) -> None:
        idle_ms = round(self._current.in_force.limits.idle_room_s * 1000)
        busy = frozenset(each.route for each in self._calls.sessions if not isinstance(each.route, DevicePair))
        left = await self._peers.leave_idle(self._clock.wall_ms() - idle_ms, busy=busy)
        log.info("housekeeping: %d idle rooms left", left)
