"""Named rooms that change more than once, or in other ways than by an upgrade, at a real homeserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.e2e.people import BOT, Person, let_in, three_people, until_ping, upgrade, world_of_three
from tests.e2e.world import DOMAIN, World

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALIAS = f"#admins:{DOMAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world_of_three(tmp_path_factory.mktemp("moved")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def people(world: World) -> AsyncIterator[tuple[Person, ...]]:
    async with three_people(world) as people:
        yield people


async def test_a_room_that_was_upgraded_twice_while_the_bridge_was_away(
    world: World, people: tuple[Person, ...]
) -> None:
    alice, bob, carol = people
    first = await alice.gather("twice", bob, carol)
    world.grants = [{"id": "room", "from": [f"room:{first}"], "to": ["build/echo"]}]
    await world.reload_and_wait()
    await let_in(alice, first)
    await until_ping(world, "bob", 0)
    assert world.bridge is not None
    await world.bridge.terminate(20)
    second = await upgrade(alice, first, BOT)
    third = await upgrade(alice, second, BOT, bob.user_id)
    await bob.ask("POST", f"join/{quote(third)}", {})
    await world.start_bridge()
    await until_ping(world, "bob", 0)
    await until_ping(world, "carol", 3)
    code, said = await world.run_admin("check")
    assert (code, f"was replaced by {third}" in said) == (0, True), said


async def test_an_alias_that_is_moved_to_another_room(world: World, people: tuple[Person, ...]) -> None:
    alice, bob, _ = people
    first, second = [await alice.gather(name, bob) for name in ("first", "second")]
    await alice.ask("PUT", f"directory/room/{quote(ALIAS)}", {"room_id": first})
    world.settings |= {"rooms": {"admin": ALIAS}, "admins": [alice.user_id]}
    await world.reload_and_wait()
    await let_in(alice, first)
    await alice.ask("DELETE", f"directory/room/{quote(ALIAS)}")
    await alice.ask("PUT", f"directory/room/{quote(ALIAS)}", {"room_id": second})
    await let_in(alice, second)
    assert "live session" in await alice.told(second, "!rtc who")
    async with asyncio.timeout(20):
        while BOT in (await alice.ask("GET", f"rooms/{quote(first)}/joined_members"))["joined"]:
            await asyncio.sleep(0.1)


async def test_a_room_that_the_bot_was_kicked_from_is_named_by_check(world: World, people: tuple[Person, ...]) -> None:
    alice, bob, _ = people
    room = await alice.gather("kicked", bob)
    world.grants = [{"id": "room", "from": [f"room:{room}"], "to": ["build/echo"]}]
    await world.reload_and_wait()
    code, said = await world.run_admin("check")
    assert (code, f"the bot is not in {room}" in said) == (0, True), said
    await let_in(alice, room)
    await until_ping(world, "bob", 0)
    code, said = await world.run_admin("check")
    assert (code, f"the bot is not in {room}" in said) == (0, False), said
    await alice.ask("POST", f"rooms/{quote(room)}/kick", {"user_id": BOT})
    await until_ping(world, "bob", 3)
    code, said = await world.run_admin("check")
    assert (code, f"the bot is not in {room}" in said) == (0, True), said
    await let_in(alice, room)
    await until_ping(world, "bob", 0)


async def test_a_tombstone_of_a_room_that_the_new_one_does_not_know(world: World, people: tuple[Person, ...]) -> None:
    alice, bob, _ = people
    room, other = [await alice.gather(name, bob) for name in ("here", "elsewhere")]
    world.grants = [{"id": "room", "from": [f"room:{room}"], "to": ["build/echo"]}]
    await world.reload_and_wait()
    await let_in(alice, room)
    await until_ping(world, "bob", 0)
    await alice.ask("POST", f"rooms/{quote(other)}/invite", {"user_id": BOT})
    await alice.ask("PUT", f"rooms/{quote(room)}/state/m.room.tombstone/", {"replacement_room": other, "body": "x"})
    async with asyncio.timeout(20):
        while "which does not say so itself" not in world.log_text():
            await asyncio.sleep(0.1)
    await until_ping(world, "bob", 0)
    code, said = await world.run_admin("check")
    assert code == 0, said
