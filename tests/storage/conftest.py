"""Every storage test runs on SQLite and on PostgreSQL, which is started where the distribution's package is installed.

With ``MXRTC_TEST_POSTGRES`` another server is used: the URL of a database that may be emptied, since its tables are
dropped before each test.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.storage.database import Database
from tests.memory import tmp_path
from tests.storage import postgres
from tests.storage.made_tables import give_tables

__all__ = ["tmp_path"]


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
    asyncio.run(empty_postgres(url))
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    if url.startswith("sqlite"):
        give_tables(Path(url.removeprefix("sqlite:///")))
    async with await Database.open(url) as opened:
        yield opened


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """An SQLite thread that is not ended keeps the program from ending."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    left = [thread for thread in left if not thread.name.startswith("asyncio_")]
    for thread in left:  # one whose connection is closed says so before it has ended
        thread.join(5)
    assert [thread.name for thread in left if thread.is_alive()] == []


async def empty_postgres(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()


@pytest.fixture
async def closable(postgres_url: str) -> AsyncIterator[tuple[str, Any]]:
    """The URL of a database of its own, and a connection to another one by which it can be closed."""
    import asyncpg

    admin = await asyncpg.connect(postgres_url)
    await admin.execute("CREATE DATABASE closable")
    try:
        yield f"{postgres_url.rpartition('/')[0]}/closable", admin
    finally:
        await admin.execute("DROP DATABASE closable WITH (FORCE)")
        await admin.close()
