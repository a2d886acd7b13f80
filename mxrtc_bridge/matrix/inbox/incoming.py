"""Events on their way into the store: read, judged by their envelope, and never a reason to refuse a transaction.

A homeserver repeats a refused transaction for ever, and everything behind it waits. So an event that cannot be used
gets a key and a reason here, is stored as set aside, and the ones around it go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import EventId, parse_event_id
from mxrtc_bridge.core.inbox import ArrivedEvent, EventOutcome, StoredEvent, WaitingCount, WaitingEvent
from mxrtc_bridge.core.text.foreign_json import inside
from mxrtc_bridge.matrix.api.room_event import RoomEvent, encode, parse_room_event
from mxrtc_bridge.matrix.inbox.lanes import lane_of
from mxrtc_bridge.matrix.inbox.redactions import redacted_by

MAX_EVIDENCE_CHARS = 4096
"""What is kept of an event that cannot be read, for the admin to look at."""


@dataclass(frozen=True, slots=True)
class IncomingEvent(ArrivedEvent):
    """An event on its way into the store; for its lane see :func:`~mxrtc_bridge.matrix.inbox.lanes.lane_of`."""

    event: RoomEvent | None = None
    withdraws: tuple[str, EventId] | None = None
    """The room and the event that this one redacts there."""


class EventStore(Protocol):
    """The durable side; every method may raise StorageError, and then has changed nothing."""

    async def store(self, arrivals: Sequence[IncomingEvent], now_ms: int) -> Sequence[int | None]:
        """Store all or none; returns for each its place in the order of arrival, None for one that was known."""
        ...

    async def waiting_lanes(self, limit: int) -> Sequence[tuple[str, str]]:
        """Rooms and lanes with events that wait, the one that has waited longest first."""
        ...

    async def waiting(self, room_id: str, lane: str, after: int, limit: int) -> Sequence[StoredEvent]: ...

    async def find_waiting(self, keys: Sequence[str]) -> Sequence[WaitingEvent]:
        """Of these events those that wait."""
        ...

    async def count_waiting(self) -> Sequence[WaitingCount]:
        """How many events wait, of each sender in each lane of each room."""
        ...

    async def settle(self, outcomes: Sequence[EventOutcome], now_ms: int) -> None: ...


def read_arrival(raw: object, types: frozenset[str] | None) -> IncomingEvent | None:
    """Return ``raw`` (parsed JSON) as an arrival; None for a type that nobody here handles.

    Args:
        raw: what stood in the transaction.
        types: the types that are handled, None for all.
    """
    if types is not None and isinstance(raw, dict):
        kind = raw.get("type")
        if isinstance(kind, str) and kind not in types:
            return None
    try:
        event = parse_room_event(raw)
        return IncomingEvent(
            event.event_id,
            event.room_id,
            encode(event),
            event=event,
            withdraws=redacted_by(raw),
            sender=event.sender,
            lane=lane_of(event),
        )
    except EventError as error:
        return _refused(raw, f"{error.code}: {error}")


def _refused(raw: object, reason: str) -> IncomingEvent:
    try:
        evidence = json.dumps(raw, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        evidence = "not JSON"
    try:
        key: str = parse_event_id(inside(raw, "event_id"))
    except EventError:
        # Stable, so that a repetition is known.
        key = "hash:" + hashlib.sha256(evidence.encode("ascii")).hexdigest()
    return IncomingEvent(key, "", evidence[:MAX_EVIDENCE_CHARS], refusal=reason, withdraws=redacted_by(raw))
