"""Draws the pictures of the documentation: a terminal as it was recorded, and the sequence of a call."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
CALL = ROOT / "docs/pictures/call.svg"
TERMINAL = ROOT / "docs/pictures/first-minute.svg"
COLUMNS = 88

# rich's own asks another site for its font: a picture in a page must not tell anybody who reads it.
TERMINAL_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def terminal(commands: Iterable[tuple[str, str]]) -> str:
    """Draw commands, each with what it has printed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command, printed in commands:
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        for line in printed.splitlines():
            console.print(Text(line))
    return console.export_svg(title="mxrtc", code_format=TERMINAL_FORMAT, unique_id="mxrtc")


def words_of(picture: str) -> list[str]:
    """What a drawn terminal shows, in order; numbers, rates and gaps, which differ from run to run, are left out."""
    matrix = picture[picture.index('-matrix">') :]
    shown = " ".join(unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", matrix))
    return re.sub(r"[\d.]+|\S+/s\b", "", shown.replace("\xa0", " ")).split()


@dataclass(frozen=True)
class Message:
    """One arrow.

    Attributes:
        start: the column that it comes from, from 0.
        end: the column that it goes to.
        text: what is written above it.
        kind: ``events`` pass through homeservers, ``packets`` do not, ``bytes`` stay on one machine.
    """

    start: int
    end: int
    text: str
    kind: str = "events"


COLUMN_NAMES = ("mxrtc", "your homeserver", "the bridge's homeserver", "mxrtc-bridge", "the service")
CALL_MESSAGES = (
    Message(0, 3, "m.call.invite: an offer with the fingerprint of a certificate"),
    Message(3, 3, "may this user, from this device, call this peer?"),
    Message(3, 0, "m.call.answer: the answer, with the other fingerprint"),
    Message(0, 3, "m.call.candidates: more addresses, as they are found"),
    Message(3, 0, "m.call.candidates"),
    Message(0, 3, "m.call.select_answer"),
    Message(0, 3, "ICE: which path lets packets through?", "packets"),
    Message(3, 0, "DTLS: are the certificates those of the fingerprints?", "packets"),
    Message(0, 3, "SCTP: open build/ssh", "packets"),
    Message(3, 3, "may this user use this service?"),
    Message(3, 4, "connect", "bytes"),
    Message(3, 0, "it is open", "packets"),
    Message(0, 4, "bytes, both ways, as fast as the slower side reads", "bytes"),
    Message(0, 3, "m.call.hangup, when mxrtc ends"),
)
"""A call between devices: its events are encrypted from end to end, so homeservers carry what they cannot read."""
COLORS = {"events": "#0b6e99", "packets": "#6b4fa0", "bytes": "#2d7d46"}
LEGEND = {
    "events": "encrypted messages, through the homeservers",
    "packets": "packets between the two machines, direct or relayed",
    "bytes": "bytes of the service",
}
STEP, TOP, LEFT, GAP = 34, 70, 90, 190


def call() -> str:
    """Draw the sequence of a call."""
    width = 2 * LEFT + GAP * (len(COLUMN_NAMES) - 1)
    bottom = TOP + STEP * len(CALL_MESSAGES) + 10
    height = bottom + 26 * len(LEGEND) + 10
    out = [
        f'<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        "<defs>",
        *(
            f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            for kind, color in COLORS.items()
        ),
        "</defs>",
    ]
    for number, name in enumerate(COLUMN_NAMES):
        x = LEFT + GAP * number
        out.append(f'<text x="{x}" y="30" text-anchor="middle" font-size="15" font-weight="bold">{escape(name)}</text>')
        out.append(f'<line x1="{x}" y1="42" x2="{x}" y2="{bottom}" stroke="#bbb"/>')
    for number, message in enumerate(CALL_MESSAGES):
        y = TOP + STEP * number
        start, end = LEFT + GAP * message.start, LEFT + GAP * message.end
        text = escape(message.text)
        if start == end:
            out.append(f'<text x="{start - 8}" y="{y + 4}" text-anchor="end" font-size="13" fill="#444">{text}</text>')
            out.append(f'<circle cx="{start}" cy="{y}" r="4" fill="#444"/>')
            continue
        color, middle = COLORS[message.kind], (start + end) / 2
        out.append(f'<text x="{middle}" y="{y - 6}" text-anchor="middle" font-size="13">{text}</text>')
        line = f'x1="{start}" y1="{y}" x2="{end}" y2="{y}" stroke="{color}" stroke-width="2"'
        out.append(f'<line {line} marker-end="url(#{message.kind})"/>')
    for number, (kind, words) in enumerate(LEGEND.items()):
        y = bottom + 26 * (number + 1)
        line = f'x1="{LEFT}" y1="{y - 4}" x2="{LEFT + 40}" y2="{y - 4}" stroke="{COLORS[kind]}" stroke-width="2"'
        out.append(f"<line {line}/>")
        out.append(f'<text x="{LEFT + 52}" y="{y}" font-size="13">{words}</text>')
    return "\n".join([*out, "</svg>", ""])
