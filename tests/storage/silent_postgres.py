"""PostgreSQL behind a network that goes silent: connections stay, and nothing comes of them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL

from tests.connections import OwnedConnections


class SilentPostgres:
    """Passes on what both sides say, while :attr:`speaks` is set.

    Attributes:
        url: by which a client comes through here.
        speaks: whether anything is passed on; connections are taken in any case.
        held: how many pieces of what was said are not passed on.
    """

    def __init__(self, url: str) -> None:
        self._to = URL(url)
        self.url = url
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.held = 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._to.host is not None
        behind, ahead = await asyncio.open_connection(self._to.host, self._to.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    self.held += 1
                    await self.speaks.wait()
                    self.held -= 1
                    target.write(data)
            except ConnectionError:
                pass  # Given up by the client.
            finally:
                target.close()

        await asyncio.gather(copy(reader, ahead), copy(behind, writer))


@asynccontextmanager
async def going_silent(url: str) -> AsyncIterator[SilentPostgres]:
    """Stand between a client and the server at ``url`` for the length of a ``with`` block."""
    made, connections = SilentPostgres(url), OwnedConnections()
    server = await asyncio.start_server(connections.guarded(made.pass_on), "127.0.0.1", 0)
    made.url = str(URL(url).with_port(server.sockets[0].getsockname()[1]))
    async with server:
        try:
            yield made
        finally:
            await connections.close()
