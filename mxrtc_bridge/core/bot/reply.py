"""What the bridge says in a chat: lines of parts, written as plain text and as HTML, in pages.

Must never let a character of anybody's text become markup, drive a client's layout, or call anybody's attention: each
part passes :func:`mxrtc_bridge.core.text.display.display` and is escaped, and there is no part that takes markup.

HTML is the small subset of the specification ("m.room.message msgtypes", ``formatted_body``). A page holds whole lines
and is bounded, so that no answer is refused by a homeserver for its size (64 KiB an event); at most :data:`MAX_PAGES`
are written, and the last one says that there was more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from urllib.parse import quote

from mxrtc_bridge.core.text.display import display

PAGE_CHARS = 3500
"""Of plain text; the HTML of a page is at most a few times as long."""
MAX_PAGES = 4
MAX_PART_COLUMNS = 500
MORE = "There is more than fits here."


@dataclass(frozen=True, slots=True)
class Code:
    """Something to type or to copy."""

    text: str


@dataclass(frozen=True, slots=True)
class Strong:
    """Something to see at first."""

    text: str


@dataclass(frozen=True, slots=True)
class MatrixLink:
    """A user or a room, as a link that clients open."""

    target: str
    """A Matrix id."""
    text: str


Part = str | Code | Strong | MatrixLink


class Shape(Enum):
    """How a line stands."""

    TEXT = "p"
    ITEM = "li"
    CODE = "pre"


@dataclass(frozen=True, slots=True)
class Line:
    """One line."""

    parts: tuple[Part, ...]
    shape: Shape = Shape.TEXT


def text(*parts: Part) -> Line:
    """A paragraph."""
    return Line(parts)


def item(*parts: Part) -> Line:
    """An entry of a list."""
    return Line(parts, Shape.ITEM)


def code(line: str) -> Line:
    """A line to copy as a whole."""
    return Line((line,), Shape.CODE)


@dataclass(frozen=True, slots=True)
class Reply:
    """All that is said at once."""

    lines: tuple[Line, ...]
    fields: Mapping[str, object] = field(default_factory=dict)
    """The same for programs: goes into the content of the first page's event, beside its body."""
    rows: Mapping[str, object] | None = None
    """The same as rows, for whoever asks at the bridge's machine; never sent to a room."""


def answer(*lines: Line, rows: Mapping[str, object] | None = None) -> Reply:
    """Put lines together."""
    return Reply(lines, rows=rows)


def say(*parts: Part) -> Reply:
    """An answer of one line."""
    return Reply((Line(parts),))


@dataclass(frozen=True, slots=True)
class ReplyPart:
    """What goes into one event."""

    plain: str
    html: str


def pages(said: Reply, *, page_chars: int = PAGE_CHARS, max_pages: int = MAX_PAGES) -> tuple[ReplyPart, ...]:
    """Write an answer: as many pages as it takes, at most ``max_pages``; none for an answer without lines."""
    groups = list(_groups(said.lines, page_chars))
    if len(groups) > max_pages:
        groups = groups[:max_pages]
        groups[-1] = [*groups[-1], text(MORE)]
    return tuple(ReplyPart("\n".join(_plain(line) for line in group), _html(group)) for group in groups)


def _groups(lines: Iterable[Line], page_chars: int) -> Iterator[list[Line]]:
    group: list[Line] = []
    size = 0
    for line in lines:
        length = len(_plain(line)) + 1
        if group and size + length > page_chars:
            yield group
            group, size = [], 0
        group.append(line)
        size += length
    if group:
        yield group


def _shown(part: Part) -> str:
    return display(part if isinstance(part, str) else part.text, MAX_PART_COLUMNS)


def _plain(line: Line) -> str:
    said = "".join(f"`{_shown(part)}`" if isinstance(part, Code) else _shown(part) for part in line.parts)
    return f"- {said}" if line.shape is Shape.ITEM else said


def _html(lines: Sequence[Line]) -> str:
    pieces: list[str] = []
    shape: Shape | None = None
    for line in lines:
        if line.shape is not shape:
            pieces.append(_closing(shape) + _OPENING[line.shape])
            shape = line.shape
        said = "".join(_html_part(part) for part in line.parts)
        match shape:
            case Shape.TEXT:
                pieces.append(f"<p>{said}</p>")
            case Shape.ITEM:
                pieces.append(f"<li>{said}</li>")
            case Shape.CODE:
                pieces.append(f"{said}\n")
    return "".join(pieces) + _closing(shape)


_OPENING = {Shape.TEXT: "", Shape.ITEM: "<ul>", Shape.CODE: "<pre><code>"}
_CLOSING = {Shape.TEXT: "", Shape.ITEM: "</ul>", Shape.CODE: "</code></pre>"}


def _closing(shape: Shape | None) -> str:
    return "" if shape is None else _CLOSING[shape]


def _html_part(part: Part) -> str:
    shown = escape(_shown(part))
    match part:
        case Code():
            return f"<code>{shown}</code>"
        case Strong():
            return f"<strong>{shown}</strong>"
        case MatrixLink(target=target):
            # A lone surrogate has no form in UTF-8, so none in a link either.
            href = quote(target.encode("utf-8", "replace"), safe="@:!$#")
            return f'<a href="https://matrix.to/#/{escape(href)}">{shown}</a>'
    return shown
