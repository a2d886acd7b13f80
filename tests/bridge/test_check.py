"""What ``mxrtc-bridge check`` says: of files without opening them, of a homeserver without making anything there."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from mxrtc_bridge.bridge.check import check, check_file, check_path, is_registered
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.config.values import TcpListen
from mxrtc_bridge.core.access.targets import AppendTarget, Direction, FilesTarget, ReadTarget
from mxrtc_bridge.demo.processes import PortReservation
from tests.other_user import as_other, needs_root, public_directory


def test_a_file_that_append_will_make_is_not_made_by_a_check(tmp_path: Path) -> None:
    finding = check_file("build/log", AppendTarget(str(tmp_path / "log")))
    assert finding.level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_is_not_opened_by_a_check(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for the other end
    for target in (AppendTarget(str(tmp_path / "fifo")), ReadTarget(str(tmp_path / "fifo"))):
        assert check_file("build/fifo", target).level is Level.OK


@pytest.mark.parametrize("make", [AppendTarget, ReadTarget])
def test_a_directory_is_found(make: type[AppendTarget | ReadTarget], tmp_path: Path) -> None:
    finding = check_file("build/log", make(str(tmp_path)))
    assert (finding.level, "no file or FIFO" in finding.what) == (Level.WARN, True)


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    assert check_file("build/motd", ReadTarget(str(tmp_path / "nothing"))).level is Level.WARN
    assert check_file("build/log", AppendTarget(str(tmp_path / "no folder" / "log"))).level is Level.WARN


CLOSED = {
    "append": AppendTarget,
    "read": ReadTarget,
    "inbox": lambda path: FilesTarget(path, Direction.RECEIVE),
    "share": lambda path: FilesTarget(path, Direction.SEND),
}


@needs_root
@pytest.mark.parametrize("kind", CLOSED)
def test_what_is_in_a_folder_that_is_closed_to_the_user_is_found_and_does_not_end_the_check(kind: str) -> None:
    with public_directory() as folder:
        (folder / "closed").mkdir(0o700)

        def look() -> None:
            finding = check_path("build/x", CLOSED[kind](str(folder / "closed" / "target")))
            assert (finding.level, "in a folder that is closed to this user" in finding.what) == (Level.WARN, True)

        as_other(look)


def test_a_path_that_the_system_does_not_take_is_found() -> None:
    finding = check_path("build/x", ReadTarget("/tmp/" + "x" * 300))
    assert (finding.level, "cannot be looked at: file name too long" in finding.what) == (Level.WARN, True)


# With a homeserver that says what real ones say. What check says fails the start, and the other way round.

UNKNOWN = (401, "M_UNKNOWN_TOKEN", "Unrecognised access token.")
MASQUERADE = (403, "M_FORBIDDEN", "Application service cannot masquerade as this user ({}).")
NOT_YET = (403, "M_FORBIDDEN", "Application service has not registered this user ({}).")
TO_REGISTER = "list the registration file under app_service_config_files in homeserver.yaml and restart the homeserver"


@dataclass
class Server:
    """A homeserver that refuses some requests, and takes down all of them."""

    refusals: dict[str, tuple[int, str, str]]
    """By the end of the path, or ``as`` for whoami of one of our users."""
    domain: str = "example.org"
    asked: list[str] = field(default_factory=list)
    tombstones: dict[str, str] = field(default_factory=dict)
    joined: list[str] | None = None
    """Rooms of the bot; None where there is no bot yet."""
    """Old rooms, and the new ones that they name; the bot is in these rooms alone."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        user = request.query.get("user_id", "")
        last = "as" if user and request.path.endswith("whoami") else request.path.rsplit("/", 1)[1]
        if last in self.refusals:
            status, errcode, words = self.refusals[last]
            return web.json_response({"errcode": errcode, "error": words.format(user)}, status=status)
        if "/profile/" in request.path:
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)
        match request.path.split("/")[4:]:
            case ["directory", "room", "#gone:example.org"]:
                return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)
            case ["directory", "room", _]:
                return web.json_response({"room_id": "!admins:example.org"})
            case ["joined_rooms"] if self.joined is not None:
                return web.json_response({"joined_rooms": self.joined})
            case ["rooms", room, "state", "m.room.tombstone"] if user == "@rtcbot:example.org":
                status, errcode = (403, "M_FORBIDDEN") if room not in self.tombstones else (404, "M_NOT_FOUND")
                if (new := self.tombstones.get(room)) is not None and new:
                    return web.json_response({"body": "", "replacement_room": new})
                return web.json_response({"errcode": errcode, "error": "no"}, status=status)
        answer = {"versions": ["v1.11"], "user_id": f"@sender:{self.domain}", "duration_ms": 7, "device_keys": {}}
        return web.json_response(answer)

    def config(self, folder: Path, **changes: Any) -> Config:
        with PortReservation() as reserved:
            content = {
                "version": 2,
                "homeserver": {"address": f"http://127.0.0.1:{self.port}", "domain": "example.org"},
                "appservice": {"listen": f"127.0.0.1:{reserved.port}", "as_token": "as" * 24, "hs_token": "hs" * 24},
                "database": f"sqlite:{folder / 'bridge.db'}",
                "peers": {"build": {"services": {"log": {"target": f"append:{folder / 'log'}"}}}},
                **changes,
            }
        path = folder / "config.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))
        return load_config(path)


