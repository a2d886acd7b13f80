"""What a bridge of an earlier version has left is taken up: see ``d3f536d/README.md`` for what there is."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import vodozemac
from click.testing import CliRunner
from ruamel.yaml import YAML

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.devices.identity_key import load_key
from mxrtc_bridge.cli.bridge.audit import audit_command
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.registration import render_registration
from mxrtc_bridge.core.access.policy import Allow, Deny
from mxrtc_bridge.core.access.targets import TcpTarget
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.ids import DeviceId, LocalAdmin, RoomId, UserId
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.matrix.crypto.keys import pickle_key
from mxrtc_bridge.storage.tables import Stores, open_stores
from mxrtc_bridge.web.control import ask
from tests.bridge.homeserver import FakeHomeserver
from tests.waiting import until

LEFT = Path(__file__).parent / "d3f536d"
KILLED_MS = 1_796_023_880_000
DOMAIN = "example.test"
ALICE, BOB, CAROL, DAVE = (UserId(f"@{name}:{DOMAIN}") for name in ("alice", "bob", "carol", "dave"))
BOT, PEER = UserId(f"@rtcbot:{DOMAIN}"), UserId(f"@rtc_build:{DOMAIN}")
CONFIG: dict[str, Any] = json.loads((LEFT / "config.yaml").read_text())
TEAM = CONFIG["grants"][0]["from"][0].removeprefix("room:")
NAMED = [TEAM, CONFIG["rooms"]["admin"], *CONFIG["policy_lists"]]
SERIAL = {"event": "seq", "given_grant": "number", "request": "number"}
LINES = (LEFT / "audit.jsonl").read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path, url: str) -> Path:
    """The folder of the bridge, as it was when it was killed, with its database where ``url`` says."""
    for name in ("audit.jsonl", "encryption.key", "config.yaml"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text((LEFT / name).read_text().replace("FOLDER", str(tmp_path)))
    with closing(sqlite3.connect(tmp_path / "bridge.db")) as database:
        database.executescript((LEFT / "bridge.sql").read_text())
        if url.startswith("postgres"):
            asyncio.run(fill_postgres(url, database))
    (tmp_path / "bridge.db").chmod(0o600)
    content = json.loads((tmp_path / "config.yaml").read_text())
    if url.startswith("postgres"):
        (tmp_path / "bridge.db").unlink()
        (tmp_path / "config.yaml").write_text(json.dumps(content | {"database": url}))
    return tmp_path


async def fill_postgres(url: str, left: sqlite3.Connection) -> None:
    """Put the rows that were left into the tables as that version made them on PostgreSQL."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute((LEFT / "postgres.sql").read_text())
        for (table,) in left.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table in ("database_owner", "mxrtc_version") or table.startswith("sqlite_"):
                continue
            found = left.execute(f"SELECT * FROM {table}")
            columns = [column for column, *_ in found.description]
            await connection.copy_records_to_table(table, records=found.fetchall(), columns=columns)
        for table, column in SERIAL.items():
            last = f"(SELECT max({column}) FROM {table})"
            await connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {last})")
    finally:
        await connection.close()


async def select(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """What the database holds, read beside a bridge that may be running on it."""
    url = load_config(folder / "config.yaml").database
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(folder / "bridge.db")) as database:
            return database.execute(statement).fetchall()
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def homeserver(folder: Path) -> AsyncIterator[FakeHomeserver]:
    async with FakeHomeserver(folder, as_token=CONFIG["appservice"]["as_token"]) as server:
        found = await select(folder, "SELECT peer, room_id, user_id FROM peer_room")
        server.members = {room: [peer, user] for peer, room, user in found}
        server.members |= {room: [BOT, BOB, CAROL] for room in NAMED}
        rule = {"entity": DAVE, "recommendation": "m.ban", "reason": "spam"}
        server.rules = {
            room: [{"type": "m.policy.rule.user", "state_key": "dave", "content": rule}]
            for room in CONFIG["policy_lists"]
        }
        yield server


