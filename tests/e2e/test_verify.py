"""Verification by emoji: ``mxrtc`` with another session of its user in Chromium, and with the peer of a bridge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess, guarded_command
from tests.e2e.pages import run_page
from tests.e2e.world import BIN, DOMAIN, World, echo

pytestmark = pytest.mark.real

DEFAULT_ENCRYPTED = {"encryption_enabled_by_default_for_room_type": "all"}
ALICE, PEER = f"@alice:{DOMAIN}", f"@rtc_build:{DOMAIN}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack, extra_config=DEFAULT_ENCRYPTED)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        await world.add_user("alice")
        yield world


class Verifying:
    """A run of ``mxrtc verify`` whose person can be asked."""

    def __init__(self, world: World, *peer: str) -> None:
        self._argv = guarded_command([BIN / "mxrtc", "--json", "verify", *peer])
        self._env = world.env("alice")
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        import os

        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            env={**os.environ, **self._env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def says(self, kind: str) -> dict[str, Any]:
        """The next thing of this kind that it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self._process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if said["kind"] == kind:
                    return said
                assert said["kind"] != "error", said
        raise AssertionError(f"it ended without {kind}")

    def answer(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    async def ends(self) -> int:
        async with asyncio.timeout(60):
            return await self._process.wait()


class Page:
    """What the page and its person say to the test, and the test to them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str] = loop.create_future()
        """The device of the page."""
        self.shown: asyncio.Future[tuple[list[str], list[int]]] = loop.create_future()
        """Emoji and numbers."""
        self.same: asyncio.Future[bool] = loop.create_future()
        """What its person says."""

    async def shows(self, running: asyncio.Task[dict[str, Any]]) -> tuple[list[str], list[int]]:
        """Emoji and numbers; a page that ends without any is a failure."""
        await asyncio.wait({running, self.shown}, return_when=asyncio.FIRST_COMPLETED)
        assert self.shown.done(), running.result()
        return self.shown.result()

    @property
    def exposed(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        async def decide(names: list[str], numbers: list[int]) -> bool:
            self.shown.set_result((names, numbers))
            return await self.same

        async def ready(device: str) -> None:
            self.ready.set_result(device)

        return {"decide": decide, "ready": ready}


async def admin(world: World, *args: str) -> tuple[int, str, str]:
    """Run ``mxrtc-bridge verify``; returns exit code, output and errors."""
    world._runs += 1
    command = [BIN / "mxrtc-bridge", "verify", *args, "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"admin-{world._runs}", command, folder=world.folder) as process:
        code = await process.wait(30)
        return code, process.output("stdout").decode(), process.output("stderr").decode()


async def waiting(world: World) -> dict[str, Any]:
    """The verification that waits for the admin."""
    async with asyncio.timeout(30):
        while True:
            code, out, err = await admin(world, "--json")
            assert code == 0, err
            if out:
                row: dict[str, Any] = json.loads(out)
                return row
            await asyncio.sleep(0.05)


async def own_device(world: World) -> str:
    code, out, err = await world.run_mxrtc("alice", "--json", "devices")
    assert code == 0, err
    return next(str(each["device"]) for each in map(json.loads, out.splitlines()) if each.get("own"))


async def test_another_session_signs_this_device_and_the_policy_lets_it_in(world: World, tmp_path: Path) -> None:
    """With Element's crypto at the other side."""
    world.settings["encryption"] = {"enabled": "on", "devices": "cross-signed"}
    await world.start_bridge()
    code, _, errors = await world.run_mxrtc("alice", "ping", "-c", "1", "build")
    assert (code, "mxrtc verify" in errors) == (3, True), errors
    page = Page()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_page("verify.js", "acceptOwn", world, tmp_path, exposed=page.exposed))
        await page.ready
        async with Verifying(world) as verifying:
            here = await verifying.says("compare")
            assert (here["emoji"], here["numbers"]) == await page.shown
            assert here["device"] == page.ready.result()
            verifying.answer("perhaps")
            verifying.answer("yes")
            page.same.set_result(True)
            verified = await verifying.says("verified")
            assert await verifying.ends() == 0
        result = await running
    assert (verified["signed"], verified["user"]) == (True, ALICE)
    assert result["failed"] is None, result
    assert result["status"] == {"signedByOwner": True, "crossSigningVerified": True}
    code, _, errors = await world.run_mxrtc("alice", "ping", "-c", "1", "build")
    assert code == 0, errors


