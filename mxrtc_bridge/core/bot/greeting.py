"""What a peer says when it has come into somebody's direct chat: who it is, what they may do there, how to begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mxrtc_bridge.core.bot.reply import Code, Line, Reply, Strong, item, text
from mxrtc_bridge.core.ids import ServiceName

FIELD = "io.mxrtc.greeting"
"""Key in the content of the notice: programs that wait for an answer know by it that this is none."""
MAX_LISTED = 10
"""Services that are named; a greeting is read at a glance."""


def greeting(name: str, lines: Mapping[ServiceName, str], askable: Sequence[ServiceName]) -> Reply:
    """Return the greeting of a peer.

    Args:
        name: how its user names it.
        lines: of each service that they may use there, a line for a terminal.
        askable: services of it that they are shown as what they may ask for.
    """
    said: list[Line] = [
        text(
            "I am ", Strong(name), ": the program ", Code("mxrtc"), " on your computer reaches services through me. ",
            "I take no voice or video calls."
        ),
        text("You may use:"),
        *(item(f"{service}: ", Code(line)) for service, line in list(lines.items())[:MAX_LISTED]),
    ]  # fmt: skip
    if (more := len(lines) - MAX_LISTED) > 0:
        said.append(text(f"{more} more: write ", Code("peers")))
    if askable:
        named = ", ".join(askable[:MAX_LISTED]) + (" and more" if len(askable) > MAX_LISTED else "")
        said.append(text(f"You may ask the admins for {named}: ", Code(f"request {name}/{askable[0]}")))
    said.append(text("Write ", Code("help"), " for all that I understand here."))
    return Reply(tuple(said), {FIELD: {}})
