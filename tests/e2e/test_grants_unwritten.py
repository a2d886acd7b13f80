"""Grants that are taken back while the database takes nothing, through a real homeserver and a real bridge."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.web.control import ask
from tests.e2e.people import Person
from tests.e2e.test_control import ALICE, BOT, admin, connected, rows
from tests.e2e.world import PASSWORD, World, echo
from tests.storage import postgres
from tests.storage.lossy_postgres import LossyPostgres, lossy

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


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
        text = world.log_text()
        assert "Traceback" not in text, text[text.index("Traceback") - 300 :][:6000]


@dataclass
class OnPostgres:
    """A bridge on PostgreSQL, with a network between them that may fail."""

    world: World
    network: LossyPostgres
    database: postgres.Server

    async def by_audit(self) -> list[int]:
        """The numbers of the grants that are in force as the audit tells it."""
        code, out, err = await admin(self.world, "audit", "verify")
        assert code == 0, out + err
        lines = [json.loads(line) for line in (self.world.folder / "audit.jsonl").read_text().splitlines()]
        given = [line["grant"] for line in lines if line["kind"] == "grant"]
        ended = {line["grant"] for line in lines if line["kind"] == "grant_end"}
        assert sorted(given) == sorted(set(given))
        return sorted({*given} - ended)

    async def numbers(self) -> list[int]:
        """The numbers of the grants that are in force as the bridge tells it."""
        found: list[int] = []
        for page in itertools.count(1):
            _, answer = await self.ask("grants", str(page))
            found += [row["number"] for row in answer["rows"]]
            if page >= answer["pages"]:
                break
        return sorted(found)

    async def ask(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Have the bridge carry out a command; returns a status of HTTP and the answer."""
        return await ask(str(self.world.folder / "control.sock"), words)

    async def killed(self) -> None:
        """Kill the bridge and start it again, with a network that works."""
        self.network.lose = self.network.drop = 0
        assert self.world.bridge is not None
        assert self.world.bridge.returncode is None, "it has lived on"
        self.world.bridge.kill()
        await self.world.start_bridge()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OnPostgres]:
    programs = postgres.find_programs()
    assert programs is not None, "PostgreSQL is among the packages of .ci/packages"
    async with AsyncExitStack() as stack:
        database = stack.enter_context(postgres.started(programs))
        network = await stack.enter_async_context(lossy(database.url))
        folder = tmp_path_factory.mktemp("unwritten")
        world = await World.start(folder, stack, settings={"database": network.url})
        await world.serve("echo", echo, grantable_to=[ALICE])
        await world.add_user("alice")
        await world.homeserver.register_user("bob", PASSWORD)
        http = await stack.enter_async_context(ClientSession())
        bob = await Person.log_in(world, "bob", http)
        admins = await bob.gather("admins")
        world.settings["rooms"] = {"admin": admins}
        await bob.ask("POST", f"rooms/{quote(admins)}/invite", {"user_id": BOT})
        await world.start_bridge()
        await bob.until_member(admins, BOT)
        yield OnPostgres(world, network, database)
        assert world.bridge is not None
        await world.bridge.terminate(20)
        text = world.log_text()
        assert "Traceback" not in text, text[text.index("Traceback") - 300 :][:6000]


STORED, CONFIRMED, ENDED = "INSERT INTO given_grant", "SET pending = 0", "SET ended_ms"
"""Statements of what is done to a grant; each transaction with one is of that grant alone."""
AUDITED = "INSERT INTO audit "
ALWAYS = 1_000_000


@pytest.mark.parametrize(
    ("fate", "times", "statement"),
    [
        ("lose", 1, STORED),
        ("lose", ALWAYS, STORED),
        ("drop", ALWAYS, STORED),
        ("lose", ALWAYS, CONFIRMED),
        ("drop", ALWAYS, CONFIRMED),
        ("lose", ALWAYS, AUDITED),
        ("drop", ALWAYS, AUDITED),
    ],
)
async def test_a_grant_whose_commits_fail_is_there_once_or_not_at_all_as_it_is_told(
    on_postgres: OnPostgres, fate: str, times: int, statement: str
) -> None:
    network = on_postgres.network
    network.within = statement
    setattr(network, fate, times)
    status, answer = await on_postgres.ask("grant", ALICE, "build/echo", "for", "2h")
    assert getattr(network, fate) < times, "it has come to that"
    told = await on_postgres.numbers()
    assert (status, len(told)) in ((200, 1), (409, 0)), answer
    await on_postgres.killed()
    assert await on_postgres.numbers() == told == await on_postgres.by_audit()
    for number in told:
        assert (await on_postgres.ask("revoke", str(number)))[0] == 200


