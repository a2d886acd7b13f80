"""The rules as the engine asks for them: who may call whom, who may use what, where it leads.

Every answer is by the configuration, the given grants and the members of rooms at the moment of asking, so that a
change of any of them needs nothing but to judge live sessions again.

Policy lists are asked last, and only about users who would otherwise be let in: a list can be long, and anybody can
invent user ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from copy import copy

from mxrtc_bridge.bridge.access.configured_rooms import ConfiguredRooms
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.audit.events import ServiceAudit
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.clock_change import SteadyTime
from mxrtc_bridge.core.access.grants import Claimant, StoredGrant
from mxrtc_bridge.core.access.policy import Allow, Decision, Deny, Service, subjects_of
from mxrtc_bridge.core.bot.recipes import kind_of
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId, folded
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.engine.call_ports import ServiceGrant
from mxrtc_bridge.engine.clock import Clock, moment_of
from mxrtc_bridge.engine.control_channel import Expiries, Listing


class Rights:
    """The rules in force.

    Args:
        config: what the admin has written down.
        rooms: who is in the rooms that rules name, and whom policy lists deny.
        given: the grants that people have given; none before the database was read.
        clock: where time comes from.
    """

    def __init__(
        self,
        config: CurrentConfig,
        rooms: ConfiguredRooms,
        given: RuntimeGrants,
        clock: Clock,
    ) -> None:
        self._config = config
        self._rooms = rooms
        self._rooms_of: Callable[[UserId], Collection[RoomId]] = rooms.rooms_of
        self.given = given
        self._clock = clock
        # One for all configurations: a reload after the clock was set back must not bring back what has ended.
        self._steady = SteadyTime(moment_of(self._clock))

    def may_call(self, user: UserId, local: UserId) -> Decision:
        """Whether ``user`` may call ``local``: a peer with a service for them, or the bot with any service at all.

        Admins may talk to the bot without any service.
        """
        if local != self._config.in_force.appservice.bot:
            return self._peer_access(user, local)
        if self.is_admin(user):
            return Allow("admin")
        if (denied := self._config.in_force.policy().denial(user)) is not None:
            return denied
        if self._all_services(user):
            return self._unless_listed(user, Allow("directory"))
        # Somebody must be there to ask.
        return self._unless_listed(user, Allow("may ask")) if self._could_be_given(user) else Deny("no grant")

    def allows(self, user: UserId, local: UserId) -> bool:
        """Whether :meth:`may_call` says so now."""
        return isinstance(self.may_call(user, local), Allow)

    async def confirm(self, user: UserId, local: UserId) -> bool:
        """Make sure that what :meth:`may_call` says about ``user`` from now on is true where it is so by a room.

        Returns:
            False if it would let ``user`` in only by rooms of which it cannot be found out now who is in them.
        """
        if self.denial(user) is not None or self._without_rooms().allows(user, local):
            return True
        return await self.confirm_member(user)

    async def confirm_member(self, user: UserId) -> bool:
        """Make sure which rooms ``user`` is in, of those that rules name; False if that cannot be found out now."""
        rooms = frozenset(self._rooms_of(user))
        # Perhaps they have joined just now: then the answer is waited for, and without one they are not in.
        await self._rooms.confirm(frozenset(self._rooms.doubtful()) - rooms)
        return await self._rooms.confirm(rooms)

    def _without_rooms(self) -> Rights:
        """The same rules for somebody who is in no room."""
        twin = copy(self)
        twin._rooms_of = lambda _user: ()
        return twin

    def denial(self, user: UserId) -> Deny | None:
        """Why ``user`` may use nothing, whatever is granted: by the configuration or a policy list; else None."""
        return self._config.in_force.policy().denial(user) or self._listed(user)

    def is_admin(self, user: UserId) -> bool:
        """Whether ``user`` may give commands to the bridge: said by the configuration alone.

        A policy list takes away services only: whoever keeps one must not be able to disarm the admins.
        """
        return folded(user) in self._config.in_force.admins and self._config.in_force.policy().denial(user) is None

    def has_any(self, user: UserId) -> bool:
        """Whether ``user`` may use anything here, or is an admin."""
        return self.is_admin(user) or bool(self._services(user))

    def may_ask(self, user: UserId, peer: UserId, service: ServiceName) -> bool:
        """Whether ``user`` could be given this service, and so may ask for it."""
        return self._covers(user, peer, service) and self.denial(user) is None

    def could_ask_for_anything(self, user: UserId) -> bool:
        """Whether there is any service that ``user`` could be given."""
        return self._could_be_given(user) and self.denial(user) is None

    def to_ask_for(self, user: UserId) -> Listing:
        """The services that ``user`` is shown as what they may ask for; those that they may use are not among them."""
        config = self._config.in_force
        if config.rooms.admin is None or not self.could_ask_for_anything(user):
            return []  # where admins have no room, nobody can be asked
        subjects, has = subjects_of(user, self._rooms_of(user)), self._services(user)
        found = []
        for peer in sorted(config.peers.values(), key=lambda each: each.user_id):
            names = [
                name
                for name, each in sorted(peer.services.items())
                if each.listed and name not in has.get(peer.user_id, ()) and not each.grantable_to.isdisjoint(subjects)
            ]
            if names:
                found.append((peer.user_id, tuple(names)))
        return found

    def given_to(self, user: UserId) -> list[StoredGrant]:
        """The given grants by which ``user`` may use something now."""
        found = list(self._matching(user, self._rooms_of(user), any_session=True))
        return found if found and self.denial(user) is None else []

    def next_change_s(self) -> float | None:
        """In how many seconds the next grant ends by itself, if nobody sets the clock; None if none does."""
        now_ms = self._steady_ms()
        change = self._config.in_force.policy().next_change(now_ms)
        waits = [None if change is None else (change - now_ms) / 1000]
        waits.append(self.given.next_end_s())
        return min((wait for wait in waits if wait is not None), default=None)

    def gate(self, local: UserId, user: UserId, audit: ServiceAudit) -> Gate:
        """What ``user`` may use in a session with ``local``, and where that is written down."""
        return Gate(self, local, user, audit)

    def decide(
        self, user: UserId, peer: UserId, service: ServiceName, claimant: Claimant | None = None
    ) -> tuple[Decision, StoredGrant | None]:
        """Whether ``user`` may use a service now, and the given grant by which they do, if it is one."""
        rooms = self._rooms_of(user)
        decision = self._config.in_force.policy().service_access(user, peer, service, self._steady_ms(), rooms)
        return self._or_given(user, decision, self._matching(user, rooms, claimant, peer=peer, service=service))

    def grant(
        self, user: UserId, peer: UserId, service: ServiceName, claimant: Claimant | None = None
    ) -> ServiceGrant | None:
        """The service, if ``user`` may use it now; a grant for one session is claimed by that."""
        decision, given = self.decide(user, peer, service, claimant)
        settings = self._config.in_force.service(peer, service)
        if isinstance(decision, Deny) or settings is None:
            return None
        if given is not None and claimant is not None:
            self.given.claimed(given, claimant)
        return ServiceGrant(settings.target, settings.raw, settings.max_streams, settings.idle_s, decision.rule)

    def listing(self, user: UserId, local: UserId) -> Listing:
        """The services of ``local`` for ``user``; of all peers where ``local`` is the bot."""
        everything = self._services(user)
        wanted = everything if local == self._config.in_force.appservice.bot else {local: everything.get(local, ())}
        return [
            (peer, tuple(name for name in services if self._config.in_force.service(peer, name) is not None))
            for peer, services in sorted(wanted.items())
        ]

    def expiries(self, user: UserId, local: UserId) -> Expiries:
        """When what :meth:`listing` has ends by itself; what has no end is left out."""
        rooms, now_ms = self._rooms_of(user), self._steady_ms()
        ends: dict[Service, int | None] = dict(self._config.in_force.policy().ends(user, now_ms, rooms))
        for grant in self.given_to(user):
            so_far = ends.get(grant.service, 0)
            ends[grant.service] = None if so_far is None else max(so_far, grant.until_ms)
        everything = local == self._config.in_force.appservice.bot
        return {
            (service.peer, service.name): end
            for service, end in ends.items()
            if end is not None and (everything or service.peer == local)
        }

    def kind(self, peer: UserId, service: ServiceName) -> ServiceKind | None:
        """What a service is for, whoever may use it; None if there is none."""
        settings = self._config.in_force.service(peer, service)
        return None if settings is None else kind_of(settings.target)

    def _peer_access(self, user: UserId, peer: UserId) -> Decision:
        rooms = self._rooms_of(user)
        decision = self._config.in_force.policy().peer_access(user, peer, self._steady_ms(), rooms)
        return self._or_given(user, decision, self._matching(user, rooms, any_session=True, peer=peer))[0]

    def _or_given(
        self, user: UserId, decision: Decision, matching: Iterator[StoredGrant]
    ) -> tuple[Decision, StoredGrant | None]:
        """What becomes of a decision of the configuration by the given grants; nothing is given to who is denied."""
        given = None
        if isinstance(decision, Deny) and decision.unless_given:
            given = next(matching, None)
        if given is not None:
            decision = Allow(given.rule)
        decision = self._unless_listed(user, decision)
        return decision, given if isinstance(decision, Allow) else None

    def _listed(self, user: UserId) -> Deny | None:
        rule = self._rooms.denial(user)
        return None if rule is None else Deny(rule)

    def _unless_listed(self, user: UserId, decision: Decision) -> Decision:
        return decision if isinstance(decision, Deny) else self._listed(user) or decision

    def _services(self, user: UserId) -> dict[UserId, tuple[ServiceName, ...]]:
        found = self._all_services(user)
        return found if found and self.denial(user) is None else {}

    def _all_services(self, user: UserId) -> dict[UserId, tuple[ServiceName, ...]]:
        """What is granted to ``user``, denied or not."""
        rooms = self._rooms_of(user)
        granted = self._config.in_force.policy().services_for(user, self._steady_ms(), rooms)
        found = {peer: set(names) for peer, names in granted.items()}
        for grant in self._matching(user, rooms, any_session=True):
            found.setdefault(grant.service.peer, set()).add(grant.service.name)
        return {peer: tuple(sorted(names)) for peer, names in found.items()}

    def _matching(
        self,
        user: UserId,
        rooms: Collection[RoomId],
        claimant: Claimant | None = None,
        *,
        any_session: bool = False,
        peer: UserId | None = None,
        service: ServiceName | None = None,
    ) -> Iterator[StoredGrant]:
        return self.given.table.matching(
            user,
            rooms,
            self._clock.wall_ms(),
            lambda wanted: self._covers(user, wanted.peer, wanted.name),
            claimant,
            any_session=any_session,
            peer=peer,
            service=service,
        )

    def _steady_ms(self) -> int:
        """The time that ends in the configuration are compared with."""
        return self._steady.now_ms(moment_of(self._clock))

    def _could_be_given(self, user: UserId) -> bool:
        return not self._config.in_force.grantable_to.isdisjoint(subjects_of(user, self._rooms_of(user)))

    def _covers(self, user: UserId, peer: UserId, service: ServiceName) -> bool:
        settings = self._config.in_force.service(peer, service)
        return settings is not None and not settings.grantable_to.isdisjoint(subjects_of(user, self._rooms_of(user)))


class Gate:
    """The :class:`~mxrtc_bridge.engine.call_ports.ServiceGate` of one session; grants are claimed for it."""

    def __init__(self, rights: Rights, local: UserId, user: UserId, audit: ServiceAudit) -> None:
        self._rights = rights
        self._local = local
        self._user = user
        self._audit = audit

    def open(self, service: ServiceName) -> ServiceGrant | None:
        return self._rights.grant(self._user, self._local, service, self)

    def listing(self) -> Listing:
        return self._rights.listing(self._user, self._local)

    def expiries(self) -> Expiries:
        return self._rights.expiries(self._user, self._local)

    def kind(self, peer: UserId, service: ServiceName) -> ServiceKind | None:
        return self._rights.kind(peer, service)

    async def recorded(self, service: ServiceName, rule: str) -> bool:
        given = self._rights.given
        # What is for one session must not be there for another one after a restart.
        if given.table.claimed_by(self) and not await given.claim_written(self):
            return False
        return await self._audit.used(service, rule)

    def refused(self, service: ServiceName) -> None:
        decision, _ = self._rights.decide(self._user, self._local, service, self)
        # Where there is a right, it is the way of using the service that does not fit.
        self._audit.denied(service, decision.rule if isinstance(decision, Deny) else "not in this way")

    def over(self, release: Callable[[Claimant], None]) -> None:
        """The session is over: write down how often it has used what, and give back the grants that it has claimed."""
        self._audit.ended()
        release(self)
