"""What the shell completes, and that help says each command in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli.command_pages import PROGRAMS, printed_help

BIN = Path(sys.executable).parent


def completed(program: str, *words: str) -> list[str]:
    """What bash would be told, as it asks."""
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    asked = {variable: "bash_complete", "COMP_WORDS": " ".join([program, *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run([BIN / program], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.programs
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mxrtc", "se"), ["plain,send"]),
        (("mxrtc", "send", "rep"), ["file,rep"]),
        (("mxrtc", "get", "build/share:x", "-o", "pa"), ["file,pa"]),
        (("mxrtc", "get", "--no-re"), ["plain,--no-resume", "plain,--no-reconnect"]),
        (("mxrtc-bridge", "gr"), ["plain,grant", "plain,grants"]),
        (("mxrtc-bridge", "who", "-c", "/etc/mx"), ["file,/etc/mx"]),
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
