"""A crypto store that forgets everything with the process.

It stands for a database. A test that needs a bad one sets ``honesty``: *stale* loses what is written from then on,
*silent* hangs, *wrong* refuses everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

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
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from tests.honesty import Honesty


class MemoryStore:
    honesty = Honesty.TRUE

    def __init__(self) -> None:
        self._account: AccountRecord | None = None
        self._olm: dict[tuple[str, str], OlmRecord] = {}
        self._inbound: dict[tuple[RoomId, str, UserId], InboundRecord] = {}
        self._outbound: dict[RoomId, OutboundRecord] = {}
        self._users: dict[UserId, UserRecord] = {}
        self._rooms: dict[RoomId, RoomEncryption] = {}
        self._opened: dict[str, OpenedRecord] = {}
        self._indexes: dict[tuple[RoomId, str, int], EventId] = {}

    async def _asked(self) -> None:
        if self.honesty is Honesty.SILENT:
            await asyncio.get_running_loop().create_future()
        if self.honesty is Honesty.WRONG:
            raise StorageError("the disk is full")

    async def account(self) -> AccountRecord | None:
        await self._asked()
        return self._account

    async def save(self, changes: Changes) -> None:
        await self._asked()
        if self.honesty is Honesty.STALE:
            return
        self._account = changes.account or self._account
        self._olm |= {(each.curve25519, each.session_id): each for each in changes.olm}
        for key in changes.inbound:
            self._inbound.setdefault((key.room, key.session_id, key.user), key)
        self._outbound |= {each.room: each for each in changes.outbound}
        self._users |= {each.user: each for each in changes.users}
        self._rooms |= {each.room: each for each in changes.rooms}
        self._opened |= {each.name: each for each in changes.opened}
        for name in changes.dealt_with:
            self._opened.pop(name, None)

    async def forget(self, *, but: AccountRecord | None = None) -> None:
        await self._asked()
        if self.honesty is Honesty.STALE:
            return
        self._account = but
        for table in self._secrets():
            table.clear()

    def _secrets(self) -> tuple[dict[object, object], ...]:
        return (self._olm, self._inbound, self._outbound, self._indexes)  # type: ignore[return-value]

    async def opened(self) -> Sequence[OpenedRecord]:
        await self._asked()
        return tuple(self._opened.values())

    async def olm_sessions(self, curve25519: str) -> Sequence[OlmRecord]:
        await self._asked()
        found = [each for (key, _), each in self._olm.items() if key == curve25519]
        return sorted(found, key=lambda each: -each.used_ms)

    async def inbound(self, room: RoomId, session_id: str, user: UserId) -> InboundRecord | None:
        await self._asked()
        return self._inbound.get((room, session_id, user))

    async def outbound(self, room: RoomId) -> OutboundRecord | None:
        await self._asked()
        return self._outbound.get(room)

    async def claim_index(self, room: RoomId, session_id: str, index: int, event_id: EventId, now_ms: int) -> bool:
        await self._asked()
        kept = self._indexes.get if self.honesty is Honesty.STALE else self._indexes.setdefault
        return kept((room, session_id, index), event_id) == event_id

    async def user(self, user: UserId) -> UserRecord | None:
        await self._asked()
        return self._users.get(user)

    async def mark_outdated(self, users: Sequence[UserId] | None) -> None:
        await self._asked()
        if self.honesty is Honesty.STALE:
            return
        users = list(self._users) if users is None else users
        self._users |= {user: replace(self._users[user], outdated=True) for user in users if user in self._users}

    async def room(self, room: RoomId) -> RoomEncryption | None:
        await self._asked()
        return self._rooms.get(room)
