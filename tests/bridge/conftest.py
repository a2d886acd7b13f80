"""What concerns grants runs on SQLite and on PostgreSQL, as the tests of the storage do; some tests in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests.bridge.homeserver import FakeHomeserver
from tests.storage.conftest import closable, postgres_url, url
from tests.virtual_time import VirtualLoop

__all__ = ["closable", "postgres_url", "url"]


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path) -> AsyncIterator[FakeHomeserver]:
    async with FakeHomeserver(tmp_path) as server:
        yield server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is marked so in virtual time: its limits of time are those of the product, and pass at once."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"asyncio": asyncio.new_event_loop}
