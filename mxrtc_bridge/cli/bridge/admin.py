"""``mxrtc-bridge who``, ``grant``, ``kick`` and so on: what an admin does with the running bridge, at its machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxrtc_bridge.cli.bridge.command_line import Exit, config_option, json_option
from mxrtc_bridge.config import load_config
from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.core.text.display import display, size_words
from mxrtc_bridge.core.text.durations import say_duration

_MAX_COLUMNS = 300

Row = dict[str, object]
Columns = dict[str, Callable[[Row], str]]

page_option = click.option("--page", type=click.IntRange(1, 10_000), default=1, help="Which part of a long list.")
because_option = click.option("--because", metavar="TEXT", help="Why; it is kept in the audit.")


@click.command("who")
@config_option
@page_option
@json_option
def who_command(path: Path, page: int, as_json: bool) -> int:
    """List the live sessions: user, peer, path, age, open streams, bytes."""
    return _list(path, ("who", str(page)), as_json, _WHO)


@click.command("grants")
@config_option
@page_option
@json_option
def grants_command(path: Path, page: int, as_json: bool) -> int:
    """List the grants that were given and are in force; those of the configuration are in the configuration."""
    return _list(path, ("grants", str(page)), as_json, _GRANTS)


@click.command("requests")
@config_option
@json_option
def requests_command(path: Path, as_json: bool) -> int:
    """List the requests for access that wait for an answer."""
    return _list(path, ("requests",), as_json, _REQUESTS)


@click.command("log")
@config_option
@click.option("--since", metavar="TIME", help="What is not older: 30m, 2h, 3d.")
@page_option
@json_option
@click.argument("about", metavar="[PEER|@USER:SERVER]", required=False)
def log_command(path: Path, since: str | None, page: int, as_json: bool, about: str | None) -> int:
    """Show who did what, the newest first: decisions, ends of sessions, what admins did.

    All of it, and without the bridge: mxrtc-bridge audit export.
    """
    words = ["log", *([about] if about else []), *(["since", since] if since else []), "page", str(page)]
    return _list(path, tuple(words), as_json, _LOG)


@click.command("grant")
@config_option
@click.option("--for", "for_time", metavar="TIME", required=True, help="How long: 30m, 2h, 3d.")
@because_option
@click.argument("subject", metavar="@USER:SERVER|server:NAME|guest-accounts:NAME|room:!ID")
@click.argument("service", metavar="PEER/SERVICE")
def grant_command(path: Path, for_time: str, because: str | None, subject: str, service: str) -> int:
    """Give a right that ends by itself; the service's grantable_to is the limit."""
    return _do(path, ("grant", subject, service, "for", for_time, *_because(because)))


@click.command("revoke")
@config_option
@because_option
@click.argument("grant", metavar="ID|@USER:SERVER|server:NAME|guest-accounts:NAME|room:!ID")
@click.argument("service", metavar="[PEER/SERVICE]", required=False)
def revoke_command(path: Path, because: str | None, grant: str, service: str | None) -> int:
    """Take back a grant by its number, or all of somebody; live sessions end at once."""
    return _do(path, ("revoke", grant, *([service] if service else []), *_because(because)))


@click.command("allow")
@config_option
@click.option("--once", is_flag=True, help="For one session.")
@click.option("--for", "for_time", metavar="TIME", help="For another time than was asked for.")
@click.argument("request", metavar="N", type=click.IntRange(1))
def allow_command(path: Path, once: bool, for_time: str | None, request: int) -> int:
    """Allow a request for access."""
    if once and for_time:
        raise click.UsageError("--once and --for exclude each other")
    more = ("once",) if once else ("for", for_time) if for_time else ()
    return _do(path, ("allow", str(request), *more))


@click.command("deny")
@config_option
@because_option
@click.argument("request", metavar="N", type=click.IntRange(1))
def deny_command(path: Path, because: str | None, request: int) -> int:
    """Refuse a request for access."""
    return _do(path, ("deny", str(request), *_because(because)))


@click.command("kick")
@config_option
@because_option
@click.argument("whom", metavar="SESSION|@USER:SERVER")
def kick_command(path: Path, because: str | None, whom: str) -> int:
    """End a session, or all of a user; both ends are told. It takes no right away: that is revoke."""
    return _do(path, ("kick", whom, *_because(because)))


@click.command("pause")
@config_option
def pause_command(path: Path) -> int:
    """Take no new sessions until resume or the next start; live ones go on."""
    return _do(path, ("pause",))


@click.command("resume")
@config_option
def resume_command(path: Path) -> int:
    """Take new sessions again."""
    return _do(path, ("resume",))


@click.command("reload")
@config_option
def reload_command(path: Path) -> int:
    """Read the configuration again, and say what came of it."""
    return _do(path, ("reload",))


@click.command("verify")
@config_option
@click.option("--same", "answer", flag_value="same", help="Both sides show the same.")
@click.option("--different", "answer", flag_value="different", help="They do not: end it.")
@json_option
@click.argument("verification", metavar="[N]", type=click.IntRange(1), required=False)
def verify_command(path: Path, answer: str | None, as_json: bool, verification: int | None) -> int:
    """Show what users want to compare with their peer, and say whether both sides show the same.

    Compare the emoji or the numbers with the user over a way that the homeserver has no part in. If they are the same,
    the user's identity counts as verified, for all peers.
    """
    if (verification is None) != (answer is None):
        raise click.UsageError("give the number and one of --same and --different, or nothing to see what waits")
    if verification is None or answer is None:
        return _list(path, ("verify",), as_json, _VERIFICATIONS)
    return _do(path, ("verify", str(verification), answer))


