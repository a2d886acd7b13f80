"""A look at the database that changes nothing: no file, no table, no row, no lock that another would wait for.

It says whether a bridge could use the database, who is a virtual user by it, and what the audit is compared with. What
opening it for use would do first (make the file, bring tables up to date) is not done, so a database of an earlier
version is read as it is.
"""

from __future__ import annotations

import importlib
import os
import re
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from yarl import URL

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.storage.failures import without_asyncpg
from mxrtc_bridge.storage.pooler import not_opened
from mxrtc_bridge.storage.schema import OWNER, UPGRADES

PATIENCE_S = 5.0
ANSWER_S = 10.0
_OF_OTHERS = ("state_groups_state", "roomserver_rooms")
"""Tables of homeservers, beside which ours have no place."""
_FIRST_SIGNS = (("crypto_account", "owner"), ("certificate", "user_id"), ("peer_room", "peer"))
"""Where versions that did not remember their users have left their names; as the upgrade of the schema reads them."""


@dataclass(frozen=True, slots=True)
class DatabaseLook:
    """What was seen."""

    is_new: bool
    """Whether the bridge would begin with nothing here."""
    own_users: Mapping[UserId, str] = field(default_factory=dict)
    """As the store of virtual users has them."""


_TABLES_OF_FILE = "SELECT name FROM sqlite_master WHERE type = 'table'"
_TABLES_OF_SERVER = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"


