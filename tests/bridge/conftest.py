"""What concerns grants runs on SQLite and on PostgreSQL, as the tests of the storage do."""

from __future__ import annotations

from tests.storage.conftest import postgres_url, url

__all__ = ["postgres_url", "url"]