@click.command("trust")
@config_option
@click.option("--key", metavar="KEY", help="The identity that the user has told you: accept this one only.")
@click.argument("user", metavar="@USER:SERVER")
def trust_command(path: Path, key: str | None, user: str) -> int:
    """Accept the identity that a user shows now, after they have told you that they have made a new one.

    With a KEY that you have from the user over another way, it counts as verified. Users read it in their client, or
    with: mxrtc devices
    """
    return _do(path, ("trust", user, *([key] if key else [])))


COMMANDS = (
    who_command, kick_command, grants_command, grant_command, revoke_command, requests_command, allow_command,
    deny_command, log_command, pause_command, resume_command, reload_command, verify_command,
    trust_command,
)  # fmt: skip


def _because(text: str | None) -> tuple[str, ...]:
    return ("because", text) if text else ()


def _ask(path: Path, words: tuple[str, ...]) -> Row | None:
    """Have the running bridge do it; None where it refuses, which is said."""
    config = load_config(path)
    if config.control_socket is None:
        raise ConfigError("control.enabled is false, so the running bridge cannot be reached from here")
    # Only these commands need the client, whose library takes its time to load.
    from mxrtc_bridge.web.control import ask_until_ready  # noqa: PLC0415

    def waits() -> None:
        click.echo("the bridge is starting; waiting for it", err=True)

    status, answer = uvloop.run(ask_until_ready(str(config.control_socket), words, waits))
    if status >= 400:
        click.echo(display(str(answer.get("error", "it was refused")), _MAX_COLUMNS), err=True)
        return None
    return answer


def _do(path: Path, words: tuple[str, ...]) -> int:
    answer = _ask(path, words)
    if answer is None:
        return Exit.FAILED
    for line in str(answer.get("said", "")).splitlines():
        click.echo(display(line, _MAX_COLUMNS))
    return 0


def _list(path: Path, words: tuple[str, ...], as_json: bool, columns: Columns) -> int:
    answer = _ask(path, words)
    if answer is None:
        return Exit.FAILED
    rows = answer.get("rows")
    if not isinstance(rows, list):
        raise LocalError("the bridge did not answer as it should")
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        sys.stdout.flush()
        return 0
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    for row in rows:
        # Never as markup: names and reasons come from elsewhere.
        table.add_row(*(Text(display(show(row), _MAX_COLUMNS)) for show in columns.values()))
    wide = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
    if rows:
        wide.print(table)
    else:
        click.echo("None.", err=True)
    _say_around(answer)
    return 0


def _say_around(answer: Mapping[str, object]) -> None:
    if answer.get("paused"):
        click.echo("New sessions are refused: mxrtc-bridge resume takes them again.", err=True)
    if answer.get("left_out"):
        click.echo(f"{answer['left_out']} records are kept in the file only: mxrtc-bridge audit export", err=True)
    page, pages = answer.get("page"), answer.get("pages")
    if isinstance(page, int) and isinstance(pages, int) and pages > 1:
        click.echo(f"Page {page} of {pages}, {answer.get('total')} in all; --page {min(page + 1, pages)}", err=True)


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name, ""))


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return value if isinstance(value, int | float) else 0


def _size(name: str) -> Callable[[Row], str]:
    return lambda row: size_words(int(_number(row, name)))


def _time(name: str) -> Callable[[Row], str]:
    return lambda row: datetime.fromtimestamp(_number(row, name) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _items(row: Row, name: str) -> list[str]:
    value = row.get(name)
    return [str(each) for each in value] if isinstance(value, list) else []


def _service(row: Row) -> str:
    return f"{row.get('peer', '')}/{row.get('service', '')}"


_WHO: Columns = {
    "session": _text("number"),
    "user": _text("user"),
    "peer": _text("peer"),
    "device": _text("device"),
    "path": lambda row: str(row.get("path") or "connecting"),
    "age": lambda row: say_duration(_number(row, "age_s")),
    "streams": _text("streams"),
    "given": _size("sent"),
    "taken": _size("received"),
}
_GRANTS: Columns = {
    "id": _text("number"),
    "who": _text("subject"),
    "service": _service,
    "until": _time("until_ms"),
    "once": lambda row: "once" if row.get("once") else "",
    "by": _text("giver"),
    "because": _text("reason"),
}
_REQUESTS: Columns = {
    "id": _text("number"),
    "user": _text("user"),
    "service": _service,
    "for": lambda row: say_duration(_number(row, "for_s")),
    "asked": _time("asked_ms"),
    "because": _text("because"),
}
_VERIFICATIONS: Columns = {
    "n": _text("number"),
    "user": _text("user"),
    "device": _text("device"),
    "peer": _text("peer"),
    "emoji": lambda row: "  ".join(map(" ".join, zip(_items(row, "symbols"), _items(row, "emoji"), strict=False))),
    "numbers": lambda row: " ".join(_items(row, "numbers")),
    "answered": lambda row: "yes" if row.get("answered") else "",
}
_LOG: Columns = {"n": _text("number"), "time": _time("at_ms"), "what": _text("words")}
