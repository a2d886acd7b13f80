"""A database as it is run: what is the fault of a statement is its own, and every other failure is "away"."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.errors import RefusedStatementError, StorageError
from mxrtc_bridge.storage.database import Database, DatabaseBounds
from tests.storage.conftest import DATABASES
from tests.storage.silent_postgres import going_silent
from tests.waiting import until

NEEDS_POSTGRES = pytest.mark.skipif("postgres" not in DATABASES, reason="PostgreSQL is not installed")
_INSERT = "INSERT INTO notice (user_id, last_ms) VALUES ($1, $2)"
SURROGATE, NUL = "@b\ud800ad:x.test", "@b\0ad:x.test"


async def _count(database: Database) -> int:
    return int((await database.row("SELECT COUNT(*) AS count FROM notice"))["count"])


@pytest.mark.parametrize("user", [SURROGATE, NUL], ids=["surrogate", "nul"])
async def test_text_that_the_database_cannot_hold_is_refused_at_once_and_harms_nobody_else(
    database: Database, url: str, user: str
) -> None:
    fine = asyncio.gather(*(database.write(_INSERT, (f"@u{n}:x.test", 1)) for n in range(20)))
    began, held = time.monotonic(), user == NUL and url.startswith("sqlite")
    if held:
        await database.write(_INSERT, (user, 1))
    else:
        with pytest.raises(RefusedStatementError) as refused:
            await database.write(_INSERT, (user, 1))
        assert not refused.value.retryable
        assert "ad:x.test" not in str(refused.value), "it is a text of somebody else, and goes into the log"
    assert time.monotonic() - began < 3, "it is not tried again"
    await fine
    assert await _count(database) == 20 + held


async def test_number_that_is_too_large_is_refused(database: Database) -> None:
    with pytest.raises(RefusedStatementError):
        await database.write(_INSERT, ("@u:x.test", 2**70))
    assert await _count(database) == 0


async def test_statement_that_is_refused_undoes_the_others_of_its_transaction_only(database: Database) -> None:
    async def both(connection: Connection) -> None:
        await connection.execute(_INSERT, "@good:x.test", 1)
        await connection.execute(_INSERT, SURROGATE, 1)

    with pytest.raises(RefusedStatementError):
        await database.transaction(both)
    assert await _count(database) == 0


@NEEDS_POSTGRES
async def test_key_that_no_index_takes_is_refused_at_once(closable: tuple[str, Any]) -> None:
    async with await Database.open(closable[0]) as database:
        with pytest.raises(RefusedStatementError):
            await database.write(_INSERT, (secrets.token_hex(20_000), 1))


@NEEDS_POSTGRES
async def test_database_that_refuses_the_login_on_reconnect_is_away_and_comes_back(closable: tuple[str, Any]) -> None:
    url, admin = closable
    async with await Database.open(url, DatabaseBounds(patience_s=0.4)) as database:
        await database.write(_INSERT, ("@before:x.test", 1))
        await admin.execute("ALTER DATABASE closable ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'closable'")
        for _ in range(3):
            with pytest.raises(StorageError) as away:
                await database.write(_INSERT, ("@during:x.test", 1))
            assert away.value.retryable
        await admin.execute("ALTER DATABASE closable ALLOW_CONNECTIONS true")
        await database.write(_INSERT, ("@after:x.test", 1))
        assert await _count(database) == 2


@NEEDS_POSTGRES
async def test_right_that_was_taken_from_the_login_is_away_and_comes_back(closable: tuple[str, Any]) -> None:
    import asyncpg

    url, admin = closable
    await admin.execute("CREATE ROLE limited LOGIN")
    try:
        await admin.execute("ALTER DATABASE closable OWNER TO limited")
        async with await Database.open(url.replace("test@", "limited@"), DatabaseBounds(patience_s=0.3)) as database:
            owner = await asyncpg.connect(url)
            await owner.execute("ALTER TABLE notice OWNER TO test")
            with pytest.raises(StorageError) as away:
                await database.write(_INSERT, ("@during:x.test", 1))
            assert away.value.retryable
            await owner.execute("GRANT ALL ON notice TO limited")
            await database.write(_INSERT, ("@after:x.test", 1))
            await owner.execute("DROP OWNED BY limited CASCADE")
            await owner.close()
    finally:
        await admin.execute("ALTER DATABASE closable OWNER TO test")
        await admin.execute("DROP OWNED BY limited")
        await admin.execute("DROP ROLE limited")


@NEEDS_POSTGRES
async def test_answer_that_never_comes_is_waited_for_within_bounds_and_the_next_one_works(
    closable: tuple[str, Any],
) -> None:
    async with (
        going_silent(closable[0]) as silent,
        await Database.open(silent.url, DatabaseBounds(patience_s=0.2, answer_s=0.4)) as database,
    ):
        await database.write(_INSERT, ("@before:x.test", 1))
        silent.speaks.clear()
        began = time.monotonic()
        with pytest.raises(StorageError) as away:
            await database.write(_INSERT, ("@silence:x.test", 1))
        assert away.value.retryable
        assert time.monotonic() - began < 3
        silent.speaks.set()
        await database.write(_INSERT, ("@after:x.test", 1))


@NEEDS_POSTGRES
async def test_closing_is_not_held_up_by_a_database_that_does_not_answer(closable: tuple[str, Any]) -> None:
    async with going_silent(closable[0]) as silent:
        database = await Database.open(silent.url, DatabaseBounds(answer_s=60, close_s=0.3))
        await database.write(_INSERT, ("@before:x.test", 1))
        silent.speaks.clear()
        writing = [asyncio.create_task(database.write(_INSERT, (f"@u{n}:x.test", 1))) for n in range(6)]
        await until(lambda: silent.held)
        async with asyncio.timeout(8):
            await database.close()
        await asyncio.gather(*writing, return_exceptions=True)
        silent.speaks.set()


@NEEDS_POSTGRES
@pytest.mark.parametrize("default", ["serializable", "repeatable read", "read committed"])
async def test_transactions_are_isolated_as_they_are_meant_whatever_is_the_default(
    closable: tuple[str, Any], default: str
) -> None:
    url, admin = closable
    await admin.execute(f"ALTER DATABASE closable SET default_transaction_isolation = '{default}'")
    async with await Database.open(url) as database:

        async def isolation(connection: Connection) -> str:
            return str(await connection.fetchval("SHOW transaction_isolation"))

        assert await database.transaction(isolation) == "read committed"
        assert await database.read(isolation) == "repeatable read"

        async def count_up(connection: Connection) -> int:
            statement = (
                "INSERT INTO counter (name, last) VALUES ('x', 1) "
                "ON CONFLICT (name) DO UPDATE SET last = counter.last + 1 RETURNING last"
            )
            return int(await connection.fetchval(statement))

        numbers = await asyncio.gather(*(database.transaction(count_up) for _ in range(40)))
        assert sorted(numbers) == list(range(1, 41))
