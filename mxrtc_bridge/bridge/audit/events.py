"""Builds the audit records of what the engine and admins do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord
from mxrtc_bridge.core.ids import Actor, LocalAdmin, ServiceName, UserId
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.session import Session

MAX_DENIED = 32
"""Denied services of one session that are written down; the next one says that there were more."""
MAX_COUNTED = 256
"""Services of one session whose uses are counted, each by each rule; of those beyond each use is written down."""


class AuditEvents:
    """Implements :class:`mxrtc_bridge.engine.call_ports.Auditor`, and has a method for each act of an admin.

    Args:
        recorder: the audit.
        clock: the one that sessions use.
    """

    def __init__(self, recorder: AuditLog, clock: Clock) -> None:
        self.recorder = recorder
        self._clock = clock
        self._wall_ms = clock.wall_ms

    # Sessions

    async def call_decided(self, session: Session, *, allowed: bool, rule: str) -> bool:
        record = replace(self._of_session(AuditKind.CALL, session), allowed=allowed, rule=rule)
        return await self.recorder.record(record)

    def session_ended(self, session: Session, reason: str) -> None:
        _, sent, received = session.links.totals()
        lasted_ms = None
        if session.connected_at is not None:
            lasted_ms = round((self._clock.monotonic() - session.connected_at) * 1000)
        self.recorder.note(
            replace(
                self._of_session(AuditKind.END, session),
                path=None if session.path is None else session.path.kind.value,
                lasted_ms=lasted_ms,
                sent=sent,
                received=received,
                reason=reason,
            )
        )

    def services(self, user: UserId, peer: UserId) -> ServiceAudit:
        """The part that one session with ``peer`` has."""
        return ServiceAudit(self.recorder, self._wall_ms, user, peer)

    # Grants and requests

    async def grant_given(self, grant: StoredGrant) -> bool:
        """A grant is about to count; False if it must not."""
        return await self.recorder.record(self._of_grant(AuditKind.GRANT, grant, grant.giver, grant.reason or None))

    def grant_ended(self, grant: StoredGrant, how: str, by: Actor | None = None) -> None:
        """A grant counts no more."""
        self.recorder.note(self._of_grant(AuditKind.GRANT_END, grant, by, how))

    def asked(self, request: AccessRequest, number: int) -> None:
        """Somebody has asked for access."""
        self.recorder.note(self._of_request(AuditKind.REQUEST, request, number, None, request.because or None))

    def answered(self, request: AccessRequest, outcome: str, by: Actor) -> None:
        """A request was answered, or taken back by the one who asked."""
        self.recorder.note(self._of_request(AuditKind.ANSWER, request, request.number, by, outcome))

    # Admins

    def acted(
        self,
        kind: AuditKind,
        by: Actor,
        *,
        user: UserId | None = None,
        session: int | None = None,
        reason: str | None = None,
    ) -> None:
        """An admin has done something that is no grant."""
        self.recorder.note(
            AuditRecord(kind, self._wall_ms(), by=str(by), user=user, session=session, reason=reason or None)
        )

    def taken_over(self, user: UserId, what: str) -> None:
        """An account or an identity that was there was taken over on the admin's word, given at the start."""
        self.acted(AuditKind.TAKE_OVER, LocalAdmin("start"), user=user, reason=what)

    def verified(self, by: Actor, user: UserId, peer: UserId | None, device: str | None, outcome: str) -> None:
        """An admin has compared what two devices show, or an identity."""
        self.recorder.note(
            AuditRecord(
                AuditKind.VERIFY, self._wall_ms(), by=str(by), user=user, peer=peer, device=device, reason=outcome
            )
        )

    def _of_session(self, kind: AuditKind, session: Session) -> AuditRecord:
        device = None if session.device is None else str(session.device)
        return AuditRecord(
            kind, self._wall_ms(), user=session.remote, peer=session.local, device=device, session=session.number
        )

    def _of_grant(self, kind: AuditKind, grant: StoredGrant, by: Actor | None, reason: str | None) -> AuditRecord:
        return AuditRecord(
            kind,
            self._wall_ms(),
            user=str(grant.subject),
            peer=grant.service.peer,
            service=grant.service.name,
            grant=grant.number,
            until_ms=grant.until_ms,
            by=None if by is None else str(by),
            reason=reason,
        )

    def _of_request(
        self, kind: AuditKind, request: AccessRequest, number: int, by: Actor | None, reason: str | None
    ) -> AuditRecord:
        return AuditRecord(
            kind,
            self._wall_ms(),
            user=request.user,
            peer=request.peer,
            service=request.service,
            request=number,
            by=None if by is None else str(by),
            reason=reason,
        )


class ServiceAudit:
    """Decisions about the services of one peer for one user, in one session.

    The first use of a service is written down before it is allowed; the further ones are counted, and :meth:`ended`
    writes down how many there were: who opens a stream after the other does not order a line with each.
    """

    def __init__(self, recorder: AuditLog, wall_ms: Callable[[], int], user: UserId, peer: UserId) -> None:
        self._recorder = recorder
        self._wall_ms = wall_ms
        self._user = user
        self._peer = peer
        self._denied: set[ServiceName] = set()
        self._uses: dict[tuple[ServiceName, str], int] = {}

    async def used(self, service: ServiceName, rule: str) -> bool:
        """A service is about to be used; False if it must not be."""
        counted = (service, rule) in self._uses
        may = await (
            self._recorder.ready() if counted else self._recorder.record(self._record(service, rule, allowed=True))
        )
        if may and (counted or len(self._uses) < MAX_COUNTED):
            self._uses[service, rule] = self._uses.get((service, rule), 0) + 1
        return may

    def ended(self) -> None:
        """The session is over: write down what was used more than once, with how often."""
        for (service, rule), count in self._uses.items():
            if count > 1:
                self._recorder.note(replace(self._record(service, rule, allowed=True), count=count))
        self._uses.clear()

    def denied(self, service: ServiceName, rule: str) -> None:
        """A service was denied; each is written down once, and not without end."""
        if service in self._denied or len(self._denied) > MAX_DENIED:
            return
        self._denied.add(service)
        if len(self._denied) > MAX_DENIED:
            self._recorder.note(self._record(None, f"and more than {MAX_DENIED} others", allowed=False))
        else:
            self._recorder.note(self._record(service, rule, allowed=False))

    def _record(self, service: ServiceName | None, rule: str, *, allowed: bool) -> AuditRecord:
        return AuditRecord(
            AuditKind.SERVICE,
            self._wall_ms(),
            user=self._user,
            peer=self._peer,
            service=service,
            allowed=allowed,
            rule=rule,
        )
