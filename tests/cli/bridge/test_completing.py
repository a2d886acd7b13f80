"""What ``mxrtc-bridge`` completes: by a configuration that may be half edited, and by what a running bridge says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mxrtc_bridge.cli.bridge.main import cli
from mxrtc_bridge.cli.completion import SHELLS
from mxrtc_bridge.core.errors import AdminError
from tests.cli.bridge.test_running_bridge import bridge

CONFIG = """\
peers:
  build:
    services:
      ssh: { target: "tcp:127.0.0.1:22" }
      web: { target: 5 }
  empty: 3
nonsense: [
"""
BOB, ALICE = "@bob:example.org", "@alice:example.org"
ROWS = {
    "requests": [{"number": 12, "user": BOB, "peer": "@rtc_build:example.org", "service": "ssh"}],
    "grants": [
        {"number": 3, "subject": BOB, "peer": "@rtc_build:example.org", "service": "ssh"},
        {"number": 4, "subject": BOB, "peer": "@rtc_build:example.org", "service": "web"},
    ],
    "who": [{"number": 7, "user": ALICE, "peer": "@rtc_build:example.org"}, "no row"],
    "verify": [{"number": 2, "user": BOB}],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    path.chmod(0o600)
    return path


def completed(*words: str) -> list[tuple[str, str]]:
    complete = SHELLS["zsh"](cli, {}, "mxrtc-bridge", "_MXRTC_BRIDGE_COMPLETE")
    return [(item.value, item.help or "") for item in complete.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("grant", BOB, ""), ["build/ssh", "build/web"]),
        (("revoke", BOB, "build/w"), ["build/web"]),
        (("explain", BOB, "b"), ["build/ssh", "build/web"]),
        (("remove", ""), ["build/ssh", "build/web"]),
        (("add", ""), ["build/", "empty/"]),
        (("log", "e"), ["empty"]),
    ],
)
def test_services_and_peers_are_those_of_the_file(config: Path, words: tuple[str, ...], values: list[str]) -> None:
    verb, *rest = words
    assert [value for value, _ in completed(verb, "-c", str(config), *rest)] == values


def test_where_the_file_cannot_be_read_nothing_is_completed(tmp_path: Path) -> None:
    assert completed("grant", "-c", str(tmp_path / "none.yaml"), BOB, "") == []
    assert completed("kick", "-c", str(tmp_path / "none.yaml"), "") == []


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("allow", [("12", f"{BOB} asks for @rtc_build:example.org/ssh")]),
        ("deny", [("12", f"{BOB} asks for @rtc_build:example.org/ssh")]),
        (
            "revoke",
            [
                ("3", f"{BOB} may use @rtc_build:example.org/ssh"),
                ("4", f"{BOB} may use @rtc_build:example.org/web"),
                (BOB, ""),
            ],
        ),
        ("kick", [("7", f"{ALICE} with @rtc_build:example.org"), (ALICE, "")]),
        ("verify", [("2", BOB)]),
    ],
)
def test_what_lives_is_asked_of_the_running_bridge(tmp_path: Path, verb: str, values: list[tuple[str, str]]) -> None:
    def answer(words: tuple[str, ...]) -> Mapping[str, object]:
        return {"rows": ROWS[words[0]]}

    with bridge(tmp_path / "s", answer) as asked:
        assert completed(verb, "--socket", str(tmp_path / "s"), "") == values
    assert len(asked) == 1


def test_a_bridge_that_refuses_or_says_something_else_gives_nothing(tmp_path: Path) -> None:
    def refuse(_words: tuple[str, ...]) -> Mapping[str, object]:
        raise AdminError("no")

    for answer in (refuse, lambda _words: {"rows": 5}):
        with bridge(tmp_path / "s", answer):
            assert completed("kick", "--socket", str(tmp_path / "s"), "") == []
