"""Events that were redacted before they were handled: what their senders, or moderators, have taken back.

A redaction counts when it arrives, before it is stored and whatever waits in front of it. The homeserver has judged
whether its sender may redact that event; one that names an event of another room means nothing. By whom it was
redacted is remembered too: what takes a right away is taken back by its own sender only, and not by somebody who has
power in the room, or a server with other rules (see :mod:`mxrtc_bridge.matrix.command_bot`).

Bounded by room: whoever fills the table of a room pushes out only what was redacted in that room.
"""

from __future__ import annotations

import contextlib

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import EventId, parse_event_id
from mxrtc_bridge.core.text.foreign_json import inside

MAX_ROOMS = 1000
"""Rooms that are remembered; then the one whose last redaction is the oldest is forgotten."""
MAX_EVENTS = 500
"""Events of one room; then the one that was redacted first."""
MAX_REDACTORS = 4
"""Of one event that are remembered, the first ones."""


def redacted_by(raw: object) -> tuple[str, EventId] | None:
    """The room, and the event that ``raw`` (parsed JSON of an event) redacts there, if it is a redaction.

    Room versions before 11 name it beside the content, later ones inside (``redacts``); homeservers write the former
    for all of them. It comes first: in an old room anybody may write anything into the content. What is no id there
    says nothing, so that it hides nothing either.
    """
    room = inside(raw, "room_id")
    if inside(raw, "type") == "m.room.redaction" and isinstance(room, str):
        for named in (inside(raw, "redacts"), inside(raw, "content", "redacts")):
            with contextlib.suppress(EventError):
                return room, parse_event_id(named)
    return None


class WithdrawnEvents:
    """What was redacted lately, by room."""

    def __init__(self) -> None:
        self._rooms = Latest[str, Latest[str, tuple[str, ...]]](MAX_ROOMS)

    def look(self, raw: object) -> None:
        """Remember what ``raw`` redacts, if it does."""
        redacted = redacted_by(raw)
        if redacted is None:
            return
        room, event = redacted
        self._rooms[room] = events = self._rooms.get(room) or Latest(MAX_EVENTS)
        sender, before = inside(raw, "sender"), events.get(event, ())
        more = (sender,) if isinstance(sender, str) and sender not in before and len(before) < MAX_REDACTORS else ()
        events[event] = before + more

    def holds(self, room: str, event: str, by: str | None = None) -> bool:
        """Whether this event was redacted.

        Args:
            room: of the event.
            event: its id.
            by: only a redaction of this user counts; None for anybody's.
        """
        events = self._rooms.get(room)
        redactors = None if events is None else events.get(EventId(event))
        return redactors is not None and (by is None or by in redactors)
