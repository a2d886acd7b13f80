"""The grants that admins give while the bridge runs: in memory for decisions, in the database for good.

Four places know of a grant: the memory, by which is decided, the database, the audit, and the people who are told. A
failure, a cancellation or a kill may come between any two of them, so the order is fixed:

- Giving: stored as pending, then written into the audit, then confirmed in the database, then in memory, then told.
  Whatever comes in between, the grant is given up: it is never in memory, and ends in the database and the audit.
- Taking away: out of memory first, everything that is to go, and live sessions are judged. Then the audit and the
  database get to know it, by queues that outlive failures (:mod:`mxrtc_bridge.bridge.access.grant_writer`).
- Using one for one session: no byte flows before the database knows that it is used.
- At a start the database is compared with the audit (:mod:`mxrtc_bridge.storage.grant_recovery`); what is pending, and
  what the audit says has ended, ends.

One file: the order in which the four places learn of a grant is one protocol.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from mxrtc_bridge.bridge.access.grant_writer import PAUSES, GrantWriter
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.clock_change import Deadlines
from mxrtc_bridge.core.access.grants import (
    MAX_FOR_S,
    MAX_GRANTS,
    MAX_SAME,
    MIN_FOR_S,
    Claimant,
    ClaimedGrant,
    EndedGrant,
    GivenUp,
    GrantTable,
    StoredGrant,
    may_be_given,
)
from mxrtc_bridge.core.access.policy import Service, Subject, UserSubject
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import AdminError, MxrtcError, StorageError, UnknownOutcomeError
from mxrtc_bridge.core.ids import Actor, RoomId, ServiceName, UserId, parse_user_id
from mxrtc_bridge.core.text.durations import say_duration
from mxrtc_bridge.engine.clock import Clock, moment_of
from mxrtc_bridge.storage.grants import GrantStore

log = logging.getLogger(__name__)

STOP_S = 5.0
"""How long a stop waits for a database that does not take what has ended."""
MAX_GIVING = 100
"""Grants that may be on their way at the same time; people give them one by one."""
MAX_NAMED = 20
"""Numbers that one sentence names."""


class GrantError(AdminError):
    """A grant cannot be given or taken back; the sentence is for the admin who tried."""


class SettledError(GrantError):
    """The request that a grant was to answer has been answered before."""


class UnwrittenError(GrantError):
    """Grants are out of force, and the database does not know it yet; it is asked again until it does."""

    def __init__(self, grants: Sequence[StoredGrant], failure: MxrtcError) -> None:
        is_, it_is = ("is", "it is") if len(grants) == 1 else ("are", "they are")
        super().__init__(
            f"{named(grants)} {is_} out of force now, but that could not be written down: {failure}. I keep trying. "
            f"Should the bridge be killed before that works, {it_is} in force again after the next start: look at "
            "grants then."
        )


class RuntimeGrants:
    """See the head of this module. :meth:`run` must run for ends to be written down, and :meth:`close` at the end."""

    def __init__(
        self,
        store: GrantStore,
        table: GrantTable,
        *,
        config: CurrentConfig,
        rooms_of: Callable[[UserId], Collection[RoomId]],
        changed: Callable[[], None],
        audited: AuditEvents,
        clock: Clock,
        tell_admins: Callable[[str], None] | None = None,
        stop_s: float = STOP_S,
        pauses: Backoff = PAUSES,
    ) -> None:
        """Make it; :meth:`load` comes next.

        Args:
            store: the database.
            table: what decisions are made by.
            config: the configuration in force.
            rooms_of: the rooms that a user is joined to, of those that grants name.
            changed: called after each change, to judge live sessions again; must not block.
            audited: where it is written down.
            clock: where time comes from.
            tell_admins: says to the admins what a start has found; must not block. The log says it as well.
            stop_s: See :data:`STOP_S`.
            pauses: between attempts to write down what has ended.
        """
        self._stop_s = stop_s
        self._store = store
        self._table = table
        self._config = config
        self._rooms_of = rooms_of
        self._changed = changed
        self._audited = audited
        self._clock = clock
        self._deadlines: Deadlines[int] = Deadlines()
        self._tell_admins = tell_admins
        self._writer = GrantWriter(store, pauses)
        self._giving: dict[asyncio.Task[StoredGrant], GivenUp] = {}
        """Grants on their way, with what ends each."""
        self._given_up: set[str] = set()
        """Keys of those among them that nobody waits for any more."""
        self._said: dict[str, StoredGrant] = {}
        """Those among them that the audit was asked to write down, by their keys."""

    @property
    def unwritten(self) -> int:
        """What waits to be written down: ends, and grants on their way."""
        return len(self._writer) + len(self._giving)

    # Life

    async def load(self) -> None:
        """Take over what the last run has left, after comparing the database with the audit.

        Raises:
            StorageError: the database cannot be used.
        """
        found = await self._store.recover(self._clock.wall_ms())
        for ended in found.unwritten:
            self._audited.grant_ended(ended.grant, ended.how, ended.by)
        for grant in found.in_force:
            if self._table.get(grant.number) is None:
                self._add(grant)
        if found.contradicted:
            self._report(
                f"{named(each.grant for each in found.contradicted)} had ended by the audit, and not in the database: "
                "out of force now."
            )
        if found.missing:
            self._report(
                f"{named(found.missing)}: in force by the audit, and the database has no such grant. Not in force. "
                "Was an old copy of the database put back?"
            )
        if found.unknown:
            self._report(
                f"{named(found.unknown)}: in force in the database, and the audit has no line of it. "
                "Look at grants, and revoke what nobody has given."
            )

    async def run(self) -> None:
        """Write down what has ended, until cancelled. What the database does not take is tried again."""
        await self._writer.run()

    async def close(self) -> None:
        """Give up what is on its way, and write down what has ended; call it after :meth:`run`, before the audit's."""
        for giving in list(self._giving.values()):
            self._give_up(giving)
        try:
            async with asyncio.timeout(self._stop_s):
                failure = await self._writer.flush()
        except TimeoutError:
            failure = StorageError(f"the database has not answered for {self._stop_s:g} s")
        if coming := dict(self._giving):
            log.warning(
                "! stopped before anybody was told of what was being given, so it is not in force: %s",
                _list([(giving.grant, self._said.get(giving.key)) for giving in coming.values()]),
            )
            for task, giving in coming.items():
                # Now, whatever the database does: at the next start what the audit says counts for more than a row.
                self._end_said(giving)
                task.cancel()
            await asyncio.wait(coming, timeout=self._stop_s)
        if failure is not None and (left := [ended.grant for ended in self._writer.ends()]):
            log.error(
                "! %s ended, and may be in force after the next start, as that could not be written down: %s",
                named(left),
                failure,
            )

    def next_end_s(self) -> float | None:
        """In how many seconds the next grant ends by itself, if nobody sets the clock; None if none does."""
        self._drop_ended()
        left_ms = self._deadlines.next_in_ms(moment_of(self._clock))
        return None if left_ms is None else left_ms / 1000

    @property
    def table(self) -> GrantTable:
        """What is in force."""
        self._drop_ended()
        return self._table

    # Giving

    async def give(
        self,
        subject: Subject,
        service: Service,
        for_s: int,
        giver: Actor,
        *,
        reason: str = "",
        once: bool = False,
        settles: AccessRequest | None = None,
    ) -> StoredGrant:
        """Give a right. Whoever is cancelled here has not given it.

        Args:
            subject: to whom.
            service: what.
            for_s: seconds from now.
            giver: who gives it.
            reason: why, for the record.
            once: for one session only.
            settles: the request that this answers, as it is decided; it is, if and only if the grant counts.

        Raises:
            SettledError: the request was answered before.
            GrantError: it is not in force; says why, and whether that is written down.
        """
        self._check(subject, service, for_s)
        now_ms = self._clock.wall_ms()
        grant = StoredGrant(0, subject, service, giver, now_ms, now_ms + for_s * 1000, reason, once)
        giving = GivenUp(grant, secrets.token_hex(16), now_ms)
        # A task of its own: what is half done is given up in order, also when nobody waits for it any more.
        task = asyncio.create_task(self._carry_out(giving, settles))
        self._giving[task] = giving
        task.add_done_callback(self._carried_out)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._give_up(giving)
            elif not task.cancelled() and task.exception() is None:
                # It has just come into force, and nobody will be told.
                self._writer.put([giving])
                self._take_out([task.result()], "unconfirmed")
                self._changed()
            raise

    def _check(self, subject: Subject, service: Service, for_s: int) -> None:
        config = self._config.in_force
        settings = config.service(service.peer, service.name)
        if settings is None:
            raise GrantError("There is no such service; peers all lists them.")
        if not MIN_FOR_S <= for_s <= MAX_FOR_S:
            raise GrantError(f"A grant lasts {say_duration(MIN_FOR_S)} to {say_duration(MAX_FOR_S)}.")
        rooms = self._rooms_of(_user_of(subject)) if isinstance(subject, UserSubject) else ()
        if not may_be_given(subject, settings.grantable_to, rooms):
            raise GrantError(
                f"{subject} may not be given this: grantable_to of the service in the configuration does not name them."
            )
        if isinstance(subject, UserSubject) and config.policy().denial(_user_of(subject)) is not None:
            raise GrantError(f"{subject} is denied by the configuration; a grant would change nothing.")
        if len(self.table) + len(self._giving) >= MAX_GRANTS:
            raise GrantError(f"{MAX_GRANTS} grants are in force; that is the limit. Revoke some first.")
        coming = sum((each.grant.subject, each.grant.service) == (subject, service) for each in self._giving.values())
        if self._table.count_same(subject, service) + coming >= MAX_SAME:
            raise GrantError(f"{subject} has {MAX_SAME} grants of this already; that is the limit. Revoke some first.")
        if len(self._giving) >= MAX_GIVING or len(self._writer) >= MAX_GRANTS:
            raise GrantError("Too much waits for the database or the audit just now; try again in a while.")

    async def _carry_out(self, giving: GivenUp, settles: AccessRequest | None) -> StoredGrant:
        try:
            number = await self._store.add(giving.grant, settles, key=giving.key)
        except UnknownOutcomeError as error:
            raise await self._not_given(giving, str(error)) from error
        except StorageError as error:
            raise GrantError(f"It was not given: {error}.") from error
        except Exception as error:
            raise await self._not_given(giving, _defect(error)) from error
        if number is None:
            raise SettledError("The request was answered before, so nothing was given.")
        grant = replace(giving.grant, number=number)
        try:
            why_not = await self._confirm(giving, grant)
        except StorageError as error:
            raise await self._not_given(giving, str(error)) from error
        except Exception as error:
            raise await self._not_given(giving, _defect(error)) from error
        if why_not is not None:
            raise await self._not_given(giving, why_not)
        # From here to the return nothing is awaited: it is in force in all places, or given up in all.
        del self._said[giving.key]
        self._add(grant)
        service = grant.service
        log.info("+ grant %d: %s may use %s/%s, by %s", number, grant.subject, service.peer, service.name, grant.giver)
        self._changed()
        return grant

    async def _confirm(self, giving: GivenUp, grant: StoredGrant) -> str | None:
        """Write a pending grant into the audit, then put it in force in the database; returns why that is not so."""
        self._said[giving.key] = grant
        if not await self._audited.grant_given(grant):
            return "it cannot be written into the audit now; the bridge's log says why"
        if giving.key in self._given_up or not await self._store.confirm(grant.number) or giving.key in self._given_up:
            return "nobody waited for it any more"
        return None

    def _carried_out(self, task: asyncio.Task[StoredGrant]) -> None:
        giving = self._giving.pop(task)
        self._given_up.discard(giving.key)
        self._end_said(giving)
        if not task.cancelled():
            task.exception()  # Whoever waited has it; who does so no more was told that it was given up.

    async def _not_given(self, giving: GivenUp, why: str) -> GrantError:
        """End in the database and the audit what does not come into force; returns what the admin is told."""
        self._end_said(giving)
        self._writer.put([giving])
        failure = await self._writer.written([giving])
        if failure is None:
            return GrantError(f"It was not given: {why}.")
        return GrantError(
            f"It is not in force: {why}. I am taking it back, which the database has not taken yet ({failure}); "
            "should the bridge be killed before it has, it may be in force after the next start: look at grants then."
        )

    def _end_said(self, giving: GivenUp) -> None:
        """Have the audit say that a grant has ended that did not come into force, if it says that it was given."""
        if (grant := self._said.pop(giving.key, None)) is not None:
            # Behind the line that has been asked for, whether that was written or not.
            self._audited.grant_ended(grant, "unconfirmed")

    def _give_up(self, giving: GivenUp) -> None:
        self._given_up.add(giving.key)
        self._writer.put([giving])

    # Taking away

    async def revoke(self, number: int, by: Actor, because: str = "") -> StoredGrant:
        """Take back a grant.

        Raises:
            GrantError: there is none of this number.
            UnwrittenError: it counts no more, but the database does not know that yet.
        """
        self._drop_ended()
        grant = self._table.get(number)
        waiting = [ended for ended in self._writer.ends() if ended.grant.number == number]
        if grant is None and not waiting:
            raise GrantError(f"There is no grant {number} in force; grants lists them.")
        await self._end([grant] if grant is not None else [], waiting, by, because)
        return grant if grant is not None else waiting[0].grant

    async def revoke_all(
        self, subject: Subject, peer: UserId | None, service: ServiceName | None, by: Actor, because: str = ""
    ) -> list[StoredGrant]:
        """Take back the grants to exactly this subject, all or those for a peer or service; returns them.

        Raises:
            UnwrittenError: none of them counts any more, but the database does not know that yet of all.
        """
        self._drop_ended()

        def is_meant(grant: StoredGrant) -> bool:
            return (
                grant.subject == subject
                and peer in (None, grant.service.peer)
                and service in (None, grant.service.name)
            )

        found = [grant for grant in self._table.of_subject(subject) if is_meant(grant)]
        waiting = [ended for ended in self._writer.ends() if is_meant(ended.grant)]
        await self._end(found, waiting, by, because)
        return [*found, *(ended.grant for ended in waiting)]

    def claimed(self, grant: StoredGrant, claimant: Claimant) -> None:
        """A session uses a grant: one for one session is its own from now on; :meth:`claim_written` comes next."""
        if self._table.claim(grant, claimant):
            self._writer.put([ClaimedGrant(grant.number, self._clock.wall_ms())])

    async def claim_written(self, claimant: Claimant) -> bool:
        """Wait until the database knows which grants a session has claimed; False if it does not take that now."""
        claims = [ClaimedGrant(grant.number, 0) for grant in self._table.claimed_by(claimant)]
        return await self._writer.written(claims) is None

    def session_ended(self, claimant: Claimant) -> None:
        """End the grants for one session that this one has claimed."""
        self._take_out(self._table.claimed_by(claimant), "used")

    async def _end(self, grants: Sequence[StoredGrant], waiting: Sequence[EndedGrant], by: Actor, because: str) -> None:
        """Take grants back, and wait until these ends and those that wait already are written down."""
        changes = [*self._take_out(grants, f"revoked: {because}" if because else "revoked", by), *waiting]
        if grants:
            self._changed()
        failure = await self._writer.written(changes)
        if failure is not None:
            unwritten = {ended.grant.number for ended in self._writer.ends()}
            raise UnwrittenError([each.grant for each in changes if each.grant.number in unwritten], failure)

    def _add(self, grant: StoredGrant) -> None:
        self._table.add(grant)
        self._deadlines.add(grant.number, grant.until_ms, moment_of(self._clock))

    def _remove(self, number: int) -> StoredGrant | None:
        self._deadlines.discard(number)
        return self._table.remove(number)

    def _drop_ended(self) -> None:
        # Not by the wall clock alone: one that is set back must not lengthen anything.
        over = map(self._table.remove, self._deadlines.take_ended(moment_of(self._clock)))
        self._note_ends([EndedGrant(grant, grant.until_ms, "expired") for grant in over if grant is not None])

    def _take_out(self, grants: Iterable[StoredGrant], how: str, by: Actor | None = None) -> list[EndedGrant]:
        """Have grants count no more, all at once; the rest is writing."""
        now_ms = self._clock.wall_ms()
        ended = [
            EndedGrant(grant, now_ms, how, by) for each in grants if (grant := self._remove(each.number)) is not None
        ]
        self._note_ends(ended)
        return ended

    def _note_ends(self, ended: Sequence[EndedGrant]) -> None:
        self._writer.put(ended)
        for each in ended:
            log.info("- grant %d: %s%s", each.grant.number, each.how, f" by {each.by}" if each.by else "")
            self._audited.grant_ended(each.grant, each.how, each.by)

    def _report(self, text: str) -> None:
        log.error("! %s", text)
        if self._tell_admins is not None:
            self._tell_admins(text)


def named(grants: Iterable[StoredGrant | int]) -> str:
    """Grants by their numbers, for the beginning of a sentence."""
    numbers = [each if isinstance(each, int) else each.number for each in grants]
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"{'Grant' if len(numbers) == 1 else 'Grants'} {', '.join(map(str, numbers[:MAX_NAMED]))}{more}"


def _list(coming: Sequence[tuple[StoredGrant, StoredGrant | None]]) -> str:
    """Grants that are on their way, by their numbers as far as they have one."""
    words = [
        f"{'a grant' if stored is None else f'grant {stored.number}'} to {grant.subject} for "
        f"{grant.service.peer}/{grant.service.name}"
        for grant, stored in coming
    ]
    more = f" and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
    return ", ".join(words[:MAX_NAMED]) + more


def _defect(error: Exception) -> str:
    log.error("! a grant could not be given", exc_info=error)
    return "the bridge's log says why"


def _user_of(subject: UserSubject) -> UserId:
    return parse_user_id(str(subject))
