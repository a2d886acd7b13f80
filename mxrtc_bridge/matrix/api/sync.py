"""Room events of a user by ``/sync``: the client's counterpart of the bridge's transactions.

Must never give an event twice, never give events of a room out of order, and never end because the homeserver is away.
What happened before :meth:`SyncStream.start` is not given: an old call is nobody's call.

How it works: a filter lets only the wanted types through; the token of the last answer (``since``) is advanced only
after the events of that answer have been taken, so that nothing is lost between two requests. An answer is at most as
large as the transport allows, and the events of one answer are the only buffer.

Synapse answers a first request (one without ``since``) from a cache for two minutes when all its parameters are the
same (``sync_response_cache_duration``). "Now" would then be a point in the past, and what happened to an earlier
command would happen to this one: so the filter of the first request is never the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import EventId, RoomId, parse_room_id
from mxrtc_bridge.core.text.foreign_json import list_inside, object_inside
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent, parse_room_event

log = logging.getLogger(__name__)

LONG_POLL_S = 30.0
"""Seconds that the homeserver may hold a request; below the 60 s after which many proxies cut it."""
ANSWER_SLACK_S = 15.0
"""Seconds on top of the long poll until a request counts as failed."""
MAX_TIMELINE = 100
"""Events of one room in one answer. More than that in one outage are call events of calls that are long over."""
MAX_SEEN = 4096
"""Event ids remembered against repetition."""
# A call is offered for a minute or two: better ask a server in trouble once more than miss its answer.
_BACKOFF = Backoff(0.25, 4.0)


def build_filter(types: Iterable[str], rooms: Iterable[RoomId] | None) -> dict[str, object]:
    """A sync filter that lets only the given event types through (client-server API, "Filtering").

    Args:
        types: event types, of messages and of state.
        rooms: the rooms to look at; None for all.
    """
    wanted = sorted(set(types))
    nothing = {"types": [], "limit": 0}
    room: dict[str, object] = {
        "timeline": {"types": wanted, "limit": MAX_TIMELINE},
        # Members who left during a gap stand here and nowhere else.
        "state": {"types": [kind for kind in wanted if kind == "m.room.member"]},
        "ephemeral": nothing,
        "account_data": nothing,
        "include_leave": False,
    }
    if rooms is not None:
        room["rooms"] = sorted(rooms)
    return {"presence": nothing, "account_data": nothing, "room": room}


class SyncStream:
    """An endless stream of room events."""

    def __init__(
        self,
        homeserver: QuietHomeserver,
        *,
        types: Iterable[str],
        rooms: Iterable[RoomId] | None = None,
        since: str | None = None,
        on_change: Callable[[HomeserverError | None], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        max_seen: int = MAX_SEEN,
    ) -> None:
        """Make a stream; nothing is sent before :meth:`start`.

        Args:
            homeserver: the homeserver, with the user's token.
            types: event types wanted, for example ``m.call.invite``.
            rooms: rooms wanted; None for all that the user is in.
            since: token to go on from, instead of starting now.
            on_change: told when the homeserver is lost (the error) and found again (None).
            sleep: waits between attempts.
            jitter: random numbers in [0, 1).
            max_seen: See :data:`MAX_SEEN`.
        """
        self._homeserver = homeserver
        self._types = frozenset(types)
        self._rooms = None if rooms is None else frozenset(rooms)
        self._since = since
        self._on_change = on_change
        self._sleep = sleep
        self._jitter = jitter
        self._failures = 0
        self._seen = Latest[EventId, None](max_seen)

    @property
    def since(self) -> str | None:
        """Token of the last answer whose events have all been taken."""
        return self._since

    @property
    def remembered(self) -> int:
        """Event ids that are remembered against repetition."""
        return len(self._seen)

    def watch(self, rooms: Iterable[RoomId] | None) -> None:
        """Change the wanted rooms; takes effect with the next request, so at the latest after one long poll."""
        self._rooms = None if rooms is None else frozenset(rooms)

    async def start(self) -> None:
        """Fix the point from which on events are given: now. Does nothing with a ``since`` from earlier.

        Raises:
            HomeserverError: the homeserver does not answer or refuses; not repeated, since a person is waiting.
        """
        if self._since is None:
            # A room that nobody is in: nothing but the token is wanted, and no cache has seen the question.
            nowhere = RoomId(f"!{secrets.token_hex(16)}:nowhere.invalid")
            self._since = next_batch(await self._request(wait_s=0, rooms=[nowhere]))

    async def events(self) -> AsyncIterator[RoomEvent]:
        """Give events, in the order of each room, until cancelled or closed.

        Raises:
            HomeserverError: the homeserver refuses for good, for example because the session was logged out.
        """
        await self.start()
        while True:
            try:
                answer = await self._request(wait_s=0 if self._failures else LONG_POLL_S)
                token = next_batch(answer)
            except HomeserverError as error:
                if not error.retryable:
                    raise
                await self._lost(error)
                continue
            self._found()
            for event in events_of(answer):
                # One by one: what a consumer that stops has not taken is given again, and only that.
                if event.type in self._types and self._is_new(event.event_id):
                    yield event
            self._since = token

    async def _request(self, wait_s: float, *, rooms: Iterable[RoomId] | None = None) -> dict[str, object]:
        return await self._homeserver.sync(
            filter_json=build_filter(self._types, self._rooms if rooms is None else rooms),
            since=self._since,
            wait_s=wait_s,
            timeout_s=wait_s + ANSWER_SLACK_S,
        )

    async def _lost(self, error: HomeserverError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.info("the homeserver is lost: %s", error)
            if self._on_change is not None:
                self._on_change(error)
        await self._sleep(_BACKOFF.pause_s(self._failures, self._jitter(), error.wait_s))

    def _found(self) -> None:
        if self._failures:
            self._failures = 0
            log.info("the homeserver is back")
            if self._on_change is not None:
                self._on_change(None)

    def _is_new(self, event_id: EventId) -> bool:
        if event_id in self._seen:
            return False
        self._seen[event_id] = None
        return True


def events_of(answer: Mapping[str, object]) -> list[RoomEvent]:
    """The room events of a sync answer: per room the state before its timeline. What is malformed is left out."""
    events: list[RoomEvent] = []
    for section in ("join", "leave"):
        for room, content in object_inside(answer, "rooms", section).items():
            try:
                room_id = parse_room_id(room)
            except EventError as error:
                log.debug("a room of the sync answer is skipped: %s", error)
                continue
            for part in ("state", "timeline"):
                _read(list_inside(content, part, "events"), room_id, events)
    return events


def _read(items: list[object], room: RoomId, events: list[RoomEvent]) -> None:
    for item in items:
        try:
            events.append(parse_room_event(item, room_id=room))
        except EventError as error:
            log.debug("an event of the sync answer is skipped: %s", error)


def next_batch(answer: Mapping[str, object]) -> str:
    """The token of an answer, by which the next one is asked for.

    Raises:
        HomeserverError: it holds none.
    """
    token = answer.get("next_batch")
    if not isinstance(token, str) or not 0 < len(token) <= 4096:
        raise HomeserverError("the answer to /sync holds no next_batch")
    return token
