"""Many patterns at once: they mean what they say, and no text and no patterns make that expensive."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.text.globs import MAX_STEPS, MAX_WILDCARDS, Glob, GlobIndex, TooManyWildcards
from tests.long import size, some

letters = st.text("ab:.*?\n[", max_size=12)
texts = st.text("ab:.\n[", max_size=12)


def stands_for(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


@given(letters, texts)
def test_wildcards_mean_what_a_regular_expression_says(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) == stands_for(pattern, text)


@given(st.lists(letters, max_size=20), st.sets(st.integers(0, 19)), texts)
def test_an_index_agrees_with_a_walk_over_all_patterns(patterns: list[str], gone: set[int], text: str) -> None:
    index: GlobIndex[int] = GlobIndex()
    for number, pattern in enumerate(patterns):
        index.add(number, Glob(pattern))
    left = dict(enumerate(patterns))
    for number in gone & left.keys():
        index.remove(number)
        del left[number]
    found, complete = index.find(text)
    assert complete
    assert len(index) == len(left)
    expected = {number for number, pattern in left.items() if stands_for(pattern, text)}
    assert found in expected if expected else found is None


def test_a_pattern_has_a_limit_of_places_with_wildcards() -> None:
    for pattern in ("a*" * MAX_WILDCARDS, "a??*??" * MAX_WILDCARDS, "?" * 255, "*" * 255):
        Glob(pattern)
    for pattern in ("a*" * (MAX_WILDCARDS + 1), "a?" * (MAX_WILDCARDS + 1), "*a" * 127):
        with pytest.raises(TooManyWildcards):
            Glob(pattern)


SHAPES: dict[str, Callable[[int], str]] = {
    "a word anywhere": lambda n: f"*w{n}x*",
    "a word in a local part": lambda n: f"@*spam{n}*:*",
    "one letter anywhere": lambda n: f"*{'bcdefghijk'[n % 10]}*{n}*",
    "a domain": lambda n: f"*.evil{n}.test",
    "question marks": lambda n: "?" * (n % 200) + f"x{n}*",
    "question marks around a colon": lambda n: "@" + "?" * (n % 150) + ":" + "?" * (n // 150) + "z",
    "a common beginning": lambda n: f"@{'a' * 200}{n}*",
    "a common beginning and something later": lambda n: f"@{'a' * 200}*{n}*:*",
    "long": lambda n: f"@{'a' * 100}*{'b' * 100}{n}:*",
    "many stars": lambda n: "*a" * 14 + f"*{n}b",
    "many stars that almost fit": lambda n: "*a" * (n % 14 + 1) + "a" * (n // 14 % 100) + "*b",
    "nothing but one letter": lambda n: f"*{'a' * (n % 140 + 1)}*{'a' * (n // 140 + 1)}*b*",
    "question marks and one letter": lambda n: "@" + "?" * (n % 140 + 1) + "a" * (n // 140 + 1) + "b*",
}
"""Thousands of each, as somebody would write them who wants to make them expensive."""

IDS = ["@" + "a" * 242 + ":evil.test", "@" + "aaaab" * 48 + ":evil.test", "@" + "0123456789" * 24 + ":evil.test"]


@pytest.mark.parametrize("shape", some(list(SHAPES), 3))
def test_a_text_costs_few_steps_whatever_the_patterns_are(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are searches within one text and grams that are looked up, of which a text has four for a character."""
    index: GlobIndex[int] = GlobIndex()
    for number, pattern in enumerate(dict.fromkeys(map(SHAPES[shape], range(size(6_000, 1_500))))):
        index.add(number, Glob(pattern))
    steps = 0
    compare = Glob.compare

    def counted(glob: Glob, framed: str) -> tuple[bool, int]:
        nonlocal steps
        found, more = compare(glob, framed)
        steps += more
        return found, more

    monkeypatch.setattr(Glob, "compare", counted)
    for text in IDS:
        steps = 0
        index.find(text)
        assert steps <= MAX_STEPS + 255, text


def test_a_long_list_of_usual_rules_is_compared_in_a_handful_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    index: GlobIndex[int] = GlobIndex()
    for number in range(6_000):
        index.add(number, Glob((f"@spam{number}*:*", f"*.evil{number}.test", f"@*x{number}x*:example.*")[number % 3]))
    compared: list[Glob] = []
    compare = Glob.compare
    monkeypatch.setattr(Glob, "compare", lambda glob, framed: (compared.append(glob), compare(glob, framed))[1])
    assert index.find("@a-usual-name:example.org") == (None, True)
    assert len(compared) < 50
    assert index.find("@spam17:example.org") == (None, True)
    assert index.find("@spam18:example.org")[0] == 18
