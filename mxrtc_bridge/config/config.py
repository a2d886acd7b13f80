"""The configuration as the rest of the program sees it: frozen values, complete and checked.

Everything here was validated by :mod:`mxrtc_bridge.config.build`; nobody checks it a second time. Sections of the file
that are judged by themselves are values already; of the others, no value knows how it was written. Secrets are left out
of ``repr``, so that a configuration in a log line cannot leak them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from mxrtc_bridge.config.schema import HomeserverSection, LimitsSection, RoomsSection
from mxrtc_bridge.config.values import LATEST_VERSION, Listen
from mxrtc_bridge.core.access.policy import Decision, Grant, Policy, RoomSubject, Subject
from mxrtc_bridge.core.access.targets import FilesTarget, Target
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId, localpart_of, server_of
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.ice import Advertised, IcePolicy
from mxrtc_bridge.core.webrtc.ice_servers import IceServer


@dataclass(frozen=True, slots=True)
class AppserviceSettings:
    """How bridge and homeserver know and reach each other."""

    id: str
    listen: Listen
    url: str
    """Where the homeserver reaches the bridge."""
    bot: UserId
    peer_prefix: str
    sender_localpart: str | None
    hs_token: str = field(repr=False)
    """What the homeserver shows us."""
    as_token: str = field(repr=False)
    """What we show the homeserver."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A named service of a peer."""

    name: ServiceName
    target: Target | FilesTarget
    raw: bool
    """Whether a browser may use it without the stream protocol."""
    max_streams: int
    """Streams of this service that one session may have open."""
    idle_s: float | None
    """A stream without any traffic for this long is reset; None: never."""
    grantable_to: frozenset[Subject] = frozenset()
    """Whom admins may give it to while the bridge runs."""
    listed: bool = False
    """Whether those people are shown that they may ask for it."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """A virtual user."""

    name: str
    user_id: UserId
    displayname: str
    services: Mapping[ServiceName, ServiceSettings]


@dataclass(frozen=True, slots=True)
class IceSettings:
    """How sessions find a path."""

    use_homeserver_servers: bool
    """Ask the homeserver for STUN and TURN servers; otherwise exactly ``servers`` are used, which may be none."""
    servers: tuple[IceServer, ...]
    policy: IcePolicy
    interfaces: tuple[str, ...]
    """Names or networks; empty: all but loopback."""
    advertise: tuple[Advertised, ...]
    """External addresses of a one-to-one NAT."""
    port_range: tuple[int, int] | None
    """First and last UDP port; None: whatever the system gives."""
    remote: AddressPolicy


class EncryptionMode(Enum):
    """Whether encryption is wanted."""

    AUTO = "auto"
    """Where it is possible."""
    ON = "on"
    """Or the bridge does not start."""
    OFF = "off"


@dataclass(frozen=True, slots=True)
class EncryptionSettings:
    """End-to-end encryption."""

    mode: EncryptionMode
    key: bytes | None = field(repr=False)
    """What the admin has given; None: that of ``key_file``."""
    key_file: Path
    """Where a key is kept that the bridge makes for itself."""
    least: Trust
    """Devices that are trusted less are not talked to."""
    identities: Mapping[UserId, str]
    """Master keys that the admin has compared."""
    announced: bool = False
    """Whether the homeserver is to say by transactions when there are messages for devices."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where the audit is kept."""

    file: Path
    max_bytes: int
    """A new file is begun at this size."""
    keep: int
    """Full files that are kept."""


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A claim about the policy that must hold whenever the configuration is loaded."""

    user: UserId
    may: tuple[tuple[UserId, ServiceName], ...]
    may_not: tuple[tuple[UserId, ServiceName], ...]


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that can be used."""

    path: Path
    """The file it was read from: to be read again at a reload."""
    homeserver: HomeserverSection
    appservice: AppserviceSettings
    database: str = field(repr=False)
    """URL: ``sqlite:///absolute/path`` or ``postgres://...`` (which may hold a password)."""
    peers: Mapping[UserId, PeerSettings]
    grants: tuple[Grant, ...]
    deny: tuple[Subject, ...]
    ice: IceSettings
    limits: LimitsSection
    encryption: EncryptionSettings
    audit: AuditSettings
    control_socket: Path | None
    """Where the admin's command line reaches the running bridge; None for nowhere."""
    metrics_listen: Listen | None
    log_level: str
    tests: tuple[PolicyTest, ...]
    admins: frozenset[UserId] = frozenset()
    """Users who may give commands, with their servers in lower case; what they may use is said by grants alone."""
    rooms: RoomsSection = field(default_factory=RoomsSection)
    policy_lists: tuple[RoomId, ...] = ()
    """Rooms that hold policy lists."""
    version: int = LATEST_VERSION
    """Of the format in which the file is written; what it says is the same in each."""
    _policy: Policy = field(init=False, repr=False, compare=False)
    grantable_to: frozenset[Subject] = field(init=False, repr=False, compare=False)
    """To whom any service may be given while the bridge runs."""
    member_rooms: frozenset[RoomId] = field(init=False, repr=False, compare=False)
    """The rooms whose members some grant names, or who may be given one."""

    def __post_init__(self) -> None:
        # Here, in the thread that reads the file, and not for each event that asks.
        policy = Policy(self.grants, self.deny)
        grantable = frozenset[Subject]().union(*{service.grantable_to for _, service in self.services()})
        rooms = policy.rooms() | {subject.room for subject in grantable if isinstance(subject, RoomSubject)}
        object.__setattr__(self, "_policy", policy)
        object.__setattr__(self, "grantable_to", grantable)
        object.__setattr__(self, "member_rooms", rooms)

    def policy(self) -> Policy:
        """The rules of access."""
        return self._policy

    def services(self) -> Iterator[tuple[PeerSettings, ServiceSettings]]:
        """All services, each with its peer."""
        return ((peer, service) for peer in self.peers.values() for service in peer.services.values())

    def peer_id(self, name: str) -> UserId:
        """The user id of a peer called ``name``, whether it is configured or not."""
        return UserId(f"@{self.appservice.peer_prefix}{name}:{self.homeserver.domain}")

    def service(self, peer: UserId, service: str) -> ServiceSettings | None:
        """The service, or None if the peer or the service is not configured."""
        settings = self.peers.get(peer)
        return None if settings is None else settings.services.get(ServiceName(service))

    def target(self, peer: UserId, service: str) -> Target | FilesTarget | None:
        """Where the service leads, or None if the peer or the service is not configured."""
        settings = self.service(peer, service)
        return None if settings is None else settings.target

    def files_targets(self) -> tuple[FilesTarget, ...]:
        """The directories of all services, each once."""
        targets = dict.fromkeys(service.target for _, service in self.services())
        return tuple(target for target in targets if isinstance(target, FilesTarget))

    def service_names(self, peer: UserId) -> tuple[ServiceName, ...]:
        """Names of the services of ``peer``, sorted; empty for an unknown peer."""
        settings = self.peers.get(peer)
        return () if settings is None else tuple(sorted(settings.services))

    def decide(self, user: UserId, peer: UserId, service: str | None, now_ms: int) -> Decision:
        """Whether ``user`` may use a service, or call the peer at all, by the configuration alone."""
        if service is None:
            return self._policy.peer_access(user, peer, now_ms)
        return self._policy.service_access(user, peer, service, now_ms)

    def unknown(self, peer: UserId, service: str | None) -> str | None:
        """Say in a sentence that there is no such peer or service, and which ones there are; None if there is."""
        if (settings := self.peers.get(peer)) is None:
            named, found = peer, [each.name for each in self.peers.values()]
            if localpart_of(peer).startswith(self.appservice.peer_prefix) and self.claims(peer):
                named = UserId(localpart_of(peer).removeprefix(self.appservice.peer_prefix))
            return f"There is no peer {named[:80]!a}; known: {', '.join(sorted(found)) or 'none'}."
        if service is None or self.service(peer, service) is not None:
            return None
        known = ", ".join(self.service_names(peer)) or "none"
        return f"Peer {settings.name} has no service {service[:80]!a}; known: {known}."

    def own_user(self, user: str) -> bool:
        """Whether ``user`` is the bot or a configured peer: nobody else exists in our namespace."""
        return user == self.appservice.bot or user in self.peers

    def claims(self, user: UserId) -> bool:
        """Whether ``user`` lies in the namespace that the registration claims for the bridge."""
        if server_of(user) != self.homeserver.domain.lower():
            return False
        return user == self.appservice.bot or localpart_of(user).startswith(self.appservice.peer_prefix)
