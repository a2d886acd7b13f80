"""Invitations: which are taken, how many of whom are answered, and who waits for that.

There is a budget, because each of them costs the homeserver a join or a decline. Those with a right have one of their
own, so that a crowd of strangers cannot use it up. An invitation beyond the budget gets no answer for now; the room is
among those that are declined at the next sweep. After a restart it stays as it is, and its inviter may invite again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from mxrtc_bridge.core.bounds.shares import host_of
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

PER_MINUTE = 20
"""Of one user with a right: more than the rooms that a user has with a peer."""
PER_MINUTE_OF_SERVER = 120
STRANGER_PER_MINUTE = 5
STRANGERS_PER_MINUTE_OF_SERVER = 20
STRANGERS_PER_MINUTE = 60
"""Of all without a right together."""
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

    def admits(self, inviter: UserId, *, has_right: bool) -> bool:
        """Whether one more invitation of ``inviter`` is answered now.

        Args:
            inviter: who invites.
            has_right: whether they may use what they invite.
        """
        now = self._monotonic()
        # Without the port, as one host has all of them.
        user = UserId(f"{inviter.partition(':')[0]}:{host_of(inviter)}")
        if has_right:
            admitted = self._with_right.allow(user, now)
        else:
            admitted = self._strangers.allow(user, now) and self._all_strangers.allow(_ALL, now)
        if not admitted:
            self._seldom.warning(inviter, "! %s invites too often: not every invitation is answered", inviter)
        return admitted
