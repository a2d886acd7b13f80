"""What the audit finds at a start: file and database are brought together, and nothing is believed that is not proved.

Lines that stand behind what the database knows are taken over only if a crash can have left them there: the last run
did not end with a stop, they are as many as are written together at most, they continue the chain, and their ``mac`` is
that of the bridge's key. Whatever else stands there was put there by somebody else: it is set aside, and that is said.
A number under which the two hold different lines ends the start, because one of them is wrong and only a person can
know which.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mxrtc_bridge.core.audit.chain import (
    KEY_BYTES,
    NO_LINES,
    AuditEntry,
    AuditKind,
    AuditRecord,
    ChainError,
    ChainLink,
    Head,
    is_authentic,
    number_of,
    read_line,
)
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.storage.audit import AuditContradictionError, AuditKey, AuditReader, AuditStore, contradiction
from mxrtc_bridge.storage.audit_file import AuditFile, Behind, read_lines, read_links, refused_file

log = logging.getLogger(__name__)

COMPARED = 100_000
"""Newest lines that are compared at a start; ``audit verify`` compares all."""
_NEIGHBOURS = 5000
_MAX_PLACES = 64
REMEDY = (
    "Keep a copy of both, find out which is right with mxrtc-bridge audit verify, then move the audit file away: the "
    "bridge goes on in a new one, behind what the database knows"
)


@dataclass(frozen=True, slots=True)
class RecoveredChain:
    """Where the chain goes on."""

    head: Head
    key: AuditKey
    found: tuple[str, ...] = ()
    """What is not as it should be."""
    taken_over: str | None = None
    """What a crash has left, and was taken over."""
    removed: int | None = None
    """The last line that earlier versions have removed."""

    @property
    def reason(self) -> str | None:
        """All of it, for the record of the start."""
        return "; ".join([*self.found, *([self.taken_over] if self.taken_over else [])]) or None


class Recovery:
    """Looks at one file and one database before the first line of a run is written."""

    def __init__(self, path: Path, file: AuditFile, store: AuditStore, most: int) -> None:
        """Prepare it.

        Args:
            path: of the file.
            file: the same, open.
            store: the database.
            most: lines that are written together.
        """
        self._path = path
        self._file = file
        self._store = store
        self._most = most

    async def recover(self) -> RecoveredChain:
        """See the head of this module.

        Raises:
            AuditContradictionError: file and database do not belong together.
            StorageError: one of the two cannot be used.
        """
        known, last = await self._store.last()
        key = await self._store.key()
        tail = await in_new_thread(self._file.tail)
        if known == NO_LINES and tail:
            return await self._believe(tail)
        removed = None
        if key is None:
            first = await in_new_thread(_first_number, self._path)
            removed = first - 1 if first else None
            key = await self._new_key(known.number + 1)
        behind = await in_new_thread(self._file.behind, known) if known != NO_LINES else None
        # What stands behind the head is judged below.
        broken = await compare(self._store, read_links(self._path, known.number - COMPARED), until=known)
        if behind is None:
            recovered = RecoveredChain(known, key, self._gap(known, tail), removed=removed)
        else:
            stopped = last is not None and last.kind is AuditKind.STOP
            recovered = await self._judge(behind, known, key, stopped=stopped, removed=removed)
        return replace(recovered, found=(broken, *recovered.found)) if broken else recovered

    async def _believe(self, tail: list[AuditEntry]) -> RecoveredChain:
        """Take over the end of the file, as the database began empty."""
        await self._store.add(tail)
        head = tail[-1].head
        reason = f"the database began empty, and believes the file, from line {tail[0].head.number} on"
        removed = (await in_new_thread(_first_number, self._path) or 1) - 1
        return RecoveredChain(head, await self._new_key(head.number + 1), taken_over=reason, removed=removed or None)

    async def _new_key(self, since: int) -> AuditKey:
        await self._store.keep_key(AuditKey(secrets.token_bytes(KEY_BYTES), since))
        key = await self._store.key()
        assert key is not None
        return key

    def _gap(self, known: Head, tail: list[AuditEntry]) -> tuple[str, ...]:
        last = tail[-1].head.number if tail else 0
        if known == NO_LINES:
            return ()
        if last >= known.number:
            raise AuditContradictionError(f"{contradiction(known.number)}. {REMEDY}")
        return (f"the file ended with line {last}, the database with {known.number}",)

    async def _judge(
        self, behind: Behind, known: Head, key: AuditKey, *, stopped: bool, removed: int | None
    ) -> RecoveredChain:
        proved = _proved(behind.lines, known, key)
        if proved and (stopped or len(proved) > self._most):
            why = "the bridge had stopped before" if stopped else f"a crash leaves {self._most} at most"
            raise AuditContradictionError(
                f"the audit file holds {len(proved)} lines behind number {known.number} that the database does not "
                f"know, and {why}: the database is older than the file, or they were played in again. Put back the "
                "database that belongs to the file, or move the audit file away: the bridge goes on in a new one"
            )
        if proved:
            await self._store.add(proved)
        offset = behind.offset + sum(len(entry.line) + 1 for entry in proved)
        head = proved[-1].head if proved else known
        found: tuple[str, ...] = ()
        if left := behind.size - (offset - behind.offset):
            numbers = [number_of(line) for line in behind.lines[len(proved) :]]
            await in_new_thread(self._file.set_aside, offset)
            shown = ", ".join(str(number) for number in numbers[:5] if number is not None) or "none"
            words = (
                f"{left} bytes behind line {head.number} were not written by this bridge (lines with the numbers: "
                f"{shown}), and were moved to {refused_file(self._path).name}"
            )
            found = (words,)
        taken = f"lines {proved[0].head.number} to {head.number} come from the file, after a crash" if proved else None
        return RecoveredChain(head, key, found, taken, removed)


async def compare(
    store: AuditReader, parts: Iterator[list[ChainLink]], *, until: Head | None = None, thorough: bool = False
) -> str | None:
    """Compare the lines of a file with those of the database that have the same numbers, and each with the one before.

    Args:
        store: the database.
        parts: the lines of the file.
        until: the last line that is compared; without it, all are.
        thorough: read the lines of the database themselves, and do not believe the digests that stand beside them.

    Returns:
        Where the file does not hold together first: lines were taken out, put in, moved or changed of which the
        database knows nothing any more. None if it does hold.

    Raises:
        AuditContradictionError: file and database hold different lines with the same number.
        StorageError: one of the two cannot be read.
    """
    broken: str | None = None
    last: ChainLink | None = None
    known: dict[int, dict[int, str]] = {}
    while part := await in_new_thread(next, parts, None):
        known = await _stored(store, part, known, thorough=thorough)
        for link in part:
            if known.get(link.number // _NEIGHBOURS, {}).get(link.number, link.digest) != link.digest:
                raise AuditContradictionError(f"{contradiction(link.number)}. {REMEDY}")
            if last is not None and (link.number, link.previous) != (last.number + 1, last.digest):
                broken = broken or f"the file does not hold together behind line {last.number}"
            last = link
            if until is not None and (link.number, link.digest) == (until.number, until.digest):
                return broken
    return broken


async def _stored(
    store: AuditReader, part: list[ChainLink], before: dict[int, dict[int, str]], *, thorough: bool
) -> dict[int, dict[int, str]]:
    """What the database holds under the numbers of some lines, which are neighbours but for gaps in the file."""
    # Somebody who writes far more places into a file than there can be gaps makes us ask for no more of them.
    places = sorted({link.number // _NEIGHBOURS for link in part})[:_MAX_PLACES]
    return {
        place: before[place]
        if place in before
        else await store.digests(place * _NEIGHBOURS, (place + 1) * _NEIGHBOURS - 1, thorough=thorough)
        for place in places
    }


def _proved(lines: list[bytes], known: Head, key: AuditKey) -> list[AuditEntry]:
    """The lines that continue the chain and that nobody but the bridge can have written."""
    found: list[AuditEntry] = []
    head = known
    for line in lines:
        try:
            entry = read_line(line)
        except ChainError:
            break
        if (entry.head.number, entry.previous) != (head.number + 1, head.digest):
            break
        if not is_authentic(entry, key.secret):
            break
        found.append(entry)
        head = entry.head
    return found


def _first_number(path: Path) -> int | None:
    try:
        return next((number for line in read_lines(path) if (number := number_of(line)) is not None), None)
    except StorageError:
        return None


def start_record(recovered: RecoveredChain, at_ms: int) -> AuditRecord:
    """The record of the start."""
    return AuditRecord(AuditKind.START, at_ms, reason=recovered.reason, line=recovered.removed)
