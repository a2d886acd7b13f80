"""The certificate and private key of each peer, so that its fingerprint outlives a restart. Never logged."""

from __future__ import annotations

from mautrix.util.async_db import Connection

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database

MAX_PEM_CHARS = 64 * 1024


class CertificateStore:
    """The table ``certificate``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user: UserId) -> str | None:
        """Return what was saved for ``user``, or None."""

        async def select(connection: Connection) -> str | None:
            pem = await connection.fetchval("SELECT pem FROM certificate WHERE user_id = $1", user)
            return None if pem is None else str(pem)

        return await self._database.read(select)

    async def save(self, user: UserId, pem: str) -> None:
        """Save certificate and key of ``user``, in place of an earlier one.

        Raises:
            StateError: it is longer than 64 Ki characters.
        """
        if len(pem) > MAX_PEM_CHARS:
            raise StateError(f"a certificate of {len(pem)} characters is not saved; the limit is {MAX_PEM_CHARS}")

        async def upsert(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO certificate (user_id, pem) VALUES ($1, $2) "
                "ON CONFLICT (user_id) DO UPDATE SET pem = excluded.pem",
                user,
                pem,
            )

        await self._database.transaction(upsert)
