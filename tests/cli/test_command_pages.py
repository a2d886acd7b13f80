"""The reference pages of the two programs are what the programs say about themselves."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from tests.cli import command_pages


@pytest.mark.parametrize(
    ("page", "make"),
    [
        (command_pages.USER_PAGE, command_pages.user_page),
        (command_pages.ADMIN_PAGE, command_pages.admin_page),
    ],
    ids=["mxrtc", "mxrtc-bridge"],
)
def test_the_page_is_what_the_program_says(page: Path, make: object) -> None:
    assert callable(make)
    assert page.read_text() == make(), "run 'make docs'"


@pytest.mark.parametrize("program", ["mxrtc", "mxrtc-bridge"])
def test_the_page_leaves_no_command_and_no_option_out(program: str) -> None:
    """Compared with the help as it is printed, which the page is not made from."""
    page = (command_pages.REFERENCE / f"{program}.md").read_text()
    printed = partial(command_pages.printed_help, program)

    def commands(*words: str) -> list[str]:
        """All commands that do something, each with the words before it."""
        listed = printed(*words).partition("Commands:")[2].partition("\n\n")[0]
        names = re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)
        return [each for name in names for each in commands(*words, name)] if names else [" ".join(words)]

    found = commands()
    assert len(found) > 5
    assert re.findall(rf"^## `{program} ([a-z -]+)`$", page, re.MULTILINE) == sorted(found)
    for words in ([], *(command.split() for command in found)):
        options = set(
            re.findall(r"(?<![\w-])--[a-z-]+", printed(*words).partition("Options:")[2].partition("Commands:")[0])
        )
        if words:
            options -= {"--quiet", "--verbose", *(["--json"] if program == "mxrtc" else [])}  # said once, at the top
        section = page.partition(f"## `{program} {' '.join(words)}`")[2].partition("\n## ")[0] if words else page
        assert {option for option in options - {"--help", "--version"} if f"`{option}`" not in section} == set()


def test_sentences_stand_on_lines_of_their_own_and_commands_in_blocks() -> None:
    text = "One. Two, e.g. three.\nFour: Five.\n\nssh -o x"
    assert command_pages._sentences(text) == "One.\nTwo, e.g. three.\nFour:\nFive.\n\n```sh\nssh -o x\n```"
