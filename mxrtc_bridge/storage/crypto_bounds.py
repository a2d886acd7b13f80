"""How much the tables of encryption hold: what strangers can fill has shares, and nothing that is in force goes.

What may always go: a session with a device (a new one is begun), a key of somebody's room that is not needed any more,
our own session of a room that is replaced anyway. What may never go for the sake of others: the identity of a user that
was compared by hand, and that a room is encrypted while we are in it. The index of a message goes only together with
the key of its session, because without the index the message could be played again.

Every table is looked at for one own user at a time, and no more rows than :data:`MAX_LOOKED_AT` in one go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.bounds.rows import Bound, Row, surplus
from mxrtc_bridge.core.ids import UserId

MAX_LOOKED_AT = 50_000
_BATCH = 500
DAY_MS = 24 * 3600 * 1000
KEEP_OUTBOUND_MS = 31 * DAY_MS
"""A session of a room of ours is replaced after 30 days at the latest, so an older one is never used again."""
MAX_OUTBOUND = 10_000
MAX_ROOMS = 20_000
"""Rooms that were encrypted and that no peer is in any more."""
MAX_INDEX = 200_000
MAX_INDEX_OF_SESSION = 20_000
"""Messages of one session; clients begin a new one after some hundred."""

_KNOWN = "EXISTS (SELECT 1 FROM audit WHERE audit.owner = '+' || t.user_id)"
KNOWN_USER = f"(t.verified_master IS NOT NULL OR {_KNOWN})"
"""Of a row ``t`` of crypto_user: whether its user was let in before, or compared by hand."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table with rows of other users."""

    name: str
    key: tuple[str, ...]
    used: str
    bound: Bound
    known: str = _KNOWN
    size: str = "0"


OLM = _Table(
    "crypto_olm", ("curve25519", "session_id"), "used_ms", Bound(20_000, of_user=64, of_server=200, strangers=2000)
)
INBOUND = _Table(
    "crypto_inbound",
    ("room_id", "session_id", "user_id"),
    "received_ms",
    Bound(50_000, of_user=2000, of_server=2000, strangers=5000),
)
USERS = _Table(
    "crypto_user",
    ("user_id",),
    "queried_ms",
    Bound(20_000, of_user=1, of_server=500, strangers=2000, strangers_bytes=32 * 1024 * 1024),
    known=KNOWN_USER,
    size="LENGTH(t.keys_json)",
)


@dataclass(frozen=True, slots=True)
class CryptoBounds:
    """How many rows the tables may hold."""

    tables: tuple[_Table, ...] = (OLM, INBOUND, USERS)
    index: int = MAX_INDEX
    index_of_session: int = MAX_INDEX_OF_SESSION
    outbound: int = MAX_OUTBOUND
    rooms: int = MAX_ROOMS


async def trim(connection: Connection, owner: UserId, bounds: CryptoBounds) -> int:
    """Forget what is too much of one own user; returns the rows."""
    gone = 0
    for table in bounds.tables:
        gone += await _trim_shared(connection, owner, table)
    return gone + await _trim_index(connection, owner, bounds)


async def _trim_shared(connection: Connection, owner: UserId, table: _Table) -> int:
    if await _count(connection, table.name, owner) <= min(table.bound.of_user, table.bound.of_server):
        return 0
    # Names and expressions of ours; the oldest, as those go first.
    rows = await connection.fetch(
        f"SELECT {', '.join(f't.{name}' for name in table.key)}, t.user_id AS whose, t.{table.used} AS used, "  # noqa: S608
        f"CASE WHEN {table.known} THEN 1 ELSE 0 END AS known, {table.size} AS size "
        f"FROM {table.name} t WHERE t.owner = $1 ORDER BY t.{table.used} LIMIT $2",
        owner,
        MAX_LOOKED_AT,
    )
    found = [
        Row(tuple(row[name] for name in table.key), row["whose"], row["used"], bool(row["known"]), row["size"])
        for row in rows
    ]
    too_many = surplus(found, table.bound)
    condition = " AND ".join(f"{name} = ${place}" for place, name in enumerate(table.key, 2))
    for start in range(0, len(too_many), _BATCH):
        await connection.executemany(
            f"DELETE FROM {table.name} WHERE owner = $1 AND {condition}",  # noqa: S608
            [(owner, *row.name) for row in too_many[start : start + _BATCH]],
        )
    return len(too_many)


async def _trim_index(connection: Connection, owner: UserId, bounds: CryptoBounds) -> int:
    """Forget the sessions with most messages: index and key together, so that nothing can be played again."""
    total = await _count(connection, "crypto_index", owner)
    if total <= bounds.index_of_session:
        return 0
    rows = await connection.fetch(
        "SELECT room_id, session_id, COUNT(*) AS used FROM crypto_index WHERE owner = $1 "
        "GROUP BY room_id, session_id ORDER BY COUNT(*) DESC LIMIT $2",
        owner,
        _BATCH,
    )
    gone = 0
    for row in rows:
        if row["used"] <= bounds.index_of_session and total - gone <= bounds.index:
            break
        for table in ("crypto_inbound", "crypto_index"):
            await connection.execute(
                f"DELETE FROM {table} WHERE owner = $1 AND room_id = $2 AND session_id = $3",  # noqa: S608 - ours
                owner,
                row["room_id"],
                row["session_id"],
            )
        gone += row["used"]
    return gone


async def trim_rooms(connection: Connection, now_ms: int, bounds: CryptoBounds) -> int:
    """Forget sessions and rooms that nobody is in any more, of all own users; returns the rows."""
    gone: list[Any] = await connection.fetch(
        "DELETE FROM crypto_outbound WHERE created_ms < $1 RETURNING 1", now_ms - KEEP_OUTBOUND_MS
    )
    gone += await connection.fetch(
        "DELETE FROM crypto_outbound WHERE (owner, room_id) IN (SELECT owner, room_id FROM crypto_outbound "
        "ORDER BY created_ms DESC, room_id LIMIT 1000 OFFSET $1) RETURNING 1",
        bounds.outbound,
    )
    gone += await connection.fetch(
        "DELETE FROM crypto_room WHERE (owner, room_id) IN (SELECT owner, room_id FROM crypto_room "
        "WHERE NOT EXISTS (SELECT 1 FROM peer_room WHERE peer_room.peer = crypto_room.owner "
        "AND peer_room.room_id = crypto_room.room_id) ORDER BY used_ms DESC, room_id LIMIT 1000 OFFSET $1) RETURNING 1",
        bounds.rooms,
    )
    return len(gone)


async def _count(connection: Connection, table: str, owner: UserId) -> int:
    return int(await connection.fetchval(f"SELECT COUNT(*) FROM {table} WHERE owner = $1", owner))  # noqa: S608 - ours
