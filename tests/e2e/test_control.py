"""What an admin does at the bridge's own machine, through the control socket of a real bridge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.e2e.people import Person
from tests.e2e.test_access import Stream
from tests.e2e.test_outages import exchange
from tests.e2e.world import BIN, DOMAIN, PASSWORD, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALICE, BUILD, BOT = f"@alice:{DOMAIN}", f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        metrics = {"listen": f"127.0.0.1:{stack.enter_context(PortReservation()).port}"}
        world = await World.start(tmp_path_factory.mktemp("control"), stack, settings={"metrics": metrics})
        await world.serve("echo", echo, grantable_to=[ALICE])
        await world.add_user("alice")
        await world.homeserver.register_user("bob", PASSWORD)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()
        assert not (world.folder / "control.sock").exists()


async def admin(world: World, *args: str, prefix: tuple[str | Path, ...] = ()) -> tuple[int, str, str]:
    """Run ``mxrtc-bridge``; returns exit code, output and errors."""
    world._runs += 1
    command = [*prefix, BIN / "mxrtc-bridge", *args, "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"admin-{world._runs}", command, folder=world.folder) as process:
        code = await process.wait(30)
        return code, process.output("stdout").decode(), process.output("stderr").decode()


async def rows(world: World, *args: str) -> list[dict[str, object]]:
    code, out, err = await admin(world, *args, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


async def connected(world: World) -> Stream:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    return Stream(process, reader, writer)


async def test_grant_use_see_kick_and_revoke(world: World) -> None:
    assert await rows(world, "grants") == []
    code, out, err = await admin(world, "grant", ALICE, "build/echo", "--for", "2h", "--because", "a test: it's <b>")
    assert code == 0, err
    assert out.startswith(f"Grant 1: {ALICE} may use build/echo for")
    (grant,) = await rows(world, "grants")
    assert grant["giver"].startswith("local:")  # type: ignore[attr-defined]
    assert (grant["subject"], grant["reason"]) == (ALICE, "a test: it's <b>")
    assert await admin(world, "explain", ALICE, "build/echo") == (0, "allow: grant given 1\n", "")
    assert await admin(world, "explain", "@bob:example.test", "build/echo") == (3, "deny: no grant\n", "")
    stream = await connected(world)
    (session,) = await rows(world, "who")
    assert (session["user"], session["peer"], session["streams"]) == (ALICE, BUILD, 1)
    assert int(str(session["sent"])) == int(str(session["received"])) > 0, "of a stream that is open"
    (same,) = await rows(world, "top", "-i", "0.5")
    assert (same["number"], same["sent_per_s"], same["received_per_s"]) == (session["number"], 0, 0)
    code, out, _ = await admin(world, "who")
    assert (code, ALICE in out, "direct" in out) == (0, True, True)
    code, out, err = await admin(world, "kick", str(session["number"]), "--because", "the backup starts")
    assert code == 0, err
    await stream.cut(5, "an admin has ended this session: the backup starts")

    stream = await connected(world)
    code, out, err = await admin(world, "revoke", ALICE)
    assert (code, out) == (0, "Taken back: grant 1.\n"), err
    await stream.cut(5, "your right")
    code, _, err = await admin(world, "revoke", ALICE)
    assert (code, "Nothing was given" in err) == (1, True)

    what = [row["words"] for row in await rows(world, "log", "--since", "1h")]
    assert any("has kicked session" in words and "local:" in words for words in what)  # type: ignore[operator]
    assert any(f"grant 1 of {ALICE}" in words and "revoked by local:" in words for words in what)  # type: ignore[operator]


async def test_a_service_that_is_added_is_used_at_once_and_ends_when_it_is_removed(world: World) -> None:
    target = str(world.services["echo"]["target"])
    before = (world.folder / "config.yaml").read_text()
    code, out, err = await admin(world, "add", "more", target, "--allow", ALICE)
    assert (code, "The configuration is in force" in out) == (0, True), err
    assert "build/more" in [row["service"] for row in await rows(world, "list")]
    process, port = await world.connect("alice", "build/more", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    code, out, err = await admin(world, "remove", "more")
    assert (code, out.startswith("Removed build/more.\n")) == (0, True), err
    await Stream(process, reader, writer).cut(5, "your right")
    assert (world.folder / "config.yaml").read_text() == before.replace(' "grants": [],\n', "")


async def test_a_request_from_the_terminal_to_its_use(world: World) -> None:
    code, _, said = await world.run_mxrtc("alice", "request", "build/none")
    assert (code, "There is no" in said) == (3, True), said
    admins = world.settings.setdefault("rooms", {})
    code, _, said = await world.run_mxrtc("alice", "request", "build/echo")
    assert (code, "the room of the admins is not set up" in said) == (3, True), said
    async with ClientSession() as http:
        bob = await Person.log_in(world, "bob", http)
        admins["admin"] = await bob.gather("admins")
        # The room is named first: the bot declines invitations to rooms that mean nothing to it.
        await world.reload_and_wait()
        await bob.ask("POST", f"rooms/{quote(admins['admin'])}/invite", {"user_id": BOT})
        await bob.until_member(admins["admin"], BOT)
    asking = world.mxrtc("alice", "request", "build/echo", "--for", "1h", "--because", "it is due; no", "--wait")
    async with asking:
        await asking.wait_for_line(r"I have asked the admins \(request 1\)", 20)
        (waiting,) = await rows(world, "requests")
        assert (waiting["user"], waiting["service"], waiting["for_s"]) == (ALICE, "echo", 3600)
        assert waiting["because"] == "it is due; no"
        code, out, err = await admin(world, "allow", "1")
        assert (code, "was allowed by local:" in out) == (0, True), err
        assert await asking.wait(10) == 0, asking.tail()
    code, out_bytes, said = await world.run_mxrtc("alice", "ls")
    line = r"build/echo\tstream\tup\tuntil 20\d\d-\d\d-\d\dT[0-9:]+Z\tmxrtc connect build/echo\n"
    assert re.fullmatch(line, out_bytes.decode()), said
    stream = await connected(world)
    assert (await admin(world, "revoke", ALICE))[0] == 0
    await stream.cut(5, "your right")
    assert (await world.run_mxrtc("alice", "request", "build/echo"))[0] == 0
    code, _, said = await world.run_mxrtc("alice", "withdraw", "2")
    assert (code, said) == (0, "I have taken request 2 back.\n")
    assert await rows(world, "requests") == []
    code, _, said = await world.run_mxrtc("alice", "withdraw", "2")
    assert (code, "2 was withdrawn" in said) == (3, True), said
    asking = world.mxrtc("alice", "request", "build/echo", "--wait")
    async with asking:
        await asking.wait_for_line(r"I have asked the admins \(request 3\)", 20)
        assert (await admin(world, "deny", "3", "--because", "not now"))[0] == 0
        assert await asking.wait(10) == 3, asking.tail()
        assert "was denied. not now" in asking.output("stderr").decode()
    code, _, said = await world.run_mxrtc("alice", "request", "build/echo", "--for", "1y")
    assert (code, "--for '1y' is no time" in said) == (2, True), said


@pytest.mark.parametrize("by", ["device", "room"])
async def test_a_session_that_ends_in_order_counts_as_no_failure(world: World, by: str) -> None:
    assert (await admin(world, "grant", ALICE, "build/echo", "--for", "1h"))[0] == 0
    before = await calls(world)
    world.signal = by
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    assert (await world.run_mxrtc("alice", "nc", "build/echo", stdin=b"x"))[:2] == (0, b"x")
    world.signal = "device"
    stream = await connected(world)
    await stream.process.terminate(10)
    async with asyncio.timeout(20):
        while (after := await calls(world))["remote_hangup"] < before["remote_hangup"] + 3:
            await asyncio.sleep(0.05)
    assert after["failed"] == before["failed"], after
    assert (await admin(world, "revoke", ALICE))[0] == 0


async def calls(world: World) -> Counter[str]:
    """How many calls have ended in which way."""
    async with ClientSession() as http, http.get(f"http://{world.settings['metrics']['listen']}/metrics") as answer:
        page = await answer.text()
    found: Counter[str] = Counter()
    for how, count in re.findall(r'mxrtc_calls_total\{outcome="(\w+)",signalling="(?:device|room)"\} (\S+)', page):
        found[how] += int(float(count))
    return found


async def test_pause_resume_and_reload(world: World) -> None:
    assert (await admin(world, "grant", ALICE, "build/echo", "--for", "1h"))[0] == 0
    assert (await admin(world, "pause"))[0] == 0
    _, _, err = await admin(world, "who")
    assert "New sessions are refused" in err
    code, _, _ = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code != 0
    assert (await admin(world, "resume"))[0] == 0
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
    assert code == 0, said
    code, out, _ = await admin(world, "reload")
    assert (code, "is in force" in out, "restart" in out) == (0, True, False)


async def test_a_reload_names_what_waits_for_a_restart_and_every_mistake(world: World) -> None:
    metrics = world.settings["metrics"]
    world.settings |= {"metrics": {"listen": "127.0.0.1:9"}, "logging": {"level": "debug"}}
    world.write_config()
    for _ in range(2):  # it is still so the next time
        code, out, err = await admin(world, "reload")
        assert code == 0, err
        assert "A change of metrics.listen, logging.level takes effect after a restart only" in out
    world.settings["metrics"] = metrics
    del world.settings["logging"]
    path = world.write_config()
    good = path.read_text()
    path.write_text(good.replace('"domain"', '"domian"'))
    code, out, err = await admin(world, "reload")
    assert (code, out) == (78, "")
    assert "the old one stays in force" in err
    assert "homeserver.domian: unknown key" in err
    # What takes away still works, and the bridge that runs is the one that is asked.
    assert (await admin(world, "pause"))[0] == 0
    assert (await admin(world, "resume"))[0] == 0
    assert (await admin(world, "explain", ALICE, "build/echo"))[0] in (0, 3)
    path.write_text(good)
    code, out, _ = await admin(world, "reload")
    assert (code, "restart" in out) == (0, False)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("kick", "99"), "There is no session 99"),
        (("kick", "@nobody:example.test"), "no live session"),
        (("kick", "!"), "is not the id of a session"),
        (("grant", "nobody", "build/echo", "--for", "1h"), "is not a subject"),
        (("grant", ALICE, "build/none", "--for", "1h"), "There is no such service"),
        (("grant", f"server:{DOMAIN}", "build/echo", "--for", "1h"), "grantable_to"),
        (("revoke", "77"), "no grant 77"),
        (("allow", "9"), "There is no request 9"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(world: World, args: tuple[str, ...], wanted: str) -> None:
    code, out, err = await admin(world, *args)
    assert (code, out, wanted in err) == (1, "", True), err
    assert "Traceback" not in err


async def test_only_the_bridges_user_and_root_are_answered(world: World) -> None:
    path = world.folder / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if os.geteuid():
        pytest.skip("this needs root, to become somebody else")
    try:
        # Even where the mode of the file would let them.
        for folder in (*reversed(world.folder.parents), world.folder):
            if str(folder).startswith("/tmp/pytest"):
                folder.chmod(folder.stat().st_mode | 0o055)
        path.chmod(0o666)
        nobody = await asyncio.create_subprocess_exec(
            "python3", "-c", CONNECT, str(path), stdout=asyncio.subprocess.PIPE, user=65534, group=65534, cwd="/"
        )
        printed, _ = await nobody.communicate()
        assert b" 403 " in printed, printed
    finally:
        path.chmod(0o600)
    assert world.bridge is not None
    await world.bridge.wait_for_line("somebody else than the bridge's user or root", 10)


CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
body = b'{"words": ["pause"]}'
head = b"POST /v1/command HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
s.sendall(head + b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
print(s.recv(4096).decode())
"""


async def test_without_a_bridge_it_says_so_and_a_dead_socket_is_replaced(world: World) -> None:
    assert world.bridge is not None
    world.bridge.kill()
    await world.bridge.wait(10)
    assert (world.folder / "control.sock").exists(), "a kill leaves it"
    code, _, err = await admin(world, "who")
    assert (code, "The bridge is not running" in err) == (1, True), err
    await world.start_bridge()
    assert await rows(world, "who") == []
