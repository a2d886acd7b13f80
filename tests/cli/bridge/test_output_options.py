"""``-q`` and ``-v`` of ``mxrtc-bridge`` mean the same before a command and behind it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mxrtc_bridge.cli.bridge.main import cli
from mxrtc_bridge.cli.bridge.output_options import (
    MAX_HELD_PIECES,
    HeldMessages,
    add_to_commands,
    be_quiet,
    end_of_command,
    level_of_log,
    log_at,
)
from mxrtc_bridge.cli.verbosity import QUIET, VERBOSE
from tests.bridge_command import Run, run_in_process
from tests.cli.bridge.test_running_bridge import bridge, lists
from tests.cli.command_pages import leaves

log = logging.getLogger("mxrtc_bridge.cli.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    level, handlers, stderr = logging.root.level, logging.root.handlers[:], sys.stderr
    logging.root.handlers.clear()
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
    assert sys.stderr is stderr


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.mark.parametrize("before", [True, False])
def test_quiet_says_nothing_where_all_is_well(tmp_path: Path, run: Run, before: bool) -> None:
    words = ["who", "--socket", tmp_path / "c.sock"]
    with bridge(tmp_path / "c.sock", lists):
        assert run(*words) == (0, "", "None.\n")
        assert run(*(["-q", *words] if before else [*words, "--quiet"])) == (0, "", "")


@pytest.mark.parametrize("before", [True, False])
def test_quiet_says_all_where_something_is_wrong(tmp_path: Path, run: Run, before: bool) -> None:
    words = ["who", "--socket", tmp_path / "none.sock"]
    loud = run(*words)
    assert loud[0] == 1
    assert "nobody listens" in loud[2]
    assert run(*(["-q", *words] if before else [*words, "-q"])) == loud
    code, _, err = run("-q", "grant", "x")
    assert (code, "Usage: " in err) == (2, True)


def test_data_comes_all_the_same(run: Run) -> None:
    assert run("-q", "example-config") == run("example-config")


def test_init_asks_so_it_cannot_be_quiet(tmp_path: Path, run: Run) -> None:
    for words in (["-q", "init"], ["init", "-q"]):
        code, _, err = run(*words, "--output", tmp_path)
        assert (code, "has no -q" in err) == (2, True)


def test_what_is_held_back_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    sys.stderr = HeldMessages()
    for number in range(MAX_HELD_PIECES + 1):
        sys.stderr.write(f"{number}\n")
    assert end_of_command(1) == 1
    assert capsys.readouterr().err.splitlines() == [f"{number}" for number in range(1, MAX_HELD_PIECES + 1)]
    assert end_of_command(1) == 1, "and once more it does nothing"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("options", "said"), [([], []), (["-v"], ["info"]), (["-v", "-v"], ["info", "debug"])])
@pytest.mark.parametrize("before", [True, False])
def test_verbose_logs_by_steps(options: list[str], said: list[str], before: bool, run: Run) -> None:
    @click.command("try-it")
    def tried() -> None:
        log.info("info")
        log.debug("debug")

    group = click.Group("tried", commands={"try-it": tried})
    add_to_commands(group)
    cli.add_command(tried)
    try:
        code, _, err = run(*(options if before else []), "try-it", *([] if before else options))
    finally:
        del cli.commands["try-it"]
    assert code == 0
    assert [line.rpartition(": ")[2] for line in err.splitlines()] == said


def test_run_says_only_its_log_and_the_options_choose_the_level() -> None:
    with click.Context(click.Command("run")) as context:
        assert level_of_log("info") == logging.INFO
        be_quiet("run", context)
        assert (level_of_log("info"), isinstance(sys.stderr, HeldMessages)) == (logging.WARNING, False)
        log_at("run", context, 0)
        assert level_of_log("info") == logging.WARNING
        log_at("run", context, 1)
        assert level_of_log("info") == logging.DEBUG


@pytest.mark.parametrize("command", [words for words, _ in leaves(cli)])
def test_every_command_takes_them(command: str) -> None:
    """And none has an option of its own by these names."""
    (found,) = [each for words, each in leaves(cli) if words == command]
    names = [name for option in found.params for name in option.opts if name[0] == "-"]
    assert {*QUIET, *VERBOSE} <= set(names)
    assert len(names) == len(set(names))
