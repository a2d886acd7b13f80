"""Logging in where nobody sits before the terminal, and what is refused before anything is asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from mxrtc_bridge.cli.client.main import main
from mxrtc_bridge.client.state import StateFolder
from tests.login.fakes import ALICE, FakeLoginServer, fake_login_server

PROGRAM = "from mxrtc_bridge.cli.client.login import ask_password; print(ask_password('@alice:example.test'))"


@pytest.mark.programs
@pytest.mark.parametrize(("typed", "read"), [(b"", b"\n"), (b"secret word \nmore\n", b"secret word \n")])
def test_password_is_the_first_line_of_the_input_where_there_is_no_terminal(typed: bytes, read: bytes) -> None:
    """And no library warns of an echo, with a path of this machine, which there is not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=typed, capture_output=True, start_new_session=True, check=True
    )
    assert (done.stdout, done.stderr) == (read, b"")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeLoginServer]:
    async with fake_login_server() as server:
        yield server


async def log_in(server: FakeLoginServer, folder: Path, *words: str, typed: str = "") -> tuple[int, str]:
    """Type a command, in a thread that has a loop of its own."""
    command = ["--state", str(folder), *words[:2], "login", ALICE, "--homeserver", server.url, *words[2:]]
    command = [word for word in command if word]
    done = await asyncio.to_thread(CliRunner().invoke, main, command, input=typed)
    return done.exit_code, done.output


async def test_password_is_asked_for_only_where_that_is_the_way(server: FakeLoginServer, tmp_path: Path) -> None:
    server.delegates = False
    code, output = await log_in(server, tmp_path, typed="secret\n")
    assert (code, f"Password of {ALICE}: " in output) == (0, True), output
    assert server.said("login")[-1]["password"] == "secret"
    assert "secret" not in output
    assert StateFolder(tmp_path).load_login().access_token == "legacy"


async def test_secrets_are_read_from_what_is_named(server: FakeLoginServer, tmp_path: Path) -> None:
    server.delegates = False
    code, output = await log_in(server, tmp_path, "", "", "--password-file", "-", typed="from a file\nmore")
    assert (code, server.said("login")[-1]["password"]) == (0, "from a file"), output
    server.known = {"a-token"}
    code, output = await log_in(server, tmp_path, "--account", "work", "--token-file", "-", typed="a-token\r\n")
    assert code == 0, output
    assert StateFolder(tmp_path / "accounts" / "work").load_login().access_token == "a-token"
    assert "a-token" not in output


async def test_code_is_shown_and_the_login_kept(server: FakeLoginServer, tmp_path: Path) -> None:
    server.answers["device"] = [
        (200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{server.url}/l", "interval": 0.01})
    ]
    code, output = await log_in(server, tmp_path, "", "", "--by", "code")
    assert (code, "type this code: AB" in output, f"logged in as {ALICE}" in output) == (0, True, True), output


@pytest.mark.parametrize(
    ("words", "typed", "why"),
    [
        (["--password-file", "-", "--token-file", "-"], "x", "a password or an access token, and not both"),
        (["--by", "password"], "x", "and not '--by password'"),
        (["--token-file", "-"], "\n", "holds no access token"),
        (["--token-file", "-"], "ä\n", "a character that no token has"),
    ],
)
async def test_what_cannot_work_is_refused(
    server: FakeLoginServer, tmp_path: Path, words: list[str], typed: str, why: str
) -> None:
    code, output = await log_in(server, tmp_path, "", "", *words, typed=typed)
    assert (code, why in output) == (2, True), output
    assert not {"login", "device", "token"} & {name for name, _ in server.asked}


async def test_secret_that_is_no_text_is_told_as_that(server: FakeLoginServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe\n")
    code, output = await log_in(server, tmp_path, "", "", "--token-file", str(tmp_path / "secret"))
    assert (code, "access token is not text in UTF-8" in output) == (2, True), output
