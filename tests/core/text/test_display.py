"""Untrusted text is shown, never interpreted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.text.display import display, is_text, quoted, sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("build/ssh", "build/ssh"),
        ("Gr\u00fc\u00dfe \u65e5\u672c", "Gr\u00fc\u00dfe \u65e5\u672c"),
        ("a\nb\r\tc", "a\\x0ab\\x0d\\x09c"),
        ("\x1b]52;c;ZWNobw==\x07", "\\x1b]52;c;ZWNobw==\\x07"),
        ("\x9b31m\x00\x7f", "\\x9b31m\\x00\\x7f"),
        ("abc\u202etxt.exe\u2066", "abc\\u202etxt.exe\\u2066"),
        ("a\u200bb\ufeff\u2028", "a\\u200bb\\ufeff\\u2028"),
        ("a\u00a0b\u3000", "a\\xa0b\\u3000"),
        ("\ud800", "\\ud800"),
        ("\U000e0041\ue000\U0010ffff", "\\U000e0041\\ue000\\U0010ffff"),
        ("\\x1b", "\\\\x1b"),
        ("\u0301a\u0301", "\\u0301a\u0301"),
        ("a\u3164\ufe0f", "a\\u3164\\ufe0f"),
    ],
)
def test_display_shows_escapes_for_what_a_terminal_would_obey_or_hide(text: str, shown: str) -> None:
    assert display(text) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abcde", 5, "abcde"),
        ("abcdef", 5, "abcd\u2026"),
        ("abc\x1b", 7, "abc\\x1b"),
        ("abc\x1b", 6, "abc\u2026"),
        ("abc\x1bd", 7, "abc\u2026"),
        ("\u65e5\u672c\u8a9e", 6, "\u65e5\u672c\u8a9e"),
        ("\u65e5\u672c\u8a9e", 5, "\u65e5\u672c\u2026"),
        ("\u65e5\u672c\u8a9e", 4, "\u65e5\u2026"),
        ("ab", 1, "\u2026"),
        ("\x1b", 1, "\u2026"),
        ("a", 1, "a"),
    ],
)
def test_display_cuts_at_the_limit_and_never_inside_an_escape(text: str, limit: int, shown: str) -> None:
    assert display(text, limit) == shown


def test_display_refuses_a_limit_without_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        display("a", 0)


def test_display_looks_only_at_the_beginning_of_a_huge_text() -> None:
    assert display("a" * 50_000_000) == "a" * 119 + "\u2026"


@given(st.text(max_size=300), st.integers(1, 150))
def test_display_is_always_printable_and_within_its_columns(text: str, limit: int) -> None:
    shown = display(text, limit)
    assert shown.isprintable()
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown)
    assert columns <= limit
    assert not any(
        unicodedata.bidirectional(char) in {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI"} for char in shown
    )


@given(st.text(max_size=20), st.text(max_size=20))
def test_display_shows_different_texts_differently(one: str, other: str) -> None:
    assert (display(one, 1000) == display(other, 1000)) == (one == other)


@pytest.mark.parametrize(
    ("clause", "whole"),
    [
        ("the homeserver is away; try again", "The homeserver is away; try again."),
        (
            "interrupted; the same command goes on:\nmxrtc send a b",
            "Interrupted; the same command goes on:\nmxrtc send a b",
        ),
        ("It is one already.", "It is one already."),
        ("is this a homeserver?", "Is this a homeserver?"),
        ("build/ssh: your right to it has ended", "build/ssh: your right to it has ended."),
        ("matrix.example did not answer", "matrix.example did not answer."),
        ("@bob:example.org has no device", "@bob:example.org has no device."),
        ("", "."),
    ],
)
def test_clause_becomes_a_sentence_and_a_name_stays_as_it_is(clause: str, whole: str) -> None:
    assert sentence(clause) == whole


def test_a_name_in_an_error_is_not_escaped_twice() -> None:
    assert display(quoted("a\u202eb.txt") + " is taken") == "'a\ufffdb.txt' is taken"
    assert display(quoted("caf\udce9 ü and more", 6)) == "'caf\ufffd ü'"
    assert display(quoted("\u0301a\\")) == "'\ufffda\\\\'"


def test_bytes_that_are_no_text_are_told_from_text() -> None:
    assert [is_text(text) for text in ("ü\U0001f600", "", "caf\udce9")] == [True, True, False]
