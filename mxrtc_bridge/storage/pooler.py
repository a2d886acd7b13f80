"""Connections to PostgreSQL that hold also behind a pooler, as PgBouncer is one.

A pooler with ``pool_mode = transaction`` gives each transaction to whichever connection to the server is free. What
outlives a transaction is then on another one, or is somebody else's: a statement that was prepared under a name, a
setting, a lock of the session. So nothing of ours outlives one: whatever is asked is asked within a transaction, and
behind a pooler no statement is kept prepared. Without one it is, as each would take up to twice as long.
"""

from __future__ import annotations

import importlib
from typing import Any

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.failures import brief

POOL_SIZE = 6
"""Connections to the server that a pooler must have for a bridge: its lock, its transactions, a look beside them."""


async def connect(*place: Any, **options: Any) -> Any:
    """Connect like ``asyncpg.connect``, and keep no statements prepared where something else answers for the server."""
    asyncpg: Any = importlib.import_module("asyncpg")
    connection = await asyncpg.connect(*place, **options)
    try:
        # A pooler has made up the number that we were given. Asked in a way that prepares nothing, as that would stay
        # there under a name.
        said = await connection.execute(f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid():d}")
        if said == "SELECT 1":
            return connection
        await connection.close(timeout=options.get("timeout"))
    except BaseException:
        connection.terminate()
        raise
    return await asyncpg.connect(*place, **{**options, "statement_cache_size": 0})


def not_opened(error: BaseException) -> StorageError:
    """Say that the database cannot be opened, and what to do where that is known."""
    what = brief(error)
    if isinstance(error, TimeoutError):
        what = f"it does not answer; a pooler before it must have {POOL_SIZE} connections or more for a bridge"
    elif "statement pooling" in what:
        what += "; the pooler must have pool_mode = transaction or session"
    return StorageError(f"the database cannot be opened: {what}")
