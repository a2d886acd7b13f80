"""What ``mxrtc-bridge`` completes beyond its own words: services of the configuration, and what the bridge knows now.

The running bridge is asked by its socket, for a moment: sessions, requests, grants and users are of no use when they
are old. Where it does not answer, and where a file cannot be read, nothing is completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.cli.bridge.command_line import usual_config
from mxrtc_bridge.cli.bridge.running_bridge import ask_at_once
from mxrtc_bridge.cli.completion import items
from mxrtc_bridge.config.outline import named_services
from mxrtc_bridge.core.errors import MxrtcError

WITHIN_S = 1.0
"""How long the bridge may take to answer: somebody waits for the line to go on."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]
Row = dict[str, Any]


def services(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete a service as ``PEER/SERVICE``."""
    found = [f"{peer}/{name}" for peer, names in _configured(context).items() for name in names]
    return items([(each, "") for each in found], begun)


def peers(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete a peer."""
    return items([(f"{each}", "") for each in _configured(context)], begun)


def new_service(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the peer that gets another service."""
    return items([(f"{each}/", "") for each in _configured(context)], begun)


def requests(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the number of a request that waits for an answer."""
    rows = _asked(context, "requests")
    return items([(str(row.get("number")), f"{row.get('user')} asks for {_service(row)}") for row in rows], begun)


def grants(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the number of a grant, or whom it names."""
    rows = _asked(context, "grants")
    numbers = [(str(row.get("number")), f"{row.get('subject')} may use {_service(row)}") for row in rows]
    return items([*numbers, *((subject, "") for subject in _different(rows, "subject"))], begun)


def sessions(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the number of a session, or whose it is."""
    rows = _asked(context, "who")
    numbers = [(str(row.get("number")), f"{row.get('user')} with {row.get('peer')}") for row in rows]
    return items([*numbers, *((user, "") for user in _different(rows, "user"))], begun)


def verifications(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the number of a verification that waits for an answer."""
    return items([(str(row.get("number")), str(row.get("user"))) for row in _asked(context, "verify")], begun)


def _different(rows: list[Row], key: str) -> Iterator[str]:
    yield from dict.fromkeys(str(row.get(key)) for row in rows)


def _service(row: Row) -> str:
    return f"{row.get('peer')}/{row.get('service')}"


def _config(context: click.Context) -> Path:
    path = context.params.get("path")
    return path if isinstance(path, Path) else usual_config()


def _configured(context: click.Context) -> dict[str, tuple[str, ...]]:
    path = _config(context)
    try:
        with acting_as_owner(path):
            return named_services(path)
    except (MxrtcError, OSError):
        return {}


def _asked(context: click.Context, *words: str) -> list[Row]:
    socket = context.params.get("socket")
    try:
        answer = ask_at_once(_config(context), socket if isinstance(socket, Path) else None, words, WITHIN_S)
    except (MxrtcError, OSError):
        return []
    rows = answer.get("rows")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
