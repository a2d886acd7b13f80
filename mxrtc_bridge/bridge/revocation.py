"""What arrives takes away at once, and what is known is compared with the homeserver's truth while it matters.

Sees each entry of each transaction as it came, before it is stored and whatever becomes of the transaction, and hands
on what it takes away (see :mod:`mxrtc_bridge.core.access.revocations`). An event that does not even name its room makes
all that is followed doubtful: for the first one at once, then once in :data:`ALL_EVERY_S` for all others together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mxrtc_bridge.bridge.access.configured_rooms import ComparisonTimes, ConfiguredRooms
from mxrtc_bridge.core.access.revocations import UnreadableChange, read_news
from mxrtc_bridge.core.call.events import EVENT_TYPES
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES as SAS_EVENT_TYPES
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.live_sessions import LiveSessions
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.command_bot import MESSAGE_TYPES
from mxrtc_bridge.matrix.rooms.peer_membership import PeerMembership

log = logging.getLogger(__name__)

HANDLED = frozenset(
    {*EVENT_TYPES, *MESSAGE_TYPES, *SAS_EVENT_TYPES}
    | {"m.room.member", "m.room.encryption", "m.room.encrypted", "m.room.redaction"}
)
"""Types of events that somebody handles in their turn; those of policy lists have no more to say by then."""
ALL_EVERY_S = 60.0
CALL_ROOMS = 20
"""Rooms of live calls that are compared at each look: the bridge asks two questions a second at most."""


class Revocation:
    """See the head of this module. :meth:`run` must run.

    Args:
        named_rooms: members and policy lists.
        calls: the rooms for calls.
        live: the live sessions.
        monotonic: seconds.
        times: how old what live sessions depend on may become.
    """

    def __init__(
        self,
        named_rooms: ConfiguredRooms,
        calls: PeerMembership,
        live: LiveSessions,
        monotonic: Callable[[], float] = elapsed_s,
        *,
        times: ComparisonTimes = ComparisonTimes(),  # noqa: B008 - a value
    ) -> None:
        self._times = times
        self._named_rooms = named_rooms
        self._calls = calls
        self._live = live
        self._monotonic = monotonic
        self._all_doubted_at = float("-inf")
        self._all_doubtful = False
        self._seldom = RateLimitedLog(log, monotonic)

    def look(self, raw: object) -> None:
        """Take away what ``raw``, an entry of a transaction, takes away; never blocks."""
        news = read_news(raw)
        if news is None:
            return
        if isinstance(news, UnreadableChange) and news.room is None:
            self._all_doubtful = True
            self._doubt_all()
            return
        self._named_rooms.look(news)
        self._calls.look(news)

    def _doubt_all(self) -> None:
        now = self._monotonic()
        if self._all_doubtful and now - self._all_doubted_at >= ALL_EVERY_S:
            self._seldom.warning(
                "", "! an event came that names no room: asking the homeserver about all rooms that are followed"
            )
            self._all_doubted_at, self._all_doubtful = now, False
            self._named_rooms.look(UnreadableChange(None))
            self._calls.look(UnreadableChange(None))

    async def run(self) -> None:
        """Compare again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._named_rooms.run(), name="named rooms")
            tasks.create_task(self._calls.refresher.run(), name="rooms for calls")
            while True:
                await asyncio.sleep(self._times.tick_s)
                self.compare()

    def compare(self) -> None:
        """Have the homeserver asked again about what live sessions depend on, where it is time."""
        self._doubt_all()
        sessions = self._live.sessions
        self._named_rooms.compare({session.remote for session in sessions})
        rooms = [each.route for each in sessions if not isinstance(each.route, DevicePair)]
        self._calls.compare(rooms, self._times.compare_s - self._times.tick_s, CALL_ROOMS)
