"""Devices as they are now, through a real homeserver: it announces nothing where no room is shared with a caller.

Each change is made as people and admins of homeservers make it, to one user each, all under one policy at a time; the
sessions of all must end, and that of one to whom nothing has happened must go on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ifaddr
import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.client.calls.device import own_device as client_device
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.identities import OtherClient, own_device
from tests.e2e.pages import run_page
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, PASSWORD, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

BUILD = f"@rtc_build:{DOMAIN}"

# The bridge as it is, but for the time between two judgings, and a line for each.
PROGRAM = """
import sys
from mxrtc_bridge.bridge.devices import policy
from mxrtc_bridge.cli.bridge.main import main
policy.EVERY_S = 0.3
judge = policy.DevicePolicy.judge_again

async def judge_and_say(self):
    await judge(self)
    print("judged", flush=True)

policy.DevicePolicy.judge_again = judge_and_say
sys.exit(main())
"""
ENDS_S = 15.0
"""How long an end may take here; thirty times less would do."""


async def another_identity(world: World, name: str, client: OtherClient) -> None:
    await client.make_identity()


async def another_identity_that_signs_the_same_device(world: World, name: str, client: OtherClient) -> None:
    await client.make_identity()
    await client.sign(own_device(world, name)[0])


async def device_deleted(world: World, name: str, client: OtherClient) -> None:
    await ask_admin(world, "DELETE", f"v2/users/@{name}:{DOMAIN}/devices/{own_device(world, name)[0]}")


async def logged_out_everywhere(world: World, name: str, client: OtherClient) -> None:
    await client.ask("POST", "logout/all", {})


async def password_reset(world: World, name: str, client: OtherClient) -> None:
    await ask_admin(
        world, "POST", f"v1/reset_password/@{name}:{DOMAIN}", {"new_password": "another", "logout_devices": True}
    )


async def deactivated(world: World, name: str, client: OtherClient) -> None:
    await ask_admin(world, "POST", f"v1/deactivate/@{name}:{DOMAIN}", {"erase": True})


async def nothing(world: World, name: str, client: OtherClient) -> None:
    pass


CHANGES: dict[str, tuple[Callable[[World, str, OtherClient], Awaitable[None]], str]] = {
    "identity": (another_identity, "another identity"),
    "resigned": (another_identity_that_signs_the_same_device, "another identity"),
    "deleted": (device_deleted, "does not list the device"),
    "everywhere": (logged_out_everywhere, "does not list the device"),
    "reset": (password_reset, "does not list the device"),
    "deactivated": (deactivated, "does not list the device"),
    "untouched": (nothing, ""),
}


async def ask_admin(world: World, method: str, path: str, content: dict[str, object] | None = None) -> object:
    login = await world.homeserver.login("root", PASSWORD)
    return await world.homeserver.request(
        method, f"/_synapse/admin/{path}", token=login.access_token, body=content or {}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("devices"), stack)
        await world.serve("echo", echo)
        world.signal = "device"
        world.program = [sys.executable, "-c", PROGRAM]
        world.settings["limits"] = {"calls_per_server": 50}
        # Browsers leave loopback out, and mxrtc uses nothing else here.
        names = [adapter.name for adapter in ifaddr.get_adapters()]
        world.settings["ice"] = {"interfaces": names, "remote": {"loopback": True, "private": True}}
        await world.homeserver.register_user("root", PASSWORD, admin=True)
        for change in CHANGES:
            for policy in ("any", "signed"):
                world.grant(f"{change}-{policy}", "build/echo")
        for name in ("silent-any", "silent-signed", "locked", "suspended", "plain", "plainer"):
            world.grant(name, "build/echo")
        await world.serve("raw-echo", echo, raw=True)
        world.grant("alice", "build/raw-echo")
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


class Caller:
    """A user with a session, and what is at both ends of it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.process: ManagedProcess
        self.other: OtherClient

    async def connect(self) -> None:
        """Make an identity that has signed the device of ``mxrtc``, and call with it."""
        await self.world.homeserver.register_user(self.name, PASSWORD)
        # As mxrtc does at a login and at its first command, but in this process.
        made = await self.world.homeserver.login(self.name, PASSWORD)
        login = Login(self.world.homeserver.url, UserId(made.user_id), made.device_id, made.access_token)
        state = StateFolder(self.world.folder / f"state-{self.name}")
        state.save_login(login)
        async with client_device(state, login):
            pass
        self.other = await OtherClient.log_in(self.world, self.name)
        await self.other.make_identity()
        await self.other.sign(own_device(self.world, self.name)[0])
        self.process, port = await self.world.connect(self.name, "build/echo", "-L", "0")
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(self.reader, self.writer)

    async def is_cut(self) -> str:
        """Wait until the session has ended; returns what its user reads."""
        async with asyncio.timeout(ENDS_S):
            with suppress(ConnectionResetError):
                assert await self.reader.read(1) == b""
        self.writer.close()
        assert await self.process.wait(10) == 3, self.process.tail()
        return self.process.tail()

    async def calls_again(self) -> tuple[int, str]:
        code, _, said = await self.world.run_mxrtc(self.name, "ping", "build", "-c", "1")
        return code, said