@pytest.mark.parametrize(("fate", "times"), [("lose", 1), ("drop", ALWAYS)])
async def test_a_request_that_is_allowed_while_commits_fail_is_answered_once_as_it_is_told(
    on_postgres: OnPostgres, fate: str, times: int
) -> None:
    network, world = on_postgres.network, on_postgres.world
    code, _, said = await world.run_mxrtc("alice", "request", "build/echo", "--for", "1h")
    asked = re.search(r"\(request (\d+)\)", said)
    assert asked is not None, (code, said)
    network.within = STORED
    setattr(network, fate, times)
    status, answer = await on_postgres.ask("allow", asked[1])
    assert getattr(network, fate) < times, "it has come to that"
    told = await on_postgres.numbers()
    assert (status, len(told)) in ((200, 1), (409, 0)), answer
    await on_postgres.killed()
    assert await on_postgres.numbers() == told == await on_postgres.by_audit()
    waiting = [row["number"] for row in (await on_postgres.ask("requests"))[1]["rows"]]
    if told:
        assert waiting == []
    else:
        assert waiting == [int(asked[1])], "it can still be answered"
        assert (await on_postgres.ask("allow", asked[1]))[0] == 200
    await (await connected(world)).end()
    for number in await on_postgres.numbers():
        assert (await on_postgres.ask("revoke", str(number)))[0] == 200


@pytest.mark.parametrize(("fate", "times"), [("lose", ALWAYS), ("drop", ALWAYS)])
async def test_a_grant_that_is_taken_back_while_commits_fail_ends_at_once_and_does_not_come_back(
    on_postgres: OnPostgres, fate: str, times: int
) -> None:
    network = on_postgres.network
    status, answer = await on_postgres.ask("grant", ALICE, "build/echo", "for", "2h")
    assert status == 200, answer
    (number,) = await on_postgres.numbers()
    stream = await connected(on_postgres.world)
    network.within = ENDED
    setattr(network, fate, times)
    revoking = asyncio.create_task(on_postgres.ask("revoke", str(number)))
    await stream.cut(5, "your right")
    status, answer = await revoking
    assert getattr(network, fate) < times, "it has come to that"
    assert status == 200 or f"Grant {number} is out of force now" in str(answer["error"]), answer
    assert await on_postgres.numbers() == []
    await on_postgres.killed()
    assert await on_postgres.numbers() == [] == await on_postgres.by_audit()


async def test_after_a_database_that_was_killed_amid_grants_those_are_in_force_that_the_audit_says(
    on_postgres: OnPostgres,
) -> None:
    told: dict[str, list[int]] = {"given": [], "taken": []}
    answers: asyncio.Queue[int] = asyncio.Queue()
    enough = asyncio.Event()

    async def give_and_take() -> None:
        """Give, and take back all but every fourth."""
        for turn in itertools.count():
            if enough.is_set():
                break
            status, answer = await on_postgres.ask("grant", ALICE, "build/echo", "for", "2h")
            if status == 200:
                number = re.match(r"Grant (\d+): ", str(answer["said"]))
                assert number is not None, answer
                told["given"].append(int(number[1]))
                if turn % 4:
                    # Out of force from now on, also if it says that this could not be written down.
                    told["taken"].append(int(number[1]))
                    status, _ = await on_postgres.ask("revoke", number[1])
            answers.put_nowait(status)

    async def some_answers() -> list[int]:
        async with asyncio.timeout(60):
            return [await answers.get() for _ in range(10)]

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(give_and_take())
        for long in (False, True, False):
            await some_answers()
            await asyncio.to_thread(on_postgres.database.kill)
            async with asyncio.timeout(60):
                while long and await answers.get() == 200:
                    pass
            await asyncio.to_thread(on_postgres.database.start)
        while 200 not in await some_answers():
            pass
        enough.set()
    assert len(told["taken"]) > 10
    wanted = sorted({*told["given"]} - {*told["taken"]})
    assert await on_postgres.numbers() == wanted
    # What could not be written meanwhile is written a moment later.
    async with asyncio.timeout(30):
        while await on_postgres.by_audit() != wanted:
            pass
    await on_postgres.killed()
    assert await on_postgres.numbers() == wanted == await on_postgres.by_audit()
    await (await connected(on_postgres.world)).end()