@asynccontextmanager
async def running(folder: Path, homeserver: FakeHomeserver) -> AsyncIterator[tuple[Bridge, Stores]]:
    """A bridge of now that goes on a few seconds later."""
    late_ms = KILLED_MS - LoopClock().wall_ms()

    class Clock(LoopClock):
        def wall_ms(self) -> int:
            return super().wall_ms() + late_ms

    content = json.loads((folder / "config.yaml").read_text())
    content["homeserver"]["address"] = f"http://127.0.0.1:{homeserver.port}"
    content["appservice"]["listen"] = f"127.0.0.1:{homeserver.reserved.port}"
    # What devices do needs a real homeserver.
    content["encryption"] = {"enabled": "off"}
    (folder / "config.yaml").write_text(json.dumps(content))
    config, stop = load_config(folder / "config.yaml"), asyncio.Event()
    async with open_stores(config.database) as stores:
        bridge = Bridge(config, stores, clock=Clock())
        task = asyncio.create_task(bridge.run(stop, asyncio.Event()))
        try:
            await until(lambda: bridge.inbox.ready or task.done())
            yield bridge, stores
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


async def rows(folder: Path, *words: str) -> list[dict[str, Any]]:
    status, answer = await ask(str(folder / "control.sock"), words)
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["rows"]  # type: ignore[assignment]
    return found


async def test_the_grants_in_force_are_the_same(folder: Path, homeserver: FakeHomeserver) -> None:
    before = [json.loads(line) for line in (LEFT / "grants.jsonl").read_text().splitlines()]
    async with running(folder, homeserver) as (bridge, _):
        assert await rows(folder, "grants") == before
        assert [grant.giver for grant in bridge.access.given.table] == [LocalAdmin("root"), BOB, LocalAdmin("root")]
        assert isinstance(bridge.access.rights.may_call(ALICE, PEER), Allow)
        assert isinstance(bridge.access.rights.may_call(DAVE, PEER), Deny), "the policy list is known"
        status, answer = await ask(str(folder / "control.sock"), ("revoke", "1"))
        assert status == 200, answer
        assert await rows(folder, "grants") == before[:-1]


async def test_the_requests_are_there_and_can_be_answered(folder: Path, homeserver: FakeHomeserver) -> None:
    async with running(folder, homeserver) as (_, stores):
        (waiting,) = await rows(folder, "requests")
        assert (waiting["number"], waiting["user"], waiting["service"], waiting["for_s"]) == (3, CAROL, "fourth", 3600)
        denied = await stores.requests.get(2)
        assert denied is not None
        assert denied.decided_by == LocalAdmin("root")
        status, answer = await ask(str(folder / "control.sock"), ("allow", "3"))
        assert (status, answer) == (200, {"said": "Request 3 was allowed by local:root."})
        assert [row["number"] for row in await rows(folder, "grants")] == [5, 4, 3, 1]


async def waiting(folder: Path) -> list[tuple[Any, ...]]:
    """The events that nobody has dealt with, with their senders and in which order they stand."""
    return await select(folder, "SELECT event_id, sender, lane FROM event WHERE state = 0")


async def test_open_calls_are_hung_up_and_what_waited_is_handled(folder: Path, homeserver: FakeHomeserver) -> None:
    async with open_stores(load_config(folder / "config.yaml").database) as stores:
        by_device, by_room = await stores.calls.open_calls()
    assert await waiting(folder) == [("$waiting", BOB, BOB)]
    assert by_device.route == DevicePair(PEER, ALICE, DeviceId("MRJFSVMGVY"))
    assert (by_room.route, by_room.remote) == (RoomId("!-NoDlxYQLH1bBZk-PgVhv_BTOe8tgITeqNUzMHF0now"), BOB)
    async with running(folder, homeserver) as (_, stores):
        hangups = [content for kind, content in homeserver.sent if kind == "m.call.hangup"]
        assert [each["call_id"] for each in hangups] == [by_room.call_id]
        assert hangups[0]["party_id"] == by_room.party_id
        assert await stores.calls.open_calls() == [], "that of the device as well, though encryption is off now"
        async with asyncio.timeout(10):
            while await waiting(folder):
                await asyncio.sleep(0.02)


