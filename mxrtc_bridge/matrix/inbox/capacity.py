"""The places of the inbox: how many events of whom may wait, and how many may be handled at the same time.

What is refused a place is dropped when it arrives: counted, said once an hour, and never a reason to refuse the
transaction, in which others' events stand as well. Changes of a room (:data:`.lanes.CHANGES`) have places of their own,
so that no other event takes one from them. They have taken away what they take away before they come here; what waits
is only what follows from that, as the answer to an invitation, so that they may be dropped like the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from mxrtc_bridge.core.bounds.shares import FullShare, ShareLimits, Shares, host_of
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.inbox import WaitingCount
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.round_robin import RoundRobin
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    """Places of the inbox."""

    waiting: ShareLimits = field(
        default_factory=lambda: ShareLimits(
            sender=500, server=5_000, room=5_000, foreign=50_000, others=80_000, total=100_000
        )
    )
    """Events that wait in the database. A call has less than a hundred."""
    changes: ShareLimits = field(
        default_factory=lambda: ShareLimits(
            sender=200, server=2_000, room=1_000, foreign=8_000, others=16_000, total=20_000
        )
    )
    """Changes of rooms that wait there."""
    handled: ShareLimits = field(
        default_factory=lambda: ShareLimits(sender=2, server=8, foreign=32, others=56, total=64)
    )
    """Events that are handled at the same time; far fewer than transactions may wait for the database."""
    changes_handled: ShareLimits = field(
        default_factory=lambda: ShareLimits(sender=1, server=4, foreign=8, others=12, total=16)
    )
    """Changes of rooms that are handled at the same time: joins and declines do not take what calls need."""


class InboxCapacity:
    """See the head of this module.

    Args:
        limits: how many there are.
        own_server: the server name of our homeserver.
        has_right: whether a user holds any right; asked only where places become few.
        metrics: counts what is dropped.
    """

    def __init__(
        self, limits: CapacityLimits, own_server: str, has_right: Callable[[UserId], bool], metrics: Metrics
    ) -> None:
        self.has_right = has_right
        self._waiting = Shares(limits.waiting, own_server)
        self._changes = Shares(limits.changes, own_server)
        self._turns = RoundRobin(limits.handled, own_server, has_right)
        self._turns_of_changes = RoundRobin(limits.changes_handled, own_server, has_right)
        self._metrics = metrics
        self._seldom = RateLimitedLog(log)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._changes)

    @property
    def longest_table(self) -> int:
        """Entries of the longest table of shares: as many senders, servers or rooms are remembered."""
        return max(*self._waiting.table_sizes, *self._changes.table_sizes)

    def take(self, event: RoomEvent, lane: str) -> bool:
        """Take a place for an event that is about to be stored; False, and it is to be dropped, if it gets none."""
        shares = self._of(lane)
        full = shares.full(event.sender, event.room_id, has_right=self.has_right)
        if full is not None:
            self._metrics.events("dropped")
            whose = {
                FullShare.SENDER: event.sender,
                FullShare.SERVER: host_of(event.sender),
                FullShare.ROOM: event.room_id,
            }
            name = whose.get(full, full.value)
            self._seldom.warning(
                (full, name), "! events of %s to %s are dropped: too many wait (%s)", event.sender, event.room_id, name
            )
            return False
        shares.add(event.sender, event.room_id)
        return True

    def give_back(self, sender: str, room_id: str, lane: str) -> None:
        """Give back the place of one event, which waits no more."""
        self._of(lane).remove(UserId(sender), room_id)

    def count_anew(self, waiting: Iterable[WaitingCount]) -> None:
        """Forget what was counted: this is what waits."""
        self._waiting.clear()
        self._changes.clear()
        for each in waiting:
            self._of(each.lane).add(UserId(each.sender), each.room_id, each.count)

    def turn(self, sender: str, lane: str) -> AbstractAsyncContextManager[None]:
        """Wait until it is the turn of an event of ``sender``; inside of it the event is handled."""
        turns = self._turns if lane else self._turns_of_changes
        return turns.of(UserId(sender))

    def _of(self, lane: str) -> Shares:
        return self._waiting if lane else self._changes
