"""The certificate and private key of each peer, so that its fingerprint outlives a restart. Never logged."""

from __future__ import annotations

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
        row = await self._database.row("SELECT pem FROM certificate WHERE user_id = $1", (user,))
        return None if row is None else str(row["pem"])

    async def save(self, user: UserId, pem: str) -> None:
        """Save certificate and key of ``user``, in place of an earlier one.

        Raises:
            StateError: it is longer than 64 Ki characters.
        """
        if len(pem) > MAX_PEM_CHARS:
            raise StateError(f"a certificate of {len(pem)} characters is not saved; the limit is {MAX_PEM_CHARS}")
        await self._database.write(
            "INSERT INTO certificate (user_id, pem) VALUES ($1, $2) "
            "ON CONFLICT (user_id) DO UPDATE SET pem = excluded.pem",
            (user, pem),
        )
