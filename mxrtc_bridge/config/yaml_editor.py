"""Change a few places of a YAML text and leave every other character as it is: comments, order, quotes, indentation.

A library that reads a document and writes it again keeps the comments but lays out the lines anew, and loses a comment
that stands behind what is removed. Here it only says where each value begins and ends, and the text is cut there.
What comes out is read again by whoever asked, and compared with what was meant (:func:`checked`).

Comments above an entry stay when the entry is removed; those within it, and behind it on its last line, go with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from mxrtc_bridge.config.problems import KeyPath
from mxrtc_bridge.config.yaml_reader import read_yaml
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.errors import ConfigError

_DASH = re.compile("^ *-", re.MULTILINE)
_STEP = 2
"""Spaces by which what is written is indented."""


def insert(text: str, path: KeyPath, value: object) -> str:
    """Put a value at the end of the mapping or list that it belongs to.

    Args:
        text: a document without mistakes; its root is a mapping.
        path: where it will be: its parents, and for a mapping the key. Parents that are missing are made.
        value: what to put there; :func:`mxrtc_bridge.config.yaml_writer.scalar` says of which types.
    """
    node: Node = _compose(text)
    for depth, key in enumerate(path):
        assert isinstance(node, CollectionNode)
        child = _children(node).get(key)
        if child is None or (isinstance(child[1], CollectionNode) and not child[1].value):
            wanted = _nested(path[depth + 1 :], value)
            if child is not None:  # {} or [], which is one line of nothing
                begin, end = child[1].start_mark.index, child[1].end_mark.index
                return text[:begin] + scalar(wanted) + text[end:]
            return _append(text, node, key, wanted)
        node = child[1]
    raise KeyError(path)


def replace(text: str, path: KeyPath, value: object) -> str:
    """Put another value in the place of one that is no mapping or list.

    Args:
        text: a document without mistakes.
        path: of a value that is there.
        value: what to put there.
    """
    node: Node = _compose(text)
    for key in path:
        assert isinstance(node, CollectionNode)
        _, node = _children(node)[key]
    return text[: node.start_mark.index] + scalar(value) + text[node.end_mark.index :]


def checked(text: str, wanted: Mapping[str, Any]) -> str:
    """Return the text if it says what was meant.

    Raises:
        ConfigError: it does not, as it is written in a form that these edits cannot change.
    """
    document = read_yaml(text)
    if document.problems or document.data != wanted:
        raise ConfigError("the configuration is written in a form that this command cannot change; edit it by hand")
    return text


def remove(text: str, paths: Iterable[KeyPath]) -> str:
    """Remove entries of mappings and items of lists; what would be left empty goes with its last entry.

    Args:
        text: a document without mistakes; its root is a mapping, of which something stays.
        paths: of what to remove; what lies below another one of them is removed with it.
    """
    root = _compose(text)
    spans = sorted(_spans(text, root, frozenset(paths), ()))
    for begin, end in reversed(spans):
        text = text[:begin] + text[end:]
    return text


def _compose(text: str) -> Node:
    root: Node = YAML(typ="safe", pure=True).compose(text)
    return root


def _nested(path: KeyPath, value: object) -> object:
    for key in reversed(path):
        value = [value] if isinstance(key, int) else {key: value}
    return value


def _children(node: CollectionNode) -> dict[str | int, tuple[Node, Node]]:
    """Of each child where its entry begins, and its value."""
    if isinstance(node, MappingNode):
        return {key.value: (key, value) for key, value in node.value}
    return {index: (item, item) for index, item in enumerate(node.value)}


def _append(text: str, node: CollectionNode, key: str | int, value: object) -> str:
    last = _end(text, list(_children(node).values())[-1][1])
    if node.flow_style:
        entry = scalar(value) if isinstance(key, int) else f"{scalar(key)}: {scalar(value)}"
        return f"{text[:last]}, {entry}{text[last:]}"
    line_end = text.find("\n", last)
    before = (text if line_end < 0 else text[:line_end]).removesuffix("\r")
    after = text[len(before) :]
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [f"- {scalar(value)}"] if isinstance(key, int) else _block(key, value)
    pad = " " * node.start_mark.column
    return before + "".join(f"{newline}{pad}{line}" for line in lines) + (after or newline)


def _block(key: str, value: object) -> Iterator[str]:
    """An entry of a mapping, mappings and lists of them one line for each entry."""
    pad = " " * _STEP
    if isinstance(value, Mapping):
        yield f"{scalar(key)}:"
        for name, item in value.items():
            yield from (pad + line for line in _block(name, item))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        yield f"{scalar(key)}:"
        yield from (f"{pad}- {scalar(item)}" for item in value)
    else:
        yield f"{scalar(key)}: {scalar(value)}"


def _end(text: str, node: Node) -> int:
    """Where the last thing that is no comment ends; of what is in lines, the library tells where the next begins."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        node = list(_children(node).values())[-1][1]
    end: int = node.end_mark.index
    while end > node.start_mark.index and text[end - 1].isspace():
        end -= 1
    return end


def _goes(node: Node, paths: frozenset[KeyPath], here: KeyPath) -> bool:
    """Whether a node is removed: itself, or all that it has."""
    if here in paths:
        return True
    if not isinstance(node, CollectionNode) or not node.value:
        return False
    return all(_goes(value, paths, (*here, key)) for key, (_, value) in _children(node).items())


def _spans(text: str, node: Node, paths: frozenset[KeyPath], here: KeyPath) -> Iterator[tuple[int, int]]:
    """The pieces of the text to be cut out, none within another."""
    if not isinstance(node, CollectionNode) or not any(path[: len(here)] == here for path in paths):
        return
    entries = [(key, value) for key, (_, value) in _children(node).items()]
    begins = list(_begins(text, node))
    staying = [not _goes(value, paths, (*here, key)) for key, value in entries]
    first = staying.index(True)
    line_begin = text.rfind("\n", 0, begins[0]) + 1
    joined = node.flow_style or bool(text[line_begin : begins[0]].strip())
    for index, (key, value) in enumerate(entries):
        end = _end(text, value)
        if staying[index]:
            yield from _spans(text, value, paths, (*here, key))
        elif index < first and joined:
            # What follows takes its place: without a comma before it, or beside the dash of the list around.
            yield begins[index], begins[index + 1]
        elif node.flow_style:
            yield from _flow_entry(text, _end(text, entries[index - 1][1]), begins[index], end)
        else:
            line_end = text.find("\n", end)
            yield text.rfind("\n", 0, begins[index]) + 1, len(text) if line_end < 0 else line_end + 1


def _begins(text: str, node: CollectionNode) -> Iterator[int]:
    """Where each entry begins: its key, or its dash, of which the library only knows the first."""
    before = None
    for begins, value in _children(node).values():
        if isinstance(node, MappingNode) or node.flow_style:
            yield begins.start_mark.index
        elif before is None:
            yield node.start_mark.index
        else:
            dash = _DASH.search(text, before)
            assert dash is not None
            yield dash.end() - 1
        before = _end(text, value)


def _flow_entry(text: str, before: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The pieces of an entry that is not the first: its comma, and itself; a comment between the two stays."""
    comma = text.index(",", before)
    if "#" in text[comma:begin]:
        yield before, comma + 1
        yield begin, end
    else:
        yield before, end
