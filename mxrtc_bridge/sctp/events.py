"""What an association tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Established:
    """Payload may flow.

    Attributes:
        outbound_streams: how many streams we may send on.
        inbound_streams: how many the other side may send on.
        interleaving: I-DATA is used in both directions.
    """

    outbound_streams: int
    inbound_streams: int
    interleaving: bool


class MessageReceived(NamedTuple):
    """One whole message; its size stays charged to the window until ``consumed`` is called for it."""

    stream: int
    ppid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The other side ended what it sends on a stream (RFC 6525); all its messages came before this."""

    stream: int


@dataclass(frozen=True, slots=True)
class ResetDone:
    """Our reset of an outgoing stream is carried out, or was refused; its number may be used again."""

    stream: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class StreamSilent:
    """The other side has not ended what it sends on a stream, although that was waited for."""

    stream: int


@dataclass(frozen=True, slots=True)
class SendSpace:
    """What waits on all streams together fell to the mark of the association, or below."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The association is over; no more events follow.

    Attributes:
        code: ``closed``, ``aborted`` (by the other side), ``local`` (by us), ``violation``, ``timeout``, ``refused``.
        reason: a sentence for a person; what the other side said is in it as escaped ASCII.
    """

    code: str
    reason: str


Event = Established | MessageReceived | StreamReset | ResetDone | StreamSilent | SendSpace | Ended
