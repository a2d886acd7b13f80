"""Behind a pooler, PgBouncer, everything works as without it, or the start and the check say why not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.advisory_lock import sole_use_of_server
from mxrtc_bridge.storage.database import Database, DatabaseBounds
from mxrtc_bridge.storage.inspection import look, read_only
from mxrtc_bridge.storage.pooler import POOL_SIZE, connect
from mxrtc_bridge.storage.tables import open_stores
from tests.storage.conftest import empty_postgres
from tests.storage.pgbouncer import pooling
from tests.storage.test_advisory_lock import lose_and_take_again

pytestmark = pytest.mark.real

BUILD = UserId("@rtc_build:example.org")
KEPT = "SELECT COUNT(*) FROM pg_prepared_statements WHERE name LIKE '__asyncpg%'"


@pytest.fixture
def server(postgres_url: str) -> str:
    """The URL of an empty database, by which no pooler is met."""
    asyncio.run(empty_postgres(postgres_url))
    return postgres_url


@pytest.fixture(params=["transaction", "session"])
def pooled(request: pytest.FixtureRequest, server: str) -> Iterator[str]:
    with pooling(server, request.param) as url:
        yield url


async def test_two_programs_share_the_connections_of_one_pooler(server: str) -> None:
    async def use(database: Database, number: int) -> int:
        # Statements of many texts, so that each connection of the server meets those that were begun on another.
        user, more = f"@u{number}:x.test", number % 6
        await database.write(f"INSERT INTO notice (user_id, last_ms) VALUES ($1, $2 + {more})", (user, number))
        row = await database.row(f"SELECT last_ms - {more} AS found FROM notice WHERE user_id = $1", (user,))
        return int(row["found"])

    with pooling(server, "transaction", size=POOL_SIZE) as url:
        async with sole_use_of_server(url), await Database.open(url) as one, await Database.open(url) as other:
            found = await asyncio.gather(*(use((one, other)[number % 2], number) for number in range(400)))
    assert found == list(range(400))


async def test_what_is_stored_is_there_for_the_next_and_for_whoever_only_looks(pooled: str) -> None:
    assert (await look(pooled)).is_new
    for how in ("registered", "adopted"):
        async with open_stores(pooled, sole=True) as stores:
            await stores.own_users.remember(BUILD, how, 1)
            assert dict((await look(pooled)).own_users) == {BUILD: how}
    async with read_only(pooled) as database:
        assert database is not None
        assert (await database.row("SELECT how FROM own_user WHERE user_id = $1", (BUILD,)))["how"] == "adopted"


async def test_a_second_bridge_is_refused_and_a_lost_lock_is_taken_again(pooled: str, server: str) -> None:
    async with sole_use_of_server(pooled):
        with pytest.raises(StorageError, match="another bridge uses the database 'postgres'"):
            async with sole_use_of_server(pooled):
                pass
    await lose_and_take_again(pooled, server)


async def test_statements_are_kept_prepared_only_where_the_server_itself_answers(pooled: str, server: str) -> None:
    for url, kept in ((server, 1), (pooled, 0)):
        connection = await connect(url)
        async with connection.transaction():
            await connection.fetch("SELECT $1::text", "")
            assert await connection.fetchval(f"{KEPT} AND statement LIKE '%text'") == kept
        await connection.close()


async def test_a_pooler_without_transactions_is_refused_with_what_to_do(server: str) -> None:
    with pooling(server, "statement") as url:
        for opened in (look(url), Database.open(url), sole_use_of_server(url).__aenter__()):
            with pytest.raises(
                StorageError, match=r"cannot be opened.*the pooler must have pool_mode = transaction or"
            ):
                await opened


async def test_a_pooler_whose_connections_are_all_taken_is_refused_with_what_to_do(server: str) -> None:
    with pooling(server, "transaction", size=1) as url:
        async with sole_use_of_server(url):
            with pytest.raises(
                StorageError, match=f"it does not answer; a pooler .* must have {POOL_SIZE} connections"
            ):
                await Database.open(url, DatabaseBounds(answer_s=0.3))
