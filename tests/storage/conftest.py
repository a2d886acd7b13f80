"""Every storage test runs on SQLite and on PostgreSQL, which is started where the distribution's package is installed.

With ``MXRTC_TEST_POSTGRES`` another server is used: the URL of a database that may be emptied, since its tables are
dropped before each test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.storage.database import Database
from tests.storage import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres.GIVEN_URL:
        yield postgres.GIVEN_URL
        return
    programs = postgres.find_programs()
    assert programs is not None
    with postgres.running(programs) as url:
        yield url


DATABASES = ["sqlite", *(["postgres"] if postgres.GIVEN_URL or postgres.find_programs() else [])]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bridge.db"
    url: str = request.getfixturevalue("postgres_url")
    asyncio.run(_empty_postgres(url))
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with await Database.open(url) as opened:
        yield opened


async def _empty_postgres(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()
