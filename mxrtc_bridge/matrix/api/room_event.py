"""Room events as frozen values: the border between JSON from a homeserver and the rest of the program.

Only the envelope is judged here: ids, type, sender, sizes. The content stays a plain dictionary, and the reader of each
event type judges it. What has passed :func:`parse_room_event` is bounded in every field but the content, and the
content is bounded by :data:`MAX_PAYLOAD_CHARS` once it has passed :func:`encode`. A time that is none is the oldest
one, and a content that is no object is empty: neither may hide the rest of an event.

Never logs and never keeps more of an event than it names: everything of ``unsigned`` but the invite state is dropped,
because both ``age`` and ``prev_content`` may be written by a hostile server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import EventId, RoomId, UserId, parse_event_id, parse_room_id, parse_user_id
from mxrtc_bridge.core.text.foreign_json import list_inside

MAX_TYPE_CHARS = 255
"""Limit for ``type`` and ``state_key`` (client-server API, "Size limits")."""
MAX_INVITE_STATE = 64
"""Stripped state events kept of an invite; the specification recommends fewer than ten."""
MAX_PAYLOAD_CHARS = 512 * 1024
"""Limit for an encoded event: a PDU has at most 64 KiB, and ASCII escapes make at most six characters of a byte."""
MAX_TIMESTAMP_MS = 2**53 - 1
"""The largest integer that Matrix JSON may hold (appendices, "Canonical JSON")."""


_ENCODE = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
"""Made once: ``json.dumps`` would make one for each event."""


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """One event of a room as the homeserver passed it on."""

    event_id: EventId
    room_id: RoomId
    type: str
    sender: UserId
    origin_server_ts: int
    """Milliseconds since 1970, 0 for what is no time; claimed by the sender's server, so never trusted alone."""
    content: Mapping[str, Any] = field(repr=False)
    """Not judged yet; hidden from ``repr`` because it may hold SDP and addresses."""
    state_key: str | None = None
    """None for an event that is not state."""
    invite_room_state: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Stripped state that came with an invite: each item has ``type``, ``state_key`` and ``content``, nothing else."""


def parse_room_event(raw: object, *, room_id: RoomId | None = None) -> RoomEvent:
    """Return ``raw`` (parsed JSON) as an event.

    Args:
        raw: what stood in a transaction or in a sync response.
        room_id: the room, for sources that name it elsewhere (sync); then ``raw`` needs no ``room_id``.

    Raises:
        EventError: the envelope is not that of a room event, or a field of it exceeds its limit.
    """
    if not isinstance(raw, dict):
        raise EventError(RefusalCode.BAD_EVENT, f"an event must be an object, not {type(raw).__name__}")
    content = raw.get("content")
    return RoomEvent(
        event_id=parse_event_id(raw.get("event_id")),
        room_id=room_id if room_id is not None else parse_room_id(raw.get("room_id")),
        type=_parse_text("type", raw.get("type")),
        sender=parse_user_id(raw.get("sender")),
        origin_server_ts=_parse_timestamp(raw.get("origin_server_ts")),
        content=content if isinstance(content, dict) else {},
        state_key=_parse_text("state_key", raw["state_key"]) if "state_key" in raw else None,
        invite_room_state=_parse_invite_state(raw.get("unsigned")),
    )


def encode(event: RoomEvent) -> str:
    """Return the event as ASCII JSON that :func:`decode` reads.

    Raises:
        EventError: it would be longer than :data:`MAX_PAYLOAD_CHARS`, or cannot be written as JSON.
    """
    raw: dict[str, Any] = {
        "event_id": event.event_id,
        "room_id": event.room_id,
        "type": event.type,
        "sender": event.sender,
        "origin_server_ts": event.origin_server_ts,
        "content": event.content,
    }
    if event.state_key is not None:
        raw["state_key"] = event.state_key
    if event.invite_room_state:
        raw["unsigned"] = {"invite_room_state": list(event.invite_room_state)}
    try:
        # Escapes keep lone surrogates and NUL away from the database, which would refuse both.
        text = _ENCODE(raw)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError(RefusalCode.BAD_EVENT, f"the event cannot be written as JSON: {error}") from error
    if len(text) > MAX_PAYLOAD_CHARS:
        raise EventError(
            RefusalCode.TOO_LARGE, f"the event has {len(text)} characters; the limit is {MAX_PAYLOAD_CHARS}"
        )
    return text


def decode(text: str) -> RoomEvent:
    """Return the event that :func:`encode` has written.

    Raises:
        EventError: the text is damaged.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EventError(RefusalCode.BAD_EVENT, "the stored event is not JSON") from error
    return parse_room_event(raw)


def _parse_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise EventError(RefusalCode.BAD_EVENT, f"{name} must be a string, not {type(value).__name__}")
    if len(value) > MAX_TYPE_CHARS:
        raise EventError(RefusalCode.BAD_EVENT, f"{name} has {len(value)} characters; the limit is {MAX_TYPE_CHARS}")
    return value


def _parse_timestamp(value: object) -> int:
    # Nothing that asks for a fresh event takes one of 1970, nor one of a far future.
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), MAX_TIMESTAMP_MS)


def _parse_invite_state(unsigned: object) -> tuple[Mapping[str, Any], ...]:
    """Keep the well-formed stripped events; what is odd there is left out, as if it had not been sent."""
    return tuple(
        {"type": item["type"], "state_key": item["state_key"], "content": item["content"]}
        for item in list_inside(unsigned, "invite_room_state")[:MAX_INVITE_STATE]
        if isinstance(item, dict)
        and _is_short_text(item.get("type"))
        and _is_short_text(item.get("state_key"))
        and isinstance(item.get("content"), dict)
    )


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TYPE_CHARS
