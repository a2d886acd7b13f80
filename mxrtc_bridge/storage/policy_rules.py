"""The rules of policy lists as they were last seen, so that a list that cannot be read denies whom it has denied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.access.ban_lists import ListRule, RuleKey, RuleKind
from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.storage.database import Database

_INSERT = (
    "INSERT INTO policy_rule (room_id, event_type, state_key, kind, entity) VALUES ($1, $2, $3, $4, $5) "
    "ON CONFLICT (room_id, event_type, state_key) DO UPDATE SET kind = excluded.kind, entity = excluded.entity"
)


class PolicyRuleStore:
    """The table ``policy_rule``. Implements :class:`mxrtc_bridge.matrix.rooms.ban_lists.RuleMemory`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, rooms: Collection[RoomId]) -> Mapping[RoomId, list[tuple[RuleKey, ListRule]]]:
        """The rules of some lists; those of all others are forgotten."""

        async def select(connection: Connection) -> dict[RoomId, list[tuple[RuleKey, ListRule]]]:
            found: dict[RoomId, list[tuple[RuleKey, ListRule]]] = {}
            for row in await connection.fetch("SELECT DISTINCT room_id FROM policy_rule"):
                if (room := RoomId(row["room_id"])) not in rooms:
                    await connection.execute("DELETE FROM policy_rule WHERE room_id = $1", room)
                    continue
                rows = await connection.fetch(
                    "SELECT event_type, state_key, kind, entity FROM policy_rule WHERE room_id = $1 "
                    "ORDER BY event_type, state_key",
                    room,
                )
                found[room] = [
                    ((each["event_type"], each["state_key"]), ListRule(RuleKind(each["kind"]), each["entity"]))
                    for each in rows
                ]
            return found

        return await self._database.transaction(select)

    async def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]]) -> None:
        """Remember all rules of a list."""

        async def write(connection: Connection) -> None:
            await connection.execute("DELETE FROM policy_rule WHERE room_id = $1", room)
            await connection.executemany(_INSERT, [(room, *key, rule.kind.value, rule.entity) for key, rule in rules])

        await self._database.transaction(write)

    async def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None) -> None:
        """Remember one rule, or its end."""

        async def write(connection: Connection) -> None:
            if rule is None:
                await connection.execute(
                    "DELETE FROM policy_rule WHERE room_id = $1 AND event_type = $2 AND state_key = $3", room, *key
                )
            else:
                await connection.execute(_INSERT, room, *key, rule.kind.value, rule.entity)

        await self._database.transaction(write)
