"""One audit with a real file and a real database, which may be started again as after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.config.config import AuditSettings
from mxrtc_bridge.core.audit.chain import (
    AuditKind,
    AuditRecord,
    check_head,
    read_chain,
)
from mxrtc_bridge.storage.audit import AuditStore
from mxrtc_bridge.storage.audit_file import read_lines
from mxrtc_bridge.storage.database import Database
from tests.storage.made_tables import give_tables

NOW = 1_700_000_000_000


CALL = AuditRecord(AuditKind.CALL, NOW, user="@alice:example.org", allowed=True)


END = AuditRecord(AuditKind.END, NOW, user="@alice:example.org")


class World:
    """One audit and what is around it; may be started again as after a crash."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.path = folder / "audit.jsonl"
        self.database = database
        self.store = AuditStore(database)
        self.told: list[str] = []
        self.mirrored: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.max_bytes = 1 << 20

    async def start(self, **options: Any) -> AuditLog:
        audit = AuditLog(
            self.store,
            AuditSettings(self.path, self.max_bytes, 3),
            wall_ms=lambda: NOW,
            tell_admins=self.told.append,
            mirror=lambda number, _record: self.mirrored.append(number),
            **options,
        )
        await audit.start()
        self.tasks.append(asyncio.create_task(audit.run()))
        return audit

    async def verify(self) -> list[str]:
        """Check file and database against each other; returns the kinds, the oldest first."""
        found = list(read_chain(read_lines(self.path)))
        check_head(found, await self.store.head())
        return [entry.record.kind.value for entry in found]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with await Database.open(f"sqlite:///{give_tables(tmp_path / 'audit.db')}") as database:
        made = World(tmp_path, database)
        yield made
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
