"""Makes the parts of a bridge, in the order in which they need each other; each group is finished when it is returned.

Nothing is started, sent or read here. Where two parts need each other, one is given the other when it starts: who
judges sessions again (:meth:`ConfiguredRooms.recall`), who takes what other devices send (:meth:`Encryption.begin`) and
what sends notices (:meth:`Notices.run`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from mxrtc_bridge.bridge.access.configured_rooms import ComparisonTimes, ConfiguredRooms
from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.admin.numbers import NumbersOfBridge
from mxrtc_bridge.bridge.announcements import Announcements
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.bridge.calls.greetings import Greetings
from mxrtc_bridge.bridge.calls.redaction import CallRedaction
from mxrtc_bridge.bridge.calls.refusal_notices import RefusalNotices
from mxrtc_bridge.bridge.calls.to_device import ToDeviceSignalling
from mxrtc_bridge.bridge.config_mapping import call_settings, profiles, proxy_of, rtc_settings
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.decryption import EventDecryption
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.bridge.devices.identities import BridgeIdentities
from mxrtc_bridge.bridge.devices.lookups import DeviceLookups
from mxrtc_bridge.bridge.devices.policy import DevicePolicy
from mxrtc_bridge.bridge.devices.room_messages import RoomMessages
from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.bridge.devices.verification_intake import VerificationIntake
from mxrtc_bridge.bridge.file_services import FileServices
from mxrtc_bridge.bridge.target_health import TargetStates
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import PartyId, UserId
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.engine.bridge_channels import BridgeChannels, log_of_callers
from mxrtc_bridge.engine.call_manager import CallManager
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.engine.live_sessions import LiveSessions
from mxrtc_bridge.matrix.api.homeserver import Homeserver, QuietHomeserver
from mxrtc_bridge.matrix.api.ping import PING_RETRY_S, HomeserverReturn
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.command_bot import COMMANDS_PER_MINUTE
from mxrtc_bridge.matrix.crypto.encrypted_rooms import SealingHomeserver
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.peers import Peers
from mxrtc_bridge.matrix.rooms.refresh import Gap
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex
from mxrtc_bridge.matrix.virtual_users import AdminConsent, UserRefusal, VirtualUsers
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.rtc.aiortc_dtls import AiortcDtls
from mxrtc_bridge.rtc.factory import PeerFactory
from mxrtc_bridge.sinks.connector import TargetConnector
from mxrtc_bridge.storage.tables import Stores

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a bridge does what it does by itself, and how often others may have it do something."""

    comparison: ComparisonTimes = field(default_factory=ComparisonTimes)
    gap: Gap = field(default_factory=Gap)
    """Between two questions to the homeserver about one room."""
    housekeeping_s: float = 3600.0
    ping_retry_s: float = PING_RETRY_S
    leftovers: Backoff = field(default_factory=lambda: Backoff(5.0, 60.0))
    """Until calls of the last run are tried again whose rooms could not be read, or in which nothing could be said."""
    commands_per_minute: int = COMMANDS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class Basis:
    """What all is built upon."""

    config: CurrentConfig
    stores: Stores
    clock: Clock
    metrics: Metrics
    numbers: NumbersOfBridge
    transport: Transport
    homeserver: QuietHomeserver
    homeserver_return: HomeserverReturn
    pace: Pace

    def measured(self, live: LiveSessions, *, ready: bool) -> bytes:
        """Return the metrics as they are now; what streams carry is asked of those that run."""
        live.count_payload()
        self.metrics.state(ready=ready, homeserver_reachable=self.homeserver_return.reachable)
        return self.metrics.render()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what, where it is written down, and who is told."""

    rooms: ConfiguredRooms
    index: RoomIndex
    notices: Notices
    announcements: Announcements
    audit: AuditLog
    audited: AuditEvents
    users: VirtualUsers
    given: RuntimeGrants
    rights: Rights


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of virtual users, and what is said and heard by them."""

    encryption: Encryption
    messages: RoomMessages
    homeserver: Homeserver
    """Encrypts what is said in an encrypted room."""
    outbox: Outbox
    lookups: DeviceLookups
    verifications: BridgeVerifications
    verification_intake: VerificationIntake
    slow_work: FairWork
    decryption: EventDecryption
    why_down: Callable[[UserId], str | None]
    """Why a virtual user takes no calls, in words that go on after its name; None where nothing is wrong."""


