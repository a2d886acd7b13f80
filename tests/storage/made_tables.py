"""An SQLite database that has its tables and nothing in them, made once and copied.

Making the tables is three quarters of what opening a new database costs, and several hundred tests open one. Those of
the storage itself that look at how tables are made and upgraded let each database begin with nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from mxrtc_bridge.storage.database import Database
from tests.synapse_forks import databases_folder


def give_tables(path: Path) -> Path:
    """Put the copy where there is no database yet."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(file, "wb") as copy:
        copy.write(_database())
    return path


@cache
def _database() -> bytes:
    with tempfile.TemporaryDirectory(dir=databases_folder()) as folder, ThreadPoolExecutor(1) as thread:
        path = Path(folder) / "made.db"
        # In a thread, as whoever asks may be in an event loop of its own.
        thread.submit(asyncio.run, _make(path)).result()
        return path.read_bytes()


async def _make(path: Path) -> None:
    async with await Database.open(f"sqlite:///{path}"):
        pass
