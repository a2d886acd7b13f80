"""The configuration as the engine asks it: who may call whom, who may use what, where it leads.

Every answer is by the configuration in force at the moment of asking, so a reload needs nothing but a new one.
"""

from __future__ import annotations

from collections.abc import Callable

from mxrtc_bridge.config import Config
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.policy import Allow, Decision, Deny
from mxrtc_bridge.engine.acceptor import Grant
from mxrtc_bridge.engine.control_link import Listing


class Rights:
    """The rules in force."""

    def __init__(self, config: Config, wall_ms: Callable[[], int]) -> None:
        self.config = config
        self._wall_ms = wall_ms

    def may_call(self, user: UserId, local: UserId) -> Decision:
        """Whether ``user`` may call ``local``: a peer with a service for them, or the bot with any service at all.

        Admins may talk to the bot without any service.
        """
        now_ms = self._wall_ms()
        policy = self.config.policy()
        if local != self.config.appservice.bot:
            return policy.peer_access(user, local, now_ms)
        if self.is_admin(user):
            return Allow("admin")
        return Allow("directory") if policy.services_for(user, now_ms) else Deny("no grant")

    def is_admin(self, user: UserId) -> bool:
        """Whether ``user`` may give commands to the bridge: said by the configuration alone."""
        return user in self.config.admins

    def next_change(self) -> int | None:
        """When the next grant ends by itself, in milliseconds of the wall clock."""
        return self.config.policy().next_change(self._wall_ms())

    def gate(self, local: UserId, user: UserId) -> Gate:
        """What ``user`` may use in a session with ``local``."""
        return Gate(self, local, user)

    def grant(self, user: UserId, peer: UserId, service: ServiceName) -> Grant | None:
        """The service, if ``user`` may use it now."""
        if isinstance(self.config.policy().service_access(user, peer, service, self._wall_ms()), Deny):
            return None
        settings = self.config.service(peer, service)
        if settings is None:
            return None
        return Grant(settings.target, settings.raw, settings.max_streams, settings.idle_s)

    def listing(self, user: UserId, local: UserId) -> Listing:
        """The services of ``local`` for ``user``; of all peers where ``local`` is the bot."""
        everything = self.config.policy().services_for(user, self._wall_ms())
        wanted = everything if local == self.config.appservice.bot else {local: everything.get(local, ())}
        return [
            (peer, tuple(name for name in services if self.config.service(peer, name) is not None))
            for peer, services in sorted(wanted.items())
        ]


class Gate:
    """:class:`mxrtc_bridge.engine.links.ServiceGate` of one session."""

    def __init__(self, rights: Rights, local: UserId, user: UserId) -> None:
        self._rights = rights
        self._local = local
        self._user = user

    def open(self, service: ServiceName) -> Grant | None:
        return self._rights.grant(self._user, self._local, service)

    def listing(self) -> Listing:
        return self._rights.listing(self._user, self._local)
