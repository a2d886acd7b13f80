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
        within: which COMMITs these are: those of transactions in which a statement with this text was run.
    """

    def __init__(self, url: str) -> None:
        self._to = URL(url)
        self.url = url
        self.lose = 0
        self.drop = 0
        self.within = ""

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._to.host is not None
        try:
            behind, ahead = await asyncio.open_connection(self._to.host, self._to.port)
        except ConnectionError:
            writer.transport.abort()
            return
        silent = False

        async def answers() -> None:
            try:
                while data := await behind.read(65536):
                    if silent:
                        committed.set()
                    else:
                        writer.write(data)
            except ConnectionError:
                pass  # Killed, as a test may do.
            committed.set()
            writer.close()

        committed = asyncio.Event()
        answering = asyncio.create_task(answers())
        transaction = _Transaction()
        try:
            while True:
                message = await _read_message(reader)
                if transaction.commits(message, self.within) and self.drop:
                    self.drop -= 1
                    break
                if transaction.commits(message, self.within) and self.lose:
                    self.lose -= 1
                    silent = True
                    ahead.write(message)
                    await committed.wait()
                    break
                transaction.follow(message)
                ahead.write(message)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # Either side may go at any moment.
        finally:
            answering.cancel()
            ahead.close()
            writer.transport.abort()


class _Transaction:
    """What a client runs in its transaction; statements that were prepared are run by their names alone."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, bytes] = {}
        self._run: list[bytes] = []

    def commits(self, message: bytes, within: str) -> bool:
        is_commit = message[:1] == b"Q" and message[5:].startswith(b"COMMIT")
        return is_commit and within.encode() in b"\n".join(self._run)

    def follow(self, message: bytes) -> None:
        match message[:1], message[5:].split(b"\0"):
            case b"P", [name, statement, *_]:
                self._prepared[name] = statement
            case b"B", [_, name, *_]:
                self._run.append(self._prepared[name])
            case b"Q", [statement, *_]:
                self._run = [] if statement.startswith(b"BEGIN") else [*self._run, statement]


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """One message of the client's: those before the login have no kind, and begin with a length of less than 2**24."""
    kind = await reader.readexactly(1)
    head = kind + await reader.readexactly(3 if kind == b"\0" else 4)
    return head + await reader.readexactly(int.from_bytes(head[-4:]) - 4)


@asynccontextmanager
async def lossy(url: str) -> AsyncIterator[LossyPostgres]:
    """Stand between a client and the server at ``url`` for the length of a ``with`` block."""
    made = LossyPostgres(url)
    server = await asyncio.start_server(made._pass_on, "127.0.0.1", 0)
    made.url = str(URL(url).with_port(server.sockets[0].getsockname()[1]))
    async with server:
        yield made
