"""Grants, requests and the audit as the bridge has them, with a real database and a real audit file.

Between any two places that know of a grant a test may let something fail, cancel whoever waits, or kill the process: a
kill is a copy of all files at that moment, from which another world starts.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import pytest

from mxrtc_bridge.bridge.access.rights import Gate, Rights
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.service import AdminService
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import AuditSettings
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.policy import Service, parse_subject
from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord, read_chain
from mxrtc_bridge.core.errors import AdminError, HomeserverError, StorageError
from mxrtc_bridge.core.ids import EventId, RoomId, ServiceName, UserId
from mxrtc_bridge.storage.audit import AuditStore
from mxrtc_bridge.storage.audit_file import read_lines
from mxrtc_bridge.storage.database import Database, DatabaseBounds
from mxrtc_bridge.storage.grants import GrantStore
from mxrtc_bridge.storage.requests import RequestStore
from tests.bridge.access.test_rights import Rooms, config
from tests.storage.made_tables import give_tables

NOW = 1_800_000_000_000
HOUR_S = 3600
ADMIN, EVE = UserId("@admin:example.org"), UserId("@eve:example.org")
PEER = UserId("@rtc_build:example.org")
SSH, WEB = Service(PEER, ServiceName("ssh")), Service(PEER, ServiceName("web"))
ROOM, ADMINS = RoomId("!direct:example.org"), RoomId("!admins:example.org")
CONFIG = config(grantable={name: [EVE, "@bob:example.org"] for name in ("ssh", "web", "db")})

Hook = Callable[[], Awaitable[None]]


class World:
    """One run of what the bridge does with grants."""

    open: ClassVar[list[World]] = []
    """Those that have not ended; see :func:`closed_worlds`."""

    def __init__(self, folder: Path, database: Database, **limits: Any) -> None:
        self.folder = folder
        self.database = database
        self.now_ms = NOW
        self.told: list[str] = []
        """To the admins, by what looks after the grants itself."""
        self.posted: list[str] = []
        """To people, in rooms."""
        self.posted_fields: list[dict[str, object]] = []
        """What stood beside these words for programs, where anything did."""
        self.shown: list[str] = []
        self.judged = 0
        """How often live sessions were judged again."""
        self.hooks: dict[tuple[str, str], Hook] = {}
        """What happens before or after a step, once."""
        self.homeserver_away = False
        self.grants, self.requests_store = GrantStore(database), RequestStore(database)
        self.audit_store = AuditStore(database)
        self.audit = AuditLog(
            self.audit_store,
            AuditSettings(folder / "audit.jsonl", 1 << 24, 3),
            wall_ms=self.wall_ms,
            tell_admins=self.told.append,
            mirror=lambda _number, _record: None,
        )
        audited = AuditEvents(self.audit, self)
        current, rooms = CurrentConfig(CONFIG), Rooms()
        self.given = RuntimeGrants(
            self.grants,
            GrantTable(),
            config=current,
            rooms_of=rooms.rooms_of,
            changed=self._judge,
            audited=audited,
            clock=self,
            tell_admins=self.told.append,
            **limits,
        )
        self.rights = Rights(current, rooms, self.given, self)
        desk = AdminService(
            self.given,
            cast(Any, SimpleNamespace(paused=False)),
            audited=audited,
            reload=cast(Any, None),
            monotonic=lambda: self.now_ms / 1000,
        )
        self.desk = desk
        self.requests = AccessRequests(
            self.requests_store,
            desk,
            self.rights,
            current,
            self,
            self,
            rooms=SimpleNamespace(bot_rooms=SimpleNamespace(room=lambda _for: ADMINS), teller_in=lambda _room: PEER),
            wall_ms=self.wall_ms,
        )
        self.audited = audited
        for holder, name, step in (
            (self.grants, "add", "grant stored"),
            (audited, "grant_given", "grant audited"),
            (self.grants, "confirm", "grant confirmed"),
            (self.grants, "write", "end stored"),
            (self.audit_store, "add", "audit stored"),
            (self.requests_store, "add", "request stored"),
            (self.requests_store, "settle", "request settled"),
            (self, "send_notice", "request shown"),
        ):
            self._watch(holder, name, step)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, folder: Path, url: str | None = None, **limits: Any) -> Self:
        """Begin a run on the files in ``folder``, as after any end of the last one."""
        folder.mkdir(exist_ok=True)
        world = cls(
            folder,
            await Database.open(
                url or f"sqlite:///{give_tables(folder / 'bridge.db')}", DatabaseBounds(patience_s=0.3)
            ),
            **limits,
        )
        cls.open.append(world)
        await world.audit.start()
        world._tasks.append(asyncio.create_task(world.audit.run()))
        await world.given.load()
        world._tasks.append(asyncio.create_task(world.given.run()))
        return world

    async def stop(self) -> None:
        """End in order, as at SIGTERM."""
        await self.requests.close()
        tasks = self._tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.given.close()
        await self.audit.close()
        await self.database.close()

    async def abandon(self) -> None:
        """Forget this run without another thought; only what holds a thread is closed."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.database.close()

    async def settled(self) -> None:
        """Wait until all that waits for the database and the audit is written."""
        _ = self.given.table
        async with asyncio.timeout(10):
            while self.given.unwritten or self.requests.unsettled:
                await asyncio.sleep(0.01)
            # Notes come before decisions, so those that were made so far are written with this one.
            while not await self.audit.record(AuditRecord(AuditKind.RELOAD, self.now_ms)):
                await asyncio.sleep(0.01)

    def copy(self, to: Path) -> None:
        """Keep all files as a kill would leave them at this moment."""
        shutil.copytree(self.folder, to)

    # What can be asked of it

    def in_force(self) -> set[int]:
        return {grant.number for grant in self.given.table}

    async def in_database(self) -> set[int]:
        return {grant.number for grant in await self.grants.in_force(self.now_ms)}

    def by_audit(self) -> set[int]:
        return grants_by_audit(self.folder / "audit.jsonl", self.now_ms)

    def session(self) -> Gate:
        return self.rights.gate(PEER, EVE, self.audited.services(EVE, PEER))

    async def use(self, gate: Gate) -> bool:
        """Open the service in a session; whether bytes may flow."""
        grant = gate.open(SSH.name)
        return grant is not None and await gate.recorded(SSH.name, grant.rule)

    async def ask(self) -> int:
        """Have Eve ask for the service; returns the number."""
        said = await self.requests.ask(SSH, None, "", EVE, ROOM)
        assert said is not None
        if said.status is None or said.status.number is None:
            raise AdminError(said.text)
        return said.status.number

    async def give(self, service: Service = SSH, *, once: bool = False) -> int:
        given = await self.given.give(parse_subject(EVE), service, HOUR_S, ADMIN, once=once)
        return given.number

    # What is around it

    def wall_ms(self) -> int:
        return self.now_ms

    elapsed_ms = wall_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def _judge(self) -> None:
        self.judged += 1

    async def send_notice(
        self, room: RoomId, sender: UserId, text: str, html: str | None = None, *, key: str
    ) -> EventId:
        if self.homeserver_away:
            raise HomeserverError("the homeserver is away")
        self.shown.append(text)
        return EventId(f"${key}")

    async def send_event(
        self, room: RoomId, sender: UserId, event_type: str, content: dict[str, object], *, key: str
    ) -> EventId:
        return EventId(f"${key}")

    def post(
        self, room: RoomId, sender: UserId, text: str, html: str | None = None, *, key: str, fields: Any = None
    ) -> None:
        self.posted.append(text)
        if fields is not None:
            self.posted_fields.append(dict(fields))

    def _watch(self, holder: object, name: str, step: str) -> None:
        plain = getattr(holder, name)

        async def watched(*values: Any, **options: Any) -> Any:
            await self._pass(step, "before")
            result = await plain(*values, **options)
            await self._pass(step, "after")
            return result

        setattr(holder, name, watched)

    async def _pass(self, step: str, side: str) -> None:
        hook = self.hooks.pop((step, side), None)
        if hook is not None:
            await hook()


@pytest.fixture(autouse=True)
async def closed_worlds() -> AsyncIterator[None]:
    """Close what a test has left open that failed: a database that is not closed keeps the process from ending."""
    yield
    while World.open:
        await World.open.pop().database.close()


class RefusingDatabase:
    """Lets every write of a world fail while it is on, as with a full disk; reads work."""

    def __init__(self, world: World) -> None:
        self.on = True
        self.attempts = 0
        plain = world.database.transaction

        async def transaction(work: Any, *, idempotent: bool = False) -> Any:
            self.attempts += 1
            if self.on:
                raise StorageError("the disk is full")
            return await plain(work, idempotent=idempotent)

        world.database.transaction = transaction  # type: ignore[method-assign]


def grants_by_audit(path: Path, now_ms: int) -> set[int]:
    """The grants that are in force by the audit file, read by itself."""
    said: dict[int, AuditRecord] = {}
    for entry in read_chain(read_lines(path)):
        if entry.record.grant is not None and entry.record.kind in (AuditKind.GRANT, AuditKind.GRANT_END):
            said[entry.record.grant] = entry.record
    return {n for n, last in said.items() if last.kind is AuditKind.GRANT and (last.until_ms or 0) > now_ms}
