"""The page of the chat commands, and that what it shows is understood."""

from __future__ import annotations

import re

import pytest

from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Mistake
from mxrtc_bridge.core.bot.parser import parse_command
from mxrtc_bridge.core.bot.words import command_words
from tests.bridge.bot import commands_page
from tests.chat_commands import COMMANDS


def test_the_page_is_made_from_the_table() -> None:
    assert commands_page.PAGE.read_text() == commands_page.render(), "run 'make docs'"


def test_every_example_of_the_page_is_a_command() -> None:
    examples = re.findall(r"`([^`]+)`", "".join(re.findall(r"[^|]+ \|$", commands_page.render(), re.MULTILINE)))
    assert len(examples) > 20
    for example in examples:
        words = command_words(example, direct=True)
        assert words is not None
        assert not isinstance(parse_command(words, COMMANDS, Names("example.org")), Mistake), example


@pytest.mark.parametrize(("name", "least"), [("access.md", 9), ("audit.md", 3)])
def test_every_line_of_a_how_to_page_is_a_command(name: str, least: int) -> None:
    page = (commands_page.PAGE.parent.parent / "how-to" / name).read_text()
    lines = re.findall(r"^> (.+)$", page, re.MULTILINE)
    assert len(lines) >= least
    for line in lines:
        words = command_words(line, direct=True)
        assert words is not None
        assert not isinstance(parse_command(words, COMMANDS, Names("example.org")), Mistake), line
