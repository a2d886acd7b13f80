"""Editing a text: it says what was meant, and what was not meant stays, character by character."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mxrtc_bridge.config.problems import KeyPath
from mxrtc_bridge.config.yaml_editor import checked, insert, remove, replace
from mxrtc_bridge.config.yaml_reader import read_yaml
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.errors import ConfigError

words = st.sampled_from(["a", "b", "ssh", "@x:example.org", "no", "12", "#", "a: b", "it's", "\U0001f600", "x,y", "é"])
values = st.recursive(
    words | st.booleans() | st.integers(0, 9) | st.none(),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(words, inner, min_size=1, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(words, values, min_size=1, max_size=4)


class Layout:
    """A text of some data in one of the many forms that people write."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.comments: list[str] = []

    def _some(self, *choices: str) -> str:
        return self._draw(st.sampled_from(choices))

    def _comment(self) -> str:
        self.comments.append(f"# comment {len(self.comments)}, with a comma")
        return self.comments[-1]

    def flow(self, value: Any) -> str:
        space = self._some("", " ", "\n      ")
        if isinstance(value, dict):
            return "{" + f",{space or ' '}".join(f"{scalar(k)}: {self.flow(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            end = self._some("", ",", " ")
            between = self._some(", ", ",", ",\n      ", f", {self._comment()}\n      ")
            return f"[{space}" + between.join(map(self.flow, value)) + f"{end}]"
        return scalar(value)

    def lines(self, value: Any, indent: int) -> Iterator[str]:
        pad = " " * indent
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if self._draw(st.booleans()):
                yield pad + self._comment()
            head = "-" if isinstance(value, list) else f"{scalar(key)}:"
            in_lines = isinstance(item, dict | list) and self._draw(st.booleans())
            tail = f"  {self._comment()}" if self._draw(st.integers(0, 3)) == 0 else ""
            if not in_lines:
                literal = self._some("", "|-", ">-") if isinstance(item, str) and item.isalnum() else ""
                yield f"{pad}{head} {literal}\n{pad}    {item}" if literal else f"{pad}{head} {self.flow(item)}{tail}"
                continue
            # An item that is a mapping may begin beside its dash, and a list may stand below its key.
            beside = isinstance(value, list) and isinstance(item, dict) and self._draw(st.booleans())
            below = isinstance(value, dict) and isinstance(item, list) and self._draw(st.booleans())
            body = list(self.lines(item, indent if below else indent + 2))
            if beside and not body[0].lstrip().startswith("#"):
                yield f"{pad}- {body[0].lstrip()}"
                yield from body[1:]
            else:
                yield f"{pad}{head}{tail}"
                yield from body

    def text(self, data: dict[str, Any]) -> str:
        text = "\n".join(self.lines(data, 0)) + self._some("", "\n", "\n\n# the end\n")
        return text.replace("\n", self._some("\n", "\r\n"))


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[dict[str, Any], str, list[str]]:
    data = draw(documents)
    layout = Layout(draw)
    text = layout.text(data)
    document = read_yaml(text)
    assume(not document.problems and document.data == data)
    return data, text, [each for each in layout.comments if each in text]


def places(value: Any, here: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*here, key)
            yield from places(item, (*here, key))


def at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def without(value: Any, gone: frozenset[KeyPath], here: KeyPath = ()) -> Any:
    """What stays; an empty tuple for what does not."""
    if here in gone:
        return ()
    if isinstance(value, dict):
        kept = {key: item for key in value if (item := without(value[key], gone, (*here, key))) != ()}
        return kept or ()
    if isinstance(value, list):
        return [item for index, each in enumerate(value) if (item := without(each, gone, (*here, index))) != ()] or ()
    return value


@given(laid_out(), st.data())
def test_what_is_inserted_stands_there_and_nothing_else_is_changed(
    case: tuple[dict[str, Any], str, list[str]], data: st.DataObject
) -> None:
    before, text, _ = case
    parents = [path for path in [(), *places(before)] if isinstance(at(before, path), dict | list)]
    parent = data.draw(st.sampled_from(parents))
    wanted = copy.deepcopy(before)
    there = at(wanted, parent)
    value = data.draw(values)
    key = len(there) if isinstance(there, list) else "new"
    if isinstance(there, list):
        there.append(value)
    else:
        there["new"] = value
    after = insert(text, (*parent, key), value)
    document = read_yaml(after)
    assert document.problems == []
    assert document.data == wanted
    # One piece was put in, and all around it is what was there.
    start = next((i for i, (a, b) in enumerate(zip(text, after, strict=False)) if a != b), len(text))
    assert after.endswith(text[start:]) or after.rstrip("\r\n").endswith(text[start:])


@given(laid_out(), st.data())
def test_what_is_removed_is_gone_and_nothing_else_is(
    case: tuple[dict[str, Any], str, list[str]], data: st.DataObject
) -> None:
    before, text, _ = case
    gone = frozenset(data.draw(st.sets(st.sampled_from(list(places(before))), max_size=4)))
    wanted = without(before, gone)
    assume(wanted != ())
    after = remove(text, gone)
    document = read_yaml(after)
    assert document.problems == [], after
    assert document.data == wanted
    if not gone:
        assert after == text
    # Pieces were cut out, and all that is left is what was there, in its order.
    there = iter(text)
    assert all(character in there for character in after)


def test_comments_around_what_is_removed_stay() -> None:
    text = (
        "# head\na:\n  # about x\n  x: 1  # one\n  # about y\n  y:\n    z: 2\n  # end of a\n# about b\nb: 3\n# foot\n"
    )
    assert remove(text, [("a", "x")]) == text.replace("  x: 1  # one\n", "")
    assert remove(text, [("a", "y")]) == text.replace("  y:\n    z: 2\n", "")
    assert remove(text, [("a", "x"), ("a", "y")]) == "# head\n  # end of a\n# about b\nb: 3\n# foot\n"


def test_parents_that_are_missing_are_made() -> None:
    value = {"target": "tcp:127.0.0.1:22"}
    made = "peers:\n  build:\n    services:\n      ssh:\n        target: tcp:127.0.0.1:22\n"
    made = made.replace("tcp:127.0.0.1:22", scalar("tcp:127.0.0.1:22"))
    assert insert("version: 1\n# end\n", ("peers", "build", "services", "ssh"), value) == f"version: 1\n{made}# end\n"
    assert insert("version: 1", ("grants", 0), {"id": "a"}) == "version: 1\ngrants:\n  - {id: a}\n"
    assert insert("version: 1\ngrants: []  # none\n", ("grants", 0), "a") == "version: 1\ngrants: [a]  # none\n"


@given(st.sampled_from(["1", "'1'", '"x # y"', "abc", "{a: 1}"]), st.sampled_from([2, "two: #", True]))
def test_a_value_is_replaced_where_it_stands(old: str, new: object) -> None:
    text = "# first\na:\n  - b\n  - version: OLD  # why\n    c: OLD\nlast: [OLD]\n".replace("OLD", old)
    for path, count in ((("a", 1, "version"), 0), (("a", 1, "c"), 1), (("last", 0), 2)):
        parts = text.split(old)
        parts[count : count + 2] = [parts[count] + scalar(new) + parts[count + 1]]
        assert replace(text, path, new) == old.join(parts)


def test_what_does_not_say_what_was_meant_is_not_returned() -> None:
    assert checked("a: 1\n", {"a": 1}) == "a: 1\n"
    for text in ("a: 2\n", "a: 1\na: 1\n", "a: [\n"):
        with pytest.raises(ConfigError, match="edit it by hand"):
            checked(text, {"a": 1})