async def set_policy(world: World, policy: str) -> None:
    world.settings["encryption"] = {"devices": policy}
    assert world.bridge is not None
    mark = world.bridge.mark()
    world.reload()
    await world.bridge.wait_for_line("configuration reloaded", 20, after=mark)


async def connected(world: World, *names: str) -> dict[str, Caller]:
    callers = {name: Caller(world, name) for name in names}
    for start in range(0, len(names), 4):
        await asyncio.gather(*(callers[name].connect() for name in names[start : start + 4]))
    return callers


@pytest.mark.parametrize("policy", ["any", "cross-signed"])
async def test_whatever_becomes_of_a_device_ends_its_session_and_lets_in_no_new_one(world: World, policy: str) -> None:
    await set_policy(world, policy)
    suffix = policy.removeprefix("cross-")
    callers = await connected(world, *(f"{change}-{suffix}" for change in CHANGES))
    for name, (change, _) in CHANGES.items():
        caller = callers[f"{name}-{suffix}"]
        await change(world, caller.name, caller.other)
    for name, (_, words) in CHANGES.items():
        if words:
            assert words in await callers[f"{name}-{suffix}"].is_cut(), name
    untouched = callers[f"untouched-{suffix}"]
    await exchange(untouched.reader, untouched.writer)
    await untouched.process.terminate(10)

    again = ("identity", "resigned", "deleted", "untouched")
    answers_of = await asyncio.gather(*(callers[f"{name}-{suffix}"].calls_again() for name in again))
    said = dict(zip(again, answers_of, strict=True))
    for name in ("identity", "resigned"):
        code, words = said[name]
        # Where every device is let in, an identity is asked for nothing: the device is there, with its key.
        assert (code, "identity has changed" in words) == ((0, False) if policy == "any" else (3, True)), (name, words)
    assert said["deleted"][0] not in (0, 4), said["deleted"]
    assert said["untouched"][0] == 0, said["untouched"]
    if policy != "any":
        assert "on purpose? mxrtc-bridge trust @identity-signed" in world.log_text()


async def judged(bridge: ManagedProcess) -> None:
    """Return once the devices of all sessions were judged the next time."""
    await bridge.wait_for_line("^judged$", after=bridge.mark())


@pytest.mark.parametrize("policy", ["any", "cross-signed"])
async def test_a_homeserver_that_is_away_ends_nothing_and_is_named_once(world: World, policy: str) -> None:
    # A bridge of its own: each has such a line once an hour for each server.
    assert world.bridge is not None
    await world.bridge.terminate(20)
    world.settings["encryption"] = {"devices": policy}
    bridge = await world.start_bridge()
    name = f"silent-{policy.removeprefix('cross-')}"
    (caller,) = (await connected(world, name)).values()
    said = "the devices of callers of example.test cannot be asked for"
    async with world.homeserver.away():
        await bridge.wait_for_line(said, 20)
        for _ in range(3):
            await judged(bridge)
            await exchange(caller.reader, caller.writer)
        assert bridge.tail(1000).count(said) == 1
    await bridge.wait_for_line("are answered for again", 30)
    await exchange(caller.reader, caller.writer)
    await device_deleted(world, name, caller.other)
    assert "does not list the device" in await caller.is_cut()


async def test_what_the_homeserver_tells_nobody_is_ended_by_deny(world: World) -> None:
    """Locked and suspended accounts keep their devices, and Synapse shows them like any other."""
    await set_policy(world, "any")
    callers = await connected(world, "locked", "suspended")
    await ask_admin(world, "PUT", f"v2/users/@locked:{DOMAIN}", {"locked": True})
    await ask_admin(world, "PUT", f"v1/suspend/@suspended:{DOMAIN}", {"suspend": True})
    assert world.bridge is not None
    for _ in range(3):
        await judged(world.bridge)
    for caller in callers.values():
        await exchange(caller.reader, caller.writer)
    code, said = await callers["suspended"].calls_again()
    assert code == 0, said
    world.settings["deny"] = [f"@{name}:{DOMAIN}" for name in callers]
    world.reload()
    for caller in callers.values():
        await caller.is_cut()
    code, said = await callers["suspended"].calls_again()
    assert code == 3, said
    code, out, said = await run_check(world)
    assert "locked or suspended" in out + said


