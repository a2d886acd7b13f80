"""Opening a database: whether its URL can be meant, the connections to it, and its tables as this version needs them.

What is asked of it afterwards is in :mod:`mxrtc_bridge.storage.database`.

The file of SQLite holds private keys and call content, so it is readable by its owner only.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mautrix.util.async_db import Connection, DatabaseException, Scheme
from mautrix.util.async_db import Database as Pool
from yarl import URL

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.storage.disk_space import is_full
from mxrtc_bridge.storage.failures import FOREIGN, brief, postgres_errors, without_asyncpg
from mxrtc_bridge.storage.pooler import connect, not_opened
from mxrtc_bridge.storage.schema import OWNER, UPGRADES
from mxrtc_bridge.system import files

log = logging.getLogger(__name__)

POSTGRES_CONNECTIONS = 4
CONNECT_S = 5.0
"""How long PostgreSQL may take to let us in."""
LOCKED_S = 5.0
"""How long the file of SQLite may be locked by somebody else when it is opened."""
MIN_SQLITE = (3, 35, 0)
_MARKS = "CREATE TABLE IF NOT EXISTS write_mark (lane TEXT PRIMARY KEY, mark TEXT NOT NULL, noted_ms BIGINT NOT NULL)"
"""Made here and not by an upgrade: there is no writing without it, whichever version the other tables have."""
_SQLITE_COMMANDS = (
    # First, as it counts for a file that is empty only.
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 500",
)


async def open_pool(url: str, answer_s: float) -> Pool:
    """Connect to the database and bring its tables up to date.

    Args:
        url: as :meth:`mxrtc_bridge.storage.database.Database.open` takes it.
        answer_s: how long PostgreSQL may take to answer a statement.

    Raises:
        StorageError: it cannot be reached or written, belongs to another program, or is of a newer version.
    """
    # In a thread of its own, as its disk may hang.
    pool = await in_new_thread(_make_pool, url, answer_s)
    try:
        await pool.start()
        await _bring_up_to_date(pool)
    except BaseException as error:
        await pool.stop()
        if isinstance(error, DatabaseException):
            raise StorageError(f"the database cannot be used: {error}") from error
        if isinstance(error, (sqlite3.Error, OSError, *FOREIGN)):
            raise not_opened(error) from error
        raise
    return pool


def _make_pool(text: str, answer_s: float) -> Pool:
    try:
        url = URL(text)
    except ValueError as error:
        # The text may hold a password, so it is not repeated.
        raise StorageError("the database URL does not have the form of a URL") from error
    # mautrix writes whole URLs at DEBUG.
    logging.getLogger("mau.db").setLevel(logging.INFO)
    if url.scheme in ("sqlite", "sqlite3"):
        if url.host or url.query_string or url.fragment or url.path in ("", "/", ":memory:"):
            raise StorageError(
                "the database URL must be sqlite:relative.db or sqlite:///absolute.db (three slashes), without ? and #"
            )
        _prepare_file(Path(url.path))
        options: dict[str, Any] = {"min_size": 1, "init_commands": list(_SQLITE_COMMANDS), "timeout": 0.5}
    elif url.scheme in ("postgres", "postgresql"):
        if not postgres_errors("PostgresError"):
            raise without_asyncpg()
        options = {
            # Whoever needs a connection opens it, and is told what is wrong with that. One that the pool kept by itself
            # would be opened anew by itself, with a traceback and the address in the log for each failure.
            "min_size": 0,
            "max_size": POSTGRES_CONNECTIONS,
            "timeout": CONNECT_S,
            "command_timeout": answer_s,
            "meow_exit_on_ice": False,
            "connect": connect,
        }
    else:
        raise StorageError(f"the database URL must begin with sqlite: or postgres://, not {url.scheme[:20]!a}")
    return Pool.create(url, db_args=options)


async def _bring_up_to_date(pool: Pool) -> None:
    """See whose the database is, and upgrade its tables: with PostgreSQL all of it in one transaction."""
    pool.upgrade_table, pool.owner_name, pool.ignore_foreign_tables = UPGRADES, OWNER, False
    connection: Connection
    async with (
        pool.acquire() as connection,
        connection.transaction() if pool.scheme == Scheme.POSTGRES else nullcontext(),
    ):
        await Pool.start(pool)
        await connection.execute(_MARKS)


def _prepare_file(path: Path) -> None:
    """Make the file with its final mode, and find out here whether SQLite takes it.

    mautrix loses, without closing it, a connection on which the first statement fails, and the lost connection's
    thread keeps the process from ending.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise StorageError(f"SQLite is {sqlite3.sqlite_version}; 3.35 or newer is needed")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | files.O_CLOEXEC, 0o600))
        # SQLite gives the mode of the main file to its journal files.
        if files.HAS_MODES and path.stat().st_mode & 0o077:
            log.warning("the database file was readable by others; its mode is 0600 now")
            path.chmod(0o600)
        probe = sqlite3.connect(path, timeout=LOCKED_S)
        try:
            for command in _SQLITE_COMMANDS:
                probe.execute(command)
            probe.execute("SELECT count(*) FROM sqlite_master")
        finally:
            probe.close()
    except (OSError, sqlite3.Error) as error:
        # Of that SQLite says "disk I/O error" where it cannot make its index.
        hint = "; its disk is full, so make room there" if is_full(path) else ""
        raise StorageError(f"the database file {str(path)!a} cannot be used: {brief(error)}{hint}") from error
