"""COMMITs whose outcome the caller does not learn, on whichever database a test runs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from mautrix.util.async_db.aiosqlite import TxnConnection

from tests.storage.lossy_postgres import lossy


class Commits(Protocol):
    """Says which COMMITs go wrong, and how."""

    url: str
    lose: int
    """So many are carried out, and their answer is lost."""
    drop: int
    """So many are not carried out, and fail."""


class SqliteCommits:
    """SQLite whose COMMIT raises what it raises for a disk that fails, before or after it has been carried out."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lose = 0
        self.drop = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = TxnConnection.execute

        async def execute(connection: TxnConnection, query: str, *values: Any, timeout: float | None = None) -> Any:
            if query == "COMMIT" and self.drop:
                self.drop -= 1
                raise sqlite3.OperationalError("database or disk is full")
            result = await plain(connection, query, *values, timeout=timeout)
            if query == "COMMIT" and self.lose:
                self.lose -= 1
                raise sqlite3.OperationalError("disk I/O error")
            return result

        monkeypatch.setattr(TxnConnection, "execute", execute)


@asynccontextmanager
async def failing_commits(url: str) -> AsyncIterator[Commits]:
    """COMMITs of the database at ``url`` that go wrong when the test says so, for the length of a ``with`` block."""
    if not url.startswith("sqlite"):
        async with lossy(url) as made:
            yield made
        return
    commits = SqliteCommits(url)
    with pytest.MonkeyPatch.context() as monkeypatch:
        commits.install(monkeypatch)
        yield commits
