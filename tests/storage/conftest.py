"""Every storage test runs on SQLite, and on PostgreSQL when ``MXRTC_TEST_POSTGRES`` holds the URL of an empty database.

The PostgreSQL database must be one that may be emptied: its tables are dropped before each test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mxrtc_bridge.storage.database import Database

POSTGRES_URL = os.environ.get("MXRTC_TEST_POSTGRES", "")


@pytest.fixture(params=["sqlite", *(["postgres"] if POSTGRES_URL else [])])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bridge.db"
    asyncio.run(_empty_postgres())
    return POSTGRES_URL


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with await Database.open(url) as opened:
        yield opened


async def _empty_postgres() -> None:
    import asyncpg

    connection = await asyncpg.connect(POSTGRES_URL)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()
