"""Who may use what: default deny, grants only add, ``deny`` comes first.

A decision has three steps, and their order is the whole rule:

1. a subject of the deny list that matches the user refuses everything;
2. otherwise every grant counts that names the user, holds the service and has not ended; one is enough;
3. otherwise the answer is no.

Grants cannot take anything away, so their order never changes what is allowed: it only decides which of several is
named as the reason. Users are compared by their parsed parts: the local part exactly, the server whole and in lower
case. Nothing is compared by prefix, suffix or pattern, so ``example.org`` never stands for ``example.org.evil.test``.

Giving is narrow and denying is wide. A grant to a server, or to everybody, does not mean guest accounts, who have shown
nobody who they are; a denial of a server means them too, on every port and however the name is written.

Pure: the configuration is turned into a :class:`Policy` elsewhere, and a new one replaces it at each reload.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.ids import (
    MAX_ID_CHARS,
    RoomId,
    ServiceName,
    UserId,
    host_of,
    is_guest_account,
    is_server_name,
    localpart_of,
    parse_user_id,
    server_of,
)

_ROOM = re.compile(r"![!-~]+")

UNCONFIRMED = "membership_unconfirmed"
"""Why a call is rejected, to be tried again: who is in a room that would let the caller in cannot be found out now."""
REMEMBERED = 1024
"""Users whose subjects are remembered, as one decision asks for them several times; others are taken apart anew."""
NO_GRANT = "no grant"
"""The rule that a :class:`Deny` names when nothing matched at all."""


@dataclass(frozen=True, slots=True)
class Service:
    """A named service of a peer, as the policy sees it."""

    peer: UserId
    name: ServiceName


@dataclass(frozen=True, slots=True)
class UserSubject:
    """One user."""

    localpart: str
    server: str
    """In lower case."""

    def __str__(self) -> str:
        return f"@{self.localpart}:{self.server}"


@dataclass(frozen=True, slots=True)
class ServerSubject:
    """Every user of one homeserver; in a grant without its guest accounts."""

    server: str
    """In lower case."""

    def __str__(self) -> str:
        return f"server:{self.server}"


@dataclass(frozen=True, slots=True)
class GuestAccounts:
    """Every guest account of one homeserver (:func:`mxrtc_bridge.core.ids.is_guest_account`)."""

    server: str
    """In lower case."""

    def __str__(self) -> str:
        return f"guest-accounts:{self.server}"


@dataclass(frozen=True, slots=True)
class Everyone:
    """Every user of every homeserver that federates with ours; in a grant without guest accounts."""

    def __str__(self) -> str:
        return "*"


@dataclass(frozen=True, slots=True)
class RoomSubject:
    """Every user who is joined to one room, named by its id: no alias, and no room that follows it, is that room.

    A guest account that is joined is one of them: the room lets guests in only where its own admins have said so.
    """

    room: RoomId

    def __str__(self) -> str:
        return f"room:{self.room}"


Subject = UserSubject | ServerSubject | GuestAccounts | RoomSubject | Everyone


def parse_subject(text: str) -> Subject:
    """Read ``@user:server``, ``user:@user:server``, ``server:name``, ``guest-accounts:name``, ``room:!id`` or ``*``.

    Raises:
        ConfigError: it is none of these.
    """
    if text == "*":
        return Everyone()
    kind, _, rest = text.partition(":")
    if kind in ("server", "guest-accounts"):
        server = rest.lower()
        if not is_server_name(server):
            raise ConfigError(f"{rest[:80]!a} is not the name of a homeserver (like example.org)")
        return ServerSubject(server) if kind == "server" else GuestAccounts(server)
    if kind == "room":
        if len(rest) > MAX_ID_CHARS or _ROOM.fullmatch(rest) is None:
            raise ConfigError(f"{rest[:80]!a} is not the id of a room (like !abc:example.org); an alias names no room")
        return RoomSubject(RoomId(rest))
    try:
        return user_subject(parse_user_id(rest if kind == "user" else text))
    except EventError:
        forms = "@user:server, server:name, guest-accounts:name, room:!id or *"
        raise ConfigError(f"{text[:80]!a} is not a subject ({forms})") from None


def user_subject(user: UserId) -> UserSubject:
    """Return the subject that matches ``user`` and nobody else."""
    return UserSubject(localpart_of(user), server_of(user))


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule that allows something."""

    id: str
    subjects: frozenset[Subject]
    services: frozenset[Service]
    until_ms: int | None = None
    """Wall-clock time at which it ends, in milliseconds since 1970: not in force any more at that very moment."""

    def in_force(self, now_ms: int) -> bool:
        """Whether the grant has not ended."""
        return self.until_ms is None or now_ms < self.until_ms


@dataclass(frozen=True, slots=True)
class Allow:
    """The request is allowed; ``rule`` names the grant that decides."""

    rule: str


@dataclass(frozen=True, slots=True)
class Deny:
    """The request is refused; ``rule`` is for the admin only, never for the user."""

    rule: str
    unless_given: bool = field(default=False, compare=False)
    """Whether a grant that is given while the bridge runs may allow it all the same: nothing but a grant is missing."""


Decision = Allow | Deny