@dataclass(frozen=True, slots=True)
class CallHandling:
    """The live sessions, and what they go by."""

    manager: CallManager
    signalling: ToDeviceSignalling
    redaction: CallRedaction
    device_policy: DevicePolicy
    peers: Peers
    files: FileServices
    states: TargetStates


def build_basis(config: Config, stores: Stores, clock: Clock, pace: Pace) -> Basis:
    """Make what all is built upon."""
    transport = Transport(config.homeserver.address, config.appservice.as_token, proxy=proxy_of(config))
    numbers = NumbersOfBridge(stores.counters)
    homeserver = QuietHomeserver(transport)
    returns = HomeserverReturn(least_s=pace.ping_retry_s)
    return Basis(CurrentConfig(config), stores, clock, Metrics(), numbers, transport, homeserver, returns, pace)


def build_access(basis: Basis, consent: AdminConsent) -> Access:
    """Make what decides; nobody has a right before the rooms have recalled what the last run knew."""
    config, stores, clock = basis.config, basis.stores, basis.clock
    table = GrantTable()
    rooms = ConfiguredRooms(
        basis.homeserver, stores.policy_rules, config, table, times=basis.pace.comparison, gap=basis.pace.gap
    )
    index = RoomIndex(rooms.bot_rooms, config.claims)
    notices = Notices(is_unread=index.unread.__contains__)
    announcements = Announcements(notices, config, index)
    audit = AuditLog(
        stores.audit,
        config.in_force.audit,
        wall_ms=clock.wall_ms,
        tell_admins=announcements.to_admins,
        mirror=announcements.mirror,
    )
    audited = AuditEvents(audit, clock)
    users = VirtualUsers(
        basis.homeserver,
        stores.own_users,
        BridgeIdentities(config.in_force, basis.transport),
        consent=consent,
        wall_ms=clock.wall_ms,
        taken_over=audited.taken_over,
    )
    given = RuntimeGrants(
        stores.grants,
        table,
        config=config,
        rooms_of=rooms.rooms_of,
        changed=rooms.rights_changed,
        audited=audited,
        clock=clock,
        tell_admins=announcements.to_admins,
    )
    rights = Rights(config, rooms, given, clock)
    return Access(rooms, index, notices, announcements, audit, audited, users, given, rights)


def build_devices(basis: Basis, access: Access, identity_changed: Callable[[], None]) -> Devices:
    """Make all ends of encryption; there is no device before it starts.

    Args:
        basis: what all is built upon.
        access: who may do what.
        identity_changed: see :class:`Encryption`.
    """
    config, stores, clock, rights = basis.config, basis.stores, basis.clock, access.rights
    encryption = Encryption(
        config.in_force,
        stores.crypto,
        wall_ms=clock.wall_ms,
        has_right=rights.has_any,
        may_replace=access.users.may_replace_identity,
        sleep=basis.homeserver_return.pause,
        is_other=access.users.shows_other,
        identity_changed=identity_changed,
    )

    def why_down(user: UserId) -> str | None:
        other = UserRefusal.OTHER_IDENTITY.value
        return other if encryption.shows_other(user) else access.users.why_unfit(user)

    messages = RoomMessages(encryption, access.index, config, rights.has_any)
    homeserver = SealingHomeserver(basis.transport, messages.seal)
    outbox = Outbox(homeserver, masquerade=True)
    lookups = DeviceLookups(encryption.lists_of, config)
    verifications = BridgeVerifications(
        encryption,
        outbox,
        rights=rights,
        config=config,
        audited=access.audited,
        tell_admins=access.announcements.to_admins,
        new_number=basis.numbers.verifications.next,
        clock=clock,
    )
    slow_work = FairWork("what asks other homeservers", config.in_force.homeserver.domain, rights.has_any)
    intake = VerificationIntake(verifications, slow_work, clock.monotonic, own_server=config.in_force.homeserver.domain)
    decryption = EventDecryption(
        messages,
        access.index,
        outbox,
        stores.notices,
        lookups=lookups,
        rights=rights,
        counters=basis.metrics,
        wall_ms=clock.wall_ms,
        later=slow_work.put,
    )
    return Devices(
        encryption, messages, homeserver, outbox, lookups, verifications, intake, slow_work, decryption, why_down
    )


