"""What an event may take away, read from raw JSON of any form: the news that a right has ended must always arrive.

Only the few fields that say so are looked at, whatever the rest is like: an id, a time, a sender or a content that
nobody could use hides nothing. What these fields themselves do not say clearly makes the room doubtful, and then the
homeserver must be asked; an event that does not even name its room makes all rooms doubtful.

Nothing that is read here may ever give a right. Somebody who has joined, a rule that was taken back: these are reasons
to ask the homeserver, and its answer gives.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.core.access.ban_lists import RULE_TYPES, ListRule, RuleKey, parse_rule
from mxrtc_bridge.core.access.server_acl import ACL_TYPE
from mxrtc_bridge.core.ids import RoomId, UserId


class AmbiguousObject(dict[str, Any]):
    """A JSON object that names a key twice, with what the last one says: others may have read the first one."""


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """Somebody is joined to a room, or is not."""

    room: RoomId
    user: UserId
    """As the homeserver writes it, of any form."""
    joined: bool
    """Whatever is not exactly ``join`` is no membership; for ``invite`` and ``knock`` see :data:`_ASKS`."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A state event of a policy list."""

    room: RoomId
    key: RuleKey
    rule: ListRule | None
    """None where it denies nobody (any more)."""


@dataclass(frozen=True, slots=True)
class EncryptionChange:
    """A room is encrypted, for good."""

    room: RoomId


@dataclass(frozen=True, slots=True)
class RedactionChange:
    """Something in a room was redacted: perhaps a rule."""

    room: RoomId


@dataclass(frozen=True, slots=True)
class AccessListChange:
    """A room perhaps shuts out other servers than before."""

    room: RoomId


@dataclass(frozen=True, slots=True)
class TombstoneChange:
    """A room was replaced by another one."""

    room: RoomId


@dataclass(frozen=True, slots=True)
class UnreadableChange:
    """Something has happened that cannot be read."""

    room: RoomId | None
    """None where it may have been any room."""


News = (
    MembershipChange
    | RuleChange
    | EncryptionChange
    | RedactionChange
    | AccessListChange
    | TombstoneChange
    | UnreadableChange
)

_ASKS = frozenset({"invite", "knock"})
"""Nobody who is joined can be invited or knock (authorization rules, ``m.room.member``), so these end nothing that is
known. Any other homeserver can send an invitation of somebody who is in the room, past the room itself (server-server
API, ``PUT /invite``), and ours hands it on; perhaps it did not hand on that they had left before. So ask."""
_STATE = frozenset({"m.room.member", "m.room.encryption", "m.room.tombstone", ACL_TYPE, *RULE_TYPES})


def read_news(raw: object) -> News | None:
    """Return what ``raw`` (parsed JSON, anything) may take away; None for nothing. Never raises."""
    room = raw.get("room_id") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(room, str):
        return UnreadableChange(None)
    kind, key, content = raw.get("type"), raw.get("state_key"), raw.get("content")
    if not isinstance(kind, str):
        return UnreadableChange(RoomId(room))
    if kind == "m.room.redaction":
        return RedactionChange(RoomId(room))
    if kind not in _STATE:
        return UnreadableChange(RoomId(room)) if isinstance(raw, AmbiguousObject) else None
    if isinstance(raw, AmbiguousObject) or isinstance(content, AmbiguousObject) or not isinstance(key, str):
        return UnreadableChange(RoomId(room))
    return _read_state(RoomId(room), kind, key, content if isinstance(content, dict) else {})


def _read_state(room: RoomId, kind: str, key: str, content: dict[str, Any]) -> News | None:
    if kind == "m.room.member":
        membership = content.get("membership")
        if isinstance(membership, str) and membership in _ASKS:
            return UnreadableChange(room)
        return MembershipChange(room, UserId(key), isinstance(membership, str) and membership == "join")
    if kind in RULE_TYPES:
        return RuleChange(room, (kind, key), parse_rule(kind, content))
    if key:
        return None
    if kind == ACL_TYPE:
        return AccessListChange(room)
    return EncryptionChange(room) if kind == "m.room.encryption" else TombstoneChange(room)
