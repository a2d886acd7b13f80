"""Room events between their arrival and their handling, as the inbox and the database tell each other of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ArrivedEvent:
    """An event that is to be stored."""

    key: str
    """The event id; for what has none, a hash of its content."""
    room_id: str
    payload: str = field(repr=False)
    refusal: str | None = None
    """Why it is set aside at once; None for an event to be handled."""
    sender: str = ""
    """Who has sent it; empty if that cannot be read."""
    lane: str = ""
    """Events of one lane of a room are handled in order."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event that waits to be handled."""

    seq: int
    """Place in the order of arrival, over all rooms."""
    key: str
    sender: str
    payload: str


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """Where an event waits."""

    seq: int
    key: str
    room_id: str
    lane: str
    sender: str


@dataclass(frozen=True, slots=True)
class WaitingCount:
    """So many events of a sender wait in a lane of a room."""

    room_id: str
    lane: str
    sender: str
    count: int


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What became of one stored event."""

    key: str
    refusal: str | None = None
    """Why it is set aside; None when it was handled."""
    sender: str = ""
    room_id: str = ""
    lane: str = ""
    """Whose place it had."""
