"""Invitations: which are taken, how many of whom are answered, and who waits for that.

There is a budget, because each of them costs the homeserver a join or a decline. Those with a right have one of their
own, so that a crowd of strangers cannot use it up. An invitation beyond the budget gets no answer for now, and neither
has one that could not be declined: they are declined at the next sweep, those of each server and inviter in turns. How
many are remembered of whom is bounded too; what is beyond that, or from before a restart, stays as it is, and its
inviter may invite again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from itertools import zip_longest
from operator import itemgetter

from mxrtc_bridge.core.bounds.shares import ShareLimits, Shares, host_of
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.side_by_side import each

log = logging.getLogger(__name__)

PER_MINUTE = 20
"""Of one user with a right: more than the rooms that a user has with a peer."""
PER_MINUTE_OF_SERVER = 120
STRANGER_PER_MINUTE = 5
STRANGERS_PER_MINUTE_OF_SERVER = 20
STRANGERS_PER_MINUTE = 60
"""Of all without a right together."""
UNANSWERED = ShareLimits(sender=50, server=200, foreign=600, others=800, total=1_000)
"""Invitations without an answer that are remembered."""
DECLINES_AT_ONCE = 4
"""Requests of a sweep, which may wait for other homeservers."""
MAX_STRIPPED_EVENTS = 64
"""Events of ``invite_room_state`` that are looked at."""
_ALL = UserId("@all:strangers.invalid")


class Unfit(Enum):
    """Why an invitation is declined; the text is for the log, the inviter is told nothing."""

    NOT_A_PEER = "the invited user is not a peer"
    OWN_NAMESPACE = "the inviter is one of the bridge's own users"
    NO_GRANT = "the inviter holds no grant for the peer"
    SPACE = "the room is a space or another special room"
    OPEN_ROOM = "the room can be joined without an invitation"
    SECOND_PEER = "another peer is in the room already"
    NOT_A_PAIR = "others than the inviter are in the room"


def judge_invite(
    inviter: UserId,
    peer: UserId,
    stripped_state: Sequence[Mapping[str, object]],
    *,
    is_peer: Callable[[UserId], bool],
    is_own: Callable[[UserId], bool],
    may_use: Callable[[UserId, UserId], bool],
) -> Unfit | None:
    """Return the reason to decline an invitation, or None when the peer should join and look.

    ``stripped_state`` is what the inviter's server tells about the room (``unsigned.invite_room_state``). It can lie,
    so it only ever saves a join: the facts are read again once the peer is in the room.
    """
    if not is_peer(peer):
        return Unfit.NOT_A_PEER
    if is_own(inviter):
        return Unfit.OWN_NAMESPACE
    if not may_use(inviter, peer):
        return Unfit.NO_GRANT
    for event in stripped_state[:MAX_STRIPPED_EVENTS]:
        content = event.get("content")
        if not isinstance(content, Mapping):
            continue
        kind = event.get("type")
        if kind == "m.room.create" and content.get("type") is not None:
            return Unfit.SPACE
        if kind == "m.room.join_rules" and not is_closed(content.get("join_rule")):
            return Unfit.OPEN_ROOM
    return None


def is_closed(join_rule: object) -> bool:
    """Whether only invited users come in; ``private`` is reserved and means the same to servers."""
    return join_rule in ("invite", "private")


Place = tuple[UserId, RoomId]
"""A peer, and the room that it is invited to."""


class UnansweredInvitations:
    """Those that are to be declined later, each of them by its inviter.

    Args:
        own_server: our homeserver.
        limits: how many of whom.
    """

    def __init__(self, own_server: str, limits: ShareLimits = UNANSWERED) -> None:
        self._shares = Shares(limits, own_server)
        self._inviters: dict[Place, UserId] = {}

    def __len__(self) -> int:
        return len(self._inviters)

    def add(self, place: Place, inviter: UserId, *, has_right: bool) -> bool:
        """Remember an invitation; False where the inviter, or the server, has too many."""
        self.discard(place)
        if self._shares.full(inviter, has_right=lambda _user: has_right) is not None:
            return False
        self._shares.add(inviter)
        self._inviters[place] = inviter
        return True

    def discard(self, place: Place) -> None:
        """Forget one, which has an answer now."""
        inviter = self._inviters.pop(place, None)
        if inviter is not None:
            self._shares.remove(inviter)

    def in_turns(self) -> list[Place]:
        """All of them: servers take turns, and of each its users."""
        count_of_user, by_server = Counter[UserId](), dict[str, list[tuple[int, Place]]]()
        for place, inviter in self._inviters.items():
            by_server.setdefault(host_of(inviter), []).append((count_of_user[inviter], place))
            count_of_user[inviter] += 1
        lines = [[place for _, place in sorted(of_server, key=itemgetter(0))] for of_server in by_server.values()]
        return [place for row in zip_longest(*lines) for place in row if place is not None]


class Invitations:
    """See the head of this module.

    Args:
        monotonic: seconds.
        own_server: our homeserver; more invitations of its users together are answered than of another's.
    """

    def __init__(self, monotonic: Callable[[], float], own_server: str = "") -> None:
        self._monotonic = monotonic
        self._with_right = RateLimit(PER_MINUTE, PER_MINUTE_OF_SERVER, own_server)
        self._strangers = RateLimit(STRANGER_PER_MINUTE, STRANGERS_PER_MINUTE_OF_SERVER)
        self._all_strangers = RateLimit(STRANGERS_PER_MINUTE, STRANGERS_PER_MINUTE)
        self._seldom = RateLimitedLog(log, monotonic)
        self._answering: dict[RoomId, asyncio.Event] = {}
        self._unanswered = UnansweredInvitations(own_server)

    @contextmanager
    def answering(self, room: RoomId) -> Iterator[None]:
        """While an invitation to this room is answered; there is one at a time, as changes of a room come in order."""
        answered = self._answering[room] = asyncio.Event()
        try:
            yield
        finally:
            del self._answering[room]
            answered.set()

    async def settled(self, room: RoomId) -> None:
        """Return when no invitation to this room is being answered: before that nothing there can be judged.

        The homeserver may send events of a room before it has answered our join.
        """
        while (answered := self._answering.get(room)) is not None:
            await answered.wait()

    @property
    def unanswered(self) -> int:
        """How many are to be declined at the next sweep."""
        return len(self._unanswered)

    def leave_unanswered(self, peer: UserId, room: RoomId, inviter: UserId, *, has_right: bool) -> None:
        """Remember an invitation that gets no answer now, as far as its inviter has a place for it."""
        if not self._unanswered.add((peer, room), inviter, has_right=has_right):
            self._seldom.warning(
                inviter, "! an invitation of %s stays without an answer: too many wait to be declined", inviter
            )

    def answered(self, peer: UserId, room: RoomId) -> None:
        """Forget an invitation that has an answer now."""
        self._unanswered.discard((peer, room))

    async def decline_unanswered(self, decline: Callable[[UserId, RoomId], Awaitable[bool]], limit_s: float) -> None:
        """Decline what had no answer, for a limited time; the rest is left for the next sweep.

        Args:
            decline: declines one; whether that was of use. It is tried once, as there may be as many as others want.
            limit_s: seconds.
        """
        outcomes = Counter[bool]()

        async def one(place: Place) -> None:
            self._unanswered.discard(place)
            outcomes[await decline(*place)] += 1

        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await each(self._unanswered.in_turns(), one, DECLINES_AT_ONCE)
        if outcomes:
            log.info(
                "housekeeping: %d invitations declined that had no answer, %d could not be; %d are left",
                outcomes[True],
                outcomes[False],
                len(self._unanswered),
            )

    def admits(self, inviter: UserId, *, has_right: bool) -> bool:
        """Whether one more invitation of ``inviter`` is answered now.

        Args:
            inviter: who invites.
            has_right: whether they may use what they invite.
        """
        now = self._monotonic()
        if has_right:
            admitted = self._with_right.allow(inviter, now)
        else:
            admitted = self._strangers.allow(inviter, now) and self._all_strangers.allow(_ALL, now)
        if not admitted:
            self._seldom.warning(inviter, "! %s invites too often: not every invitation is answered", inviter)
        return admitted
