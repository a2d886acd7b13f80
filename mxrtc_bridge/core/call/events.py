"""Call events as frozen values, and the limits that they keep.

Covers the Matrix specification's "Voice over IP" module, version 0 and "1". A value of these types has passed
:func:`mxrtc_bridge.core.call.codec.parse_message` or was made by us; nobody behind that border checks it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.crypto.records import CallerDevice
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, UserId
from mxrtc_bridge.core.webrtc.sdp import DescriptionType

MIN_LIFETIME_MS = 10_000
MAX_LIFETIME_MS = 120_000
"""A lifetime outside these bounds is moved to the nearer one: it is a wish of the caller, and it holds our memory."""

DEFAULT_LIFETIME_MS = 60_000
"""Lifetime of a version 0 invite that names none; also what Element sends."""

MAX_REASON_CHARS = 64
"""A reason is shown and logged, never interpreted beyond the words of the specification."""


class Version(Enum):
    """Version of the call protocol; anything unknown counts as 1, as the specification says."""

    V0 = 0
    V1 = 1


@dataclass(frozen=True, slots=True)
class _Message:
    """What every message of a call has."""

    call_id: CallId
    party_id: PartyId | None
    version: Version


@dataclass(frozen=True, slots=True)
class Invite(_Message):
    """``m.call.invite``."""

    sdp: str
    lifetime_ms: int
    invitee: UserId | None = None
    fault: RefusalCode | None = None
    """What is wrong with the rest, which then counts for nothing: the call is only to be refused, with this reason."""
    fault_text: str = field(default="", compare=False)
    """The same as a sentence for the admin."""


@dataclass(frozen=True, slots=True)
class Answer(_Message):
    """``m.call.answer``."""

    sdp: str


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """One entry of ``m.call.candidates``: the candidate attribute as text, not yet judged."""

    candidate: str
    mid: str | None = None
    m_line_index: int | None = None


@dataclass(frozen=True, slots=True)
class Candidates(_Message):
    """``m.call.candidates``; ``end`` is set when the batch holds the end-of-candidates mark."""

    candidates: tuple[CandidateLine, ...]
    end: bool = False


@dataclass(frozen=True, slots=True)
class SelectAnswer(_Message):
    """``m.call.select_answer``."""

    selected_party_id: PartyId | None


@dataclass(frozen=True, slots=True)
class Reject(_Message):
    """``m.call.reject``; ``reason`` is not in the specification but clients read it."""

    reason: str | None = None
    limit: str | None = None
    """Beside ``user_busy``, between programs of ours: which limit is reached, and its number (``calls_per_user 4``)."""


@dataclass(frozen=True, slots=True)
class Hangup(_Message):
    """``m.call.hangup``; any reason of another client is kept as text."""

    reason: str = "user_hangup"


@dataclass(frozen=True, slots=True)
class Negotiate(_Message):
    """``m.call.negotiate``: a new offer or answer within a call."""

    type: DescriptionType
    sdp: str
    lifetime_ms: int


CallMessage = Invite | Answer | Candidates | SelectAnswer | Reject | Hangup | Negotiate

EVENT_TYPES: Mapping[str, type[CallMessage]] = MappingProxyType(
    {
        "m.call.invite": Invite,
        "m.call.answer": Answer,
        "m.call.candidates": Candidates,
        "m.call.select_answer": SelectAnswer,
        "m.call.reject": Reject,
        "m.call.hangup": Hangup,
        "m.call.negotiate": Negotiate,
    }
)
"""The event types that carry a call; iterating gives their names, in the order of a call."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """A call message together with what the homeserver vouches for."""

    route: CallRoute
    event_id: EventId
    sender: UserId
    sent_at_ms: int
    """``origin_server_ts``: claimed by the sender's server, so never trusted alone."""
    message: CallMessage
    device: CallerDevice | None = None
    """Which device has sent it; None where it came in plain text, so that only the homeserver vouches for it."""