@pytest.mark.parametrize("same", [True, False])
async def test_another_session_may_begin_and_different_emoji_verify_nothing(
    world: World, tmp_path: Path, same: bool
) -> None:
    await world.start_bridge()
    page, device = Page(), await own_device(world)
    async with asyncio.TaskGroup() as group:
        options = {"exposed": page.exposed, "device": device}
        running = group.create_task(run_page("verify.js", "askOwn", world, tmp_path, **options))
        await page.ready
        async with Verifying(world) as verifying:
            here = await verifying.says("compare")
            assert (here["emoji"], here["numbers"]) == await page.shown
            page.same.set_result(True)
            verifying.answer("yes" if same else "no")
            if same:
                await verifying.says("verified")
            assert await verifying.ends() == (0 if same else 6)
        result = await running
    assert result["status"]["signedByOwner"] is same, result
    assert result["cancelled"] == (None if same else "m.mismatched_sas"), result


async def test_a_peer_is_verified_by_its_admin_and_the_user_with_it(world: World, tmp_path: Path) -> None:
    """First the user's own session, so that the identity is part of it; then the policy for verified users holds."""
    await world.start_bridge()
    page = Page()
    page.same.set_result(True)
    async with asyncio.TaskGroup() as group:
        group.create_task(run_page("verify.js", "acceptOwn", world, tmp_path, exposed=page.exposed))
        await page.ready
        async with Verifying(world) as verifying:
            await verifying.says("compare")
            verifying.answer("yes")
            identity = (await verifying.says("verified"))["identity"]
            assert await verifying.ends() == 0
    async with Verifying(world, "build") as verifying:
        here = await verifying.says("compare")
        there = await waiting(world)
        assert (there["emoji"], there["numbers"]) == (here["emoji"], here["numbers"])
        assert (there["user"], there["peer"], there["answered"]) == (ALICE, PEER, False)
        number = str(there["number"])
        assert (await admin(world, "99", "--same"))[0] == 1
        code, out, err = await admin(world)
        assert (code, all(name in out for name in here["emoji"])) == (0, True), err
        code, out, err = await admin(world, number, "--same")
        assert (code, "has still to say" in out) == (0, True), err
        verifying.answer("yes")
        verified = await verifying.says("verified")
        assert await verifying.ends() == 0
    assert verified["user"] == PEER
    _, out, _ = await world.run_mxrtc("alice", "--json", "devices", "build")
    (device,) = (each for each in map(json.loads, out.splitlines()) if each["kind"] == "device")
    assert (device["trust"], device["identity"]) == ("verified", verified["identity"])
    assert f"{ALICE} is known by the identity {identity} now" in world.log_text()
    # What was compared counts after a restart as well, and for peers that are new.
    assert world.bridge is not None
    await world.bridge.terminate()
    world.settings["encryption"] = {"enabled": "on", "devices": "verified"}
    world.settings["peers"] = {"build": {"services": world.services}, "new": {"services": world.services}}
    world.grant("alice", "new/echo")
    await world.start_bridge()
    for peer in ("build", "new"):
        code, _, errors = await world.run_mxrtc("alice", "ping", "-c", "1", peer)
        assert code == 0, errors


async def test_what_the_admin_finds_different_is_verified_for_nobody(world: World) -> None:
    await world.start_bridge()
    async with Verifying(world, "build") as verifying:
        await verifying.says("compare")
        number = str((await waiting(world))["number"])
        verifying.answer("yes")
        code, out, err = await admin(world, number, "--different")
        assert (code, "someone may be intercepting the connection" in out) == (0, True), err
        assert await verifying.ends() == 6
    _, out, _ = await world.run_mxrtc("alice", "--json", "devices", "build")
    (device,) = (each for each in map(json.loads, out.splitlines()) if each["kind"] == "device")
    assert device["trust"] == "cross-signed"
    assert (await admin(world, "--json"))[:2] == (0, "")


@pytest.mark.parametrize("same", [True, False])
async def test_an_ordinary_client_verifies_a_peer_in_their_encrypted_chat(
    world: World, tmp_path: Path, same: bool
) -> None:
    await world.start_bridge()
    page = Page()
    page.same.set_result(True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_page("verify.js", "verifyPeer", world, tmp_path, exposed=page.exposed))
        names, numbers = await page.shows(running)
        there = await waiting(world)
        assert (there["emoji"], there["numbers"], there["device"]) == (names, numbers, page.ready.result())
        code, _, err = await admin(world, str(there["number"]), "--same" if same else "--different")
        assert code == 0, err
        result = await running
    assert result["verified"] is same, result
    assert result["cancelled"] == (None if same else "m.mismatched_sas"), result
    assert (f"{ALICE} is known by the identity" in world.log_text()) is same
