"""The memory of encrypted devices: one :class:`CryptoUserStore` for each own user, all in the same tables.

Implements :class:`mxrtc_bridge.matrix.crypto.store.DeviceStore`. Pickles are encrypted before they come here.

One file: the statements of one store, a few for each thing that a device remembers.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.crypto.records import (
    AccountRecord,
    Changes,
    InboundRecord,
    OlmRecord,
    OpenedRecord,
    OutboundRecord,
    RoomEncryption,
    UserRecord,
)
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.storage.crypto_bounds import KNOWN_USER, CryptoBounds, trim, trim_rooms
from mxrtc_bridge.storage.database import Database

DAY_MS = 24 * 3600 * 1000
KEEP_INBOUND_MS = 7 * DAY_MS
"""How long the key of a session of others is kept: calls are of the moment, and history is not read again."""
KEEP_OLM_MS = 90 * DAY_MS
"""How long a session with a device is kept that has not used it."""
KEEP_STRANGER_MS = 90 * DAY_MS
"""How long the devices of a user are kept who was never let in, once nobody asks for them any more."""
KEEP_OPENED_MS = 3600 * 1000
"""How long a message is kept that was decrypted and not dealt with; what it is about is over by then."""
MAX_OPENED = 1000
"""Messages of an earlier run that are taken up again. While it runs, what waits in memory has its bounds."""
MAX_OLM = 8
"""Sessions with one device; the newest are read."""

MAX_VOUCHED = 1000
"""Identities that new devices are told of; an admin compares each by hand."""

TRIM_EVERY = 256
"""Rows that are written before it is looked whether there are too many."""
ROOM_USED_EVERY_MS = DAY_MS
_ACCOUNT = "device_id, pickle, uploaded, fallback_ms, sync_token"
_INBOUND = "pickle, curve25519, ed25519, device_id, received_ms"
_OUTBOUND = "session_id, pickle, created_ms, messages, shared, withheld"
_USER = "keys_json, queried_ms, outdated, pinned_master, verified_master"
_TABLES = ("crypto_account", "crypto_olm", "crypto_inbound", "crypto_outbound", "crypto_index")


class CryptoStore:
    """The tables ``crypto_*``."""

    def __init__(
        self,
        database: Database,
        *,
        bounds: CryptoBounds = CryptoBounds(),  # noqa: B008 - a value
        trim_every: int = TRIM_EVERY,
    ) -> None:
        self.database = database
        self.bounds = bounds
        self.trim_every = trim_every
        self._is_trimmed = False
        """Whether no table has had too many rows since the start."""
        self.indexed = set[UserId]()
        """Own users for whom messages of rooms were decrypted since."""

    def of(self, user: UserId) -> CryptoUserStore:
        """The memory of one own user."""
        return CryptoUserStore(self, user)

    async def vouched(self) -> dict[UserId, str]:
        """Users whose identity was compared by hand, with it; skips users for whom own users hold different keys."""
        rows = await self.database.rows(
            "SELECT user_id, MIN(verified_master) AS master FROM crypto_user WHERE verified_master IS NOT NULL "
            "GROUP BY user_id HAVING MIN(verified_master) = MAX(verified_master) ORDER BY user_id LIMIT $1",
            (MAX_VOUCHED,),
        )
        return {UserId(row["user_id"]): row["master"] for row in rows}

    async def prune(self, now_ms: int) -> int:
        """Forget keys and sessions that nobody will use, of all users; returns how many."""

        async def delete(connection: Connection) -> int:
            gone = await connection.fetch(
                "DELETE FROM crypto_inbound WHERE received_ms < $1 RETURNING 1", now_ms - KEEP_INBOUND_MS
            )
            gone += await connection.fetch(
                "DELETE FROM crypto_index WHERE used_ms < $1 RETURNING 1", now_ms - KEEP_INBOUND_MS
            )
            gone += await connection.fetch(
                "DELETE FROM crypto_olm WHERE used_ms < $1 RETURNING 1", now_ms - KEEP_OLM_MS
            )
            gone += await connection.fetch(
                f"DELETE FROM crypto_user AS t WHERE queried_ms < $1 AND NOT {KNOWN_USER} RETURNING 1",  # noqa: S608
                now_ms - KEEP_STRANGER_MS,
            )
            gone += await connection.fetch(
                "DELETE FROM crypto_opened WHERE opened_ms < $1 RETURNING 1", now_ms - KEEP_OPENED_MS
            )
            return len(gone) + await trim_rooms(connection, now_ms, self.bounds)

        forgotten = await self.database.transaction(delete)
        for owner in await self._untrimmed():
            self.indexed.discard(owner)
            forgotten += await self.database.transaction(partial(trim, owner=owner, bounds=self.bounds))
        self._is_trimmed = True
        return forgotten

    async def _untrimmed(self) -> tuple[UserId, ...]:
        """Own users who may have too many rows: after a start all, and then those whose writing does not see to it."""
        if self._is_trimmed:
            return tuple(self.indexed)
        rows = await self.database.rows(
            "SELECT owner FROM crypto_olm UNION SELECT owner FROM crypto_inbound UNION "
            "SELECT owner FROM crypto_user UNION SELECT owner FROM crypto_index"
        )
        return tuple(UserId(row["owner"]) for row in rows)


def verified_master_in_file(path: Path, owner: UserId, user: UserId) -> str | None:
    """Read which identity of ``user`` the device of ``owner`` has verified, from a database that is not opened.

    It may be in use, or lie where nothing can be written: then what is not in the main file yet is not seen.

    Raises:
        StorageError: it cannot be read.
    """
    for how in ("mode=ro", "mode=ro&immutable=1"):
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True)) as database:
                if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'crypto_user'").fetchone():
                    return None
                row = database.execute(
                    "SELECT verified_master FROM crypto_user WHERE owner = ? AND user_id = ?", (owner, user)
                ).fetchone()
            return None if row is None or row[0] is None else str(row[0])
        except sqlite3.Error as error:
            problem = error
    raise StorageError(f"{str(path)!a} cannot be read: {problem}")


class CryptoUserStore:
    """The memory of one user's device."""

    def __init__(self, store: CryptoStore, owner: UserId) -> None:
        self._store = store
        self._database = store.database
        self._owner = owner
        self._written = 0

    async def account(self) -> AccountRecord | None:
        """The device of the last run."""
        row = await self._database.row(
            f"SELECT {_ACCOUNT} FROM crypto_account WHERE owner = $1",  # noqa: S608 - ours
            (self._owner,),
        )
        if row is None:
            return None
        device, pickle, uploaded, fallback_ms, sync_token = row
        return AccountRecord(DeviceId(device), pickle, bool(uploaded), fallback_ms, sync_token)

    async def save(self, changes: Changes) -> None:
        """Save everything in one transaction."""
        rows = len(changes.olm) + len(changes.inbound) + len(changes.users)
        # Not by the hour: whoever writes to our devices chooses how much that is.
        full = self._written + rows >= self._store.trim_every

        async def write(connection: Connection) -> None:
            if changes.account is not None:
                await _write_account(connection, self._owner, changes.account)
            for olm in changes.olm:
                await _write_olm(connection, self._owner, olm)
            for inbound in changes.inbound:
                await _write_inbound(connection, self._owner, inbound)
            for outbound in changes.outbound:
                await _write_outbound(connection, self._owner, outbound)
            for user in changes.users:
                await _write_user(connection, self._owner, user)
            for room in changes.rooms:
                await _write_room(connection, self._owner, room)
            await _write_opened(connection, self._owner, changes)
            if full:
                await trim(connection, self._owner, self._store.bounds)

        await self._database.transaction(write)
        self._written = 0 if full else self._written + rows

    async def forget(self, *, but: AccountRecord | None = None) -> None:
        """Remove the device and its sessions, but for ``but``; what is known of others and of rooms stays."""

        async def delete(connection: Connection) -> None:
            for table in _TABLES:
                await connection.execute(f"DELETE FROM {table} WHERE owner = $1", self._owner)  # noqa: S608 - ours
            if but is not None:
                await _write_account(connection, self._owner, but)

        await self._database.transaction(delete)

    async def opened(self) -> Sequence[OpenedRecord]:
        """The oldest messages that were decrypted and are not dealt with."""
        rows = await self._database.rows(
            "SELECT name, user_id, sealed, opened_ms FROM crypto_opened WHERE owner = $1 ORDER BY opened_ms LIMIT $2",
            (self._owner, MAX_OPENED),
        )
        return [OpenedRecord(*row) for row in rows]

    async def olm_sessions(self, curve25519: str) -> Sequence[OlmRecord]:
        """The newest sessions with a device, newest first."""
        rows = await self._database.rows(
            "SELECT curve25519, session_id, pickle, used_ms, user_id FROM crypto_olm "
            "WHERE owner = $1 AND curve25519 = $2 ORDER BY used_ms DESC, session_id LIMIT $3",
            (self._owner, curve25519, MAX_OLM),
        )
        return [OlmRecord(*row) for row in rows]

    async def inbound(self, room: RoomId, session_id: str, user: UserId) -> InboundRecord | None:
        """The session that ``user`` has sent the key of."""
        row = await self._database.row(
            f"SELECT {_INBOUND} FROM crypto_inbound "  # noqa: S608 - ours
            "WHERE owner = $1 AND room_id = $2 AND session_id = $3 AND user_id = $4",
            (self._owner, room, session_id, user),
        )
        if row is None:
            return None
        return InboundRecord(
            room=room,
            session_id=session_id,
            pickle=row["pickle"],
            user=user,
            curve25519=row["curve25519"],
            ed25519=row["ed25519"],
            device=DeviceId(row["device_id"]),
            received_ms=row["received_ms"],
        )

    async def outbound(self, room: RoomId) -> OutboundRecord | None:
        """Our session of a room."""
        row = await self._database.row(
            f"SELECT {_OUTBOUND} FROM crypto_outbound WHERE owner = $1 AND room_id = $2",  # noqa: S608 - ours
            (self._owner, room),
        )
        if row is None:
            return None
        return OutboundRecord(
            room=room,
            session_id=row["session_id"],
            pickle=row["pickle"],
            created_ms=row["created_ms"],
            messages=row["messages"],
            shared=frozenset((UserId(a), DeviceId(b), c) for a, b, c in json.loads(row["shared"])),
            withheld=frozenset((UserId(a), DeviceId(b)) for a, b in json.loads(row["withheld"])),
        )

    async def claim_index(self, room: RoomId, session_id: str, index: int, event_id: EventId, now_ms: int) -> bool:
        """Remember which event used an index of a session; False if it was another one."""

        async def claim(connection: Connection) -> bool:
            await connection.execute(
                "INSERT INTO crypto_index (owner, room_id, session_id, position, event_id, used_ms) "
                "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                *(*key, event_id, now_ms),
            )
            found = await connection.fetchval(
                "SELECT event_id FROM crypto_index "
                "WHERE owner = $1 AND room_id = $2 AND session_id = $3 AND position = $4",
                *key,
            )
            return bool(found == event_id)

        key = (self._owner, room, session_id, index)
        self._store.indexed.add(self._owner)
        return await self._database.transaction(claim)

    async def user(self, user: UserId) -> UserRecord | None:
        """What is known of another user's keys."""
        row = await self._database.row(
            f"SELECT {_USER} FROM crypto_user WHERE owner = $1 AND user_id = $2",  # noqa: S608 - ours
            (self._owner, user),
        )
        if row is None:
            return None
        keys, queried_ms, outdated, pinned, verified = row
        return UserRecord(
            user, keys, queried_ms, outdated=bool(outdated), pinned_master=pinned, verified_master=verified
        )

    async def mark_outdated(self, users: Sequence[UserId] | None) -> None:
        """Have these users' keys, or those of everybody, asked for anew; unknown users are ignored."""

        async def update(connection: Connection) -> None:
            if users is None:
                await connection.execute(
                    "UPDATE crypto_user SET outdated = 1 WHERE owner = $1 AND outdated = 0", self._owner
                )
            for user in users or ():
                await connection.execute(
                    # Who changes their devices over and over costs no write until somebody has asked for them.
                    "UPDATE crypto_user SET outdated = 1 WHERE owner = $1 AND user_id = $2 AND outdated = 0",
                    *(self._owner, user),
                )

        await self._database.transaction(update, idempotent=True)

    async def room(self, room: RoomId) -> RoomEncryption | None:
        """How a room is encrypted; None if it never was. That it was asked for is remembered, to the day."""

        async def use(connection: Connection) -> Any:
            await connection.execute(
                "UPDATE crypto_room SET used_ms = $3 WHERE owner = $1 AND room_id = $2 AND used_ms < $4",
                *(self._owner, room, now_ms, now_ms - ROOM_USED_EVERY_MS),
            )
            return await connection.fetchrow(
                "SELECT rotate_messages, rotate_ms FROM crypto_room WHERE owner = $1 AND room_id = $2",
                *(self._owner, room),
            )

        now_ms = _now_ms()
        row = await self._database.transaction(use)
        return None if row is None else RoomEncryption(room, row["rotate_messages"], row["rotate_ms"])


