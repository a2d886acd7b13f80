"""The words of the call machine: roles, states, outcomes, events and effects.

Only values; what follows from them is decided in :mod:`mxrtc_bridge.core.call.machine` and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import get_args

from mxrtc_bridge.core.call.events import EVENT_TYPES, CallMessage, CandidateLine, Invite
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.candidate import Candidate

CALL_LIFETIME_MS = 90_000
"""How long an invite of ours may ring (the specification recommends at least this), and the longest that we let a
call of somebody else stay unanswered."""

SETUP_TIMEOUT_S = 30.0
"""From both descriptions to a connection, and for making an offer."""


class CallRole(Enum):
    """Which end of the call we are."""

    CALLER = "caller"
    CALLEE = "callee"


class CallState(Enum):
    """Where a call is; the value is a description in one line."""

    IDLE = "nothing has happened yet"
    ADMITTING = "callee: an invite came, and its right, quota and description are being checked"
    ANSWERING = "callee: the invite is admitted, and our answer is being made"
    OFFERING = "caller: our offer is being made"
    INVITING = "caller: our invite was sent, and nobody has answered it"
    CONNECTING = "both descriptions are known, and ICE, DTLS and SCTP are coming up"
    CONNECTED = "the peer connection is up"
    ENDED = "the call is over, for good"


class CallOutcome(Enum):
    """How a call ended."""

    LOCAL_HANGUP = "our side hung up"
    REMOTE_HANGUP = "the other side hung up"
    REFUSED = "we refused the invite"
    REJECTED = "the other side rejected our invite"
    ANSWERED_ELSEWHERE = "the caller selected another party"
    TIMED_OUT = "a deadline passed"
    FAILED = "the peer connection or the signalling failed"
    MEMBER_LEFT = "the other side is not in the room any more"


# Events


@dataclass(frozen=True, slots=True)
class Remote:
    """A call message came from the room; ``sender`` is the one that the homeserver vouches for."""

    sender: UserId
    message: CallMessage


@dataclass(frozen=True, slots=True)
class PlaceCall:
    """Begin the call (caller)."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """All checks of the invite passed; answers :class:`Admit`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A check of the invite failed; answers :class:`Admit`."""

    reason: str | None
    """Told to the caller as it is, so it must not say what exists; None says nothing."""

    limit: str | None = None
    """Which limit is reached, with its number."""


@dataclass(frozen=True, slots=True)
class OfferReady:
    """Our offer is made; answers :class:`CreateOffer`."""

    sdp: str


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """Our answer is made; answers :class:`CreateAnswer`."""

    sdp: str


@dataclass(frozen=True, slots=True)
class CandidatesFound:
    """Candidates of ours that are not in the description that went out, from servers that answer late."""

    lines: tuple[CandidateLine, ...]
    """None where it turns out that those before were the last."""
    end: bool = False
    """Whether no more follow, which is said with them (RFC 8838, section 13)."""


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A message could not be sent, or a request to the homeserver that the call needs has failed, for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The peer connection is up; answers :class:`Connect`."""


@dataclass(frozen=True, slots=True)
class TransportFailed:
    """The peer connection could not be made, did not come up, or has ended; ``reason`` is a short word for the log."""

    reason: str
    by_peer: bool = False
    """Whether the other side has ended it in order: its hang-up, which goes by the homeserver, is still on its way."""
    lack: str | None = None
    """What our machine has no more of: the other side has done nothing wrong, and is told so."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Our side wants to end the call; ``reason`` goes into the message."""

    reason: str = "user_hangup"
    later: str | None = None
    """Why a caller who has no answer yet may call again: it is told as the limit of a reject that says busy."""


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """One of the two has left the room, or was banned: nothing that we send would be read."""


@dataclass(frozen=True, slots=True)
class CallTick:
    """Time has passed; sent at the latest when the deadline has come."""


_Step = PlaceCall | Admitted | Refused | OfferReady | AnswerReady | CandidatesFound | Connected
_End = SendFailed | TransportFailed | HangUp | MemberLeft | CallTick
Event = Remote | _Step | _End

Kind = type[Event] | type[CallMessage]
"""What the tables of the machine are indexed by: the class of a local event, or of a message of the other side."""

LOCAL_KINDS: tuple[Kind, ...] = get_args(_Step | _End)
REMOTE_KINDS: tuple[Kind, ...] = tuple(EVENT_TYPES.values())


# Effects


@dataclass(frozen=True, slots=True)
class Admit:
    """Check this invite: right, quota, description; answer with :class:`Admitted` or :class:`Refused`."""

    invite: Invite


@dataclass(frozen=True, slots=True)
class CreateOffer:
    """Make a peer connection and an offer; answer with :class:`OfferReady`."""


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    """Make a peer connection for the offer ``sdp`` and an answer; :class:`AnswerReady` follows."""

    sdp: str


@dataclass(frozen=True, slots=True)
class SendCallEvent:
    """Send ``message``; ``step`` names it within the call, so that sending it again is the same transaction."""

    message: CallMessage
    step: str


@dataclass(frozen=True, slots=True)
class ApplyAnswer:
    """Give the answer ``sdp`` to the peer connection that made our offer."""

    sdp: str


@dataclass(frozen=True, slots=True)
class AddCandidates:
    """Give remote candidates to the peer connection; never empty, never before a remote description."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Connect:
    """Bring the peer connection up; answer with :class:`Connected` or :class:`TransportFailed`."""


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """End the peer connection; comes exactly once in a call that had one."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over: the last effect of every call, exactly once."""

    outcome: CallOutcome
    reason: str
    """A short word, from us or from the other side; what came from there is printable and at most 64 characters."""

    limit: str | None = None
    """Which limit of the other side is reached, in its words."""


Effect = (
    Admit | CreateOffer | CreateAnswer | SendCallEvent | ApplyAnswer | AddCandidates | Connect | ClosePeer | CallEnded
)


@dataclass(frozen=True, slots=True)
class CallCounts:
    """What a call left aside without a word; only numbers, for metrics and the log."""

    foreign_messages: int = 0
    """Messages of other users, other parties or other calls, and our own as the room echoes them."""
    dropped_candidates: int = 0
    """Remote candidates that are of no use, or beyond the bound of the call."""
    waiting_candidates: int = 0
    """Remote candidates that wait until it is known whether their party is the one."""
    ignored_negotiates: int = 0
    """Renegotiations, ICE restarts among them, that we cannot serve."""
