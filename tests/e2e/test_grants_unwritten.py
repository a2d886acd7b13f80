"""Grants that are taken back while the database takes nothing, through a real homeserver and a real bridge."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.test_control import ALICE, admin, connected, rows
from tests.e2e.world import World, echo
from tests.storage import postgres
from tests.storage.lossy_postgres import lossy

pytestmark = pytest.mark.real


async def test_what_was_revoked_beside_a_locked_database_ends_at_once_and_does_not_come_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo, grantable_to=[ALICE])
        await world.add_user("alice")
        bridge = await world.start_bridge()
        for _ in range(2):
            assert (await admin(world, "grant", ALICE, "build/echo", "--for", "2h"))[0] == 0
        stream = await connected(world)
        with closing(sqlite3.connect(world.folder / "bridge.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            revoking = asyncio.create_task(admin(world, "revoke", ALICE))
            await stream.cut(5, "your right")
            code, out, err = await revoking
            assert code != 0, out
            assert "Grants 1, 2 are out of force now, but that could not be written down" in err
            assert await rows(world, "grants") == []
            other.execute("ROLLBACK")
        # Asked again, it says when there is nothing left to write; from then on nothing brings it back.
        async with asyncio.timeout(20):
            for number in "12":
                while f"There is no grant {number} in force" not in (await admin(world, "revoke", number))[2]:
                    pass
        bridge.kill()
        bridge = await world.start_bridge()
        assert await rows(world, "grants") == []
        await bridge.terminate(20)
        assert "Traceback" not in world.log_text()


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_grant_whose_commits_lose_their_answers_is_there_once_and_gone_when_it_is_revoked(
    tmp_path: Path, lost: int
) -> None:
    """The bridge is on PostgreSQL, and the network between them forgets connections in the middle of a COMMIT."""
    programs = postgres.find_programs()
    assert programs is not None, "PostgreSQL is among the packages of .ci/packages"
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(lossy(stack.enter_context(postgres.running(programs))))
        world = await World.start(tmp_path, stack, settings={"database": network.url})
        await world.serve("echo", echo, grantable_to=[ALICE])
        await world.add_user("alice")
        bridge = await world.start_bridge()
        network.lose = lost
        code, _, err = await admin(world, "grant", ALICE, "build/echo", "--for", "2h")
        assert (code, network.lose) == (0, 0), err
        (grant,) = await rows(world, "grants")
        stream = await connected(world)
        network.lose = lost
        assert (await admin(world, "revoke", str(grant["number"])))[0] == 0
        await stream.cut(5, "your right")
        bridge.kill()
        bridge = await world.start_bridge()
        assert await rows(world, "grants") == []
        code, out, err = await admin(world, "audit", "verify")
        assert code == 0, out + err
        await bridge.terminate(20)
        assert "Traceback" not in world.log_text()