async def _upsert(connection: Connection, table: str, keys: str, columns: str, values: Sequence[object]) -> None:
    """Write a row; one with the same keys gets the other values."""
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", "))
    await connection.execute(
        f"INSERT INTO {table} ({keys}, {columns}) VALUES ({places}) "  # noqa: S608 - names of ours
        f"ON CONFLICT ({keys}) DO UPDATE SET {updates}",
        *values,
    )


async def _write_account(connection: Connection, owner: UserId, record: AccountRecord) -> None:
    values = (record.device, record.pickle, int(record.uploaded), record.fallback_ms, record.sync_token)
    await _upsert(connection, "crypto_account", "owner", _ACCOUNT, (owner, *values))


async def _write_olm(connection: Connection, owner: UserId, record: OlmRecord) -> None:
    values = (record.curve25519, record.session_id, record.pickle, record.used_ms, record.user)
    keys = "owner, curve25519, session_id"
    await _upsert(connection, "crypto_olm", keys, "pickle, used_ms, user_id", (owner, *values))


async def _write_inbound(connection: Connection, owner: UserId, record: InboundRecord) -> None:
    """The first key of a session stays: a later one can only read less, or be another."""
    keys = (owner, record.room, record.session_id, record.user)
    values = (record.pickle, record.curve25519, record.ed25519, record.device, record.received_ms)
    await connection.execute(
        f"INSERT INTO crypto_inbound (owner, room_id, session_id, user_id, {_INBOUND}) "  # noqa: S608 - ours
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        *keys,
        *values,
    )