async def run_check(world: World) -> tuple[int, str, str]:
    world._runs += 1
    command = [*world.program, "check", "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"check-{world._runs}", command, folder=world.folder) as process:
        code = await process.wait(60)
        return code, process.output("stdout").decode(), process.output("stderr").decode()


# --- what else is believed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(world: World) -> AsyncIterator[Person]:
    """Somebody with a client that knows no encryption."""
    await world.homeserver.register_user("plain", PASSWORD)
    async with ClientSession() as http:
        yield await Person.log_in(world, "plain", http)


async def invites(person: Person, room: str, call: str) -> None:
    content = {
        "call_id": call,
        "version": "1",
        "party_id": "party",
        "lifetime": 60_000,
        "offer": {"type": "offer", "sdp": "v=0\r\n"},
    }
    await person.send(room, content, "m.call.invite")


async def ignored(world: World, person: Person, room: str, call: str) -> None:
    """Have somebody call in plain text, and see in the log that it does not count."""
    assert world.bridge is not None
    mark = world.bridge.mark()
    await invites(person, room, call)
    line = f"m.call.invite from {person.user_id} ignored: in plain text, in an encrypted room"
    await world.bridge.wait_for_line(line, 20, after=mark)


async def takes_encryption_back(person: Person, room: str) -> None:
    """Redact the encryption of a room: its state says then that it is not encrypted any more."""
    state = await person.ask("GET", f"rooms/{quote(room)}/state")
    (event,) = [each["event_id"] for each in state if each["type"] == "m.room.encryption"]
    await person.ask("PUT", f"rooms/{quote(room)}/redact/{quote(event)}/r1", {})
    assert await person.ask("GET", f"rooms/{quote(room)}/state/m.room.encryption") == {}


async def answers(person: Person, room: str) -> list[str]:
    """The types of what the peer has said of calls in a room."""
    found = await person.ask("GET", f"rooms/{quote(room)}/messages?dir=b&limit=100")
    return [each["type"] for each in found["chunk"] if each["sender"] == BUILD and each["type"].startswith("m.call.")]


async def test_plain_text_counts_neither_in_an_encrypted_room_nor_in_one_that_was_encrypted_once(
    world: World, plain: Person
) -> None:
    await set_policy(world, "any")
    assert world.bridge is not None
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    encrypted = await plain.direct(BUILD, initial_state=[encryption])
    await ignored(world, plain, encrypted, "first")
    await takes_encryption_back(plain, encrypted)
    # The log has such a line once an hour for each sender, so it is somebody else who tries it next.
    await world.homeserver.register_user("plainer", PASSWORD)
    async with ClientSession() as http:
        plainer = await Person.log_in(world, "plainer", http)
        other = await plainer.direct(BUILD, initial_state=[encryption])
        await takes_encryption_back(plainer, other)
        await ignored(world, plainer, other, "second")
        assert await answers(plainer, other) == []
    await world.bridge.terminate(20)
    await world.start_bridge()
    await ignored(world, plain, encrypted, "third")
    assert await answers(plain, encrypted) == []
    # In a room that never was, the same is answered, if only with what is wrong with it.
    never = await plain.direct(BUILD)
    await invites(plain, never, "fourth")
    async with asyncio.timeout(20):
        while await answers(plain, never) != ["m.call.reject"]:
            await asyncio.sleep(0.05)


async def test_a_call_from_a_room_without_encryption_is_refused_where_devices_must_be_trusted(
    world: World, plain: Person
) -> None:
    await set_policy(world, "cross-signed")
    room = await plain.direct(BUILD)
    await invites(plain, room, "plain")
    said = str((await plain.hears(room))["content"]["body"])
    assert "only from encrypted rooms" in said
    async with asyncio.timeout(20):
        while await answers(plain, room) != ["m.call.reject"]:
            await asyncio.sleep(0.05)


async def test_a_session_from_an_encrypted_room_ends_with_its_device(world: World, tmp_path: Path) -> None:
    """With Element's crypto at the other side, from the room that announces changes as well."""
    await set_policy(world, "cross-signed")
    await world.homeserver.register_user("alice", PASSWORD)

    async def opened(device: str) -> None:
        await ask_admin(world, "DELETE", f"v2/users/@alice:{DOMAIN}/devices/{device}")

    options: dict[str, Any] = {"sign": True, "encrypt": True, "exposed": {"opened": opened}}
    result = await run_page("encrypted.js", "encryptedSession", world, tmp_path, **options)
    assert result.get("closed"), result
