"""A look at the database that changes nothing: no file, no table, no row, no lock that another would wait for.

It says whether a bridge could use the database, and who is a virtual user by it. What opening it for use would do
first (make the file, bring tables up to date) is not done, so a database of an earlier version is read as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from yarl import URL

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.schema import OWNER, UPGRADES

PATIENCE_S = 5.0
_OF_OTHERS = ("state_groups_state", "roomserver_rooms")
"""Tables of homeservers, beside which ours have no place."""
_FIRST_SIGNS = (("crypto_account", "owner"), ("certificate", "user_id"), ("peer_room", "peer"))
"""Where versions that did not remember their users have left their names; as the upgrade of the schema reads them."""

Fetch = Callable[[str], list[tuple[object, ...]]]


@dataclass(frozen=True, slots=True)
class DatabaseLook:
    """What was seen."""

    is_new: bool
    """Whether the bridge would begin with nothing here."""
    own_users: Mapping[UserId, str] = field(default_factory=dict)
    """As the store of virtual users has them."""


async def look(url: str) -> DatabaseLook:
    """Look at a database.

    Args:
        url: as of :meth:`Database.open <mxrtc_bridge.storage.database.Database.open>`.

    Raises:
        StorageError: a bridge could not use it; says why.
    """
    parsed = URL(url)
    if parsed.scheme in ("sqlite", "sqlite3"):
        return await asyncio.to_thread(_look_at_file, Path(parsed.path))
    return await _look_at_server(url)


def _look_at_file(path: Path) -> DatabaseLook:
    try:
        status = path.stat()
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            raise StorageError(f"the folder of the database, {str(path.parent)!a}, cannot be written to") from None
        return DatabaseLook(is_new=True)
    except OSError as error:
        raise StorageError(f"the database file {str(path)!a} cannot be used: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"the database file {str(path)!a} is no regular file")
    for needed in (path, path.parent):
        if not os.access(needed, os.R_OK | os.W_OK, effective_ids=True):
            raise StorageError(f"the database file {str(path)!a} cannot be used: {needed} cannot be written to")
    if status.st_size == 0:
        return DatabaseLook(is_new=True)
    # The index of the journal is only read, and where there is none (nobody has the database open), none is made.
    mode = "mode=ro&readonly_shm=1" if Path(f"{path}-shm").exists() else "mode=ro&immutable=1"
    address = f"file:///{quote(str(path.absolute()).lstrip('/'))}?{mode}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE_S)) as connection:
            return _judge(
                lambda statement: connection.execute(statement).fetchall(),
                "SELECT name FROM sqlite_master WHERE type = 'table'",
            )
    except sqlite3.Error as error:
        raise StorageError(f"the database file {str(path)!a} cannot be used: {error}") from error


async def _look_at_server(url: str) -> DatabaseLook:
    try:
        asyncpg = importlib.import_module("asyncpg")
    except ImportError:
        raise StorageError("PostgreSQL needs the package asyncpg: pip install 'mxrtc-bridge[postgres]'") from None
    failures = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
    try:
        settings = {"default_transaction_read_only": "on"}
        connection = await asyncpg.connect(url, timeout=PATIENCE_S, command_timeout=10, server_settings=settings)
        try:
            found: dict[str, list[tuple[object, ...]]] = {}
            missing: list[str] = []

            def fetch(statement: str) -> list[tuple[object, ...]]:
                if statement not in found:
                    missing.append(statement)
                    raise LookupError
                return found[statement]

            # What is asked depends on what was answered before; so it is judged again with each answer.
            while True:
                try:
                    return _judge(
                        fetch, "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
                    )
                except LookupError:
                    statement = missing.pop()
                    found[statement] = [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close(timeout=PATIENCE_S)
    except failures as error:
        raise StorageError(f"the database cannot be opened: {type(error).__name__}: {str(error)[:200]}") from error


def _judge(fetch: Fetch, list_tables: str) -> DatabaseLook:
    tables = {str(name) for (name,) in fetch(list_tables)}
    if theirs := tables.intersection(_OF_OTHERS):
        raise StorageError(f"the database belongs to a homeserver: it has the table {min(theirs)}")
    owners = fetch("SELECT owner FROM database_owner WHERE key = 0") if "database_owner" in tables else []
    if owners and owners[0][0] != OWNER:
        raise StorageError(f"the database belongs to {str(owners[0][0])[:80]!a}")
    name = UPGRADES.version_table_name
    versions = fetch(f"SELECT version FROM {name}") if name in tables else []  # noqa: S608 - a name of ours
    version = versions[0][0] if versions else 0
    if not isinstance(version, int) or version > len(UPGRADES.upgrades):
        raise StorageError(
            f"the database is of a newer version of mxrtc-bridge (its tables have version {version}, this program "
            f"knows {len(UPGRADES.upgrades)})"
        )
    return DatabaseLook(version == 0, _own_users(fetch, tables))


def _own_users(fetch: Fetch, tables: set[str]) -> Mapping[UserId, str]:
    if "own_user" in tables:
        return {UserId(str(user)): str(how) for user, how in fetch("SELECT user_id, how FROM own_user")}
    found: dict[UserId, str] = {}
    for table, column in _FIRST_SIGNS:
        if table in tables:
            rows = fetch(f"SELECT DISTINCT {column} FROM {table}")  # noqa: S608 - names of ours
            found |= {UserId(str(user)): "before" for (user,) in rows}
    has_devices = "crypto_account" in tables and fetch("SELECT 1 FROM crypto_account LIMIT 1")
    # It has been used without encryption, so it has noted nobody: who is there at the next start is ours.
    if "audit" in tables and fetch("SELECT 1 FROM audit LIMIT 1") and not has_devices:
        found[UserId("*")] = "before"
    return found
