"""The reference page of the configuration, written from the models and compared with the file by a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mxrtc_bridge.config.schema import Kind, Root
from mxrtc_bridge.config.secrets import MAX_FILE_BYTES
from mxrtc_bridge.config.validation_errors import key_of, unwrap
from mxrtc_bridge.config.values import format_duration
from mxrtc_bridge.config.yaml_writer import default_text

_HEAD = f"""\
# Configuration reference

This page is generated from the program; `mxrtc-bridge example-config` prints a complete example.

The file is YAML of at most {MAX_FILE_BYTES // 1024} KiB in UTF-8.
Unknown keys, duplicate keys, aliases and tags are errors, and all mistakes are reported at once, each with its line.
A file that holds a secret must have mode 0600 or 0640 and belong to the bridge's user or to root.
Without any grant the bridge answers nobody.

## Notation

| kind | how it is written |
|---|---|
| duration | whole numbers, each with a unit: `500ms`, `10s`, `5m`, `1h30m`, `30d`, `1w` |
| size | a whole number and a unit: `0B`, `500MiB`, `16GiB`, `2TiB` |
| target | `tcp:HOST:PORT` (an IPv6 address in brackets) or `unix:/absolute/path` |
| listen address | `ADDRESS:PORT` or `unix:/absolute/path` |
| network | an address or `ADDRESS/PREFIX`: `10.0.0.0/8`, `2001:db8::/32` |
| pattern | a name in which `*` stands for any characters, `?` for one and `[abc]` for one of these: `"*.pdf"` |
| date or time | `2030-01-31` (its beginning, UTC) or `2030-01-31T18:00:00+01:00` |
| subject | `"@user:server"`, `"server:example.org"`, `"guest-accounts:example.org"`, `"group:NAME"`, `"room:!id"` or `"*"`; in quotes, because YAML keeps `@` and `*` for itself |
| PEER/SERVICE or PEER | `build/ssh`, or `build` for all services of that peer |

Secrets are looked for in this order: `$MXRTC_HS_TOKEN`, the file named by `$MXRTC_HS_TOKEN_FILE`, `hs_token` or `hs_token_file` in the configuration, and `hs_token` in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`).
The same holds for `as_token`; `$MXRTC_DATABASE` and `$MXRTC_DATABASE_FILE` replace `database`.
"""  # noqa: E501 - one sentence, or one row of a table, a line


def reference_page() -> str:
    """Return the page as Markdown."""
    lines = [_HEAD]
    for title, model, intro in _sections("", Root):
        lines += [f"## {title}" if title else "## The file", "", *([intro, ""] if intro else [])]
        lines += ["| key | kind | default | |", "|---|---|---|---|"]
        lines += [_row(key_of(name, model), field) for name, field in model.model_fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _sections(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel], str]]:
    yield f"`{path}`" if path else "", model, " ".join((model.__doc__ or "").split()) if path else ""
    for name, field in model.model_fields.items():
        shape, suffix = unwrap(field.annotation), ""
        if get_origin(shape) in (dict, list):
            suffix = ".NAME" if get_origin(shape) is dict else "[]"
            shape = unwrap(get_args(shape)[-1])
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            key = key_of(name, model)
            yield from _sections(f"{path}.{key}{suffix}" if path else f"{key}{suffix}", shape)


def _row(key: str, field: FieldInfo) -> str:
    default = default_text(field)
    if field.is_required():
        shown = "required"
    elif default is not None:
        shown = f"`{default}`"
    else:
        shown = ""
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_kind(field)} | {shown} | {text} |"


def _kind(field: FieldInfo) -> str:
    name = _kind_name(field.annotation, field.metadata)
    bounds = dict(_bounds([*_all_metadata(field.annotation), *field.metadata]))
    if "ge" in bounds and "le" in bounds:
        unit = format_duration if name == "duration" else str
        name += f", {unit(bounds['ge'])} to {unit(bounds['le'])}"
    if "max" in bounds and get_origin(unwrap(field.annotation)) in (list, dict):
        name += f", at most {bounds['max']}"
    return name


def _kind_name(annotation: Any, metadata: Any = ()) -> str:
    kinds = [item.text for item in (*_all_metadata(annotation), *metadata) if isinstance(item, Kind)]
    if kinds:
        return kinds[-1]
    shape = unwrap(annotation)
    if get_origin(shape) is Literal:
        return " or ".join(f"`{option}`" for option in get_args(shape))
    if get_origin(shape) is list:
        return f"list of {_kind_name(get_args(shape)[-1])}"
    if get_origin(shape) is dict:
        return f"{_kind_name(get_args(shape)[-1])} by name"
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return "section"
    return {bool: "true or false", str: "text"}[shape]


def _all_metadata(annotation: Any) -> list[Any]:
    """Metadata of an annotation, through nested annotations and ``| None``."""
    found: list[Any] = []
    if hasattr(annotation, "__metadata__"):
        found += [*_all_metadata(get_args(annotation)[0]), *annotation.__metadata__]
    elif type(None) in get_args(annotation):
        found += [item for option in get_args(annotation) for item in _all_metadata(option)]
    return found


def _bounds(metadata: list[Any]) -> Iterator[tuple[str, Any]]:
    for item in metadata:
        match item:
            case Ge():
                yield "ge", item.ge
            case Le():
                yield "le", item.le
            case MaxLen():
                yield "max", item.max_length
            case FieldInfo():
                yield from _bounds(item.metadata)
            case _:
                pass
