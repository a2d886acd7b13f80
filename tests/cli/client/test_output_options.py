"""``--json``, ``-q`` and ``-v`` mean the same before a command and behind it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mxrtc_bridge.cli.client import main as client_main
from mxrtc_bridge.cli.client.output_options import add_to_commands, log_more
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import StateFolder

log = logging.getLogger("mxrtc_bridge.client.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    level, handlers = logging.root.level, logging.root.handlers[:]
    logging.root.handlers.clear()
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def program(folder: Path) -> click.Group:
    """A program with one command, which says a sentence and logs three lines."""

    @click.group()
    @click.option("--json", "as_json", is_flag=True)
    @click.option("-q", "--quiet", is_flag=True)
    @click.option("-v", "--verbose", count=True, callback=log_more, expose_value=False)
    @click.pass_context
    def main(context: click.Context, as_json: bool, quiet: bool) -> None:
        context.obj = Context(StateFolder(folder), Report(as_json=as_json, quiet=quiet))

    @main.command()
    @click.pass_obj
    def say(context: Context) -> None:
        context.report.say("said", "a sentence", number=1)
        log.warning("careful")
        log.info("> %s", "fine\x1b]0;owned")
        log.debug("a detail")
        logging.getLogger("aioice").info("of a library")

    add_to_commands(main)
    return main


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("options", "kinds", "words"),
    [
        ((), [], ["a sentence"]),
        (("--json",), ["said"], []),
        (("-q",), [], []),
        (("--quiet",), [], []),
        (("-v",), [], ["a sentence", "careful", "> fine\\x1b]0;owned"]),
        (("-v", "-v"), [], ["a sentence", "careful", "> fine\\x1b]0;owned", "a detail"]),
        (("-q", "-vvv"), [], ["careful", "> fine\\x1b]0;owned", "a detail"]),
    ],
)
def test_each_has_its_meaning_on_both_sides(
    tmp_path: Path, options: tuple[str, ...], kinds: list[str], words: list[str], behind: bool
) -> None:
    arguments = ["say", *options] if behind else [*options, "say"]
    done = CliRunner().invoke(program(tmp_path), arguments)
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == kinds
    assert [line.rpartition("mxrtc_bridge.client.test: ")[2] for line in done.stderr.splitlines()] == words


def test_what_stands_on_both_sides_adds_up(tmp_path: Path) -> None:
    done = CliRunner().invoke(program(tmp_path), ["-v", "say", "-v"])
    assert done.stderr.count("a detail") == done.stderr.count("careful") == 1


@pytest.mark.parametrize("command", sorted(client_main.main.commands))
def test_every_command_takes_them(command: str) -> None:
    """And none has an option of its own by these names."""
    names = [name for option in client_main.main.commands[command].params for name in option.opts if name[0] == "-"]
    assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("arguments", [["--json", "status"], ["status", "--json"]])
def test_why_a_command_fails_is_an_object_where_that_is_asked(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(client_main.main, ["--state", str(tmp_path), *arguments])
    assert done.exit_code == 2, done.output
    assert (json.loads(done.stdout)["kind"], done.stderr) == ("error", "")
