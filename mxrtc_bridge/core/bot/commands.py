"""What a person has asked for in a chat, as frozen values; :mod:`~mxrtc_bridge.core.bot.parser` reads them."""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.access.policy import Subject
from mxrtc_bridge.core.ids import ServiceName, UserId


@dataclass(frozen=True, slots=True)
class Help:
    """Explain the commands, or one of them."""

    topic: str | None = None


@dataclass(frozen=True, slots=True)
class ListPeers:
    """What the sender may use; for admins with ``everything``, all that there is."""

    everything: bool = False


@dataclass(frozen=True, slots=True)
class OpenPeer:
    """Have a peer invite the sender to a direct chat."""

    peer: UserId


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """The sender's live sessions, grants with an end, and open requests."""


@dataclass(frozen=True, slots=True)
class ShowHow:
    """Lines to paste into a terminal."""

    peer: UserId
    service: ServiceName | None


@dataclass(frozen=True, slots=True)
class RequestAccess:
    """Ask the admins for a service."""

    peer: UserId
    service: ServiceName
    for_s: int | None = None
    """Seconds asked for; None: what is usual here."""
    because: str = ""


@dataclass(frozen=True, slots=True)
class WithdrawRequest:
    """Take back an own request."""

    number: int


@dataclass(frozen=True, slots=True)
class CloseSessions:
    """End the sender's live sessions, or those with one peer."""

    peer: UserId | None = None


@dataclass(frozen=True, slots=True)
class ListGrants:
    """All grants that are in force."""

    page: int = 1


@dataclass(frozen=True, slots=True)
class GiveGrant:
    """Give a right that ends by itself."""

    subject: Subject
    peer: UserId
    service: ServiceName
    for_s: int
    because: str = ""


@dataclass(frozen=True, slots=True)
class RevokeGrant:
    """Take back a grant by its id."""

    grant: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class RevokeAccess:
    """Take back all grants of a subject, or those for one service."""

    subject: Subject
    peer: UserId | None = None
    service: ServiceName | None = None
    because: str = ""


@dataclass(frozen=True, slots=True)
class ListSessions:
    """All live sessions."""

    page: int = 1


@dataclass(frozen=True, slots=True)
class KickSession:
    """End a session by its id."""

    session: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class KickUser:
    """End all sessions of a user."""

    user: UserId
    because: str = ""


@dataclass(frozen=True, slots=True)
class ShowLog:
    """Decisions and session ends, newest first."""

    user: UserId | None = None
    peer: UserId | None = None
    since_s: int | None = None
    """How far back, in seconds."""
    page: int = 1


@dataclass(frozen=True, slots=True)
class CheckBridge:
    """Whether everything works."""


@dataclass(frozen=True, slots=True)
class ReloadConfig:
    """Read the configuration again."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Take no new sessions."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Take new sessions again."""


@dataclass(frozen=True, slots=True)
class ListRequests:
    """The requests that wait for an answer."""


@dataclass(frozen=True, slots=True)
class AllowRequest:
    """Allow a request, for one session or for a time (None: the time that was asked for)."""

    number: int
    once: bool = False
    for_s: int | None = None


@dataclass(frozen=True, slots=True)
class DenyRequest:
    """Refuse a request."""

    number: int
    because: str = ""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Answer a question of the bridge: yes, that was meant."""

    number: int


Command = (
    Help
    | ListPeers
    | OpenPeer
    | ShowStatus
    | ShowHow
    | RequestAccess
    | WithdrawRequest
    | CloseSessions
    | ListGrants
    | GiveGrant
    | RevokeGrant
    | RevokeAccess
    | ListSessions
    | KickSession
    | KickUser
    | ShowLog
    | CheckBridge
    | ReloadConfig
    | Pause
    | Resume
    | ListRequests
    | AllowRequest
    | DenyRequest
    | Confirm
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """Words that are no command; all three are sentences or commands for the person, without anything unsafe."""

    problem: str
    usage: str | None = None
    """The form of the command that was probably meant."""
    suggestion: str | None = None
    """The nearest command."""


@dataclass(frozen=True, slots=True)
class Names:
    """What short names of peers are completed with."""

    server: str
    prefix: str = "rtc_"
