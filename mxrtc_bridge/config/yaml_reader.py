"""YAML text to plain data with the line of every key: the only user of the YAML library's parser.

The library's loaders build objects, follow aliases and recurse; a configuration needs none of that. This reader walks
the parser's flat stream of events, so it can

- refuse aliases, anchors, tags, second documents and keys that are not words, each with its line;
- report a duplicate key instead of letting the last one win;
- bound the depth and the number of values before anything is built.

Scalars follow the JSON-like core of YAML 1.2: ``null``, ``true``/``false``, decimal numbers, everything else is text.
So ``no`` and ``on`` are words, ``010`` is not eight, and a date stays as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mxrtc_bridge.config.problems import KeyPath, Problem, quoted

MAX_DEPTH = 16
MAX_VALUES = 150_000
"""Of the whole file: as many as 256 peers with 128 services each have, with a target and a group each, and the rest of
what the sections allow. A file of a megabyte holds no more that says anything."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,17}\.[0-9]{1,17}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]


@dataclass(slots=True)
class Document:
    """What was read."""

    data: Value = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """Line of each key and list item, from 1."""
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True
    """Whether the text was read to its end; after a syntax error it was not, and ``data`` has the keys before it."""


class _StopReadingError(Exception):
    """The text cannot be read any further."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_yaml(text: str, *, max_values: int = MAX_VALUES) -> Document:
    """Read one YAML document; every mistake ends up in ``problems``, nothing is raised."""
    document = Document()
    try:
        nodes = _nodes(text, max_values)
        if (root := next(nodes, None)) is not None:
            document.data = _read_value(root, nodes, (), document)
            next(nodes, None)  # there is none, or a second document begins, which is refused
    except _StopReadingError as error:
        document.problems.append(Problem((), str(error), error.line))
        document.complete = False
    return document


def _events(text: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        # A quote or bracket that is never closed is better searched where it was opened.
        at_the_end = "end of stream" in str(error.problem)
        mark = error.context_mark if at_the_end and error.context_mark else error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise _StopReadingError(line, f"not valid YAML: {_explain(error, text, line)}") from None
    except (YAMLError, ValueError, IndexError, AssertionError, AttributeError) as error:
        # The library's scanner meets some broken escapes and directives with plain exceptions.
        reason = str(error).strip().splitlines()
        raise _StopReadingError(1, f"not valid YAML: {quoted(reason[0] if reason else type(error).__name__)}") from None


def _explain(error: MarkedYAMLError, text: str, line: int) -> str:
    """The library's words, and for the usual traps of Matrix ids and wildcards what to write instead."""
    reason = " ".join(str(error.problem or error.context or "unknown").split())
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    if "\t" in shown and "'\\t'" in reason:
        return f"{reason} (indent with spaces)"
    if "'@'" in reason:
        return f"{reason} (write user ids in quotes)"
    if "alias" in f"{error.context}":
        return f'{reason} (write "*" in quotes)'
    return reason[:200]


def _nodes(text: str, max_values: int) -> Iterator[Event]:
    """The beginnings and ends of nodes, once they are known to be within the limits."""
    depth = documents = values = 0
    for event in _events(text):
        line = _line_of(event)
        match event:
            case DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise _StopReadingError(line, "a second document begins; the configuration is one document")
            case AliasEvent():
                raise _StopReadingError(line, 'aliases are not used here; write "*" in quotes if you mean everybody')
            case MappingEndEvent() | SequenceEndEvent():
                depth -= 1
                yield event
            case ScalarEvent() | MappingStartEvent() | SequenceStartEvent():
                values += 1
                if values > max_values:
                    raise _StopReadingError(line, f"more than {max_values} values")
                _check_node(event, line, depth)
                depth += not isinstance(event, ScalarEvent)
                yield event


def _line_of(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _check_node(event: ScalarEvent | MappingStartEvent | SequenceStartEvent, line: int, depth: int) -> None:
    if event.anchor is not None:
        raise _StopReadingError(line, f"anchor {quoted(event.anchor)}: anchors and aliases are not used here")
    if event.tag is not None:
        raise _StopReadingError(line, f"tag {quoted(event.tag)}: tags are not used here")
    if depth >= MAX_DEPTH:
        raise _StopReadingError(line, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(event, ScalarEvent) and _SURROGATE.search(event.value):
        raise _StopReadingError(line, "an escape like \\ud83d is half a character; write the whole, like \\U0001f600")


def _read_value(event: Event, nodes: Iterator[Event], path: KeyPath, document: Document) -> Value:
    """Read what begins with ``event``. Calls itself for what is inside, which is never deeper than the limit."""
    document.lines.setdefault(path, _line_of(event))
    if isinstance(event, ScalarEvent):
        return _scalar(event)
    if isinstance(event, SequenceStartEvent):
        items: list[Value] = []
        while not isinstance(item := next(nodes), SequenceEndEvent):
            items.append(_read_value(item, nodes, (*path, len(items)), document))
        return items
    found: dict[str, Value] = {}
    if not path:
        document.data = found
    while not isinstance(key := next(nodes), MappingEndEvent):
        if not isinstance(key, ScalarEvent):
            raise _StopReadingError(_line_of(key), "a key must be a word")
        place = (*path, key.value)
        if key.value in found:
            message = f"this key was given before, in line {document.lines[place]}"
            document.problems.append(Problem(place, message, _line_of(key)))
        document.lines.setdefault(place, _line_of(key))
        value = _read_value(next(nodes), nodes, place, document)
        found.setdefault(key.value, value)
    return found


def _scalar(event: ScalarEvent) -> Value:
    text: str = event.value
    plain: bool = event.implicit[0]
    if not plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
