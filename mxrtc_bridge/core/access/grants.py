"""Grants that people give while the bridge runs: they end by themselves, and never go beyond the configuration.

A stored grant adds to the grants of the configuration and can take nothing away. It is worth something only where the
service says in ``grantable_to`` that people like the user may be given it at all. That is asked at every use, not only
when the grant is given: a reload that narrows it ends what went beyond.

A grant is *pending* from when it is stored until the audit has it as well, and is worth nothing so long; what is
pending at a start ends there. One that has ended counts no more at once, whatever is still to be written
(:data:`Change`).

A grant for one session (``once``) is claimed by the first session that opens the service with it, is of no use to any
other from then on, and ends with that session, or at its time if that comes first.

Pure: :class:`GrantTable` is what the database holds, in an order in which a decision costs a few look-ups however many
grants there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mxrtc_bridge.core.access.policy import (
    Everyone,
    GuestAccounts,
    RoomSubject,
    Service,
    Subject,
    UserSubject,
    subjects_of,
)
from mxrtc_bridge.core.ids import Actor, RoomId, ServiceName, UserId, parse_user_id

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")

MAX_GRANTS = 20_000
"""In force at a time; beyond that none is given."""
MAX_SAME = 100
"""To the same subject for the same service: a decision compares them."""
MAX_FOR_S = 366 * 24 * 3600
"""The longest that a grant can be given for, in seconds."""
MIN_FOR_S = 10

Claimant = object
"""Stands for a session."""


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A right that a person has given."""

    number: int
    """Given by the store, shown to people; 0 before it is stored."""
    subject: Subject
    service: Service
    giver: Actor
    since_ms: int
    until_ms: int
    """Wall-clock milliseconds since 1970; not in force any more at that very moment."""
    reason: str = ""
    once: bool = False

    @property
    def rule(self) -> str:
        """What a decision names."""
        return f"given {self.number}"

    def in_force(self, now_ms: int) -> bool:
        """Whether it has not ended by itself."""
        return now_ms < self.until_ms


@dataclass(frozen=True, slots=True)
class EndedGrant:
    """A grant that counts no more."""

    grant: StoredGrant
    ended_ms: int
    how: str
    """``expired``, ``revoked`` (and why, if that was said), ``used``, or ``unconfirmed``: it never counted."""
    by: Actor | None = None
    """Who ended it."""