def failures(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is Level.FAIL]


CAUSES: list[tuple[str, dict[str, tuple[int, str, str]], str, str]] = [
    ("not registered, as Synapse says it", {"versions": UNKNOWN}, "does not know the as_token", TO_REGISTER),
    ("not registered", {"whoami": UNKNOWN}, "does not know the as_token", TO_REGISTER),
    ("other names", {"as": MASQUERADE}, "does not give this bridge the names @rtcbot:example.org, @rtc_build", "peer_"),
    ("other names, by code", {"as": (400, "M_EXCLUSIVE", "no")}, "does not give this bridge the names", "peer_prefix"),
    ("no homeserver", {"versions": (404, "M_UNRECOGNIZED", "no")}, "is no homeserver", "homeserver.address"),
    ("page", {"versions": (404, "", "")}, "does not answer", "past no login and no other page"),
    ("down", {"versions": (502, "", "bad gateway")}, "does not answer", "or start it"),
    ("other hs_token", {"ping": (502, "M_BAD_STATUS", "no")}, "hs_token the same", "with the hs_token of this"),
    ("other id", {"ping": (403, "M_FORBIDDEN", "no")}, "by another appservice id", "appservice.id"),
    ("no way", {"ping": (502, "M_CONNECTION_FAILED", "no")}, "cannot connect to the url", "must reach http"),
]


