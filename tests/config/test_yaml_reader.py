"""YAML to plain data: lines, duplicates, and everything that is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.config.problems import Problem
from mxrtc_bridge.config.yaml_reader import MAX_DEPTH, MAX_VALUES, read_yaml
from mxrtc_bridge.config.yaml_writer import scalar
from tests.long import examples, size


def test_values_keep_their_types_and_lines() -> None:
    text = "a: 1\nb:\n  c: [x, true, ~, 1.5]\n  'd': \"2\"\ne:\n- f: 007\n- 2030-01-31\n"
    document = read_yaml(text)
    assert document.data == {"a": 1, "b": {"c": ["x", True, None, 1.5], "d": "2"}, "e": [{"f": "007"}, "2030-01-31"]}
    assert document.problems == []
    assert document.lines[("b",)] == 2
    assert document.lines[("b", "c", 3)] == 3
    assert document.lines[("b", "d")] == 4
    assert document.lines[("e", 0, "f")] == 6
    assert document.lines[("e", 1)] == 7


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "True", "NULL", "0x1f", "0o7", "1_000", "1e3", ".inf"])
def test_words_of_other_yaml_versions_are_text(word: str) -> None:
    assert read_yaml(f"a: {word} # comment").data == {"a": word}


def test_keys_are_always_text() -> None:
    assert read_yaml("8080: a\ntrue: b\n").data == {"8080": "a", "true": "b"}


def test_every_duplicate_key_is_reported_and_the_first_value_stays() -> None:
    document = read_yaml("a: 1\nb: {c: 1, c: {d: 2}}\na: [2, 3]\na: 4\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert document.problems == [
        Problem(("b", "c"), "this key was given before, in line 2", 2),
        Problem(("a",), "this key was given before, in line 1", 3),
        Problem(("a",), "this key was given before, in line 1", 4),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: &x 1\nb: *x\n", 1, "anchors and aliases are not used here"),
        ("a: 1\nb: *x\n", 2, "aliases are not used here"),
        ("a: 1\nb: [*]\n", 2, 'write "*" in quotes'),
        ("a: @alice:example.org\n", 1, "write user ids in quotes"),
        ("a:\n\tb: 1\n", 2, "indent with spaces"),
        ("a: !!python/object:os.system x\n", 1, "tags are not used here"),
        ("a: !x 1\n", 1, "tags are not used here"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("? [a, b]\n: 1\n", 1, "a key must be a word"),
        ("a: 'x\n", 1, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
        ("a: 'x\nb: 1\n", 1, "not valid YAML"),
        ("a: 1\nb: \"\\ud83d\\ude00\"\n", 2, "half a character"),
        ("a: \x00\n", 1, "not valid YAML"),
        ("%YAML 9.9\n---\na: 1\n", 1, "not valid YAML"),
        ("a: \"\\ud800 \\x\"\n", 1, "not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, line: int, message: str) -> None:
    document = read_yaml(text)
    assert not document.complete
    [problem] = document.problems
    assert message in problem.message
    assert problem.line == line


@pytest.mark.parametrize(("depth", "fine"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_depth_is_bounded(depth: int, fine: bool) -> None:
    assert read_yaml("[" * depth + "]" * depth).complete is fine


@pytest.mark.parametrize("text", ["[" * 1_000_000, "{a: " * 300_000, "- " * 500_000, "? " * 500_000])
def test_a_deep_file_costs_nothing(text: str) -> None:
    start = time.process_time()
    assert not read_yaml(text).complete
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("more", "fine"), [(-2, True), (-1, True), (0, False)])
def test_the_number_of_values_is_bounded(more: int, fine: bool) -> None:
    """The list itself counts as one. As many services as the sections allow are fewer."""
    assert MAX_VALUES > 256 * 128 * 4
    limit = size(MAX_VALUES, 1000)
    assert read_yaml("[" + "1," * (limit + more) + "]", max_values=limit).complete is fine


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_what_is_written_reads_back(data: dict[str, object]) -> None:
    document = read_yaml(scalar(data))
    assert document.problems == []
    assert document.data == data


@settings(max_examples=examples(300), deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:- \n{}[]&*!|>'\"%@`,?#0\\\t~"), max_size=60) | st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    document = read_yaml(text)
    assert document.complete or document.problems
    for problem in document.problems:
        assert problem.message.isprintable()
