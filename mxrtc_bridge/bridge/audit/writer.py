"""Writes the audit: every decision is in the file and in the database before anything comes of it.

Many decisions at the same time share one wait for the disk. What cannot be written is refused: :meth:`AuditLog.record`
returns False, and whoever asked lets nobody in. What has happened anyway (the end of a session, a grant that was
taken back) waits in a bounded backlog until it can be written. The admins are told when writing begins to fail and
when it works again.

File and database hold the same lines, and the file comes first: the database never holds a line that the file does not.
What the database has refused is taken back in the file at once. Where nobody knows whether the database has stored it,
the lines stay in the file, and are stored before the next ones: taken back, they would be missing there if the process
were killed before it is known. Whoever has asked meanwhile was told no, and a line of its own says so then.
A write goes to its end whoever is cancelled meanwhile, and what became of it is what its callers are told.
How the two are brought together at a start is in :mod:`mxrtc_bridge.bridge.audit.recovery`.

One file: the order of file and database is one protocol, and each of its steps undoes another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from mxrtc_bridge.bridge.audit.recovery import Recovery, start_record
from mxrtc_bridge.config.config import AuditSettings
from mxrtc_bridge.core.audit.chain import NO_LINES, AuditEntry, AuditKind, AuditRecord, Head, entry_after
from mxrtc_bridge.core.audit.shares import AuditShares
from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.engine.outside import DaemonThreads, in_new_thread
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.storage.audit import AuditContradictionError, AuditQuery, AuditStore, contradiction
from mxrtc_bridge.storage.audit_file import TAIL_LINES, AuditFile

log = logging.getLogger(__name__)

MAX_WAITING = 4096
"""Decisions that wait for the disk; a further one is refused at once."""
MAX_BACKLOG = 10_000
"""Records of what has happened that wait for room; beyond it the oldest is lost, and that is said."""
BATCH = 256
MOST_TOGETHER = 2 * BATCH + 2
"""Lines of one write: notes, decisions, one that says what was lost, one that says which file is removed."""
RETRY_S = 5.0
SHARES_EVERY_S = 60.0
"""How often it is looked whether an hour is over in which somebody had more than their share."""
READY_FOR_S = 1.0
"""How long it is believed that the disk has room."""
HANGS_S = 10.0
"""How long a write may take until those who wait for it are refused; less than callers wait for an answer."""
MAX_DOUBTFUL = 8 * MOST_TOGETHER
CLOSE_S = 8.0
"""How long a stop waits for the last lines: more than a database takes that is away."""
UNWRITABLE = "the audit could not be written"
"""The rule by which a decision is refused that cannot be made durable."""


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: AuditRecord
    done: asyncio.Future[bool]


class AuditLog:
    """The audit. :meth:`start` comes first, :meth:`run` must run, :meth:`close` at the end."""

    def __init__(
        self,
        store: AuditStore,
        settings: AuditSettings,
        *,
        wall_ms: Callable[[], int],
        tell_admins: Callable[[str], None],
        mirror: Callable[[int, AuditRecord], None],
        close_s: float = CLOSE_S,
        hangs_s: float = HANGS_S,
        retry_s: float = RETRY_S,
        max_backlog: int = MAX_BACKLOG,
        max_waiting: int = MAX_WAITING,
        ready_for_s: float = READY_FOR_S,
        tail_lines: int = TAIL_LINES,
        shares: AuditShares | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the database.
            settings: the file.
            wall_ms: milliseconds since the epoch.
            tell_admins: says something to the admins; must not block.
            mirror: given each record once it is durable, with its number; must not block.
            close_s: see :data:`CLOSE_S`.
            hangs_s: see :data:`HANGS_S`.
            max_backlog: See :data:`MAX_BACKLOG`.
            max_waiting: See :data:`MAX_WAITING`.
            ready_for_s: See :data:`READY_FOR_S`.
            retry_s: See :data:`RETRY_S`.
            tail_lines: See :data:`TAIL_LINES`.
            shares: how many lines users and servers may cause; None for the usual ones.
        """
        self._close_s = close_s
        self._hangs_s = hangs_s
        self._ready_for_s = ready_for_s
        self._tail_lines = tail_lines
        self._max_waiting = max_waiting
        self._max_backlog = max_backlog
        self._retry_s = retry_s
        self._store = store
        self._settings = settings
        self._wall_ms = wall_ms
        self._tell_admins = tell_admins
        self._mirror = mirror
        self._file: AuditFile | None = None
        # Of its own: what hangs elsewhere must not keep decisions from being written, and writes come one by one.
        self._thread = DaemonThreads(1, "audit")
        self._key: bytes | None = None
        self._head = NO_LINES
        self._decisions: deque[_Waiting] = deque()
        self._in_hand: list[_Waiting] = []
        """Decisions that are being written."""
        self._hangs = False
        self._backlog: deque[AuditRecord] = deque()
        self._lost = 0
        self._doubtful: dict[Head, None] = {}
        self._ahead: list[AuditEntry] = []
        """Lines of the file of which it is not known whether the database has them; those of one write."""
        self._shares = AuditShares() if shares is None else shares
        self._removing: int | None = None
        self._removal: asyncio.Task[None] | None = None
        self._failing = False
        self._closed = False
        self._ready_until = 0.0
        self._shares_at = 0.0
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._round: asyncio.Task[None] | None = None

    @property
    def head(self) -> Head:
        """The last line that is known to be in both places."""
        return self._head

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write has failed."""
        return self._failing

    # Life

    async def start(self) -> None:
        """Open the file, bring database and file together, and write down that the bridge starts.

        Raises:
            AuditContradictionError: the two do not belong together; the message says what to do.
            StorageError: one of the two cannot be used.
        """
        telling = asyncio.get_running_loop().call_later(self._hangs_s, self._say_late)
        try:
            await self._start()
        finally:
            telling.cancel()

    async def _start(self) -> None:
        settings = self._settings
        file = await self._in_thread(
            lambda: AuditFile(settings.file, settings.max_bytes, settings.keep, tail_lines=self._tail_lines)
        )
        try:
            recovered = await Recovery(settings.file, file, self._store, MOST_TOGETHER).recover()
        except BaseException:
            # Nothing is written behind what does not hold, no stop either.
            await self._in_thread(file.close)
            raise
        self._file = file
        self._head, self._key = recovered.head, recovered.key.secret
        self._say_gaps(recovered.found)
        self.note(start_record(recovered, self._wall_ms()))
        self._removing = await self._in_thread(self._file.surplus)
        # With a full disk the bridge starts all the same, and takes no sessions until there is room.
        await self._write_some()

    def _say_late(self) -> None:
        log.warning(
            "! the start waits for the audit: its disk, or the database, has not answered for %g s: %s",
            self._hangs_s,
            self._settings.file,
        )

    def _say_gaps(self, found: Iterable[str]) -> None:
        for each in found:
            log.error("! the audit is not as it was left: %s", each)
            self._tell_admins(f"The audit has a gap: {each}. mxrtc-bridge audit verify shows where.")

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await set_within(self._wake, self._retry_s if self._failing else SHARES_EVERY_S)
            self._wake.clear()
            self._note_shares()
            while self._decisions or self._backlog or self._failing or self._removing is not None:
                await self._write_some()
                if self._failing:
                    break

    async def close(self) -> None:
        """Write what is left and close the file; may be called without :meth:`start`.

        What hangs is waited for as long as ``close_s`` says; what it was given last may be written or not.
        """
        if self._file is None:
            return
        try:
            async with asyncio.timeout(self._close_s):
                await self._close(self._file)
        except TimeoutError:
            lost = len(self._backlog) + self._lost
            log.error("! the audit does not answer: it is left without a line about the stop, and %d are lost", lost)
            self._closed = True
            self._refuse_decisions()
        self._thread.shutdown()
        if self._removal is not None:
            # Not for long: what is not removed now is at the next start.
            await asyncio.wait([self._removal], timeout=self._close_s / 8)
            self._removal.cancel()

    async def _close(self, file: AuditFile) -> None:
        self._note_shares(stopping=True)
        self._queue(AuditRecord(AuditKind.STOP, self._wall_ms()))
        # The stop is the last line: what comes now would look as if it had been written after the end.
        self._closed = True
        while self._decisions or self._backlog:
            await self._write_some()
            if self._failing:
                break
        async with self._writing:
            self._refuse_decisions()
            if lost := len(self._backlog) + self._lost:
                log.error("! %d records of the audit are lost: they could not be written", lost)
            await self._in_thread(file.close)

    def _note_shares(self, *, stopping: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        if stopping or now >= self._shares_at:
            self._shares_at = now + SHARES_EVERY_S
            for each in self._shares.over(self._wall_ms(), stopping=stopping):
                self._queue(each)

    # What others ask

    async def record(self, record: AuditRecord) -> bool:
        """Make a decision durable; False if that failed, and then it must have no effect."""
        if not self._shares.take(record, self._wall_ms()):
            return await self.ready()
        if self._closed or len(self._decisions) >= self._max_waiting:
            return False
        if self._hangs:
            self._note_refused(record)
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._decisions.append(_Waiting(record, done))
        self._wake.set()
        return await done

    async def ready(self) -> bool:
        """Whether a decision could be made durable now: for one that a record of before stands for."""
        now = asyncio.get_running_loop().time()
        if self._failing or self._file is None:
            return False
        if now >= self._ready_until:
            try:
                async with asyncio.timeout(self._hangs_s):
                    await self._in_thread(self._file.check_room)
            except (StorageError, TimeoutError) as error:
                self._begin_failing(error if isinstance(error, StorageError) else self._no_answer())
                self._wake.set()
                return False
            self._ready_until = now + self._ready_for_s
        return True

    def note(self, record: AuditRecord) -> None:
        """Write down what has happened, soon."""
        if self._closed:
            log.error("! a record of the audit is lost, as it came after the end: %s", record.kind.value)
        elif self._shares.take(record, self._wall_ms()):
            self._queue(record)

    def _queue(self, record: AuditRecord) -> None:
        if len(self._backlog) >= self._max_backlog:
            self._backlog.popleft()
            self._lost += 1
        self._backlog.append(record)
        self._wake.set()

    async def page(self, query: AuditQuery, number: int, rows: int) -> tuple[list[tuple[int, AuditRecord]], int]:
        """Records from the newest on, with their numbers, and how many there are.

        Raises:
            StorageError: the database cannot be read.
        """
        return await self._store.page(query, (number - 1) * rows, rows)

    async def left_out(self) -> int:
        """How many records of the chain the database does not show any more; the file may have them.

        Raises:
            StorageError: the database cannot be read.
        """
        return max(0, self._head.number - await self._store.count())

    # Writing

    async def _write_some(self) -> None:
        """Write what waits, as much as goes together; it goes on to its end although we are cancelled meanwhile."""
        self._round = asyncio.create_task(self._write_round(), name="write of the audit")
        self._round.add_done_callback(_looked_at)
        # Whoever is cancelled here does not wait for a disk; the next one waits, by the lock.
        if not (await asyncio.wait([self._round], timeout=self._hangs_s))[0]:
            self._say_hanging()
        await asyncio.shield(self._round)

    def _say_hanging(self) -> None:
        """Refuse all that wait: whoever is let in by what is written after all is not there any more."""
        self._hangs = True
        self._begin_failing(self._no_answer())
        for each in self._in_hand:
            if not each.done.done():
                each.done.set_result(False)
        self._refuse_decisions()

    def _no_answer(self) -> StorageError:
        return StorageError(f"its disk, or the database, has not answered for {self._hangs_s:g} seconds")

    async def _write_round(self) -> None:
        """Write once, and say to everybody what became of theirs; what has happened comes before what is asked for."""
        async with self._writing:
            notes = [self._backlog.popleft() for _ in range(min(BATCH, len(self._backlog)))]
            decisions = [self._decisions.popleft() for _ in range(min(BATCH, len(self._decisions)))]
            self._in_hand = decisions
            lost, head = self._lost, self._head
            records = [*self._own_records(), *notes, *(each.record for each in decisions)]
            try:
                entries = await self._write(records)
            except BaseException as error:
                if self._head == head:
                    self._backlog.extendleft(reversed(notes))
                else:
                    # They stand in the file, and it is the database that comes after.
                    self._lost -= lost
                self._decisions.extendleft(reversed(decisions))
                self._refuse_decisions()
                if not isinstance(error, StorageError):
                    raise
                self._begin_failing(error)
                return
            finally:
                self._hangs, self._in_hand = False, []
            self._lost -= lost
            for each in decisions:
                if not each.done.done():
                    each.done.set_result(True)
                elif not each.done.cancelled():
                    self._note_refused(each.record)
            self._tell_mirror(entries)
            self._end_failing()
            await self._mind_old_files()

    def _tell_mirror(self, entries: list[AuditEntry]) -> None:
        for entry in entries:
            self._mirror(entry.head.number, entry.record)

    def _own_records(self) -> list[AuditRecord]:
        own: list[AuditRecord] = []
        if self._lost:
            reason = f"{self._lost} records before this one are lost: they could not be written"
            own.append(AuditRecord(AuditKind.END, self._wall_ms(), reason=reason))
        if self._removing is not None:
            own.append(AuditRecord(AuditKind.REMOVED, self._wall_ms(), line=self._removing))
        return own

    async def _write(self, records: list[AuditRecord]) -> list[AuditEntry]:
        assert self._file is not None
        await self._resolve_doubt()
        await self._catch_up()
        entries: list[AuditEntry] = []
        for record in records:
            entries.append(entry_after(entries[-1].head if entries else self._head, record, self._key))
        if not entries:
            await self._in_thread(self._file.check_room)
            if (stored := await self._store.head()) != self._head:
                raise AuditContradictionError(contradiction(stored.number))
            return entries
        head = entries[-1].head
        before = await self._in_thread(self._file.append, [entry.line for entry in entries], head)
        found, self._file.found = self._file.found, []
        self._say_gaps(found)
        try:
            await self._store.add(entries)
        except BaseException as error:
            if isinstance(error, UnknownOutcomeError) or not isinstance(error, Exception):
                self._head, self._ahead = head, entries
                raise
            self._doubtful |= dict.fromkeys(entry.head for entry in entries)
            await self._in_thread(self._file.take_back, before)
            raise
        self._doubtful.clear()
        self._head = head
        return entries

    async def _catch_up(self) -> None:
        """Have the database store what the file is ahead of it, if it has not."""
        if self._ahead:
            await self._store.add(self._ahead)
            self._doubtful.clear()
            stored, self._ahead = self._ahead, []
            self._tell_mirror(stored)

    async def _resolve_doubt(self) -> None:
        """Take back in the database what was taken back in the file, should it have stored what it said it had not."""
        while len(self._doubtful) > MAX_DOUBTFUL:
            del self._doubtful[next(iter(self._doubtful))]
        if self._doubtful:
            await self._store.take_back(list(self._doubtful))

    async def _mind_old_files(self) -> None:
        """Have old files removed once the chain says that this was us, and find those that have become too many."""
        assert self._file is not None
        removed, self._removing = self._removing, None
        if removed is not None:
            # Beside all else, in a thread of its own: they may be large, and no decision waits for what is read there.
            before, file = self._removal, self._file
            self._removal = asyncio.create_task(self._remove_old(file, removed, before), name="old files of the audit")
        elif self._file.rotated:
            try:
                self._removing = await self._in_thread(self._file.surplus)
            except (StorageError, OSError) as error:
                _say_they_stay(error)
            self._wake.set()

    async def _remove_old(self, file: AuditFile, until: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            await in_new_thread(file.remove_until, until)
        except (StorageError, OSError) as error:
            _say_they_stay(error)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def _refuse_decisions(self) -> None:
        """Say no to all that wait; that this was so is written down when it can be."""
        while self._decisions:
            waiting = self._decisions.popleft()
            if not waiting.done.done():
                waiting.done.set_result(False)
            self._note_refused(waiting.record)

    def _note_refused(self, record: AuditRecord) -> None:
        if record.allowed:
            self._queue(replace(record, allowed=False, rule=UNWRITABLE))

    def _begin_failing(self, error: StorageError) -> None:
        if not self._failing:
            self._failing = True
            log.error("! the audit cannot be written, so no new sessions are taken: %s", error)
            self._tell_admins(f"The audit cannot be written: {error}. No new sessions are taken; live ones go on.")

    def _end_failing(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the audit is written again")
            self._tell_admins("The audit is written again, and new sessions are taken.")


def _say_they_stay(error: Exception) -> None:
    # It is tried again behind the next full file, or at the next start.
    log.warning("! old files of the audit stay: %s", error)


def _looked_at(task: asyncio.Task[None]) -> None:
    """Nobody complains that a defect was not looked at: whoever waited has it, or it stands in the log."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("! a write of the audit has failed: %r", error)