@dataclass(frozen=True, slots=True)
class ClaimedGrant:
    """A grant for one session that a session has begun to use: no other may, also after a restart."""

    number: int
    claimed_ms: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A grant that must not come into force any more, whether it has been stored or may still be."""

    grant: StoredGrant
    """Its number counts for nothing: perhaps there is none yet."""
    key: str
    """Unique, made by whoever gave it."""
    ended_ms: int


Change = EndedGrant | ClaimedGrant | GivenUp
"""What the database has to be told; telling it twice changes nothing."""


Covers = Callable[[Service], bool]
"""Whether a service may be given to the user in question."""

_ByService = dict[ServiceName, dict[int, StoredGrant]]


class GrantTable:
    """The grants that have not ended."""

    def __init__(self) -> None:
        self._grants: dict[int, StoredGrant] = {}
        self._by_subject: dict[Subject, dict[UserId, _ByService]] = {}
        """By subject, peer and service: however many others there are, a decision looks at those in question only."""
        self._claims: dict[int, Claimant] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def add(self, grant: StoredGrant) -> None:
        """Add a grant; its number must be new."""
        assert grant.number not in self._grants
        self._grants[grant.number] = grant
        peers = self._by_subject.setdefault(grant.subject, {})
        peers.setdefault(grant.service.peer, {}).setdefault(grant.service.name, {})[grant.number] = grant

    def remove(self, number: int) -> StoredGrant | None:
        """Take a grant out, and return it."""
        grant = self._grants.pop(number, None)
        if grant is None:
            return None
        peers = self._by_subject[grant.subject]
        services = peers[grant.service.peer]
        del services[grant.service.name][number]
        if not services[grant.service.name]:
            del services[grant.service.name]
            if not services:
                del peers[grant.service.peer]
                if not peers:
                    del self._by_subject[grant.subject]
        self._claims.pop(number, None)
        return grant

    def get(self, number: int) -> StoredGrant | None:
        """The grant with this number."""
        return self._grants.get(number)

    def of_subject(self, subject: Subject) -> tuple[StoredGrant, ...]:
        """The grants to exactly this subject."""
        peers = self._by_subject.get(subject, {})
        found = (grant for services in peers.values() for grants in services.values() for grant in grants.values())
        return tuple(sorted(found, key=lambda grant: grant.number))

    def count_same(self, subject: Subject, service: Service) -> int:
        """How many grants give exactly this subject exactly this service."""
        return len(self._by_subject.get(subject, {}).get(service.peer, {}).get(service.name, ()))

    def __iter__(self) -> Iterator[StoredGrant]:
        """All grants, the newest first."""
        return iter(sorted(self._grants.values(), key=lambda grant: -grant.number))

    def rooms(self) -> frozenset[RoomId]:
        """The rooms whose members some grant names."""
        return frozenset(subject.room for subject in self._by_subject if isinstance(subject, RoomSubject))

    def matching(
        self,
        user: UserId,
        rooms: Collection[RoomId],
        now_ms: int,
        covers: Covers,
        claimant: Claimant | None = None,
        *,
        any_session: bool = False,
        peer: UserId | None = None,
        service: ServiceName | None = None,
    ) -> Iterator[StoredGrant]:
        """The grants by which ``user``, who is joined to ``rooms``, may do something: for each service the best ones.

        Args:
            user: who asks.
            rooms: that the user is joined to.
            now_ms: wall-clock milliseconds.
            covers: whether a service may be given to this user at all.
            claimant: the session that asks; grants for one session that another has claimed are left out.
            any_session: leave them in: is there anything at all?
            peer: only what is given of this peer.
            service: only what is given of this service of the peer.
        """

        def counts(grant: StoredGrant) -> bool:
            held = self._claims.get(grant.number)
            return grant.in_force(now_ms) and (any_session or held is None or held is claimant)

        for subject in subjects_of(user, rooms):
            for each, services in _chosen(self._by_subject.get(subject, {}), peer):
                for name, grants in _chosen(services, service):
                    if covers(Service(each, name)):
                        # One for one session is kept for when it is needed.
                        found = max(filter(counts, grants.values()), key=_worth, default=None)
                        if found is not None:
                            yield found

    def claim(self, grant: StoredGrant, claimant: Claimant) -> bool:
        """Bind a grant for one session to a session; returns False if it was bound to it already."""
        if not grant.once or grant.number in self._claims:
            return False
        self._claims[grant.number] = claimant
        return True

    def claimed_by(self, claimant: Claimant) -> tuple[StoredGrant, ...]:
        """The grants for one session that a session has claimed."""
        return tuple(self._grants[number] for number, holder in self._claims.items() if holder is claimant)


def _worth(grant: StoredGrant) -> tuple[bool, int]:
    return not grant.once, grant.until_ms


def _chosen(table: Mapping[KeyT, ValueT], key: KeyT | None) -> Iterable[tuple[KeyT, ValueT]]:
    """One row of a table, or all of it."""
    if key is None:
        return table.items()
    return ((key, table[key]),) if key in table else ()


def may_be_given(subject: Subject, grantable_to: Collection[Subject], users_rooms: Collection[RoomId] = ()) -> bool:
    """Whether ``grantable_to`` of a service lets ``subject`` be given it.

    A user is covered by themselves, their server (a guest account by the guest accounts of it), a room that they are
    joined to (``users_rooms``), or everybody; a server or a room by itself or everybody, and guest accounts by
    themselves alone. Everybody is never given anything: that is for the configuration alone.
    """
    match subject:
        case Everyone():
            return False
        case UserSubject():
            covering: Collection[Subject] = subjects_of(parse_user_id(str(subject)), users_rooms)
        case GuestAccounts():
            covering = (subject,)
        case _:
            covering = (subject, Everyone())
    return not frozenset(covering).isdisjoint(grantable_to)