async def _write_outbound(connection: Connection, owner: UserId, record: OutboundRecord) -> None:
    lists = (_listed(record.shared), _listed(record.withheld))
    values = (record.room, record.session_id, record.pickle, record.created_ms, record.messages, *lists)
    await _upsert(connection, "crypto_outbound", "owner, room_id", _OUTBOUND, (owner, *values))


async def _write_opened(connection: Connection, owner: UserId, changes: Changes) -> None:
    for opened in changes.opened:
        values = (owner, opened.name, opened.user, opened.sealed, opened.opened_ms)
        await _upsert(connection, "crypto_opened", "owner, name", "user_id, sealed, opened_ms", values)
    for name in changes.dealt_with:
        await connection.execute("DELETE FROM crypto_opened WHERE owner = $1 AND name = $2", owner, name)


async def _write_user(connection: Connection, owner: UserId, record: UserRecord) -> None:
    masters = (record.pinned_master, record.verified_master)
    values = (record.user, record.keys_json, record.queried_ms, int(record.outdated), *masters)
    await _upsert(connection, "crypto_user", "owner, user_id", _USER, (owner, *values))


async def _write_room(connection: Connection, owner: UserId, record: RoomEncryption) -> None:
    values = (record.room, record.rotate_after_messages, record.rotate_after_ms, _now_ms())
    columns = "rotate_messages, rotate_ms, used_ms"
    await _upsert(connection, "crypto_room", "owner, room_id", columns, (owner, *values))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _listed(values: Iterable[tuple[str, ...]]) -> str:
    return json.dumps(sorted(values), separators=(",", ":"))
