"""The manual pages are what the programs say about themselves, in words that roff shows as they are."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.cli import man_pages
from tests.cli.command_pages import PROGRAMS, leaves


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_is_what_the_program_says(program: str) -> None:
    assert man_pages.page_of(program).read_text() == man_pages.man_page(program), "run 'make docs'"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_can_be_read(program: str) -> None:
    """No warning, and every command and option stands there as it is typed."""
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=400n", "-ww", man_pages.page_of(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    for name, command in leaves(PROGRAMS[program]):
        assert re.search(rf"^ +{program} {name}( |$)", done.stdout, re.MULTILINE), name
        for option in (option for each in command.params for option in each.opts if option.startswith("-")):
            assert re.search(rf"(^|[ ,]){option}([ ,]|$)", done.stdout, re.MULTILINE), option


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_word_is_divided_on_a_narrow_terminal(program: str) -> None:
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=60n", man_pages.page_of(program)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not re.findall(r"\w+-$", text, re.MULTILINE)


def test_text_is_shown_as_it_is() -> None:
    assert man_pages.escaped(".a 'b' `c` ~d ^e -f \\g") == "\\&.a \\(aqb\\(aq \\(gac\\(ga \\(tid \\(hae \\-f \\eg"
