"""What a start does with the grants that the last run has left: a crash may have come between any two writes.

After it the grants in force are those that the audit says, with one exception: what the audit knows nothing of stays in
force, and is reported. An audit may have been lost or be too old for a grant; that it does not mention one says nothing
against it, while the line of its end does.

    the row          the audit         the grant
    pending          anything          ends (``unconfirmed``); the request that it was to answer is open again
    claimed          anything          ends (``used``): its one session is over
    over by time     anything          ends (``expired``)
    in force         its end           ends, as the audit says
    in force         nothing           stays, and is reported
    ended            given, no end     has its end written into the audit now
    none at all      given, no end     is not in force, and has its end written into the audit now
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.access.grants import EndedGrant, StoredGrant
from mxrtc_bridge.core.access.policy import Service, parse_subject
from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord, ChainError, read_line
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import ServiceName, UserId, read_actor
from mxrtc_bridge.storage.requests import reopen_in

MAX_WRITTEN = 2000
"""Ends that one start writes into the audit, the newest; the others at the next ones."""
_BATCH = 500
COLUMNS = "number, subject, peer, service, giver, since_ms, until_ms, reason, once"


@dataclass(frozen=True, slots=True)
class RecoveredGrants:
    """What a start has found."""

    in_force: list[StoredGrant]
    """The oldest first."""
    unwritten: list[EndedGrant]
    """Have ended, and the audit does not know it: their ends are to be written there."""
    contradicted: list[EndedGrant]
    """Were in force in the database, and had ended by the audit; they have ended now."""
    unknown: list[int]
    """Are in force, and the audit has no line of them."""
    missing: list[int]
    """Are in force by the audit, and the database does not know them; they are among :attr:`unwritten` as well."""


async def recover(connection: Connection, now_ms: int) -> RecoveredGrants:
    """Do what the head of this module says, as a transaction at ``now_ms`` of the wall clock."""
    unconfirmed = await _end_by_itself(connection, now_ms)
    said = _last_said(row["line"] for row in await connection.fetch(_LINES))
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM given_grant WHERE ended_ms IS NULL ORDER BY number"  # noqa: S608 - ours
    )
    in_force: list[StoredGrant] = []
    contradicted: list[EndedGrant] = []
    for grant in (found for row in rows if (found := read_grant(row)) is not None):
        last = said.get(grant.number)
        if last is None or last.kind is AuditKind.GRANT:
            in_force.append(grant)
            continue
        by = None if last.by is None else read_actor(last.by)
        contradicted.append(EndedGrant(grant, last.at_ms, last.reason or "revoked", by))
        await connection.execute(
            "UPDATE given_grant SET ended_ms = $2, ended_how = $3, ended_by = $4 WHERE number = $1",
            grant.number,
            last.at_ms,
            last.reason or "revoked",
            last.by,
        )
    live = {grant.number for grant in in_force}
    given = {number for number, last in said.items() if last.kind is AuditKind.GRANT} - live
    wanted = sorted({*given, *unconfirmed}, reverse=True)[:MAX_WRITTEN]
    ended = await _ended(connection, wanted)
    missing = [
        lost
        for number in wanted
        if number not in ended
        and (last := said.get(number)) is not None
        and (last.until_ms or 0) > now_ms
        and (lost := _from_audit(last)) is not None
    ]
    return RecoveredGrants(
        in_force,
        [
            *(ended[number] for number in sorted(ended)),
            *(EndedGrant(grant, now_ms, "unconfirmed") for grant in missing),
        ],
        contradicted,
        [number for number in sorted(live) if number not in said],
        [grant.number for grant in missing],
    )


_LINES = 'SELECT line FROM audit WHERE line LIKE \'%"kind":"grant%\' ORDER BY number'
"""By an index over just these."""


async def _end_by_itself(connection: Connection, now_ms: int) -> list[int]:
    """End what the rows alone say is over; returns the numbers of those that were pending."""
    pending = await connection.fetch(
        "UPDATE given_grant SET ended_ms = $1, ended_how = 'unconfirmed' WHERE ended_ms IS NULL AND pending = 1 "
        "RETURNING number, request",
        now_ms,
    )
    for row in pending:
        if row["request"] is not None:
            await reopen_in(connection, row["request"])
    await connection.execute(
        "UPDATE given_grant SET ended_ms = $1, ended_how = 'used' WHERE ended_ms IS NULL AND claimed_ms IS NOT NULL",
        now_ms,
    )
    await connection.execute(
        "UPDATE given_grant SET ended_ms = until_ms, ended_how = 'expired' WHERE ended_ms IS NULL AND until_ms <= $1",
        now_ms,
    )
    return [int(row["number"]) for row in pending]


async def _ended(connection: Connection, numbers: list[int]) -> dict[int, EndedGrant]:
    """Those of some grants that have ended."""
    found: dict[int, EndedGrant] = {}
    for start in range(0, len(numbers), _BATCH):
        part = numbers[start : start + _BATCH]
        places = ", ".join(f"${place}" for place in range(1, len(part) + 1))
        rows = await connection.fetch(
            f"SELECT {COLUMNS}, ended_ms, ended_how, ended_by FROM given_grant "  # noqa: S608 - ours
            f"WHERE ended_ms IS NOT NULL AND number IN ({places})",
            *part,
        )
        for row in rows:
            if (grant := read_grant(row)) is not None:
                by = None if row["ended_by"] is None else read_actor(row["ended_by"])
                found[grant.number] = EndedGrant(grant, row["ended_ms"], row["ended_how"], by)
    return found


def _last_said(lines: Iterable[str]) -> dict[int, AuditRecord]:
    """The last line about each grant; the last one counts, as a database that was restored gives numbers again."""
    said: dict[int, AuditRecord] = {}
    for line in lines:
        try:
            record = read_line(line.encode()).record
        except ChainError:
            continue  # somebody has changed the database by hand; the file says what there was
        if record.grant is not None and record.kind in (AuditKind.GRANT, AuditKind.GRANT_END):
            said[record.grant] = record
    return said


def _from_audit(record: AuditRecord) -> StoredGrant | None:
    """A grant as its line in the audit describes it."""
    values = (record.grant, record.user, record.peer, record.service, record.by, record.until_ms)
    match values:
        case (int(number), str(user), str(peer), str(service), str(by), int(until_ms)):
            try:
                subject = parse_subject(user)
            except ConfigError:
                return None
            where = Service(UserId(peer), ServiceName(service))
            return StoredGrant(number, subject, where, read_actor(by), record.at_ms, until_ms)
    return None


def read_grant(row: Any) -> StoredGrant | None:
    """A row of :data:`COLUMNS`; None if it gives nothing, as somebody has changed the database by hand."""
    try:
        subject = parse_subject(row["subject"])
    except ConfigError:
        return None
    return StoredGrant(
        number=int(row["number"]),
        subject=subject,
        service=Service(UserId(row["peer"]), ServiceName(row["service"])),
        giver=read_actor(row["giver"]),
        since_ms=row["since_ms"],
        until_ms=row["until_ms"],
        reason=row["reason"],
        once=bool(row["once"]),
    )
