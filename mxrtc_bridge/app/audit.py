"""Writes the audit: every decision is in the file and in the database before anything comes of it.

Many decisions at the same time share one wait for the disk. What cannot be written is refused: :meth:`Audit.record`
returns False, and whoever asked lets nobody in. What has happened anyway (the end of a session, a grant that was
taken back) waits in a bounded backlog until it can be written. The admins are told when writing begins to fail and
when it works again.

File and database hold the same lines. The file comes first; lines that a crash has kept from the database are put
there at the next start. If it is the file that has lost lines, the chain goes on behind what the database knows, so
that ``mxrtc-bridge audit verify`` shows the gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mxrtc_bridge.config.settings import AuditSettings
from mxrtc_bridge.core.audit import NO_LINES, AuditKind, AuditRecord, Entry, entry_after
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.audit import AuditQuery, AuditStore
from mxrtc_bridge.storage.audit_file import AuditFile

log = logging.getLogger("mxrtc_bridge.audit")

MAX_WAITING = 4096
"""Decisions that wait for the disk; a further one is refused at once."""
MAX_BACKLOG = 10_000
"""Records of what has happened that wait for room; beyond it the oldest is lost, and that is said."""
BATCH = 256
RETRY_S = 5.0
UNWRITABLE = "the audit could not be written"
"""The rule by which a decision is refused that cannot be made durable."""


class Recorder(Protocol):
    """What everybody else sees of the audit."""

    async def record(self, record: AuditRecord) -> bool:
        """Make a decision durable; False if that failed, and then it must have no effect."""
        ...

    def note(self, record: AuditRecord) -> None:
        """Write down what has happened, soon."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: AuditRecord
    done: asyncio.Future[bool]


class Audit:
    """Implements :class:`Recorder`. :meth:`start` comes first, then :meth:`run` must run; :meth:`close` at the end."""

    def __init__(
        self,
        store: AuditStore,
        settings: AuditSettings,
        *,
        wall_ms: Callable[[], int],
        tell_admins: Callable[[str], None],
        mirror: Callable[[int, AuditRecord], None],
    ) -> None:
        """Make it.

        Args:
            store: the database.
            settings: the file.
            wall_ms: milliseconds since the epoch.
            tell_admins: says something to the admins; must not block.
            mirror: given each record once it is durable, with its number; must not block.
        """
        self._store = store
        self._settings = settings
        self._wall_ms = wall_ms
        self._tell_admins = tell_admins
        self._mirror = mirror
        self._file: AuditFile | None = None
        self._head = NO_LINES
        self._decisions: deque[_Waiting] = deque()
        self._backlog: deque[AuditRecord] = deque()
        self._lost = 0
        self._failing = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write has failed."""
        return self._failing

    # Life

    async def start(self) -> None:
        """Open the file, bring the database up to it, and write down that the bridge starts.

        Raises:
            StorageError: one of the two cannot be used.
        """
        settings = self._settings
        self._file = await asyncio.to_thread(AuditFile, settings.file, settings.max_bytes, settings.keep)
        known, tail = await self._store.head(), await asyncio.to_thread(self._file.tail)
        behind = [entry for entry in tail if entry.head.number > known.number]
        reason = None
        follows = behind and (behind[0].head.number, behind[0].previous) == (known.number + 1, known.digest)
        if behind and (follows or known == NO_LINES):
            await self._store.add(behind)
            self._head = behind[-1].head
            if not follows:
                reason = f"the database began empty, and believes the file, from line {behind[0].head.number} on"
        else:
            self._head = known
            last = tail[-1].head if tail else NO_LINES
            if last != known:
                reason = f"the file ended with line {last.number}, the database with {known.number}"
                log.error("! the audit has a gap: %s", reason)
                self._tell_admins(f"The audit has a gap: {reason}. mxrtc-bridge audit verify shows where.")
        self.note(AuditRecord(AuditKind.START, self._wall_ms(), reason=reason))
        # With a full disk the bridge starts all the same, and takes no sessions until there is room.
        await self._write_some()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S if self._failing and self._backlog else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            while self._decisions or self._backlog:
                await self._write_some()
                if self._failing:
                    break

    async def close(self) -> None:
        """Write what is left and close the file; may be called without :meth:`start`."""
        if self._file is None:
            return
        self.note(AuditRecord(AuditKind.STOP, self._wall_ms()))
        while self._decisions or self._backlog:
            await self._write_some()
            if self._failing:
                break
        self._refuse_decisions()
        if self._backlog:
            log.error("! %d records of the audit are lost: they could not be written", len(self._backlog))
        async with self._writing:
            await asyncio.to_thread(self._file.close)

    # What others ask

    async def record(self, record: AuditRecord) -> bool:
        if len(self._decisions) >= MAX_WAITING:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._decisions.append(_Waiting(record, done))
        self._wake.set()
        return await done

    def note(self, record: AuditRecord) -> None:
        if len(self._backlog) >= MAX_BACKLOG:
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

    # Writing

    async def _write_some(self) -> None:
        """Write what waits, as much as goes together; what has happened comes before what is asked for."""
        async with self._writing:
            notes = [self._backlog.popleft() for _ in range(min(BATCH, len(self._backlog)))]
            decisions = [self._decisions.popleft() for _ in range(min(BATCH, len(self._decisions)))]
            if self._lost:
                reason = f"{self._lost} records before this one are lost: they could not be written"
                notes.insert(0, AuditRecord(AuditKind.END, self._wall_ms(), reason=reason))
            records = [*notes, *(each.record for each in decisions)]
            try:
                entries = await self._write(records)
            except BaseException as error:
                self._backlog.extendleft(reversed(notes[1:] if self._lost else notes))
                self._decisions.extendleft(reversed(decisions))
                self._refuse_decisions()
                if not isinstance(error, StorageError):
                    raise
                self._begin_failing(error)
                return
            self._lost = 0
            for each in decisions:
                if not each.done.done():
                    each.done.set_result(True)
        self._end_failing()
        for entry in entries:
            self._mirror(entry.head.number, entry.record)

    async def _write(self, records: list[AuditRecord]) -> list[Entry]:
        entries: list[Entry] = []
        for record in records:
            entries.append(entry_after(entries[-1].head if entries else self._head, record))
        if entries:
            # To its end, whatever happens to us meanwhile: half of it must not be left.
            await _finished(asyncio.create_task(self._write_both(entries)))
        return entries

    async def _write_both(self, entries: list[Entry]) -> None:
        assert self._file is not None
        head = entries[-1].head
        before = await asyncio.to_thread(self._file.append, [entry.line for entry in entries], head)
        try:
            await self._store.add(entries)
        except BaseException:
            await asyncio.to_thread(self._file.take_back, before)
            raise
        self._head = head

    def _refuse_decisions(self) -> None:
        """Say no to all that wait; that this was so is written down when it can be."""
        while self._decisions:
            waiting = self._decisions.popleft()
            if not waiting.done.done():
                waiting.done.set_result(False)
            if waiting.record.allowed:
                self.note(replace(waiting.record, allowed=False, rule=UNWRITABLE))

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


async def _finished(task: asyncio.Task[None]) -> None:
    """Wait for a task to its end, also when we are cancelled meanwhile."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
