"""What may pass is tried again, and what would be refused for ever is not."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mxrtc_bridge.core.errors import RefusedStatementError, StorageError
from mxrtc_bridge.engine.retries import ask_until_done
from tests import virtual_time


class Database:
    def __init__(self, *failures: StorageError) -> None:
        self.failures = list(failures)
        self.asked_s: list[float] = []

    async def ask(self) -> str:
        self.asked_s.append(asyncio.get_running_loop().time())
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_database_that_is_away_is_asked_again_with_growing_pauses() -> None:
    database = Database(*[StorageError("away")] * 8)
    assert virtual_time.run(ask_until_done(database.ask, pause_s=1)) == "done"
    asked_s = database.asked_s
    assert [after - before for before, after in itertools.pairwise(asked_s)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_what_the_database_refuses_is_not_asked_again() -> None:
    database = Database(RefusedStatementError("not this"))
    with pytest.raises(RefusedStatementError):
        virtual_time.run(ask_until_done(database.ask, pause_s=1))
    assert len(database.asked_s) == 1
