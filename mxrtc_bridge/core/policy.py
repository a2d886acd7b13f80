"""Who may use what: default deny, grants only add, ``deny`` comes first.

Evaluation: deny list, then the union of all grants that match user, service and time. Pure: the configuration
is turned into a :class:`Policy` elsewhere, and a new one replaces it at each reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mxrtc_bridge.core.ids import ServiceName, UserId


@dataclass(frozen=True, slots=True)
class Service:
    """A named service of a peer, as the policy sees it."""

    peer: UserId
    name: ServiceName


@dataclass(frozen=True, slots=True)
class Allow:
    """The request is allowed; ``rule`` names the grant that decides."""

    rule: str


@dataclass(frozen=True, slots=True)
class Deny:
    """The request is refused; ``rule`` is for the admin only, never for the user."""

    rule: str


Decision = Allow | Deny


class Policy:
    """The rules in force."""

    def peer_access(self, user: UserId, peer: UserId, now_ms: int) -> Decision:
        """Decide whether ``user`` may call ``peer`` at all: only if some service of it is granted."""
        raise NotImplementedError

    def service_access(self, user: UserId, peer: UserId, service: str, now_ms: int) -> Decision:
        """Decide whether ``user`` may use ``service`` of ``peer``; an unknown service is denied like any other."""
        raise NotImplementedError

    def services_for(self, user: UserId, now_ms: int) -> Mapping[UserId, tuple[ServiceName, ...]]:
        """All that ``user`` may use, by peer, sorted."""
        raise NotImplementedError

    def next_change(self, now_ms: int) -> int | None:
        """The next time at which a grant ends by itself, in milliseconds, or None."""
        raise NotImplementedError


__all__ = ["Allow", "Decision", "Deny", "Iterable", "Policy", "Service"]
