"""The exit codes of ``mxrtc-bridge`` are those of the page, for each command and each thing that can be wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mxrtc_bridge.cli.bridge.command_line import ExitCode
from mxrtc_bridge.cli.bridge.main import cli, invoke
from tests.other_user import as_other, needs_root, public_directory

PAGE = Path(__file__).parent.parent.parent.parent / "docs/reference/exit-codes.md"
ALICE = "@alice:example.org"

# What each command needs to be understood.
ON_FILES: dict[str, list[str]] = {
    "run": [], "check": [], "registration": [], "identity": [], "files": ["build/ssh"], "audit verify": [],
    "audit key": [], "audit export": [], "config upgrade": [],
    "add": ["web", "tcp:127.0.0.1:80"], "remove": ["ssh"], "list": [],
}  # fmt: skip
OF_A_RUNNING_BRIDGE: dict[str, list[str]] = {
    "who": [], "grants": [], "requests": [], "log": [], "grant": [ALICE, "build/ssh", "--for", "1h"],
    "revoke": ["1"], "allow": ["1"], "deny": ["1"], "kick": ["1"], "pause": [], "resume": [], "reload": [],
    "verify": [], "trust": [ALICE], "top": [],
}  # fmt: skip
BY_EITHER: dict[str, list[str]] = {"explain": [ALICE, "build/ssh"]}
WITHOUT_A_CONFIGURATION: dict[str, list[str]] = {
    "init": ["--domain", "example.org"], "example-config": [], "completion": ["bash"],
}  # fmt: skip
WITH_A_CONFIGURATION = {**ON_FILES, **OF_A_RUNNING_BRIDGE, **BY_EITHER}


def leaves(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name


def run(command: str, *arguments: object) -> int:
    return invoke([*command.split(), *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    options = ["--peer", "build", "--service", "ssh=tcp:127.0.0.1:22", "--allow", ALICE]
    assert run("init", "--domain", "example.org", *options, "--output", tmp_path) == 0
    return tmp_path / "config.yaml"


def test_each_command_is_looked_at() -> None:
    assert sorted(leaves(cli)) == sorted([*WITH_A_CONFIGURATION, *WITHOUT_A_CONFIGURATION])


def test_the_page_has_the_codes_of_the_program_and_no_other() -> None:
    part = PAGE.read_text().split("## `mxrtc-bridge`")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", part, re.MULTILINE))
    assert [int(code) for code in rows] == sorted(ExitCode)
    named = {name for text in part.splitlines() for name in re.findall(r"`([a-z][a-z -]*?)(?: -o)?`", text)}
    assert named - {"mxrtc-bridge"} <= set(leaves(cli)), "what the page names exists"
    assert {"check", "explain", "reload", "run", "init", "registration", "audit verify"} <= named


@pytest.mark.parametrize("command", [*WITH_A_CONFIGURATION, *WITHOUT_A_CONFIGURATION])
def test_help_is_done_and_nonsense_is_wrong_usage(command: str) -> None:
    assert run(command, "--help") == ExitCode.DONE
    assert run(command, "--nonsense") == ExitCode.USAGE
    assert run(command, *["too", "many", "words", "for", "any", "command"]) == ExitCode.USAGE


@pytest.mark.parametrize("command", WITH_A_CONFIGURATION)
def test_a_configuration_that_cannot_be_read_is_one_that_cannot_be_used(command: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, Path("/dev/null")):
        assert run(command, *WITH_A_CONFIGURATION[command], "-c", path) == ExitCode.CONFIG, path


@needs_root
def test_a_configuration_that_is_closed_to_whoever_asks_is_one_that_cannot_be_used() -> None:
    with public_directory() as folder:
        (folder / "config.yaml").touch(mode=0o600)
        for command, words in WITH_A_CONFIGURATION.items():
            if command != "run":  # which loads more than somebody else may be able to reach here

                def ask(command: str = command, words: list[str] = words) -> None:
                    assert run(command, *words, "-c", folder / "config.yaml") == ExitCode.CONFIG, command

                as_other(ask)


@pytest.mark.parametrize("command", WITH_A_CONFIGURATION)
def test_mistakes_are_78_where_the_file_is_used_and_nothing_where_the_bridge_is_asked(
    command: str, config: Path
) -> None:
    config.write_text(config.read_text().replace("domain:", "domian:"))
    expected = ExitCode.FAILED if command in OF_A_RUNNING_BRIDGE else ExitCode.CONFIG
    assert run(command, *WITH_A_CONFIGURATION[command], "-c", config) == expected


@pytest.mark.parametrize("command", OF_A_RUNNING_BRIDGE)
def test_a_bridge_that_does_not_answer_is_trouble_that_may_pass(command: str, config: Path) -> None:
    words = OF_A_RUNNING_BRIDGE[command]
    assert run(command, *words, "-c", config) == ExitCode.FAILED
    assert run(command, *words, "--socket", config.parent / "none.sock") == ExitCode.FAILED


def test_what_is_left_of_the_page(config: Path) -> None:
    assert run("explain", ALICE, "build/ssh", "-c", config) == ExitCode.DONE
    assert run("explain", "@eve:example.org", "build/ssh", "-c", config) == ExitCode.DENIED
    assert run("check", "--offline", "-c", config) == ExitCode.DONE
    assert run("init", "--domain", "example.org", "--output", config.parent) == ExitCode.USAGE
    assert run("registration", "-o", config, "-c", config) == ExitCode.CONFIG
    assert run("audit verify", "-c", config) == ExitCode.FAILED, "there is no audit yet"
    assert run("identity", "-c", config) == ExitCode.FAILED, "there are no identities yet"
    # No homeserver answers here, which is something wrong and no wrong configuration.
    config.write_text(config.read_text().replace(":8008", ":9"))
    assert run("check", "-c", config) == ExitCode.FAILED
    (config.parent / "mxrtc-bridge.db").write_bytes(b"no database" * 100)
    os.chmod(config.parent / "mxrtc-bridge.db", 0o600)
    assert run("audit key", "-c", config) == ExitCode.FAILED
    assert run("run", "-c", config) == ExitCode.FAILED
