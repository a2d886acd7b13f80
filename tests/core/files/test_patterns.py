"""Patterns from the other side: what they match, and what they may cost."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.files.names import FileNameError
from mxrtc_bridge.core.files.patterns import (
    MAX_PATTERNS,
    Asked,
    Selection,
    literal_path,
    name_allowed,
    parse_name_pattern,
    parse_path_pattern,
)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "a", True),
        ("*", ".a", False),
        (".*", ".a", True),
        ("?a", ".a", False),
        ("[.]a", ".a", False),
        ("*.txt", "a.txt", True),
        ("*.txt", "a.txt.gz", False),
        ("a*b*c", "aXXbYYc", True),
        ("a*b*c", "aXXbYY", False),
        ("**x", "aax", True),
        ("?", "é", True),
        ("?", "", False),
        ("[a-c]", "b", True),
        ("[!a-c]", "b", False),
        ("[^a-c]", "d", True),
        ("[]]", "]", True),
        ("[a-]", "-", True),
        ("[z-a]", "m", False),
        ("a+b", "a+b", True),
        ("(.*)", "x", False),
    ],
)
def test_a_name_pattern_matches_as_in_a_shell(pattern: str, name: str, matches: bool) -> None:
    assert parse_name_pattern(pattern).matches(name) is matches


@pytest.mark.parametrize("pattern", ["", "a/b", "[", "[abc", "[]", "a\0", "x" * 201])
def test_a_broken_name_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(FileNameError, match="pattern"):
        parse_name_pattern(pattern)


@pytest.mark.parametrize("pattern", ["../a", "a/..", "a/" * 33, "x/" * 513, "a/[", "\ud800" * 400])
def test_a_broken_path_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(FileNameError, match="pattern"):
        parse_path_pattern(pattern)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    """A hundred stars against a name that almost matches: milliseconds, not years."""
    pattern = parse_name_pattern("a*" * 99 + "b")
    begun = time.process_time()
    assert not pattern.matches("a" * 200)
    assert time.process_time() - begun < 0.5


def test_a_deep_pattern_made_to_be_slow_is_not() -> None:
    selection = Selection([parse_path_pattern("**/a/" * 15 + "b")] * MAX_PATTERNS)
    place = selection.root
    for _ in range(32):
        place = selection.below(place, "a")
        assert len(place.positions) <= MAX_PATTERNS * 32
    assert not place.selected


def test_a_name_with_brackets_can_be_named() -> None:
    assert parse_name_pattern("a[1].txt").matches("a[1].txt")
    assert parse_name_pattern("a[1].txt").matches("a1.txt")


def test_a_literal_path_selects_itself_or_what_is_below() -> None:
    """Characters that are special in patterns are not special here."""
    itself, below = Selection([literal_path(("[a]", "b"))]), Selection([literal_path(("[a]",), below=True)])
    assert itself.below(itself.below(itself.root, "[a]"), "b").selected
    assert not itself.below(itself.root, "a").leads_on
    directory = below.below(below.root, "[a]")
    assert not directory.selected
    assert below.below(directory, "b").selected
    assert not below.below(directory, ".b").selected


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(FileNameError, match="65 patterns"):
        Selection([parse_path_pattern("a")] * (MAX_PATTERNS + 1))


def selected(pattern: str, path: str) -> bool:
    selection = Selection([parse_path_pattern(pattern)])
    place = selection.root
    for name in path.split("/"):
        place = selection.below(place, name)
    return place.selected


@pytest.mark.parametrize(
    ("pattern", "path", "chosen"),
    [
        ("", "a/b", True),
        ("/", "a", True),
        (".", "a", True),
        ("a", "a", True),
        ("a/", "a/b/c", True),
        ("a", "b/a", False),
        ("a/*.txt", "a/x.txt", True),
        ("a/*.txt", "a/b/x.txt", False),
        ("**/x", "x", True),
        ("**/x", "a/b/c/x", True),
        ("**/x", "a/b/c/y", False),
        ("a/**/x", "a/x", True),
        ("a/**/x", "b/x", False),
        ("a/**", "a/b", True),
        ("**", "a/b/c", True),
        ("*", ".git", False),
        ("**/config", ".git/config", False),
        (".git", ".git/config", True),
    ],
)
def test_a_path_pattern_selects_files_and_whole_directories(pattern: str, path: str, chosen: bool) -> None:
    assert selected(pattern, path) is chosen


def test_a_walk_knows_where_nothing_more_can_match() -> None:
    selection = Selection([parse_path_pattern("docs/*.txt"), parse_path_pattern("src/a/b")])
    assert selection.names(selection.root) == {"docs", "src"}
    docs = selection.below(selection.root, "docs")
    assert selection.names(docs) is None
    assert docs.leads_on
    assert not docs.selected
    assert not selection.below(docs, "x.png").leads_on
    assert not selection.below(selection.root, "other").leads_on
    src = selection.below(selection.root, "src")
    assert selection.names(src) == {"a"}


@pytest.mark.parametrize(
    ("pattern", "base"),
    [("", 0), ("a", 0), ("a/b", 1), ("a/b/*.txt", 2), ("*/x", 0), ("a/*/x", 1), ("a/**", 1), ("**", 0)],
)
def test_what_is_fetched_leaves_the_place_it_was_named_by_behind(pattern: str, base: int) -> None:
    assert parse_path_pattern(pattern).base == base


def test_allowed_names_are_all_where_none_are_given() -> None:
    assert name_allowed("x.exe", [])
    allowed = [parse_name_pattern("*.pdf"), parse_name_pattern("*.txt")]
    assert name_allowed("a.pdf", allowed)
    assert not name_allowed("a.pdf.exe", allowed)


@given(st.text(alphabet="ab*?[]!-.", min_size=1, max_size=12), st.text(alphabet="ab.-!]", min_size=1, max_size=8))
def test_patterns_mean_what_the_standard_library_takes_them_for(pattern: str, name: str) -> None:
    """Apart from leading dots, brackets that are not closed, and patterns that stand for themselves as well."""
    if name[0] == "." or "^" in pattern or name == pattern:
        return
    try:
        parsed = parse_name_pattern(pattern)
    except FileNameError:
        return
    assert parsed.matches(name) == fnmatch.fnmatchcase(name, pattern)


_PARTS = st.lists(st.sampled_from(["a", "b", "ab", ".a", "*", "a*", "?", "**", "[ab]"]), max_size=4)


@given(
    st.lists(_PARTS, min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "b", "ab", ".a"]), min_size=1, max_size=5),
)
def test_who_asks_knows_again_all_that_is_selected(patterns: list[list[str]], path: list[str]) -> None:
    texts = ["/".join(parts) for parts in patterns]
    selection = Selection([parse_path_pattern(text) for text in texts])
    place = selection.root
    for depth, name in enumerate(path):
        place = selection.below(place, name)
        offered = path[selection.base(place) : depth + 1] if place.selected else []
        assert not offered or Asked(texts).means("/".join(offered))


@pytest.mark.parametrize(
    ("pattern", "asked", "not_asked"),
    [
        ("report.pdf", "report.pdf", "Makefile"),
        ("docs/report.pdf", "report.pdf", "docs/report.pdf"),
        ("docs/*.pdf", "a.pdf", "a.sh"),
        ("docs", "docs/a/b", "doc"),
        ("docs/2024", "2024/a", "2025/a"),
        ("docs/**/*.pdf", "a/b/c.pdf", "a/b/c.sh"),
        ("a[1]", "a[1]", "a2"),
    ],
)
def test_who_asks_knows_what_was_not_asked_for(pattern: str, asked: str, not_asked: str) -> None:
    assert Asked([pattern]).means(asked)
    assert not Asked([pattern]).means(not_asked)
    assert Asked([""]).means(not_asked), "everything"


@pytest.mark.parametrize("pattern", ["a[", "../a", "x" * 2000])
def test_what_is_no_pattern_asks_for_nothing(pattern: str) -> None:
    assert not Asked([pattern]).means("a")
    assert Asked([pattern, "a"]).means("a")