def build_calls(basis: Basis, access: Access, devices: Devices) -> CallHandling:
    """Make what takes calls, and who is in the rooms for them."""
    config, stores, clock, rights = basis.config, basis.stores, basis.clock, access.rights
    redaction = CallRedaction(devices.outbox, basis.homeserver, stores.traces, config=config, wall_ms=clock.wall_ms)
    signalling = ToDeviceSignalling(
        redaction,
        devices.encryption.device_of,
        lookups=devices.lookups,
        rights=rights,
        counters=basis.metrics,
        wall_ms=clock.wall_ms,
        own_server=config.in_force.homeserver.domain,
        monotonic=clock.monotonic,
    )
    files, connector, seldom = FileServices(), TargetConnector(), log_of_callers()
    states = TargetStates(connector, clock.monotonic)

    def make_channels(local: UserId, remote: UserId) -> BridgeChannels:
        gate = rights.gate(local, remote, access.audited.services(remote, local))
        return BridgeChannels(
            gate=gate,
            connector=connector,
            files=files.for_user(remote),
            clock=clock,
            counters=basis.metrics,
            max_streams=config.in_force.limits.streams_per_session,
            over=lambda: gate.over(access.given.session_ended),
            delivered=lambda service, tally: access.announcements.delivered(tally.delivery(remote, local, service)),
            caller=remote,
            look=lambda listing: states.of_services(listing, config.in_force.target, devices.why_down),
            seldom=seldom,
        )

    manager = CallManager(
        settings=call_settings(config.in_force),
        rights=rights,
        rooms=access.index,
        directory=stores.calls,
        signaller=signalling,
        peers=peer_connections(basis, config.in_force),
        make_links=make_channels,
        auditor=access.audited,
        call_over=redaction.call_over,
        refused=RefusalNotices(devices.outbox, stores.notices, clock.wall_ms).say,
        new_party_id=lambda: PartyId(secrets.token_hex(8)),
        new_number=basis.numbers.sessions.next,
        counters=basis.metrics,
        clock=clock,
    )
    greetings = Greetings(
        rights,
        config,
        access.notices,
        stores.greetings,
        is_encrypted=access.index.is_encrypted,
        is_readable=devices.messages.is_readable_by,
        later=devices.slow_work.put,
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
        own_server=config.in_force.homeserver.domain,
    )
    peers = Peers(
        basis.homeserver,
        stores.rooms,
        manager.live,
        index=access.index,
        profiles=profiles(config.in_force),
        tell=access.notices.post,
        may_use=rights.allows,
        wall_ms=clock.wall_ms,
        reads_encrypted=lambda: devices.encryption.is_on,
        acts_as=access.users.is_ours,
        own_server=config.in_force.homeserver.domain,
        was_read=access.notices.room_was_read,
        joined=greetings.joined,
    )
    return CallHandling(
        manager, signalling, redaction, DevicePolicy(devices.lookups, manager.live), peers, files, states
    )


def peer_connections(basis: Basis, config: Config) -> PeerFactory:
    """Return what makes peer connections by ``config``."""

    async def ice_servers(local: UserId) -> tuple[IceServer, ...]:
        ice = basis.config.in_force.ice
        if not ice.use_homeserver_servers:
            return ice.servers
        try:
            return (*ice.servers, *await basis.homeserver.turn_server(local))
        except HomeserverError as error:
            log.warning("no TURN servers from the homeserver: %s", error)
            return ice.servers

    return PeerFactory(rtc_settings(config), basis.stores.certificates, ice_servers, dtls=AiortcDtls)
