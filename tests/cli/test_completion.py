"""What the shell completes, and that help says each command in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.cli.completion import MAX_SHOWN, SHELLS, TypedLine, read_line, written_for_bash
from tests.cli.command_pages import PROGRAMS, printed_help
from tests.cli.completions import COMPLETIONS, FILES, PLACES
from tests.test_project_files import PYPROJECT

BIN = Path(sys.executable).parent
BREAKS = " \t\n\"'@><=;|&(:"
"""Of bash, as it comes."""


def completed(*words: str) -> list[str]:
    """What bash would be told, as it asks."""
    variable = f"_{words[0].upper().replace('-', '_')}_COMPLETE"
    asked = {variable: "bash_complete", "_COMPLETE_LINE": " ".join(words), "_COMPLETE_BREAKS": BREAKS}
    done = subprocess.run([BIN / words[0]], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    return done.stdout.split()


def answered(shell: str, line: str, values: list[str], monkeypatch: pytest.MonkeyPatch, about: str = "") -> list[str]:
    """What a shell is told of a program whose argument may be one of some values."""
    items = [click.shell_completion.CompletionItem(value, help=about) for value in values]
    argument = click.Argument(["name"], shell_complete=lambda _context, _argument, _begun: items)
    monkeypatch.setenv("_COMPLETE_LINE", line)
    monkeypatch.setenv("_COMPLETE_BREAKS", BREAKS)
    return (
        SHELLS[shell](click.Command("tried", params=[argument]), {}, "tried", "_TRIED_COMPLETE").complete().split("\n")
    )


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("mxrtc", TypedLine((), "mxrtc")),
        ("mxrtc ls ", TypedLine(("mxrtc", "ls"), "")),
        ("mxrtc get build/share:do", TypedLine(("mxrtc", "get"), "build/share:do", kept=12)),
        ("mxrtc ping @rtc_b", TypedLine(("mxrtc", "ping"), "@rtc_b", kept=0)),
        ("mxrtc ping @rtc_b:ex", TypedLine(("mxrtc", "ping"), "@rtc_b:ex", kept=7)),
        ("mxrtc get build/share:a\\ b\\:c", TypedLine(("mxrtc", "get"), "build/share:a b:c", kept=12)),
        ('mxrtc get "build/share:a b', TypedLine(("mxrtc", "get"), "build/share:a b", quote='"')),
        ("mxrtc get build/'share:a b", TypedLine(("mxrtc", "get"), "build/share:a b", kept=6, quote="'")),
        ("mxrtc get 'build/share':a", TypedLine(("mxrtc", "get"), "build/share:a", kept=12)),
        ('mxrtc get "a\\b\\$c', TypedLine(("mxrtc", "get"), "a\\b$c", quote='"')),
        ("mxrtc get a\\", TypedLine(("mxrtc", "get"), "a")),
    ],
)
def test_a_line_is_read_as_the_shell_reads_it(line: str, typed: TypedLine) -> None:
    assert read_line(line, BREAKS) == typed


NAMES = st.text(st.sampled_from("ab:@/ \\'\"$`!;&|<>()*?[]{}#~=\u00e9-"), min_size=1, max_size=8)


@given(begun=NAMES, rest=NAMES, mark=st.sampled_from(["", "'", '"']))
def test_what_bash_inserts_is_read_as_the_value_whatever_is_in_it(begun: str, rest: str, mark: str) -> None:
    """The oracle is our own reader, which the test above and real shells hold to the truth."""
    line = f"tried {mark}" + ("a:b" if mark else "a\\ :b")
    typed = read_line(line, BREAKS)
    value = typed.last + begun + rest
    inserted = written_for_bash(value, typed)
    if inserted is None:
        assert (mark == "'" and "'" in value) or (mark == '"' and "!" in value)
        return
    front = line[: len(line) - len("a:b")] if mark else "tried a\\ :"
    if mark:
        assert read_line(front + inserted + mark, BREAKS).last == value
    else:
        goes_on = value.endswith(("/", ":"))
        read = read_line(front + inserted, BREAKS)
        assert (read.last if goes_on else read.words[-1]) == value


@pytest.mark.parametrize("shell", SHELLS)
def test_no_shell_is_given_what_nobody_can_see_or_what_is_two_lines(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["good", "two\nlines", "tab\tbed", "\x1b[2J", "\u202ereversed", "x" * 3000]
    assert [line.strip() for line in answered(shell, "tried ", values, monkeypatch)] == ["words", "good"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_given_so_many_and_no_more(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [f"v{number}" for number in range(MAX_SHOWN + 1)]
    assert len(answered(shell, "tried ", values, monkeypatch)) == 1 + MAX_SHOWN


def test_words_about_a_value_are_one_line_for_the_shells_that_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {shell: answered(shell, "tried ", ["a"], monkeypatch, "two\nlines\tand") for shell in SHELLS}
    line = "a\ttwo lines and"
    assert told == {"bash": ["words", "a "], "zsh": ["words", line], "fish": ["words", line]}


def test_what_is_there_already_and_goes_on_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered("zsh", "tried docs/", ["docs/", "docs/a"], monkeypatch) == ["words", "docs/a"]


@pytest.mark.parametrize(("file", "make"), FILES.items(), ids=[file.name for file in FILES])
def test_the_script_that_is_installed_is_the_one_that_the_program_prints(file: Path, make: Callable[[], str]) -> None:
    assert file.read_text() == make(), "make docs"


def test_the_wheel_brings_the_scripts_to_where_shells_look() -> None:
    hatch = PYPROJECT["tool"]["hatch"]["build"]["targets"]
    shared = hatch["wheel"]["shared-data"]
    assert {shell: shared[f"completions/{shell}"] for shell in SHELLS} == PLACES
    assert {file for file in COMPLETIONS.rglob("*") if file.is_file()} == set(FILES)
    assert "/completions" in hatch["sdist"]["include"], "made from it as well"


@pytest.mark.programs
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mxrtc", "se"), ["words", "send"]),
        (("mxrtc", "send", "rep"), ["file"]),
        (("mxrtc", "get", "build/share:x", "-o", "pa"), ["file"]),
        (("mxrtc", "get", "--no-re"), ["words", "--no-resume", "--no-reconnect"]),
        (("mxrtc", "completion", "z"), ["words", "zsh"]),
        (("mxrtc", "--interface", "l"), ["words", "lo"]),
        (("mxrtc-bridge", "gr"), ["words", "grant", "grants"]),
        (("mxrtc-bridge", "who", "-c", "/etc/mx"), ["file"]),
    ],
)
def test_commands_options_and_files_are_completed(words: tuple[str, ...], said: list[str]) -> None:
    assert completed(*words) == said


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_command_is_said_in_a_line_that_is_whole(program: str) -> None:
    groups = [(program, (), PROGRAMS[program])]
    groups += [
        (program, (name,), each) for name, each in PROGRAMS[program].commands.items() if isinstance(each, click.Group)
    ]
    for name, words, group in groups:
        listed = printed_help(name, *words).partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        assert len(listed) == len(group.commands), "each has one line"
        assert [line for line in listed if line.endswith("...") or not line.endswith(".")] == []
