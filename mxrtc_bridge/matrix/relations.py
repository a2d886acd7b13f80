"""What a message relates to (client-server API, "Forming relationships between events"): reactions, threads, replies.

Only values: who may react or is answered is decided by :mod:`mxrtc_bridge.matrix.command_bot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId, parse_event_id
from mxrtc_bridge.matrix.api.room_event import RoomEvent

MAX_KEY_CHARS = 64
"""A longer key is no emoji."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """An ``m.annotation`` to an event."""

    user: UserId
    room: RoomId
    target: EventId
    key: str
    event: EventId | None = field(default=None, compare=False)
    """Its own id."""


def read_reaction(event: RoomEvent) -> Reaction | None:
    """Read an ``m.reaction``; None for one that is malformed, or an edit."""
    relates = event.content.get("m.relates_to")
    if (
        not isinstance(relates, Mapping)
        or relates.get("rel_type") != "m.annotation"
        or "m.new_content" in event.content
    ):
        return None
    key = relates.get("key")
    if not isinstance(key, str) or len(key) > MAX_KEY_CHARS:
        return None
    try:
        return Reaction(event.sender, event.room_id, parse_event_id(relates.get("event_id")), key, event.event_id)
    except EventError:
        return None


def answer_relation(event: RoomEvent, *, direct: bool) -> dict[str, object]:
    """Stay in the thread in which was asked; in a room of many, say what is answered."""
    relates = event.content.get("m.relates_to")
    reply = {"event_id": event.event_id}
    if isinstance(relates, Mapping) and relates.get("rel_type") == "m.thread":
        try:
            root = parse_event_id(relates.get("event_id"))
        except EventError:
            root = event.event_id
        thread = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True, "m.in_reply_to": reply}
        return {"m.relates_to": thread}
    return {} if direct else {"m.relates_to": {"m.in_reply_to": reply}}
