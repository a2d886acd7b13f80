"""What all commands share is read once: above all, whose account it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mxrtc_bridge.cli.client.main import main
from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    accounts = Accounts(StateFolder(tmp_path / "state"))
    for name, user in (("default", "@alice:example.test"), ("work", "@me:work.test")):
        accounts.folder(name).save_login(Login(NOBODY, UserId(user), "DEVICE", "secret-token"))
    return tmp_path / "state"


def run(state: Path, *words: str, **env: str) -> tuple[int, str]:
    done = CliRunner(env={"MXRTC_STATE": str(state), **env}).invoke(main, list(words))
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "env", "user"),
    [
        (["status"], {}, "@alice:example.test"),
        (["--account", "work", "status"], {}, "@me:work.test"),
        (["status"], {"MXRTC_ACCOUNT": "work"}, "@me:work.test"),
        (["--account", "default", "status"], {"MXRTC_ACCOUNT": "work"}, "@alice:example.test"),
        (["--account", "@me:work.test", "status"], {}, "@me:work.test"),
    ],
)
def test_account_is_the_one_that_is_named(state: Path, words: list[str], env: dict[str, str], user: str) -> None:
    code, output = run(state, *words, **env)
    assert (code, f"{user} at {NOBODY}" in output) == (1, True), output


def test_accounts_are_listed_and_chosen(state: Path) -> None:
    code, output = run(state, "accounts")
    assert (code, output.splitlines()) == (
        0,
        [f"* default\t@alice:example.test\t{NOBODY}", f"  work\t@me:work.test\t{NOBODY}"],
    )
    assert run(state, "accounts", "--default", "work")[0] == 0
    assert "@me:work.test" in run(state, "status")[1]


def test_name_that_cannot_be_one_is_refused_when_it_is_used_and_help_goes_on(state: Path) -> None:
    code, output = run(state, "--account", "../x", "status")
    assert (code, "cannot be the name of an account" in output) == (2, True), output
    assert run(state, "--account", "../x", "status", "--help")[0] == 0
