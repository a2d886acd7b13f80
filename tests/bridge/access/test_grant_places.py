"""What is known of a grant in memory, in the database, in the audit and by people, and what comes between any two.

A table: each thing that is done with a grant, each step of it, and before or after that step a failure, a cancellation
of whoever waits for it, or a kill. Whatever happens, in the end all places say the same, also after a restart; what was
told as given is given, and what was taken away is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.access.policy import parse_subject
from mxrtc_bridge.core.access.requests import Decision
from mxrtc_bridge.core.errors import AdminError, HomeserverError, StorageError, UnknownOutcomeError
from tests.bridge.access.grants_world import ADMIN, EVE, HOUR_S, WEB, World, closed_worlds
from tests.long import some
from tests.storage.failing_commits import failing_commits

__all__ = ["closed_worlds"]

Doing = Callable[[World], Awaitable[object]]


@dataclass(frozen=True)
class Story:
    """One thing that is done, and what is there before it."""

    name: str
    steps: tuple[str, ...]
    do: Doing
    before: Doing | None = None
    gives: bool = False
    """Whether a grant is in force if and only if it went well; otherwise none is in force afterwards."""


async def give(world: World) -> object:
    return await world.give()


async def ask(world: World) -> object:
    return await world.ask()


async def allow(world: World) -> object:
    number = (await world.requests_store.open_requests())[0].number
    return await world.requests.answer(number, Decision.ALLOW, ADMIN)


async def deny(world: World) -> object:
    number = (await world.requests_store.open_requests())[0].number
    return await world.requests.answer(number, Decision.DENY, ADMIN)


async def withdraw(world: World) -> object:
    number = (await world.requests_store.open_requests())[0].number
    return await world.requests.withdraw(number, EVE)


async def give_three(world: World) -> object:
    return [await world.give(), await world.give(WEB), await world.give()]


async def give_once(world: World) -> object:
    return await world.give(once=True)


async def revoke(world: World) -> object:
    return await world.given.revoke(min(world.in_force()), ADMIN)


async def revoke_all(world: World) -> object:
    return await world.given.revoke_all(parse_subject(EVE), None, None, ADMIN)


async def expire(world: World) -> object:
    world.now_ms += HOUR_S * 1000
    return len(world.given.table)


async def use_once(world: World) -> object:
    if not await world.use(world.session()):
        raise AdminError("it cannot be used now")
    return True


async def use_and_end(world: World) -> object:
    gate = world.session()
    try:
        return await world.use(gate)
    finally:
        world.given.session_ended(gate)


GIVING = ("grant stored", "grant audited", "audit stored", "grant confirmed")
ENDING = ("end stored", "audit stored")
STORIES = [
    Story("give", GIVING, give, gives=True),
    Story("allow", GIVING, allow, before=ask, gives=True),
    Story("claim", ("end stored", "audit stored"), use_once, before=give_once),
    Story("revoke", ENDING, revoke, before=give),
    Story("revoke all", ENDING, revoke_all, before=give_three),
    Story("expire", ENDING, expire, before=give),
    Story("session end", ENDING, use_and_end, before=give_once),
    Story("ask", ("request stored", "request shown"), ask),
    Story("deny", ("request settled",), deny, before=ask),
    Story("withdraw", ("request settled",), withdraw, before=ask),
]
PAIRS = [
    pytest.param(story, step, side, how, id=f"{story.name}-{how}-{side}-{step}".replace(" ", "_"))
    for story in STORIES
    for step in story.steps
    for side in ("before", "after")
    for how in ("failure", "cancellation", "kill")
]


@pytest.mark.parametrize(("story", "step", "side", "how"), some(PAIRS, 24))
async def test_all_places_say_the_same_whatever_comes_between_two(
    tmp_path: Path, story: Story, step: str, side: str, how: str
) -> None:
    world = await World.start(tmp_path / "first")
    if story.before is not None:
        await story.before(world)
        await world.settled()
    reached, killed = asyncio.Event(), tmp_path / "killed"

    async def between() -> None:
        reached.set()
        match how:
            case "failure" if step == "request shown":
                raise HomeserverError("no answer")
            case "failure" if side == "before":
                raise StorageError("the disk is full")
            case "failure":
                raise UnknownOutcomeError("the network is gone")
            case "cancellation":
                doing.cancel()
                await asyncio.sleep(0)
            case "kill":
                world.copy(killed)
                await asyncio.Event().wait()

    world.hooks[step, side] = between
    doing = asyncio.create_task(_outcome(story.do(world)))
    dead = asyncio.create_task(reached.wait())
    await asyncio.wait([doing, dead], return_when=asyncio.FIRST_COMPLETED)
    async with asyncio.timeout(10):
        await reached.wait()
    if how == "kill":
        await world.abandon()
        after = await World.start(killed)
        after.now_ms = world.now_ms
        await _check(after, story, went_well=None)
        await after.stop()
        return
    went_well = await doing
    await _check(world, story, went_well=went_well)
    # And with no more warning than a kill gives.
    world.copy(killed)
    after = await World.start(killed)
    after.now_ms = world.now_ms
    await _check(after, story, went_well=went_well)
    await after.stop()
    await world.stop()


COMMITS = [
    pytest.param(story, number, how, id=f"{story.name}-{how}-{number}".replace(" ", "_"))
    for story in STORIES
    for number in range(4 if story.gives else 2)
    for how in ("lose", "drop", "lose all", "drop all")
]


# A connection that is cut in the middle of a COMMIT may be found unclosed later: asyncpg says so, and that is so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(("story", "number", "how"), some(COMMITS, 20))
async def test_all_places_say_the_same_whatever_becomes_of_a_commit(
    tmp_path: Path, url: str, story: Story, number: int, how: str
) -> None:
    """The first, second ... COMMIT of what is done is carried out and not answered, or is not carried out."""
    async with failing_commits(url) as commits:
        world = await World.start(tmp_path / "first", commits.url)
        if story.before is not None:
            await story.before(world)
            await world.settled()
        kind, _, lasting = how.partition(" ")
        left = number

        plain = world.database._run_once

        async def run_once(connection: Any, work: Any, writing: Any) -> Any:
            nonlocal left
            if writing is not None:
                if left == 0:
                    setattr(commits, kind, 1_000_000 if lasting else 1)
                left -= 1
            return await plain(connection, work, writing)

        world.database._run_once = run_once  # type: ignore[method-assign]
        went_well = await _outcome(story.do(world))
        await asyncio.sleep(0)
        left = -1
        commits.lose = commits.drop = 0
        await _check(world, story, went_well=went_well)
        await world.stop()
        after = await World.start(tmp_path / "first", commits.url)
        after.now_ms = world.now_ms
        await _check(after, story, went_well=went_well)
        await after.stop()


async def _outcome(work: Awaitable[object]) -> bool:
    """Whether whoever did it was told that it was done."""
    try:
        await work
    except (AdminError, StorageError, HomeserverError, asyncio.CancelledError):
        return False
    return True


async def _check(world: World, story: Story, *, went_well: bool | None) -> None:
    """All places say the same, and what was told is true; None: nobody was told."""
    await world.settled()
    in_force, claimed = world.in_force(), world.given.table._claims.keys()
    assert in_force == world.by_audit()
    assert in_force - claimed == await world.in_database()
    open_requests = await world.requests_store.open_requests()
    if story.gives:
        if went_well is not None:
            assert bool(in_force) is went_well
        if story.name == "allow":
            assert bool(open_requests) is not bool(in_force), "a request is open, or its grant is in force"
    elif story.name == "claim":
        assert not went_well or not await world.use(world.session()), "no second session"
    elif went_well is not None and story.name in ("revoke all", "expire", "session end"):
        assert in_force == set()
    elif went_well is not None and story.name == "revoke":
        assert in_force == set(), "out of force, whether whoever did it was told so or not"
    if story.name in ("deny", "withdraw") and world.posted:
        assert not open_requests, "people are told of what is decided"