class DatabaseReader(Protocol):
    """Reads rows of a database; each reading sees one state of it.

    Raises:
        StorageError: it cannot be read.
    """

    async def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of one SELECT."""
        ...

    async def row(self, statement: str, values: Sequence[object] = ()) -> Any:
        """The first row of one SELECT; None where there is none."""
        return next(iter(await self.rows(statement, values)), None)


async def look(url: str) -> DatabaseLook:
    """Look at a database.

    Args:
        url: as of :meth:`Database.open <mxrtc_bridge.storage.database.Database.open>`.

    Raises:
        StorageError: a bridge could not use it; says why.
    """
    async with _reading(url) as reader:
        version = 0 if reader is None else await _judge(reader)
        own_users = {} if reader is None else await _own_users(reader)
    return DatabaseLook(version == 0, own_users)


@asynccontextmanager
async def read_only(url: str) -> AsyncIterator[DatabaseReader | None]:
    """Open a database only to read it, for the length of a ``with`` block; gives None where nothing was stored yet.

    Args:
        url: as above.

    Raises:
        StorageError: a bridge could not use it, or its tables are not those of this version; says why.
    """
    async with _reading(url) as reader:
        version = 0 if reader is None else await _judge(reader)
        if 0 < version < len(UPGRADES.upgrades):
            raise StorageError(
                f"the database is of an earlier version of mxrtc-bridge (its tables have version {version}, this "
                f"program needs {len(UPGRADES.upgrades)}); start the bridge, which brings it up to date"
            )
        yield reader if version else None


def _reading(url: str) -> AbstractAsyncContextManager[DatabaseReader | None]:
    parsed = URL(url)
    return _reading_file(Path(parsed.path)) if parsed.scheme in ("sqlite", "sqlite3") else _reading_server(url)


@asynccontextmanager
async def _reading_file(path: Path) -> AsyncIterator[DatabaseReader | None]:
    # In a thread of its own each, as its disk may hang.
    address = await in_new_thread(_address_of, path)
    if address is None:
        yield None
        return
    reader = _FileReader(path, address)
    try:
        yield reader
    finally:
        await in_new_thread(reader.close)


def _address_of(path: Path) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            raise StorageError(f"the folder of the database, {str(path.parent)!a}, cannot be written to") from None
        return None
    except OSError as error:
        raise StorageError(f"the database file {str(path)!a} cannot be used: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"the database file {str(path)!a} is no regular file")
    for needed in (path, path.parent):
        if not os.access(needed, os.R_OK | os.W_OK, effective_ids=True):
            raise StorageError(f"the database file {str(path)!a} cannot be used: {needed} cannot be written to")
    if status.st_size == 0:
        return None
    # The index of the journal is only read, and where there is none (nobody has the database open), none is made.
    mode = "mode=ro&readonly_shm=1" if Path(f"{path}-shm").exists() else "mode=ro&immutable=1"
    return f"file:///{quote(str(path.absolute()).lstrip('/'))}?{mode}"


class _FileReader(DatabaseReader):
    """Reads an SQLite file."""

    def __init__(self, path: Path, address: str) -> None:
        self._path = path
        # Used by one thread after the other.
        self._connection = sqlite3.connect(address, uri=True, timeout=PATIENCE_S, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row

    async def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        return await in_new_thread(self._fetch, re.sub(r"\$(\d+)", r"?\1", statement), values)

    def _fetch(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the database file {str(self._path)!a} cannot be used: {error}") from error

    def close(self) -> None:
        self._connection.close()


@asynccontextmanager
async def _reading_server(url: str) -> AsyncIterator[DatabaseReader | None]:
    try:
        asyncpg = importlib.import_module("asyncpg")
    except ImportError:
        raise without_asyncpg() from None
    failures = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
    with _translated(failures):
        connection = await asyncpg.connect(url, timeout=PATIENCE_S, command_timeout=ANSWER_S, statement_cache_size=0)
    try:
        yield _ServerReader(connection, failures)
    finally:
        with _translated(failures):
            await connection.close(timeout=PATIENCE_S)


class _ServerReader(DatabaseReader):
    """Reads a database of PostgreSQL."""

    def __init__(self, connection: Any, failures: tuple[type[Exception], ...]) -> None:
        self._connection = connection
        self._failures = failures

    async def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        # In a transaction, as a pooler would take two halves of a question outside of one to two servers.
        with _translated(self._failures):
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                return list(await self._connection.fetch(statement, *values))


@contextmanager
def _translated(failures: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        raise not_opened(error) from error


async def _tables(reader: DatabaseReader) -> set[str]:
    """The names of all tables; each of the two catalogues is one that the other kind does not have."""
    statement = _TABLES_OF_FILE if isinstance(reader, _FileReader) else _TABLES_OF_SERVER
    return {str(row[0]) for row in await reader.rows(statement)}


async def _judge(reader: DatabaseReader) -> int:
    """See that a bridge could use it; returns the version of its tables, 0 where there are none yet."""
    tables = await _tables(reader)
    if theirs := tables.intersection(_OF_OTHERS):
        raise StorageError(f"the database belongs to a homeserver: it has the table {min(theirs)}")
    owners = await reader.rows("SELECT owner FROM database_owner WHERE key = 0") if "database_owner" in tables else []
    if owners and owners[0][0] != OWNER:
        raise StorageError(f"the database belongs to {str(owners[0][0])[:80]!a}")
    name = UPGRADES.version_table_name
    versions = await reader.rows(f"SELECT version FROM {name}") if name in tables else []  # noqa: S608 - a name of ours
    version = versions[0][0] if versions else 0
    if not isinstance(version, int) or version > len(UPGRADES.upgrades):
        raise StorageError(
            f"the database is of a newer version of mxrtc-bridge (its tables have version {version}, this program "
            f"knows {len(UPGRADES.upgrades)})"
        )
    return version


async def _own_users(reader: DatabaseReader) -> Mapping[UserId, str]:
    tables = await _tables(reader)
    if "own_user" in tables:
        return {UserId(str(user)): str(how) for user, how in await reader.rows("SELECT user_id, how FROM own_user")}
    found: dict[UserId, str] = {}
    for table, column in _FIRST_SIGNS:
        if table in tables:
            rows = await reader.rows(f"SELECT DISTINCT {column} FROM {table}")  # noqa: S608 - names of ours
            found |= {UserId(str(user)): "before" for (user,) in rows}
    has_devices = "crypto_account" in tables and await reader.rows("SELECT 1 FROM crypto_account LIMIT 1")
    # It has been used without encryption, so it has noted nobody: who is there at the next start is ours.
    if "audit" in tables and await reader.rows("SELECT 1 FROM audit LIMIT 1") and not has_devices:
        found[UserId("*")] = "before"
    return found
