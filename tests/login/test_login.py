"""``mxrtc login`` as it is typed, at real homeservers that have people log in elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.conftest import HomeserverFactory
from tests.login import browser
from tests.login.servers import Servers, delegating, found_by_name, with_single_sign_on
from tests.other_user import needs_root

pytestmark = pytest.mark.real

BIN = Path(sys.executable).parent
WHOAMI = "/_matrix/client/v3/account/whoami"
DEVICES = "/_matrix/client/v3/devices"


@dataclass
class User:
    """Somebody in front of a terminal."""

    folder: Path
    servers: Servers
    runs: int = 0

    def mxrtc(self, *words: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> ManagedProcess:
        self.runs += 1
        variables = {"MXRTC_STATE": str(self.folder / "state"), "MXRTC_INTERFACES": "lo", "BROWSER": "", "DISPLAY": ""}
        command = [BIN / "mxrtc", *words]
        name = f"mxrtc-{self.runs}"
        return ManagedProcess(name, command, folder=self.folder, env={**variables, **(env or {})}, stdin=stdin)

    def login(self, *words: str, user: str = "@alice:example.test", **options: Any) -> ManagedProcess:
        return self.mxrtc("login", user, "--homeserver", self.servers.homeserver.url, *words, **options)

    async def run(self, *words: str) -> tuple[int, str]:
        async with self.mxrtc(*words) as process:
            code = await process.wait(60)
            return code, process.output("stdout").decode() + process.output("stderr").decode()

    @property
    def kept(self) -> dict[str, Any]:
        path = self.folder / "state" / "login.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def make_due(self) -> None:
        """Have the token renewed by the next command."""
        login = self.kept
        login["renewal"]["renew_at"] = 1.0
        (self.folder / "state" / "login.json").write_text(json.dumps(login))

    async def owner(self, token: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.servers.homeserver.request("GET", WHOAMI, token=token)
        return found

    def said(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("mxrtc-*.std*")))

    def secrets(self) -> list[str]:
        login = self.kept
        return [login["access_token"], *([login["renewal"]["refresh_token"]] if login.get("renewal") else [])]


@pytest_asyncio.fixture
async def delegated(tmp_path: Path, make_homeserver: HomeserverFactory) -> AsyncIterator[User]:
    async with delegating(tmp_path, make_homeserver) as servers:
        yield User(tmp_path, servers)


@pytest_asyncio.fixture
async def single_sign_on(tmp_path: Path, make_homeserver: HomeserverFactory) -> AsyncIterator[User]:
    async with with_single_sign_on(tmp_path, make_homeserver) as servers:
        yield User(tmp_path, servers)


async def log_in_by_code(user: User, who: str = "alice", **options: Any) -> int:
    async with user.login(**options) as process:
        found = await process.wait_for_line(r"open (\S+) in any browser and type this code: (\S+)", 60)
        await user.servers.tell("approve", code=found[2], user=who, allow=True)
        return await process.wait(60)


def browsing(servers: Servers) -> dict[str, str]:
    return {"BROWSER": f"{sys.executable} {browser.__file__} %s"}


async def test_code_that_is_typed_elsewhere_logs_in_is_renewed_by_one_and_ends_everywhere(delegated: User) -> None:
    assert await log_in_by_code(delegated) == 0, delegated.said()
    first = delegated.kept
    owner = await delegated.owner(first["access_token"])
    assert (owner["user_id"], owner["device_id"]) == ("@alice:example.test", first["device_id"])
    # The device has a name that its owner knows it by.
    devices = await delegated.servers.homeserver.request("GET", DEVICES, token=first["access_token"])
    assert [each["display_name"].startswith("mxrtc on ") for each in devices["devices"]] == [True]
    secrets = delegated.secrets()
    # Many commands at once find it due: this provider ends the session when a refresh token is used twice.
    delegated.make_due()
    answers = await asyncio.gather(*(delegated.run("status") for _ in range(4)))
    assert [code for code, _ in answers] == [0] * 4, answers
    second = delegated.kept
    assert second["access_token"] != first["access_token"]
    assert second["renewal"]["refresh_token"] != first["renewal"]["refresh_token"]
    assert second["renewal"]["renew_at"] > time.time()
    assert (await delegated.owner(second["access_token"]))["device_id"] == first["device_id"]
    # A token that is not known any more is renewed as well, once.
    (delegated.folder / "state" / "login.json").write_text(json.dumps({**second, "access_token": "unknown"}))
    assert (await delegated.run("status"))[0] == 0
    third = delegated.kept
    secrets += [*delegated.secrets(), second["access_token"], second["renewal"]["refresh_token"]]
    code, said = await delegated.run("logout")
    assert (code, "logged out @alice:example.test" in said) == (0, True), said
    with pytest.raises(Exception, match="401"):
        await delegated.owner(third["access_token"])
    assert [path.name for path in (delegated.folder / "state").iterdir() if path.name.startswith("login")] == []
    assert not [secret for secret in secrets if secret in delegated.said()]


@needs_root
async def test_servers_are_found_by_the_name_in_the_user_id_and_trusted_by_tls(
    tmp_path: Path, make_homeserver: HomeserverFactory
) -> None:
    async with found_by_name(tmp_path, make_homeserver) as servers:
        assert servers.front is not None
        user, alice = User(tmp_path, servers), f"@alice:{servers.front.server}"
        # Nobody is asked for anything whose certificate is not known.
        code, said = await user.run("login", alice)
        assert (code, "certificate is not accepted" in said) == (1, True), said
        env = {"SSL_CERT_FILE": str(servers.front.certificate)}
        async with user.mxrtc("login", alice, env=env) as process:
            found = await process.wait_for_line(r"open (\S+) in any browser and type this code: (\S+)", 60)
            assert found[1].startswith(f"{servers.front.account}/")
            await servers.tell("approve", code=found[2], user="alice", allow=True)
            assert await process.wait(60) == 0, user.said()
        assert user.kept["homeserver"] == servers.front.matrix
        assert user.kept["renewal"]["token_endpoint"].startswith(f"{servers.front.account}/")
        user.make_due()
        for word in ("status", "logout"):
            async with user.mxrtc(word, env=env) as process:
                assert await process.wait(60) == 0, user.said()


async def test_session_that_the_server_has_ended_says_to_log_in_again(delegated: User) -> None:
    assert await log_in_by_code(delegated) == 0, delegated.said()
    login = delegated.kept
    login["renewal"]["refresh_token"] = "of-somebody-else"
    login["renewal"]["renew_at"] = 1.0
    (delegated.folder / "state" / "login.json").write_text(json.dumps(login))
    code, said = await delegated.run("status")
    assert (code, "log in again with 'mxrtc login'" in said) == (2, True), said


async def test_code_that_is_refused_logs_nobody_in(delegated: User) -> None:
    async with delegated.login() as process:
        found = await process.wait_for_line(r"type this code: (\S+)", 60)
        await delegated.servers.tell("approve", code=found[1], user="alice", allow=False)
        assert await process.wait(60) == 2
    assert "login was refused where the code was typed" in delegated.said()
    assert not (delegated.folder / "state" / "login.json").exists()


async def test_login_of_somebody_else_is_not_kept_and_ended(delegated: User) -> None:
    assert await log_in_by_code(delegated, "bob") == 2
    assert "his is a login of @bob:example.test, and not of @alice:example.test" in delegated.said()
    assert not (delegated.folder / "state" / "login.json").exists()


async def test_browser_on_this_machine_logs_in_with_a_code_that_is_of_use_to_nobody_else(delegated: User) -> None:
    async with delegated.login("--by", "browser", env=browsing(delegated.servers)) as process:
        assert await process.wait(90) == 0, delegated.said()
    login = delegated.kept
    assert (await delegated.owner(login["access_token"]))["device_id"] == login["device_id"]
    assert login["renewal"]["refresh_token"]
    assert not [secret for secret in delegated.secrets() if secret in delegated.said()]
    assert "code_challenge_method=S256" in delegated.said()


async def test_browser_in_which_the_login_is_refused_logs_nobody_in(delegated: User) -> None:
    await delegated.servers.tell("settings", answer="refuse")
    async with delegated.login("--by", "browser", env=browsing(delegated.servers)) as process:
        assert await process.wait(90) == 2
    assert "login was refused in the browser" in delegated.said()


async def test_password_at_a_server_that_delegates_is_told_what_else_there_is(delegated: User) -> None:
    async with delegated.login("--by", "password") as process:
        assert await process.wait(60) == 2
    assert re.search(r"offers '--by code' or '--by browser', and not '--by password'", delegated.said())
    async with delegated.login("--password-file", "-", stdin=b"secret\n") as process:
        assert await process.wait(60) == 2
    assert "offers no login by password; log in without one: mxrtc login" in delegated.said()


async def test_access_token_from_elsewhere_is_taken_from_a_file(delegated: User, tmp_path: Path) -> None:
    assert await log_in_by_code(delegated) == 0, delegated.said()
    token = delegated.kept["access_token"]
    other = User(tmp_path / "other", delegated.servers)
    other.folder.mkdir()
    async with other.login("--token-file", "-", stdin=token.encode() + b"\n") as process:
        assert await process.wait(60) == 0, other.said()
    assert (other.kept["access_token"], other.kept["renewal"]) == (token, None)
    assert (await other.run("status"))[0] == 0


async def test_single_sign_on_of_before_logs_in_with_a_browser_on_this_machine(single_sign_on: User) -> None:
    async with single_sign_on.login(env=browsing(single_sign_on.servers)) as process:
        assert await process.wait(40) == 0, single_sign_on.said()
    login = single_sign_on.kept
    assert (await single_sign_on.owner(login["access_token"]))["device_id"] == login["device_id"]
    assert login["renewal"] is None
    assert login["access_token"] not in single_sign_on.said()
    assert (await single_sign_on.run("logout"))[0] == 0
    with pytest.raises(Exception, match="401"):
        await single_sign_on.owner(login["access_token"])
