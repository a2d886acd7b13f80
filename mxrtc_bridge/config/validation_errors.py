"""The validation library's findings, in words for the person who edits the file.

The library names a kind of error and a location inside its models; people need the key as it stands in the file, what
was found, what is allowed, and the key they probably meant. Values are shown only for kinds of errors that cannot
occur on a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mxrtc_bridge.config.problems import KeyPath, Problem, near_miss, quoted
from mxrtc_bridge.config.schema import Root

_TYPE_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "empty"}


def key_of(name: str, model: type[BaseModel]) -> str:
    """How the field ``name`` is written in the file."""
    return model.model_fields[name].alias or name


def keys_of(model: type[BaseModel]) -> list[str]:
    """All keys of a section, sorted."""
    return sorted(key_of(name, model) for name in model.model_fields)


def section_at(path: Sequence[str | int]) -> type[BaseModel] | None:
    """The section model at ``path``, or None where a plain value or nothing stands."""
    annotation: Any = Root
    for part in path:
        annotation = _inner(annotation, part)
    return as_model(annotation)


def _inner(annotation: Any, part: str | int) -> Any:
    if (model := as_model(annotation)) is not None:
        fields = {key_of(name, model): field for name, field in model.model_fields.items()}
        return fields[str(part)].annotation if part in fields else None
    return item_of(annotation)


def unwrap(annotation: Any) -> Any:
    """Strip metadata and ``| None``."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
            continue
        options = [option for option in get_args(annotation) if option is not type(None)]
        if len(options) == 1 and type(None) in get_args(annotation):
            annotation = options[0]
            continue
        return annotation


def as_model(annotation: Any) -> type[BaseModel] | None:
    """The section that a value is, or None where it is a plain one."""
    model = unwrap(annotation)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def item_of(annotation: Any) -> Any:
    """What a list or mapping is made of; None for anything else."""
    shape = unwrap(annotation)
    return get_args(shape)[-1] if get_origin(shape) in (dict, list) else None


def problems_from(errors: Sequence[ErrorDetails], prefix: KeyPath = ()) -> list[Problem]:
    """Translate everything that one validation found; ``prefix`` is where the validated value stands."""
    located: list[ErrorDetails] = [{**error, "loc": (*prefix, *error["loc"])} for error in errors]
    return [Problem(_path(error), _MESSAGES.get(error["type"], _other)(error)) for error in located]


def complaint_about(kind: Any, value: object) -> str | None:
    """Why a single value cannot be used, or None if it can.

    Args:
        kind: its type in :mod:`mxrtc_bridge.config.schema`.
        value: as in the file.
    """
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return problems_from(error.errors(include_url=False))[0].message
    return None


def _path(error: ErrorDetails) -> KeyPath:
    # The library marks a bad key of a mapping by a last part of its own.
    return tuple(part for part in error["loc"] if part != "[key]")


def _context(error: ErrorDetails) -> Mapping[str, Any]:
    return error.get("ctx", {})


def _other(error: ErrorDetails) -> str:
    return error["msg"][:1].lower() + error["msg"][1:]


def _unknown_key(error: ErrorDetails) -> str:
    path = _path(error)
    model = section_at(path[:-1])
    known = keys_of(model) if model is not None else []
    return unknown_key(str(path[-1]), known)


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that ``key`` is not one of ``known``."""
    return f"unknown key; allowed here: {', '.join(sorted(known))}{near_miss(key, known)}"


def _filled(text: str) -> Callable[[ErrorDetails], str]:
    """Fill in what was found, and what the library says."""
    return lambda error: text.format(input=quoted(error["input"]), **_context(error))


def _wrong_type(expected: str) -> Callable[[ErrorDetails], str]:
    def message(error: ErrorDetails) -> str:
        found = error["input"]
        if found is None:
            return f"must be {expected}, but nothing stands here; fill it in or remove the line"
        hint = "; write it in quotes" if expected == "text" and isinstance(found, int | float) else ""
        return f"must be {expected}, not {_type_name(found)}{hint}"

    return message


def _type_name(value: object) -> str:
    if isinstance(value, dict):
        return "keys with values"
    return _TYPE_NAMES.get(type(value), "a list")


def _at_least(error: ErrorDetails) -> str:
    return f"{quoted(error['input'])} is too small; at least {_bound(error, 'ge')}"


def _at_most(error: ErrorDetails) -> str:
    return f"{quoted(error['input'])} is too large; at most {_bound(error, 'le')}"


def _bound(error: ErrorDetails, key: str) -> str:
    bound = _context(error)[key]
    # Only durations are written as text, and their bounds are seconds.
    return f"{bound:g}s" if isinstance(error["input"], str) else str(bound)


def _pattern(error: ErrorDetails) -> str:
    pattern = str(_context(error)["pattern"]).removeprefix(r"\A").removesuffix(r"\z")
    return f"{quoted(error['input'])} does not have the form {pattern}"


_MESSAGES: dict[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": _filled("this key is missing"),
    "value_error": _filled("{error}"),
    "string_type": _wrong_type("text"),
    "bool_type": _wrong_type("true or false"),
    "int_type": _wrong_type("a whole number"),
    "float_type": _wrong_type("a number"),
    "list_type": _wrong_type("a list"),
    "dict_type": _wrong_type("keys with values"),
    "model_type": _wrong_type("keys with values"),
    "greater_than_equal": _at_least,
    "less_than_equal": _at_most,
    "literal_error": _filled("{input} is not one of: {expected}"),
    "string_pattern_mismatch": _pattern,
    "too_short": _filled("has {actual_length} entries; at least {min_length} needed"),
    "too_long": _filled("has more than the {max_length} entries that are allowed"),
    "string_too_short": _filled("is too short; at least {min_length} characters"),
    "string_too_long": _filled("is too long; at most {max_length} characters"),
}
