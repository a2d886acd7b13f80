"""Rooms that are upgraded at a real homeserver: the admins', one whose members have a right, a policy list."""

from __future__ import annotations

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
    async with world_of_three(tmp_path_factory.mktemp("upgraded")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def people(world: World) -> AsyncIterator[tuple[Person, ...]]:
    async with three_people(world) as people:
        yield people


async def test_the_room_of_the_admins_by_its_alias_and_by_its_id(world: World, people: tuple[Person, ...]) -> None:
    alice, bob, _ = people
    by_alias = await alice.gather("admins", bob)
    await alice.ask("PUT", f"directory/room/{quote(ALIAS)}", {"room_id": by_alias})
    by_id = await alice.gather("notices", bob)
    world.settings |= {"rooms": {"admin": ALIAS, "notices": by_id}, "admins": [alice.user_id]}
    await world.reload_and_wait()
    for room in (by_alias, by_id):
        await let_in(alice, room)
    new = await upgrade(alice, by_alias, BOT)
    await alice.until_member(new, BOT)
    assert "live session" in await alice.told(new, "!rtc who")
    new = await upgrade(alice, by_id, BOT)
    await alice.until_member(new, BOT)
    code, said = await world.run_admin("check")
    assert (code, f"{by_id}, which rooms.notices names, was replaced by {new}" in said) == (0, True), said
    assert ALIAS not in said, "it leads to the new room by itself"


async def test_the_members_of_the_new_room_have_the_right_and_those_of_the_old_one_no_more(
    world: World, people: tuple[Person, ...]
) -> None:
    alice, bob, carol = people
    old = await alice.gather("users", bob, carol)
    world.grants.append({"id": "room", "from": [f"room:{old}"], "to": ["build/echo"]})
    await world.reload_and_wait()
    await let_in(alice, old)
    await until_ping(world, "bob", 0)
    new = await upgrade(alice, old, bob.user_id, BOT)
    await bob.ask("POST", f"join/{quote(new)}", {})
    await alice.until_member(new, BOT)
    await until_ping(world, "bob", 0)
    await until_ping(world, "carol", 3)
    # Also after a restart, by the configuration as it was.
    assert world.bridge is not None
    await world.bridge.terminate(20)
    await world.start_bridge()
    await until_ping(world, "bob", 0)
    await until_ping(world, "carol", 3)
    await alice.ask("POST", f"rooms/{quote(new)}/kick", {"user_id": bob.user_id})
    await until_ping(world, "bob", 3)


async def test_a_policy_list_goes_on_in_the_new_room_and_keeps_what_the_old_one_said(
    world: World, people: tuple[Person, ...]
) -> None:
    alice, bob, carol = people
    world.grants = [{"id": "all", "from": [bob.user_id, carol.user_id], "to": ["build/echo"]}]
    old = await alice.gather("bans")
    ban = {"entity": bob.user_id, "recommendation": "m.ban", "reason": "spam"}
    await alice.ask("PUT", f"rooms/{quote(old)}/state/m.policy.rule.user/bob", ban)
    world.settings["policy_lists"] = [old]
    await world.reload_and_wait()
    await let_in(alice, old)
    await until_ping(world, "bob", 3)
    await until_ping(world, "carol", 0)
    new = await upgrade(alice, old, BOT)
    await alice.until_member(new, BOT)
    ban["entity"] = carol.user_id
    await alice.ask("PUT", f"rooms/{quote(new)}/state/m.policy.rule.user/carol", ban)
    await until_ping(world, "carol", 3)
    await until_ping(world, "bob", 3)
