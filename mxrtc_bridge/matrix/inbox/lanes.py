"""Lanes: which events of a room are handled one after the other, and the part of a lane that is in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mxrtc_bridge.core.access.ban_lists import RULE_TYPES
from mxrtc_bridge.core.inbox import EventOutcome
from mxrtc_bridge.matrix.api.room_event import RoomEvent

CHANGES = frozenset({"m.room.member", "m.room.encryption", *RULE_TYPES})
"""State of a room that means something here."""
REDACTION = "m.room.redaction"


def lane_of(event: RoomEvent) -> str:
    """The lane of an event in its room: its sender, or ``""`` for changes of the room, which keep their order."""
    changes = event.type in CHANGES and event.state_key is not None
    return "" if changes or event.type == REDACTION else event.sender


@dataclass(slots=True)
class Queued:
    """An event of a lane."""

    key: str
    sender: str
    size: int
    event: RoomEvent | None
    payload: str = ""
    """Of an event that comes from the database: decoded when its turn comes."""


@dataclass(slots=True)
class Lane:
    """A lane with a worker."""

    room_id: str
    name: str
    behind: bool
    queue: deque[Queued] = field(default_factory=deque)
    last_seq: int = 0
    """Place of the newest event that was ever in the queue."""
    ticket: int = 0
    """Of the last outcome."""

    def outcome(self, key: str, sender: str, refusal: str | None) -> EventOutcome:
        """What became of an event of this lane."""
        return EventOutcome(key, refusal, sender, self.room_id, self.name)
