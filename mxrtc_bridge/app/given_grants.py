"""The grants that admins give while the bridge runs: in memory for decisions, in the database for good.

A grant is in the database before it counts. One that is taken back counts no more at once, and is written down as
ended before whoever took it back is told so. The ends that come by themselves (the time, the end of the session that a
grant was given for) are written down soon after; should the bridge be killed in between, the next start finds by the
times and claims in the database that they are over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from mxrtc_bridge.app.audited import Audited
from mxrtc_bridge.app.refusals import DeskError
from mxrtc_bridge.config import Config
from mxrtc_bridge.core.clock_change import Deadlines, Moment
from mxrtc_bridge.core.command_text import say_duration
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.grants import (
    MAX_FOR_S,
    MAX_GRANTS,
    MAX_SAME,
    MIN_FOR_S,
    Claimant,
    GrantTable,
    StoredGrant,
    may_be_given,
)
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId, parse_user_id
from mxrtc_bridge.core.policy import Service, Subject, UserSubject
from mxrtc_bridge.core.requests import Request
from mxrtc_bridge.storage.grants import GrantStore

log = logging.getLogger("mxrtc_bridge.grants")

RETRY_S = 5.0
"""After the database did not take what has ended."""


class GrantError(DeskError):
    """A grant cannot be given or taken back; the sentence is for the admin who tried."""


class SettledError(GrantError):
    """The request that a grant was to answer has been answered before."""


class GivenGrants:
    """See the head of this module. :meth:`run` must run for ends to be written down."""

    def __init__(
        self,
        store: GrantStore,
        table: GrantTable,
        *,
        config: Callable[[], Config],
        rooms_of: Callable[[UserId], Collection[RoomId]],
        changed: Callable[[], None],
        audited: Audited,
        wall_ms: Callable[[], int],
        elapsed_ms: Callable[[], int] | None = None,
    ) -> None:
        """Make it; :meth:`load` comes next.

        Args:
            store: the database.
            table: what decisions are made by.
            config: the configuration in force.
            rooms_of: the rooms that a user is joined to, of those that grants name.
            changed: called after each change, to judge live sessions again; must not block.
            audited: where it is written down.
            wall_ms: milliseconds since the epoch.
            elapsed_ms: milliseconds by a clock that nobody sets; without it the wall clock is believed.
        """
        self._store = store
        self._table = table
        self._config = config
        self._rooms_of = rooms_of
        self._changed = changed
        self._audited = audited
        self._wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms or wall_ms
        self._deadlines: Deadlines[int] = Deadlines()
        self._unwritten: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        """Two for each grant at most, so bounded by their number."""

    async def load(self) -> None:
        """Take over what the database holds.

        Raises:
            StorageError: it cannot be read.
        """
        for grant in await self._store.in_force(self._wall_ms()):
            self._add(grant)

    def next_end_s(self) -> float | None:
        """In how many seconds the next grant ends by itself, if nobody sets the clock; None if none does."""
        self._drop_ended()
        left_ms = self._deadlines.next_in_ms(self._moment())
        return None if left_ms is None else left_ms / 1000

    @property
    def table(self) -> GrantTable:
        """What is in force."""
        self._drop_ended()
        return self._table

    async def give(
        self,
        subject: Subject,
        service: Service,
        for_s: int,
        giver: UserId,
        *,
        reason: str = "",
        once: bool = False,
        settles: Request | None = None,
    ) -> StoredGrant:
        """Give a right.

        Args:
            subject: to whom.
            service: what.
            for_s: seconds from now.
            giver: who gives it.
            reason: why, for the record.
            once: for one session only.
            settles: the request that this answers, as it is decided; it is, if and only if the grant is stored.

        Raises:
            SettledError: the request was answered before.
            GrantError: it cannot be given.
            StorageError: the database does not take it.
        """
        config = self._config()
        settings = config.service(service.peer, service.name)
        if settings is None:
            raise GrantError("There is no such service.")
        if not MIN_FOR_S <= for_s <= MAX_FOR_S:
            raise GrantError(f"A grant lasts {say_duration(MIN_FOR_S)} to {say_duration(MAX_FOR_S)}.")
        rooms = self._rooms_of(_user_of(subject)) if isinstance(subject, UserSubject) else ()
        if not may_be_given(subject, settings.grantable_to, rooms):
            raise GrantError(
                f"{subject} may not be given this: grantable_to of the service in the configuration does not name them."
            )
        if isinstance(subject, UserSubject) and config.policy().denial(_user_of(subject)) is not None:
            raise GrantError(f"{subject} is denied by the configuration; a grant would change nothing.")
        if len(self.table) >= MAX_GRANTS:
            raise GrantError(f"{MAX_GRANTS} grants are in force; that is the limit. Revoke some first.")
        if self._table.count_same(subject, service) >= MAX_SAME:
            raise GrantError(f"{subject} has {MAX_SAME} grants of this already; that is the limit. Revoke some first.")
        now_ms = self._wall_ms()
        grant = StoredGrant(0, subject, service, giver, now_ms, now_ms + for_s * 1000, reason, once)
        number = await self._store.add(grant, settles)
        if number is None:
            raise SettledError("The request was answered before.")
        stored = StoredGrant(number, subject, service, giver, now_ms, grant.until_ms, reason, once)
        if not await self._audited.grant_given(stored):
            await self._store.end(number, self._wall_ms(), "unrecorded")
            raise GrantError("That cannot be written into the audit now, so it was not given; the log says why.")
        self._add(stored)
        log.info("+ grant %d: %s may use %s/%s, by %s", number, subject, service.peer, service.name, giver)
        self._changed()
        return stored

    async def revoke(self, number: int, by: UserId) -> StoredGrant:
        """Take back a grant.

        Raises:
            GrantError: there is none of this number.
            StorageError: it counts no more, but the database does not know that yet.
        """
        self._drop_ended()
        grant = self._remove(number)
        if grant is None:
            raise GrantError(f"There is no grant {number} in force.")
        log.info("- grant %d: revoked by %s", number, by)
        self._audited.grant_ended(grant, "revoked", by)
        self._changed()
        await self._store.end(number, self._wall_ms(), "revoked", by)
        return grant

    async def revoke_all(
        self, subject: Subject, peer: UserId | None, service: ServiceName | None, by: UserId
    ) -> list[StoredGrant]:
        """Take back the grants to exactly this subject, all or those for a peer or service; returns them."""
        self._drop_ended()
        found = [
            grant
            for grant in self._table.of_subject(subject)
            if peer in (None, grant.service.peer) and service in (None, grant.service.name)
        ]
        return [await self.revoke(grant.number, by) for grant in found]

    def claimed(self, grant: StoredGrant, claimant: Claimant) -> None:
        """A session uses a grant: one for one session is its own from now on."""
        if self._table.claim(grant, claimant):
            now_ms = self._wall_ms()
            self._unwritten.put_nowait(lambda: self._store.claim(grant.number, now_ms))

    def session_ended(self, claimant: Claimant) -> None:
        """End the grants for one session that this one has claimed."""
        for grant in self._table.claimed_by(claimant):
            self._remove(grant.number)
            self._write_end(grant, self._wall_ms(), "used")

    async def run(self) -> None:
        """Write down what has ended by itself, until cancelled. What the database does not take is tried again."""
        while True:
            write = await self._unwritten.get()
            while True:
                try:
                    await write()
                except StorageError as error:
                    log.warning("! the end of a grant could not be written down yet: %s", error)
                    await asyncio.sleep(RETRY_S)
                else:
                    break

    def _add(self, grant: StoredGrant) -> None:
        self._table.add(grant)
        self._deadlines.add(grant.number, grant.until_ms, self._moment())

    def _remove(self, number: int) -> StoredGrant | None:
        self._deadlines.discard(number)
        return self._table.remove(number)

    def _moment(self) -> Moment:
        return Moment(self._wall_ms(), self._elapsed_ms())

    def _drop_ended(self) -> None:
        # Not by the wall clock alone: one that is set back must not lengthen anything.
        for number in self._deadlines.take_ended(self._moment()):
            grant = self._table.remove(number)
            if grant is not None:
                self._write_end(grant, grant.until_ms, "expired")

    def _write_end(self, grant: StoredGrant, ended_ms: int, how: str) -> None:
        log.info("- grant %d: %s", grant.number, how)
        self._audited.grant_ended(grant, how)
        self._unwritten.put_nowait(lambda: self._store.end(grant.number, ended_ms, how))


def _user_of(subject: UserSubject) -> UserId:
    return parse_user_id(str(subject))