class Policy:
    """The rules in force. Without arguments: nobody may do anything."""

    __slots__ = ("_denied", "_grants", "_grants_by_subject")

    def __init__(self, grants: Iterable[Grant] = (), deny: Iterable[Subject] = ()) -> None:
        self._grants = tuple(grants)
        self._denied = {_widened(subject): subject for subject in deny}
        # A call costs a few look-ups instead of a walk over all grants, however many there are; and grants to
        # the same subjects, as those to one group, are filed together.
        of_subjects: dict[frozenset[Subject], list[int]] = {}
        for index, grant in enumerate(self._grants):
            of_subjects.setdefault(grant.subjects, []).append(index)
        self._grants_by_subject: dict[Subject, list[list[int]]] = {}
        for subjects, indexes in of_subjects.items():
            for subject in subjects:
                self._grants_by_subject.setdefault(subject, []).append(indexes)

    def peer_access(self, user: UserId, peer: UserId, now_ms: int, rooms: Collection[RoomId] = ()) -> Decision:
        """Decide whether ``user``, who is joined to ``rooms``, may call ``peer``: if any service of it is granted."""
        matching = (grant for grant in self._grants_for(user, rooms) if any(s.peer == peer for s in grant.services))
        return self.denial(user) or _first_in_force(matching, now_ms)

    def service_access(
        self, user: UserId, peer: UserId, service: str, now_ms: int, rooms: Collection[RoomId] = ()
    ) -> Decision:
        """Decide whether ``user`` may use ``service`` of ``peer``; an unknown service is denied like any other."""
        wanted = Service(peer, ServiceName(service))
        matching = (grant for grant in self._grants_for(user, rooms) if wanted in grant.services)
        return self.denial(user) or _first_in_force(matching, now_ms)

    def services_for(
        self, user: UserId, now_ms: int, rooms: Collection[RoomId] = ()
    ) -> Mapping[UserId, tuple[ServiceName, ...]]:
        """All that ``user`` may use, by peer, sorted."""
        if self.denial(user) is not None:
            return {}
        granted: dict[UserId, set[ServiceName]] = {}
        for grant in self._grants_for(user, rooms):
            if grant.in_force(now_ms):
                for service in grant.services:
                    granted.setdefault(service.peer, set()).add(service.name)
        return {peer: tuple(sorted(granted[peer])) for peer in sorted(granted)}

    def ends(self, user: UserId, now_ms: int, rooms: Collection[RoomId] = ()) -> Mapping[Service, int | None]:
        """When the right of ``user`` to each service that is granted ends by itself; None where it does not."""
        ends: dict[Service, int | None] = {}
        for grant in self._grants_for(user, rooms):
            if grant.in_force(now_ms):
                for service in grant.services:
                    so_far = ends.get(service, 0)
                    ends[service] = None if so_far is None or grant.until_ms is None else max(so_far, grant.until_ms)
        return ends

    def next_change(self, now_ms: int) -> int | None:
        """The next time at which a grant ends by itself, in milliseconds, or None."""
        return min((g.until_ms for g in self._grants if g.until_ms is not None and g.until_ms > now_ms), default=None)

    def rooms(self) -> frozenset[RoomId]:
        """The rooms whose members some grant names."""
        return frozenset(subject.room for subject in self._grants_by_subject if isinstance(subject, RoomSubject))

    def denial(self, user: UserId) -> Deny | None:
        """Why ``user`` may use nothing, whatever is granted; None if that is not so."""
        if not self._denied:
            return None
        host = host_of(server_of(user))
        wide: list[Subject] = [UserSubject(localpart_of(user), host), ServerSubject(host), Everyone()]
        if is_guest_account(user):
            wide.append(GuestAccounts(host))
        for subject in wide:
            if subject in self._denied:
                return Deny(f"deny: {self._denied[subject]}")
        return None

    def _grants_for(self, user: UserId, rooms: Collection[RoomId]) -> Iterator[Grant]:
        """The grants that name ``user``, in the order in which they were given."""
        filed = (each for subject in subjects_of(user, rooms) for each in self._grants_by_subject.get(subject, ()))
        return (self._grants[index] for index in sorted({index for indexes in filed for index in indexes}))


def subjects_of(user: UserId, rooms: Collection[RoomId] = ()) -> tuple[Subject, ...]:
    """All subjects by which ``user``, who is joined to ``rooms``, may be given something; the narrowest first."""
    found = _subjects_without_rooms(user)
    if not rooms:
        return found
    narrow, *wide = found
    return narrow, *map(RoomSubject, rooms), *wide


@lru_cache(maxsize=REMEMBERED)
def _subjects_without_rooms(user: UserId) -> tuple[Subject, ...]:
    server = server_of(user)
    if is_guest_account(user):
        return user_subject(user), GuestAccounts(server)
    return user_subject(user), ServerSubject(server), Everyone()


def _widened(denied: Subject) -> Subject:
    """What a denial is compared as: see :func:`mxrtc_bridge.core.ids.host_of`."""
    match denied:
        case UserSubject(localpart, server):
            return UserSubject(localpart, host_of(server))
        case ServerSubject(server):
            return ServerSubject(host_of(server))
        case GuestAccounts(server):
            return GuestAccounts(host_of(server))
        case RoomSubject() | Everyone():
            return denied


def _first_in_force(matching: Iterable[Grant], now_ms: int) -> Decision:
    ended = None
    for grant in matching:
        if grant.in_force(now_ms):
            return Allow(grant.id)
        ended = ended or grant.id
    return Deny(NO_GRANT if ended is None else f"{NO_GRANT}: {ended} has ended", unless_given=True)
