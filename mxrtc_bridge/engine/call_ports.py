"""What calls ask the rest of the bridge: rights, who is in a room, and that it is written down.

All in one file, because all of it is asked anew at each use: a session that ran in another process would ask the same.
What calls send and keep is in :mod:`mxrtc_bridge.engine.ports`, as the user's side has it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core.access.policy import Decision
from mxrtc_bridge.core.access.targets import FilesTarget, Target
from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.files.messages import NO_FILES, NO_INBOX, NO_SHARE, Get, Job, Ls
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.engine.control_channel import Expiries, Listing
from mxrtc_bridge.engine.session import Session


class Auditor(Protocol):
    """Keeps what was decided about calls, and how they ended."""

    async def call_decided(self, session: Session, *, allowed: bool, rule: str) -> bool:
        """Write a decision down; False if that failed, and then nobody must be let in."""
        ...

    def session_ended(self, session: Session, reason: str) -> None:
        """Write down, soon, that a session that was let in has ended."""
        ...


class RoomMembers(Protocol):
    """What the manager must know about rooms."""

    def members(self, route: CallRoute) -> frozenset[UserId] | None:
        """The joined members of a room or the users of two devices; None for a room in which no peer is."""
        ...

    def is_own(self, user: UserId) -> bool:
        """Whether ``user`` is one of the bridge's own virtual users."""
        ...


class CallRights(Protocol):
    """Who may call whom, by the rules in force at the moment of asking."""

    def may_call(self, user: UserId, local: UserId) -> Decision: ...

    async def confirm(self, user: UserId, local: UserId) -> bool:
        """Make sure that :meth:`may_call` knows all that it must, for a new call; False if that is not possible now."""
        ...

    def next_change_s(self) -> float | None:
        """In how many seconds a right ends by itself; None if none does."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceGrant:
    """A service that the caller may use now."""

    target: Target | FilesTarget
    raw: bool
    max_streams: int = 64
    """Streams of this service that one session may have open."""
    idle_s: float | None = None
    """A stream without traffic for so long is reset; None for never."""
    rule: str = ""
    """By which it is allowed; for the audit, never for the caller."""

    def allows(self, job: Job) -> bool:
        """Whether this is a directory that the job can be done with."""
        if not isinstance(self.target, FilesTarget):
            return False
        return self.target.direction.sends if isinstance(job, Get | Ls) else self.target.direction.receives

    def refusal(self, job: Job) -> str:
        """Return what a job that this is not for is told."""
        if not isinstance(self.target, FilesTarget):
            return NO_FILES
        return NO_SHARE if isinstance(job, Get | Ls) else NO_INBOX


class ServiceGate(Protocol):
    """Decides about the services of one peer for one user, by the rules in force at the time of asking."""

    def open(self, service: ServiceName) -> ServiceGrant | None:
        """The service if the user may use it; None says nothing about whether it exists."""
        ...

    def listing(self) -> Listing:
        """All that this user may see from here."""
        ...

    def expiries(self) -> Expiries:
        """When what the listing has ends by itself."""
        ...

    def kind(self, peer: UserId, service: ServiceName) -> ServiceKind | None:
        """What a service that the listing has is for."""
        ...

    async def recorded(self, service: ServiceName, rule: str) -> bool:
        """Write down that the service is used, by which rule; False if that failed, and then it must not be."""
        ...

    def refused(self, service: ServiceName) -> None:
        """Write down, soon, that the service was asked for and denied."""
        ...
