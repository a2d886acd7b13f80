"""Call events as frozen values: the only reader and the only writer of call content.

Covers the Matrix specification's "Voice over IP" module, version 0 and "1". Content from the room is hostile until
:func:`parse_message` has returned; unknown keys are ignored, known ones are bounded in type, size and count.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId


class Version(Enum):
    """Version of the call protocol; anything unknown counts as 1, as the specification says."""

    V0 = 0
    V1 = 1


class DescriptionType(Enum):
    """The ``type`` of a session description (JSEP, RFC 9429)."""

    OFFER = "offer"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Invite:
    """``m.call.invite``."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    sdp: str
    lifetime_ms: int
    invitee: UserId | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """``m.call.answer``."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    sdp: str


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """One entry of ``m.call.candidates``: the candidate attribute as text, not yet judged."""

    candidate: str
    mid: str | None = None
    m_line_index: int | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """``m.call.candidates``; ``end`` is set when the batch holds the end-of-candidates mark."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    candidates: tuple[CandidateLine, ...]
    end: bool = False


@dataclass(frozen=True, slots=True)
class SelectAnswer:
    """``m.call.select_answer``."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    selected_party_id: PartyId | None


@dataclass(frozen=True, slots=True)
class Reject:
    """``m.call.reject``; ``reason`` is not in the specification but clients read it."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Hangup:
    """``m.call.hangup``; any reason of another client is kept as text."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    reason: str = "user_hangup"


@dataclass(frozen=True, slots=True)
class Negotiate:
    """``m.call.negotiate``: a new offer or answer within a call."""

    call_id: CallId
    party_id: PartyId | None
    version: Version
    type: DescriptionType
    sdp: str
    lifetime_ms: int


CallMessage = Invite | Answer | Candidates | SelectAnswer | Reject | Hangup | Negotiate


@dataclass(frozen=True, slots=True)
class CallEvent:
    """A call message together with what the homeserver vouches for."""

    room_id: RoomId
    event_id: EventId
    sender: UserId
    sent_at_ms: int
    """``origin_server_ts``: claimed by the sender's server, so never trusted alone."""
    message: CallMessage
