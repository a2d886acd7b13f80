"""The audit of a real bridge: what was decided is there, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord, entry_after, read_line
from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import BIN, DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ALICE, BOB, BUILD, BOT = f"@alice:{DOMAIN}", f"@bob:{DOMAIN}", f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, that can be filled."""
    place = tmp_path_factory.mktemp("disk")
    if os.geteuid():
        pytest.skip("this needs root, to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("audit"), stack)
        await world.serve("echo", echo)
        await world.serve("other", echo)
        world.grant("alice", "build/echo")
        for name in ("alice", "bob"):
            await world.add_user(name)
        world.settings["audit"] = {"file": str(disk / "audit.jsonl")}
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


async def uses(port: int) -> bool:
    """Try a new stream; returns whether it works."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.wait_for(exchange(reader, writer), 10)
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
    return True


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


async def run(world: World, *args: str) -> tuple[int, str]:
    """Run ``mxrtc-bridge``; returns the exit code and what it prints."""
    world._runs += 1
    command = [BIN / "mxrtc-bridge", *args, "-c", world.folder / "config.yaml"]
    async with ManagedProcess(f"audit-{world._runs}", command, folder=world.folder) as process:
        code = await process.wait(30)
        return code, process.output("stdout").decode() + process.output("stderr").decode()


async def audit(world: World, *args: str) -> tuple[int, str]:
    return await run(world, "audit", *args)


async def records(world: World, *args: str) -> list[dict[str, Any]]:
    code, printed = await audit(world, "export", *args)
    assert code == 0, printed
    return [json.loads(line) for line in printed.splitlines()]


async def until_written(world: World, **wanted: Any) -> dict[str, Any]:
    """Wait for a record with these values; the ends of sessions are written soon after."""
    async with asyncio.timeout(20):
        while True:
            for record in await records(world):
                if wanted.items() <= record.items():
                    return record
            await asyncio.sleep(0.05)


async def test_what_was_decided_and_how_it_ended_is_written_down(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    # While it lives, the decisions are there.
    call = await until_written(world, kind="call", user=ALICE, allowed=True)
    assert (call["peer"], call["rule"]) == (BUILD, "grant-0")
    used = await until_written(world, kind="service", user=ALICE, allowed=True)
    assert (used["service"], used["rule"]) == ("echo", "grant-0")
    writer.close()
    await process.terminate(10)
    end = await until_written(world, kind="end", session=call["session"])
    assert end["path"] == "direct"
    assert end["reason"] in ("user_hangup", "control_closed"), "whichever comes first: the event or the end of the path"
    assert end["sent"] == end["received"] > 0
    assert end["lasted_ms"] > 0
    code, _, _ = await world.run_mxrtc("alice", "nc", "build/other")
    assert code == 3
    assert (await until_written(world, kind="service", allowed=False))["rule"] == "no grant"
    code, _, _ = await world.run_mxrtc("bob", "nc", "build/echo")
    assert code == 3
    assert not [record for record in await records(world) if record.get("user") == BOB and record.get("allowed")]


async def test_it_is_whole_and_a_changed_byte_is_found(world: World, tmp_path: Path) -> None:
    code, printed = await audit(world, "verify")
    assert (code, printed.startswith("whole: ")) == (0, True), printed
    path = Path(world.settings["audit"]["file"])
    data = path.read_bytes()
    # Not while the bridge appends to it: a copy stands for the file.
    copy = tmp_path / "audit.jsonl"
    plain = world.settings["audit"]
    world.settings["audit"] = {"file": str(copy)}
    world.write_config()
    lines = data.splitlines(keepends=True)
    for place, changed in {
        "first": data.replace(b'"start"', b'"stop"', 1),
        "middle": data.replace(ALICE.encode(), b"@alicf" + ALICE.encode()[6:], 1),
        "last byte": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "a line less": b"".join(lines[:3] + lines[4:]),
        "the last line less": b"".join(lines[:-1]),
    }.items():
        copy.write_bytes(changed)
        code, printed = await audit(world, "verify")
        assert (code, printed.startswith("broken: ")) == (1, True), (place, printed)
    copy.write_bytes(data)
    assert (await audit(world, "verify"))[0] == 0
    world.settings["audit"] = plain
    world.write_config()


async def test_many_uses_in_a_session_are_one_record_and_one_with_their_number(world: World) -> None:
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    before = len(await records(world, "--user", ALICE))
    for _ in range(40):
        assert await uses(port)
    await process.terminate(10)
    summed_up = await until_written(world, kind="service", user=ALICE, count=40)
    assert (summed_up["service"], summed_up["rule"], summed_up["allowed"]) == ("echo", "grant-0", True)
    await until_written(world, kind="end", session=max(each.get("session", 0) for each in await records(world)))
    # The first use, how many there were, and the end.
    assert len(await records(world, "--user", ALICE)) == before + 3


async def test_the_files_can_be_checked_elsewhere_with_the_key_and_less_well_without(
    world: World, tmp_path: Path
) -> None:
    code, printed = await audit(world, "key")
    assert (code, printed.startswith("mxrtc-audit-key 1 1 ")) == (0, True)
    key = tmp_path / "audit.key"
    key.write_text(printed)
    code, printed = await audit(world, "verify", "--offline", "--key-file", str(key))
    assert (code, "from line 1 on, each was written with the key" in printed) == (0, True), printed
    code, printed = await audit(world, "verify", "--offline")
    assert (code, "only the chain of hashes was checked" in printed) == (0, True), printed
    key.write_text(key.read_text()[:-5] + "aaaa\n")
    code, printed = await audit(world, "verify", "--offline", "--key-file", str(key))
    assert (code, "line 1: it has the number 1, and the bridge has not written it" in printed) == (1, True), printed
    key.write_text("something else")
    code, printed = await audit(world, "verify", "--offline", "--key-file", str(key))
    assert (code, "does not hold what mxrtc-bridge audit key prints" in printed) == (1, True), printed


async def test_a_line_added_while_the_bridge_is_down_never_becomes_genuine(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    path = Path(world.settings["audit"]["file"])
    last = read_line(path.read_bytes().splitlines()[-1])
    gift = AuditRecord(AuditKind.GRANT, last.record.at_ms, user=BOB, peer=BUILD, service="echo", grant=99, by=ALICE)
    line = entry_after(last.head, gift).line
    with path.open("a") as file:
        file.write(line + "\n")
    code, printed = await audit(world, "verify")
    assert (code, f"it has the number {last.head.number + 1}, and the bridge has not written it" in printed) == (
        1,
        True,
    ), printed
    await world.start_bridge()
    code, printed = await audit(world, "verify")
    assert (code, printed.startswith("whole: ")) == (0, True), printed
    start = [record for record in await records(world) if record["kind"] == "start"][-1]
    assert "were not written by this bridge" in start["reason"]
    assert not [record for record in await records(world) if record.get("grant") == 99]
    assert (path.parent / "audit-refused.jsonl").read_text() == line + "\n"
    code, printed = await run(world, "log", BOB)
    assert (code, "99" in printed) == (0, False), printed


async def test_a_line_changed_while_the_bridge_is_down_ends_the_start_with_words(world: World) -> None:
    assert world.bridge is not None
    await world.bridge.terminate(20)
    path = Path(world.settings["audit"]["file"])
    plain = path.read_bytes()
    path.write_bytes(plain.replace(b'"allowed":false', b'"allowed":true ', 1))
    code, said = await run(world, "run")
    assert code != 0
    assert "hold different lines with the number" in said
    assert "move the audit file away" in said
    assert "Traceback" not in said
    code, printed = await audit(world, "verify")
    assert (code, printed.startswith("broken: the database and the audit file hold different lines")) == (1, True)
    path.write_bytes(plain)
    await world.start_bridge()
    assert (await audit(world, "verify"))[0] == 0


async def test_export_filters_and_writes_tables(world: World) -> None:
    everything = await records(world)
    assert [record["n"] for record in everything] == list(range(1, len(everything) + 1))
    of_bob = await records(world, "--user", BOB)
    assert {record["user"] for record in of_bob} == {BOB}
    assert await records(world, "--user", BOB.replace(DOMAIN, DOMAIN.upper())) == of_bob
    assert len(await records(world, "--peer", "build")) == sum(record.get("peer") == BUILD for record in everything)
    assert await records(world, "--since", "1h") == everything
    assert await records(world, "--since", "2099-01-01") == []
    code, printed = await audit(world, "export", "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert len(rows) == len(everything)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[0-9:.]+Z", rows[0]["time"])
    code, printed = await audit(world, "export", "--user", "bob")
    assert (code, "--user" in printed) == (2, True)


async def test_no_record_holds_an_address_or_a_secret(world: World) -> None:
    text = Path(world.settings["audit"]["file"]).read_text()
    assert not re.search(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1|ice-|candidate|v=0|127\.0", text)
    assert "as" * 24 not in text
    assert "hs" * 24 not in text


async def test_admins_read_it_in_a_chat_and_a_room_repeats_it(world: World) -> None:
    async with ClientSession() as http:
        bob, alice = [await Person.log_in(world, name, http) for name in ("bob", "alice")]
        mirror = await bob.gather("mirror")
        world.settings.update({"admins": [BOB], "rooms": {"audit": mirror}})
        await world.reload_and_wait()
        await bob.ask("POST", f"rooms/{quote(mirror)}/invite", {"user_id": BOT})
        await bob.until_member(mirror, BOT)
        code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, said
        # What ended before may be repeated first.
        calls = re.compile(rf"\d+: {ALICE} calls {BUILD} by the device \w+ \(any\), allowed by grant-0, session \d+")
        async with asyncio.timeout(20):
            while not calls.fullmatch((await bob.hears(mirror))["content"]["body"]):
                pass
        desk = await bob.direct(BOT)
        said = await bob.told(desk, f"log {ALICE} since 1h")
        assert said.startswith("Audit records (")
        assert f"{ALICE} uses {BUILD}/echo, allowed by grant-0" in said
        assert BOB not in said
        assert "page 2 is next" not in await bob.told(desk, "log @nobody:example.test")
        assert "checks" in await bob.told(desk, "check")
        chat = await alice.direct(BOT)
        assert 'I do not know "log"' in await alice.told(chat, "log")


async def test_a_full_disk_takes_no_new_session_and_lets_live_ones_go_on(world: World, disk: Path) -> None:
    async with ClientSession() as http:
        bob = await Person.log_in(world, "bob", http)
        admins = await bob.gather("admins")
        world.settings["rooms"] = {"admin": admins}
        await world.reload_and_wait()
        await bob.ask("POST", f"rooms/{quote(admins)}/invite", {"user_id": BOT})
        await bob.until_member(admins, BOT)
        _, port = await world.connect("alice", "build/echo", "-L", "0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(reader, writer)
        filler = disk / "filler"
        fill(filler)
        # The last page of the file may have room for some lines yet.
        async with asyncio.timeout(20):
            while await uses(port):
                pass
        code, _, said = await world.run_mxrtc("alice", "nc", "build/echo")
        assert (code, "takes no more calls now" in said) == (1, True), said
        assert "No new sessions are taken; live ones go on." in (await bob.hears(admins))["content"]["body"]
        await exchange(reader, writer)
        # A stream of the live session is a new use: it waits for room as well.
        assert not await uses(port)
        filler.unlink()
        assert "is written again" in (await bob.hears(admins))["content"]["body"]
        code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
        assert code == 0, said
        writer.close()
    code, printed = await audit(world, "verify")
    assert code == 0, printed


async def test_kills_leave_it_whole(world: World) -> None:
    assert world.bridge is not None
    for _ in range(3):
        calls = [asyncio.create_task(world.run_mxrtc("alice", "ping", "build", "-c", "1")) for _ in range(2)]
        await world.bridge.wait_for_line("session open", 20)
        world.bridge.kill()
        for call in calls:
            call.cancel()  # their clients would look for the way to the bridge for 40 s
        await asyncio.gather(*calls, return_exceptions=True)
        await world.start_bridge()
    code, printed = await audit(world, "verify")
    assert code == 0, printed
    assert [record["kind"] for record in await records(world)].count("start") >= 4
