"""A network between us and PostgreSQL that loses the answer to a COMMIT: a fail-over, or a firewall that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL


class LossyPostgres:
    """Passes on what both sides say, but for the answers to as many COMMITs as :attr:`lose` says.

    Attributes:
        url: by which a client comes through here.
        lose: as many COMMITs reach the database and have their connection cut before they are answered.
        drop: as many COMMITs are cut off before they reach the database.
    """

    def __init__(self, url: str) -> None:
        self._to = URL(url)
        self.url = url
        self.lose = 0
        self.drop = 0

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._to.host is not None
        behind, ahead = await asyncio.open_connection(self._to.host, self._to.port)
        silent = False

        async def answers() -> None:
            while data := await behind.read(65536):
                if silent:
                    committed.set()
                else:
                    writer.write(data)
            committed.set()
            writer.close()

        committed = asyncio.Event()
        answering = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                if b"COMMIT" in data and self.drop:
                    self.drop -= 1
                    break
                if b"COMMIT" in data and self.lose:
                    self.lose -= 1
                    silent = True
                    ahead.write(data)
                    await committed.wait()
                    break
                ahead.write(data)
        except ConnectionError:
            pass  # Either side may go at any moment.
        finally:
            answering.cancel()
            ahead.close()
            writer.transport.abort()


@asynccontextmanager
async def lossy(url: str) -> AsyncIterator[LossyPostgres]:
    """Stand between a client and the server at ``url`` for the length of a ``with`` block."""
    made = LossyPostgres(url)
    server = await asyncio.start_server(made._pass_on, "127.0.0.1", 0)
    made.url = str(URL(url).with_port(server.sockets[0].getsockname()[1]))
    async with server:
        yield made