@pytest.mark.parametrize(("_name", "refusals", "what", "fix"), CAUSES, ids=[case[0] for case in CAUSES])
async def test_the_first_cause_is_named_once_and_nothing_is_written(
    tmp_path: Path, _name: str, refusals: dict[str, tuple[int, str, str]], what: str, fix: str
) -> None:
    async with Server(refusals) as server:
        config = server.config(tmp_path)
        (finding,) = failures(await check(config))
        assert what in finding.what
        assert fix in finding.fix
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("whoami", [{}, {"as": NOT_YET}])
async def test_where_all_is_well_nobody_is_registered_and_nothing_is_made(
    tmp_path: Path, whoami: dict[str, tuple[int, str, str]]
) -> None:
    async with Server(whoami) as server:
        config = server.config(tmp_path)
        findings = await check(config)
        assert failures(findings) == []
        said = [finding.what for finding in findings if finding.level is Level.OK]
        assert "the database is made at the first start" in said
        key = tmp_path / "encryption.key"
        assert f"the key of all identities will be made at the first start, in {key}; keep a copy of it then" in (
            " ".join(said)
        )
        # What it asks changes nothing at the homeserver: keys are queried, and the ping only tries the way back.
        changing = [line for line in server.asked if not line.startswith("GET ")]
        assert all(line.endswith(("/ping", "/keys/query")) for line in changing), changing
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(("pages", "level"), [(1, Level.FAIL), (1000, Level.WARN), (100_000, None)])
async def test_a_disk_that_is_full_is_named_or_soon_will_be(
    pages: int, level: Level | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Filled:
        f_blocks, f_frsize, f_bavail = 1_000_000, 4096, pages

    async with Server({}) as server:
        config = server.config(tmp_path)
        monkeypatch.setattr(os, "statvfs", lambda _place: Filled)
        found = [finding for finding in await check(config) if "the disk of" in finding.what]
    said = [(finding.level, finding.what.partition(" has ")[0]) for finding in found]
    assert said == ([] if level is None else [(level, "the disk of the database"), (level, "the disk of the audit")])
    assert all(str(tmp_path) in finding.fix for finding in found)


@pytest.mark.parametrize(("refusals", "known"), [({}, True), ({"whoami": UNKNOWN}, False)])
async def test_whether_the_bridge_is_registered_is_asked_by_the_proxy_that_the_configuration_names(
    tmp_path: Path, refusals: dict[str, tuple[int, str, str]], known: bool
) -> None:
    async with Server(refusals) as proxy:
        homeserver = {"address": "http://homeserver.invalid", "domain": "example.org"}
        config = proxy.config(tmp_path, homeserver={**homeserver, "proxy": f"http://127.0.0.1:{proxy.port}"})
        assert await is_registered(config) is known
        assert proxy.asked == ["GET /_matrix/client/v3/account/whoami"]


async def test_a_homeserver_without_the_ping_is_no_failure(tmp_path: Path) -> None:
    async with Server({"ping": (404, "M_UNRECOGNIZED", "no")}) as server:
        findings = await check(server.config(tmp_path))
    assert failures(findings) == []
    assert any("it has no ping" in finding.what for finding in findings if finding.level is Level.WARN)


async def test_names_that_a_homeserver_does_not_tell_about_are_not_called_right(tmp_path: Path) -> None:
    async with Server({"as": (403, "M_FORBIDDEN", "no")}) as server:
        findings = await check(server.config(tmp_path))
    assert failures(findings) == []
    assert any("is not told" in finding.what for finding in findings if finding.level is Level.WARN)


@pytest.mark.parametrize("domain", ["example.com", "Example.org"])
async def test_another_domain_is_found(tmp_path: Path, domain: str) -> None:
    async with Server({}, domain=domain) as server:
        (finding,) = failures(await check(server.config(tmp_path)))
    assert (finding.fix, f"@sender:{domain}" in finding.what) == ("correct homeserver.domain", True)


async def test_what_run_would_refuse_on_this_machine_fails(tmp_path: Path) -> None:
    async with Server({}) as server:
        key, database = tmp_path / "encryption.key", tmp_path / "bridge.db"
        key.write_text("k" * 40)
        key.chmod(0o644)
        database.write_text("no database " * 100)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            config = server.config(tmp_path, encryption={"enabled": "on"}, metrics={"listen": address})
            found = {finding.what.partition(":")[0]: finding for finding in failures(await check(config))}
    assert set(found) == {"the database cannot be used", "the key of all identities cannot be used", "the metrics"}
    assert found["the key of all identities cannot be used"].fix == f"chmod 0600 {key}"


async def test_an_address_that_another_program_has_fails_where_no_bridge_runs(tmp_path: Path) -> None:
    async with Server({}) as server:
        config = server.config(tmp_path)
        assert isinstance(config.appservice.listen, TcpListen)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((config.appservice.listen.host, config.appservice.listen.port))
            taken.listen()
            (finding,) = failures(await check(config))
            assert "its address is not free" in finding.what
            # A bridge that runs has it: then the homeserver says whether it reaches that one.
            with socket.socket(socket.AF_UNIX) as control:
                control.bind(str(config.control_socket))
                control.listen()
                assert failures(await check(config)) == []


async def test_no_socket_file_is_made_to_be_called_at(tmp_path: Path) -> None:
    async with Server({}) as server:
        appservice = {
            "listen": f"unix:{tmp_path / 'as.sock'}", "as_token": "as" * 24, "hs_token": "hs" * 24,
            "url": "http://127.0.0.1:9",
        }  # fmt: skip
        findings = await check(server.config(tmp_path, appservice=appservice))
        assert failures(findings) == []
        assert any("cannot be tried: no bridge runs" in finding.what for finding in findings)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("has_run", [True, False])
async def test_rooms_that_the_bot_is_not_in_are_named_once_it_has_been_there(tmp_path: Path, has_run: bool) -> None:
    named = {"admin": "#admins:example.org", "notices": "#gone:example.org", "audit": "!kicked:example.org"}
    tombstones = {"!admins:example.org": "!new:example.org", "!new:example.org": ""}
    joined = ["!admins:example.org", "!list:example.org"]
    async with Server({}, tombstones=tombstones, joined=joined if has_run else None) as server:
        findings = await check(server.config(tmp_path, rooms=named, policy_lists=["!list:example.org"]))
    assert failures(findings) == []
    said = [finding.what for finding in findings if finding.fix.startswith("invite @rtcbot:example.org")]
    assert said == (
        [
            "the bot is not in !kicked:example.org, which rooms.audit names",
            "the bot is not in !new:example.org, which rooms.admin names; it is #admins:example.org",
            "#gone:example.org leads to no room, and rooms.notices names it",
        ]
        if has_run
        else []
    )


async def test_rooms_that_were_upgraded_are_named_with_the_last_of_the_new_ones(tmp_path: Path) -> None:
    users, lists, gone = "!users:example.org", "!list:example.org", "!unseen:example.org"
    tombstones = {
        "!admins:example.org": "!admins2:example.org", "!admins2:example.org": "!admins3:example.org",
        "!admins3:example.org": "", users: "!users2:example.org", lists: "",
    }  # fmt: skip
    async with Server({}, tombstones=tombstones) as server:
        config = server.config(
            tmp_path,
            rooms={"admin": "#admins:example.org", "notices": gone},
            policy_lists=[lists],
            grants=[{"id": "users", "from": [f"room:{users}"], "to": ["build/log"]}],
        )
        findings = await check(config)
    assert failures(findings) == []
    replaced = {
        finding.what.partition(",")[0]: (finding.level, finding.what, finding.fix)
        for finding in findings
        if "was replaced by" in finding.what
    }
    assert replaced.keys() == {"#admins:example.org", users}
    level, what, _ = replaced["#admins:example.org"]
    assert (level, "which rooms.admin names, was replaced by !admins3:example.org" in what) == (Level.WARN, True)
    level, what, fix = replaced[users]
    assert (level, "which grants or grantable_to names, was replaced by !users2" in what) == (Level.WARN, True)
    assert fix.startswith("write !users2:example.org in its place")
