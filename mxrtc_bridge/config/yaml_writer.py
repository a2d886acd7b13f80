"""Write YAML: scalars that read back as what they were, and sections with their explanation above each key.

A library could dump the data, but not the comments that make a configuration usable; so the few forms that we need
are written here, and every text that comes out is read back by the tests.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mxrtc_bridge.config.schema import Kind
from mxrtc_bridge.config.validation_errors import as_model, item_of, key_of
from mxrtc_bridge.config.values import format_duration

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*(:[A-Za-z0-9_./+-]+)*")
_PLAIN_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+([:/][0-9]+)?|[0-9]+(ms|[smhd])|[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Off:
    """A value that is shown commented out: an example of what could stand there."""

    value: object


def scalar(value: object) -> str:
    """Write one value in YAML; lists and mappings in flow style."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{scalar(key)}: {scalar(item)}" for key, item in value.items()) + "}"
        case str():
            return _text(value)
        case Sequence():
            return "[" + ", ".join(scalar(item) for item in value) + "]"
        case _:
            raise TypeError(f"no YAML form for {type(value).__name__}")


def _text(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) or _PLAIN_ADDRESS.fullmatch(text)
    if is_plain and text.lower() not in _RESERVED:
        return text
    # Without backslashes both quotings read the same; with them, single quotes keep a regex legible.
    if "\\" in text and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    # Not the escapes of JSON: YAML does not join the two halves of a surrogate pair.
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def comment(text: str, indent: int) -> Iterator[str]:
    """Write ``text`` as comment lines."""
    pad = " " * indent
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - indent, break_on_hyphens=False, break_long_words=False):
        yield f"{pad}# {line}"


def default_text(field: FieldInfo) -> str | None:
    """How the default of ``field`` is written in the file; None if it has none, or nothing is its default."""
    written = [item.default for item in field.metadata if isinstance(item, Kind) and item.default is not None]
    default = field.get_default()
    if written:
        return written[-1]
    if field.is_required() or default is None or isinstance(default, BaseModel):
        return None
    if isinstance(default, float):  # the only floats are durations
        return format_duration(default)
    return scalar(default)


def section(model: type[BaseModel], values: Mapping[str, Any], *, complete: bool, indent: int = 0) -> list[str]:
    """Write a section: every key with its explanation.

    Args:
        model: the shape.
        values: what to write, as in the file; :class:`Off` for what is only shown.
        complete: whether keys that ``values`` does not have are written with their default.
        indent: spaces before each line.
    """
    lines: list[str] = []
    for name, field in model.model_fields.items():
        key = key_of(name, model)
        block = list(_entry(key, field, values.get(key), complete, indent))
        if not block:
            continue
        if indent == 0 and lines:
            lines.append("")
        lines += [*comment(field.description or "", indent), *block]
    return lines


def _entry(key: str, field: FieldInfo, value: Any, complete: bool, indent: int) -> Iterator[str]:
    pad = " " * indent
    model, item = as_model(field.annotation), as_model(item_of(field.annotation))
    if value is None:
        default = default_text(field) if complete else None
        if default is not None:
            yield f"{pad}{key}: {default}"
    elif isinstance(value, Off):
        yield f"{pad}# {key}: {scalar(value.value)}"
    elif model is not None:
        body = section(model, value, complete=complete, indent=indent + 2)
        # A key above nothing but comments would mean "nothing stands here".
        mark = "" if any(not line.lstrip().startswith("#") for line in body) else "# "
        yield from (f"{pad}{mark}{key}:", *body)
    elif isinstance(value, Mapping) and item is not None:
        yield from (f"{pad}{key}:", *_named_sections(item, value, complete, indent + 2))
    elif isinstance(value, Mapping):
        yield from (f"{pad}{key}:", *(f"{pad}  {name}: {scalar(item)}" for name, item in value.items()))
    elif isinstance(value, Sequence) and item is not None:
        yield from (f"{pad}{key}:", *_listed_sections(item, value, complete, indent + 2))
    else:
        yield f"{pad}{key}: {scalar(value)}"


def _named_sections(model: type[BaseModel], value: Mapping[str, Any], complete: bool, indent: int) -> Iterator[str]:
    """Sections by name; only the first one is explained, the others hold just what is given."""
    for position, (name, values) in enumerate(value.items()):
        body = section(model, values, complete=complete and position == 0, indent=indent + 2)
        if position:
            body = [line for line in body if not line.lstrip().startswith("#")]
        yield from (f"{' ' * indent}{name}:", *body)


def _listed_sections(model: type[BaseModel], value: Sequence[Any], complete: bool, indent: int) -> Iterator[str]:
    """Sections in a list, one a line, after an explanation of their keys."""
    if complete:
        for name, field in model.model_fields.items():
            yield from comment(f"{key_of(name, model)}: {field.description}", indent)
    yield from (f"{' ' * indent}- {scalar(values)}" for values in value)
