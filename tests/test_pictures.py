"""The pictures of the documentation show what there is; tests/e2e/test_picture.py records the terminal again."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from mxrtc_bridge.core.call.events import EVENT_TYPES
from tests import pictures

PAGES = [pictures.ROOT / "README.md", *sorted((pictures.ROOT / "docs").rglob("*.md"))]


def test_the_picture_of_a_call_is_the_one_that_is_drawn_now_and_names_events_that_there_are() -> None:
    assert pictures.CALL.read_text() == pictures.call(), "python -m tests.write_docs"
    named = set(re.findall(r"m\.call\.\w+", pictures.call()))
    assert named
    assert named <= set(EVENT_TYPES)


@pytest.mark.parametrize("path", [pictures.CALL, pictures.TERMINAL], ids=lambda path: path.name)
def test_a_picture_is_shown_and_asks_nobody_for_anything(path: pictures.Path) -> None:
    root = ET.fromstring(path.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "://" not in path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert [page.name for page in PAGES if f"pictures/{path.name})" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_that_a_page_shows_are_there(page: pictures.Path) -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", page.read_text())
    assert [each for each in shown if not (page.parent / each).is_file()] == []


def test_what_a_drawn_terminal_shows_is_read_without_its_numbers() -> None:
    drawn = pictures.terminal([("mxrtc ping <build>", "took 12.5 ms\n& so on")])
    assert pictures.words_of(drawn) == ["$", "mxrtc", "ping", "<build>", "took", "ms", "&", "so", "on"]
