"""What people type, as bounded words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bot.words import MAX_FREE_TEXT_CHARS, MAX_WORDS, command_words, free_text
from mxrtc_bridge.core.text.durations import MAX_DURATION_S, parse_duration, say_duration, say_rest, take_duration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!rtc peers", ("peers",)),
        ("  !RTC   open\u00a0build \n", ("open", "build")),
        ("!rtc", ("help",)),
        ("!rtcpeers", None),
        ("please !rtc peers", None),
        ("", None),
        (" \u2003\n", None),
    ],
)
def test_a_room_of_many_needs_the_prefix(text: str, words: tuple[str, ...] | None) -> None:
    assert command_words(text, direct=False) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("peers", ("peers",)),
        ("!rtc peers", ("peers",)),
        (" \t", None),
        ("/help open", ("help", "open")),
        ("how build/ssh", ("how", "build/ssh")),
        ("/", ("/",)),
    ],
)
def test_a_direct_chat_needs_no_prefix(text: str, words: tuple[str, ...] | None) -> None:
    assert command_words(text, direct=True) == words


@given(st.text(st.characters(blacklist_categories=()), max_size=300), st.booleans())
def test_any_text_is_read_without_an_error(text: str, direct: bool) -> None:
    words = command_words(text, direct=direct)
    assert words is None or 0 < len(words) <= MAX_WORDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("30min", 1800),
        ("2h", 7200),
        ("2H", 7200),
        ("3d", 259200),
        ("1w", 604800),
        ("1h30m", 5400),
        ("90d", MAX_DURATION_S),
        ("1s", 1),
        ("91d", None),
        ("0h", None),
        ("2", None),
        ("h", None),
        ("2y", None),
        ("-2h", None),
        ("2.5h", None),
        ("", None),
        ("9999999h", None),
        ("500ms", None),
        ("\u0662h", None),
        ("2h" * 30, None),
    ],
)
def test_duration(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


def test_duration_of_two_words() -> None:
    assert take_duration(("2", "hours", "because", "x")) == (7200, ("because", "x"))
    assert take_duration(("2h", "because")) == (7200, ("because",))
    assert take_duration(()) == (None, ())


@given(st.integers(1, MAX_DURATION_S))
def test_a_duration_that_is_said_can_be_typed(seconds: int) -> None:
    said = parse_duration(say_duration(seconds))
    assert said is not None
    assert said <= seconds < said + max(60, seconds // 24)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (7199.9, "2h"),
        (7200, "2h"),
        (5431, "1h31m"),
        (3569, "59m29s"),
        (3571, "1h"),
        (61.4, "1m1s"),
        (0, "0s"),
        (-5, "0s"),
        (172_799, "2d"),
    ],
)
def test_what_was_just_given_lasts_as_long_as_was_said(seconds: float, said: str) -> None:
    assert say_rest(seconds) == said


@given(st.lists(st.text(st.characters(blacklist_categories=()), max_size=120), max_size=20))
def test_free_text_can_be_stored_and_is_bounded(words: list[str]) -> None:
    text = free_text(tuple(words))
    assert len(text) <= MAX_FREE_TEXT_CHARS
    assert "\0" not in text
    assert "\u202e" not in text
    text.encode()
