"""Devices as they are now, through a real homeserver: it announces nothing where no room is shared with a caller.

Each change is made as people and admins of homeservers make it, to one user each, all under one policy at a time; the
sessions of all must end, and that of one to whom nothing has happened must go on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.identities import OtherClient, own_device
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, PASSWORD, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

# The bridge as it is, but for the time between two judgings, and what it waits for answers.
PROGRAM = """
import sys
from mxrtc_bridge.app import device_policy
from mxrtc_bridge.cli.admin import main
device_policy.EVERY_S = 0.5
try:
    from mxrtc_bridge.app import device_lookups
    device_lookups.REQUEST_S = 1.0
except ImportError:
    pass
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
        await world.homeserver.register_user("root", PASSWORD, admin=True)
        for change in CHANGES:
            for policy in ("any", "signed"):
                world.grant(f"{change}-{policy}", "build/echo")
        for name in ("silent-any", "silent-signed", "locked", "suspended"):
            world.grant(name, "build/echo")
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
        await self.world.add_user(self.name)
        self.other = await OtherClient.log_in(self.world, self.name)
        # Its first command makes its device known; whether that lets it in does not matter yet.
        await self.world.run_mxrtc(self.name, "devices")
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

    for name in ("identity", "resigned"):
        code, said = await callers[f"{name}-{suffix}"].calls_again()
        # Where every device is let in, an identity is asked for nothing: the device is there, with its key.
        assert (code, "another identity" in said) == ((0, False) if policy == "any" else (3, True)), (name, said)
    for name in ("deleted", "everywhere", "reset", "deactivated"):
        code, said = await callers[f"{name}-{suffix}"].calls_again()
        assert code not in (0, 4), (name, said)
    code, said = await untouched.calls_again()
    assert code == 0, said
    if policy != "any":
        assert "on purpose? mxrtc-bridge trust @identity-signed" in world.log_text()


@pytest.mark.parametrize("policy", ["any", "cross-signed"])
async def test_a_homeserver_that_is_away_ends_nothing_and_is_named_once(world: World, policy: str) -> None:
    await set_policy(world, policy)
    assert world.bridge is not None
    name = f"silent-{policy.removeprefix('cross-')}"
    (caller,) = (await connected(world, name)).values()
    said = "the devices of callers of example.test cannot be asked for"
    before = world.log_text().count(said)
    mark = world.bridge.mark()
    await world.homeserver.pause()
    await world.bridge.wait_for_line(said, 20, after=mark)
    # Some more judgings without an answer.
    for _ in range(6):
        await asyncio.sleep(0.5)
        await exchange(caller.reader, caller.writer)
    assert world.log_text().count(said) == before + 1
    await world.homeserver.start()
    await world.bridge.wait_for_line("are answered for again", 30, after=mark)
    await exchange(caller.reader, caller.writer)
    await device_deleted(world, name, caller.other)
    assert "does not list the device" in await caller.is_cut()


async def test_what_the_homeserver_tells_nobody_is_ended_by_deny(world: World) -> None:
    """Locked and suspended accounts keep their devices, and Synapse shows them like any other."""
    await set_policy(world, "any")
    callers = await connected(world, "locked", "suspended")
    await ask_admin(world, "PUT", f"v2/users/@locked:{DOMAIN}", {"locked": True})
    await ask_admin(world, "PUT", f"v1/suspend/@suspended:{DOMAIN}", {"suspend": True})
    await asyncio.sleep(2)
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
