"""Two bridges never use one PostgreSQL database, also when the connection that says so is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import uvloop
from yarl import URL

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.advisory_lock import LOCK, sole_use_of_server
from mxrtc_bridge.storage.tables import open_stores

pytestmark = pytest.mark.real


def on_uvloop(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in the loop of the product."""

    async def run() -> None:
        await story()

    uvloop.run(run())


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def holders(connection: Any) -> list[int]:
    rows = await connection.fetch("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = $1", LOCK)
    return [row["pid"] for row in rows]


class Turns:
    """Lets the lock be looked at when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._go = asyncio.Event()

    async def sleep(self, _seconds: float) -> None:
        self.asked.set()
        await self._go.wait()
        self._go.clear()

    async def next(self) -> None:
        """Have what is waited for be over, and return when it is waited again."""
        self.asked.clear()
        self._go.set()
        await self.asked.wait()


def test_a_second_bridge_is_refused_until_the_first_has_ended(postgres_url: str) -> None:
    async def story() -> None:
        async with open_stores(postgres_url, sole=True):
            with pytest.raises(StorageError, match=r"another bridge uses the database 'postgres'; stop it before this"):
                async with open_stores(postgres_url, sole=True):
                    pass
            async with open_stores(postgres_url) as stores:
                assert await stores.calls.open_calls() == [], "a look at it is allowed"
        async with open_stores(postgres_url, sole=True):
            pass

    on_uvloop(story)


def test_it_is_held_by_a_transaction_that_keeps_no_old_rows(postgres_url: str) -> None:
    async def story() -> None:
        async with sole_use_of_server(postgres_url), looking(postgres_url) as connection:
            (holder,) = await holders(connection)
            row = await connection.fetchrow(
                "SELECT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = $1", holder
            )
            assert tuple(row) == ("idle in transaction", None, None)

    on_uvloop(story)


def test_a_bridge_with_a_schema_of_its_own_is_not_in_the_way(postgres_url: str) -> None:
    async def story() -> None:
        async with looking(postgres_url) as connection:
            await connection.execute("CREATE SCHEMA IF NOT EXISTS other")
        other = f"{postgres_url}?options=-csearch_path%3Dother"
        async with sole_use_of_server(postgres_url), sole_use_of_server(other), looking(postgres_url) as connection:
            assert len(await holders(connection)) == 2

    on_uvloop(story)


async def lose_and_take_again(url: str, server: str) -> None:
    """End the connection that holds the lock, which is taken again by another one; ``url`` may lead by a pooler."""
    turns = Turns()
    async with sole_use_of_server(url, sleep=turns.sleep), looking(server) as connection:
        await turns.asked.wait()
        (holder,) = await holders(connection)
        await connection.fetchval("SELECT pg_terminate_backend($1)", holder)
        while await holders(connection):
            await asyncio.sleep(0.01)
        await turns.next()
        (again,) = await holders(connection)
        assert again != holder


def test_a_connection_that_is_lost_is_made_again_and_the_lock_taken(postgres_url: str) -> None:
    async def story() -> None:
        await lose_and_take_again(postgres_url, postgres_url)

    on_uvloop(story)


@asynccontextmanager
async def forgetful(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A firewall before the server that can forget its connections: clients see an end, and the server sees nothing."""
    server_at = URL(url)
    clients: list[asyncio.StreamWriter] = []
    servers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server, server = await asyncio.open_connection(server_at.host, server_at.port)
        clients.append(writer)
        servers.append(server)
        tasks.extend(asyncio.create_task(pump(*each)) for each in ((reader, server), (to_server, writer)))

    def forget() -> None:
        for client in clients:
            client.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield str(server_at.with_port(listener.sockets[0].getsockname()[1])), forget
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in (*clients, *servers):
            writer.transport.abort()


def test_a_connection_whose_end_the_server_has_not_seen_is_no_other_bridge(postgres_url: str) -> None:
    async def story() -> None:
        turns = Turns()
        async with (
            forgetful(postgres_url) as (url, forget),
            looking(postgres_url) as connection,
            sole_use_of_server(url, sleep=turns.sleep),
        ):
            await turns.asked.wait()
            (holder,) = await holders(connection)
            forget()
            await turns.next()
            assert await holders(connection) in ([holder], []), "the server's end of the old one is still there"
            await turns.next()
            (again,) = await holders(connection)
            assert again != holder

    on_uvloop(story)


def test_a_bridge_whose_lock_somebody_else_has_taken_meanwhile_ends(postgres_url: str) -> None:
    async def lose(connection: Any) -> None:
        turns = Turns()
        async with sole_use_of_server(postgres_url, sleep=turns.sleep):
            await turns.asked.wait()
            (holder,) = await holders(connection)
            await connection.fetchval("SELECT pg_terminate_backend($1)", holder)
            async with sole_use_of_server(postgres_url):
                while True:
                    await turns.next()

    async def story() -> None:
        async with looking(postgres_url) as connection:
            with pytest.raises(StorageError, match="another bridge uses the database 'postgres' since"):
                await lose(connection)

    on_uvloop(story)


def test_what_fails_inside_comes_out_as_it_is(postgres_url: str) -> None:
    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            async with sole_use_of_server(postgres_url):
                raise ZeroDivisionError
        with pytest.raises(StorageError, match="cannot be opened"):
            async with sole_use_of_server("postgres://nobody@127.0.0.1:1/none"):
                pass

    on_uvloop(story)