async def test_the_audit_of_before_and_the_new_lines_are_one_chain(folder: Path, homeserver: FakeHomeserver) -> None:
    async with running(folder, homeserver):
        assert (await ask(str(folder / "control.sock"), ("pause",)))[0] == 200
    lines = (folder / "audit.jsonl").read_text().splitlines()
    assert lines[: len(LINES)] == LINES
    kinds = [json.loads(line)["kind"] for line in lines[len(LINES) :]]
    assert kinds == ["start", "pause", "stop"]
    assert await verified(folder) == (0, f"whole: {len(lines)} lines, from line 1")
    # A line of before that somebody changes is found, as it was before.
    text = (folder / "audit.jsonl").read_text()
    (folder / "audit.jsonl").write_text(text.replace('"user":"@bob:example.test"', '"user":"@eve:example.test"', 1))
    code, said = await verified(folder)
    assert (code, said[:7]) == (1, "broken:"), said


async def test_the_audit_is_not_brought_up_to_date_by_whoever_only_verifies_it(folder: Path) -> None:
    version = "SELECT version FROM mxrtc_version"
    before = (await select(folder, version), files_of(folder))
    # So the version of before, which verifies it by its own tables, can go on with them.
    for command in ("verify", "key"):
        result = await asyncio.to_thread(
            CliRunner().invoke, audit_command, [command, "-c", str(folder / "config.yaml")], standalone_mode=False
        )
        assert "earlier version" in str(result.exception)
        assert "start the bridge, which brings it up to date" in str(result.exception)
    assert (await select(folder, version), files_of(folder)) == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def verified(folder: Path) -> tuple[int, str]:
    """What ``audit verify`` says, up to the time."""
    arguments = ["verify", "-c", str(folder / "config.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, audit_command, arguments, standalone_mode=False)
    return result.return_value, result.output.partition(" of ")[0]


async def test_its_devices_and_all_that_is_encrypted_with_its_key_can_be_read(folder: Path) -> None:
    config = load_config(folder / "config.yaml")
    key = pickle_key(load_key(config.encryption))
    async with open_stores(config.database) as stores:
        devices = [await stores.crypto.of(owner).account() for owner in (BOT, PEER)]
        assert all(device is not None and device.uploaded for device in devices)
    readers = {
        "crypto_account": vodozemac.Account,
        "crypto_olm": vodozemac.Session,
        "crypto_inbound": vodozemac.InboundGroupSession,
        "crypto_outbound": vodozemac.GroupSession,
    }
    pickles = {table: await select(folder, f"SELECT pickle FROM {table}") for table in readers}
    read = {table: [readers[table].from_pickle(text, key) for (text,) in rows] for table, rows in pickles.items()}
    assert {table: len(each) for table, each in read.items()} == {
        "crypto_account": 2, "crypto_olm": 4, "crypto_inbound": 1, "crypto_outbound": 1,
    }  # fmt: skip


def test_the_configuration_means_the_same(folder: Path, url: str) -> None:
    config = load_config(folder / "config.yaml")
    assert config.database == (f"sqlite://{folder}/bridge.db" if url.startswith("sqlite") else url)
    assert config.service_names(PEER) == ("echo", "fourth", "lent", "third", "unused")
    assert config.target(PEER, "echo") == TcpTarget("127.0.0.1", 46475)
    assert {str(each) for each in config.deny} == {"server:evil.test", "@mallory:example.com"}
    assert config.admins == {BOB}
    assert (config.rooms.admin, list(config.policy_lists)) == (CONFIG["rooms"]["admin"], CONFIG["policy_lists"])
    assert (config.limits.calls_per_user, config.limits.session_max_s) == (3, 7200)
    assert (config.audit.max_bytes, config.audit.keep, config.audit.file) == (2**20, 5, folder / "audit.jsonl")
    assert config.encryption.key_file == folder / "encryption.key"
    assert config.control_socket == folder / "control.sock"
    before = YAML(typ="safe").load((LEFT / "registration.yaml").read_text())
    after = YAML(typ="safe").load(render_registration(config, before["sender_localpart"]))
    assert {name: after[name] for name in before} == before, "the homeserver needs no other registration"
