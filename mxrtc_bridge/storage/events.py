"""Room events that have arrived, until they are handled: what the homeserver's 200 stands for.

An event is stored once by its id, whatever transaction brings it: transaction ids start again with a new homeserver
database, and the same event may come in different transactions. Settled events leave a row behind, without the payload
when all went well, so that a late repetition is still known; :meth:`InboxStore.prune` takes these rows away in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.inbox import ArrivedEvent, EventOutcome, StoredEvent, WaitingCount, WaitingEvent
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.spare_rows import SpareRows

KEEP_MS = 30 * 24 * 3600 * 1000
"""How long a settled event is remembered."""
MAX_DONE = 500_000
MAX_SET_ASIDE = 10_000
"""Fewer than of the others, because these keep their payload for the admin to look at."""
MAX_REASON_CHARS = 200
MAX_EVIDENCE_CHARS = 4096
"""What is kept of an event that was set aside."""
REDACTED = "redacted"
"""The reason of what was taken back before it was handled."""
_BATCH = 1000
_ROWS = 100
"""Rows of one INSERT; with all their columns far below the 32,766 values that both databases take."""
_COLUMNS = 9

_NEW, _DONE, _SET_ASIDE = 0, 1, 2


class InboxStore:
    """The table ``event``."""

    def __init__(self, database: Database, *, max_done: int = MAX_DONE, max_set_aside: int = MAX_SET_ASIDE) -> None:
        self._database = database
        self._limits = ((_DONE, max_done, SpareRows()), (_SET_ASIDE, max_set_aside, SpareRows()))

    async def store(self, arrivals: Sequence[ArrivedEvent], now_ms: int) -> list[int | None]:
        """Store events in this order, all or none.

        Returns:
            For each arrival its place in the order, or None if its key was stored before.

        Raises:
            StorageError: nothing has been stored.
        """

        async def insert(connection: Connection) -> dict[str, int]:
            places: dict[str, int] = {}
            for start in range(0, len(arrivals), _ROWS):
                rows = arrivals[start : start + _ROWS]
                values = [value for arrival in rows for value in _row(arrival, now_ms)]
                stored = await connection.fetch(_insert_statement(len(rows)), *values)
                places.update((row["event_id"], row["seq"]) for row in stored)
            return places

        if not arrivals:
            return []
        self._settling(sum(each.refusal is not None for each in arrivals))
        places = await self._database.transaction(insert)
        # Taken out at the first mention: a second one in the same transaction is a repetition.
        return [places.pop(arrival.key, None) for arrival in arrivals]

    async def waiting_lanes(self, limit: int) -> list[tuple[str, str]]:
        """Rooms and lanes with events that wait, the one that has waited longest first."""
        rows = await self._database.rows(
            "SELECT room_id, lane FROM event WHERE state = 0 GROUP BY room_id, lane ORDER BY MIN(seq) LIMIT $1",
            (limit,),
        )
        return [(row["room_id"], row["lane"]) for row in rows]

    async def waiting(self, room_id: str, lane: str, after: int, limit: int) -> list[StoredEvent]:
        """Events of a lane of a room that wait and came after the place ``after``, oldest first."""
        rows = await self._database.rows(
            "SELECT seq, event_id, sender, payload FROM event "
            "WHERE state = 0 AND room_id = $1 AND lane = $2 AND seq > $3 ORDER BY seq LIMIT $4",
            (room_id, lane, after, limit),
        )
        return [StoredEvent(*row) for row in rows]

    async def find_waiting(self, keys: Sequence[str]) -> list[WaitingEvent]:
        """Of these events those that wait, with their places."""

        async def select(connection: Connection) -> list[WaitingEvent]:
            found: list[WaitingEvent] = []
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                marks = ", ".join(f"${number}" for number in range(1, len(batch) + 1))
                rows = await connection.fetch(
                    "SELECT seq, event_id, room_id, lane, sender FROM event "  # noqa: S608 - numbers
                    f"WHERE state = 0 AND event_id IN ({marks}) ORDER BY seq",
                    *batch,
                )
                found.extend(WaitingEvent(*row) for row in rows)
            return found

        return await self._database.read(select) if keys else []

    async def count_waiting(self) -> list[WaitingCount]:
        """How many events wait, of each sender in each lane of each room."""
        rows = await self._database.rows(
            "SELECT room_id, lane, sender, COUNT(*) FROM event WHERE state = 0 GROUP BY room_id, lane, sender"
        )
        return [WaitingCount(*row) for row in rows]

    async def settle(self, verdicts: Sequence[EventOutcome], now_ms: int) -> None:
        """Mark waiting events as handled or set aside, all or none; settling again changes nothing."""

        async def update(connection: Connection) -> None:
            # The casts: PostgreSQL wants one type for each parameter, and cannot see it from IS NULL.
            await connection.executemany(
                "UPDATE event SET state = CASE WHEN CAST($2 AS TEXT) IS NULL THEN 1 ELSE 2 END, "
                "reason = CAST($2 AS TEXT), settled_ms = $3, "
                "payload = CASE WHEN $4 > 0 THEN SUBSTR(payload, 1, $4) ELSE '' END "
                "WHERE event_id = $1 AND state = 0",
                [(each.key, _cut(each.refusal), now_ms, _kept_chars(each.refusal)) for each in verdicts],
            )

        if verdicts:
            self._settling(len(verdicts))
            await self._database.transaction(update)

    async def prune(self, now_ms: int) -> int:
        """Forget settled events that are too old or too many, in small transactions; returns how many."""
        forgotten = 0
        for state, limit, spare in self._limits:
            settled = f"state = {state} AND state <> 0"
            forgotten += await self._database.prune(
                "event", "seq", "settled_ms", now_ms - KEEP_MS, limit, where=settled, order="seq", spare=spare
            )
        return forgotten

    def _settling(self, rows: int) -> None:
        for _, _, spare in self._limits:
            spare.write(rows)


@cache
def _insert_statement(rows: int) -> str:
    """One statement for so many rows: a statement for each would be a change of thread for each."""
    groups = (
        "(" + ", ".join(f"${row * _COLUMNS + column}" for column in range(1, _COLUMNS + 1)) + ")" for row in range(rows)
    )
    return (
        "INSERT INTO event "  # noqa: S608 - numbers
        "(event_id, room_id, sender, lane, state, reason, payload, received_ms, settled_ms) "
        f"VALUES {', '.join(groups)} ON CONFLICT (event_id) DO NOTHING RETURNING event_id, seq"
    )


def _row(arrival: ArrivedEvent, now_ms: int) -> tuple[str | int | None, ...]:
    place = (arrival.key, arrival.room_id, arrival.sender, arrival.lane)
    if arrival.refusal is None:
        return (*place, _NEW, None, arrival.payload, now_ms, None)
    return (*place, _SET_ASIDE, _cut(arrival.refusal), arrival.payload, now_ms, now_ms)


def _kept_chars(refusal: str | None) -> int:
    """How much of an event is kept for the admin to look at; nothing of what was handled or taken back."""
    return 0 if refusal in (None, REDACTED) else MAX_EVIDENCE_CHARS


def _cut(reason: str | None) -> str | None:
    return None if reason is None else reason[:MAX_REASON_CHARS]
