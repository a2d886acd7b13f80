"""``mxrtc-bridge who``, ``grant``, ``kick`` and so on: what an admin does with the running bridge, at its machine."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mxrtc_bridge.cli.bridge import completing
from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option, json_option, socket_option
from mxrtc_bridge.cli.bridge.running_bridge import ask_bridge, number_in
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.text.display import display, quoted, size_words
from mxrtc_bridge.core.text.durations import HOW_TO_WRITE, say_duration, typed_duration

_MAX_COLUMNS = 300
_INDENT = "    "

Words = tuple[str, ...]
Row = dict[str, object]
Columns = dict[str, Callable[[Row], str]]

page_option = click.option("--page", type=click.IntRange(1, 10_000), default=1, help="Page of a long list.")
because_option = click.option("--because", metavar="TEXT", help="Why; it is kept in the audit.")


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name, ""))


def _size(name: str) -> Callable[[Row], str]:
    return lambda row: size_words(int(number_in(row, name)))


def _time(name: str) -> Callable[[Row], str]:
    return lambda row: datetime.fromtimestamp(number_in(row, name) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


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
    "age": lambda row: say_duration(number_in(row, "age_s")),
    "streams": _text("streams"),
    "sent": _size("sent"),
    "received": _size("received"),
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
    "for": lambda row: say_duration(number_in(row, "for_s")),
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


def run_words(
    path: Path, socket: Path | None, words: Words, as_json: bool = False, columns: Columns | None = None
) -> int:
    """Have the running bridge carry out a command, and show what it answers; returns the exit code.

    Raises:
        LocalError: none runs, or it cannot be reached.
    """
    status, answer = ask_bridge(path, socket, words)
    if status >= 400:
        _say(str(answer.get("error", "The bridge refused it, and did not say why.")), err=True)
        return ExitCode.FAILED
    rows, said = answer.get("rows"), answer.get("said")
    if isinstance(said, str):
        # Only a reload says whether all of it is done.
        done = answer.get("done") is not False
        _say(said, err=not done)
        if mistakes := answer.get("mistakes"):
            _say(str(mistakes), err=True)
            return ExitCode.CONFIG
        return ExitCode.DONE if done else ExitCode.FAILED
    if not isinstance(rows, list):
        raise LocalError(f"the bridge answered with neither rows nor words: {display(json.dumps(answer), 80)}")
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        sys.stdout.flush()
    else:
        show_rows(rows, columns or {})
        _say_around(answer)
    return 0


def _say(text: str, *, err: bool = False) -> None:
    for line in text.splitlines():
        click.echo(display(line, _MAX_COLUMNS), err=err)


def show_rows(rows: list[Row], columns: Columns) -> None:
    """Print a list for people; nothing of it is cut off."""
    if not rows:
        click.echo("None.", err=True)
        return
    # Never as markup: names and reasons come from elsewhere.
    cells = [[display(show(row), _MAX_COLUMNS) for show in columns.values()] for row in rows]
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=400)
    table = Table(*columns, box=None, pad_edge=False)
    for row_cells in cells:
        table.add_row(*map(Text, row_cells))
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    # Whom to kick, and by which number, is what a list is read for: nothing of it is cut off.
    for number, name, *others in cells:
        console.print(Text(f"{number}  {name}"), soft_wrap=True)
        facts = [f"{key} {cell}" for key, cell in zip(list(columns)[2:], others, strict=True) if cell]
        for line in _filled(facts, console.width - len(_INDENT)):
            console.print(Text(_INDENT + line), soft_wrap=True)


def _filled(facts: Iterable[str], width: int) -> Iterator[str]:
    """Lines of whole facts, as many in each as fit."""
    line = ""
    for fact in facts:
        if line and cell_len(f"{line}, {fact}") > width:
            yield f"{line},"
            line = fact
        else:
            line = f"{line}, {fact}" if line else fact
    if line:
        yield line


def _say_around(answer: Mapping[str, object]) -> None:
    if answer.get("paused"):
        click.echo("New sessions are refused: mxrtc-bridge resume accepts them again.", err=True)
    if answer.get("left_out"):
        click.echo(f"{answer['left_out']} records are kept in the file only: mxrtc-bridge audit export", err=True)
    page, pages = answer.get("page"), answer.get("pages")
    if isinstance(page, int) and isinstance(pages, int) and pages > 1:
        click.echo(f"Page {page} of {pages}, {answer.get('total')} in all; --page {min(page + 1, pages)}", err=True)


def _lasting(option: str, text: str | None) -> Words:
    """The words of a time, as they stand in a chat.

    Raises:
        click.UsageError: it is none.
    """
    if text is None:
        return ()
    if typed_duration(text) is None:
        raise click.UsageError(f"--{option} {quoted(text)} is no time: {HOW_TO_WRITE}.")
    return (option, *text.split())


def _because(text: str | None) -> Words:
    return ("because", text) if text else ()


COMMANDS: list[click.Command] = []
"""Those of this file."""


def _command(name: str, columns: Columns | None = None) -> Callable[[Callable[..., Words]], None]:
    """Have a function, which returns the words of a command, be a command of the command line.

    Args:
        name: of the command.
        columns: of its list, if it has one.
    """

    def declare(words_of: Callable[..., Words]) -> None:
        @functools.wraps(words_of)
        def run(path: Path, socket: Path | None, as_json: bool = False, **options: object) -> int:
            return run_words(path, socket, words_of(**options), as_json, columns)

        COMMANDS.append(click.command(name)(config_option(socket_option(run))))

    return declare


@_command("who", _WHO)
@page_option
@json_option
def _who(page: int) -> Words:
    """List the live sessions. Of each: user, peer, path, age, open streams, bytes."""
    return ("who", str(page))


@_command("grants", _GRANTS)
@page_option
@json_option
def _grants(page: int) -> Words:
    """List the grants in force that admins have given. Those of the configuration are not shown."""
    return ("grants", str(page))


@_command("requests", _REQUESTS)
@json_option
def _requests() -> Words:
    """List the requests for access that wait for an answer."""
    return ("requests",)


@_command("log", _LOG)
@click.option("--since", metavar="TIME", help="Only what is not older: 30m, 2h, 3d.")
@page_option
@json_option
@click.argument("about", metavar="[PEER|@USER:SERVER]", required=False, shell_complete=completing.peers)
def _log(since: str | None, page: int, about: str | None) -> Words:
    """Show the audit, newest first.

    It has decisions, ends of sessions, and what admins did. All of it, and without the bridge: mxrtc-bridge audit
    export.
    """
    return ("log", *([about] if about else []), *_lasting("since", since), "page", str(page))


@_command("grant")
@click.option("--for", "for_time", metavar="TIME", required=True, help="How long: 30m, 2h, 3d.")
@because_option
@click.argument("subject", metavar="@USER:SERVER|server:NAME|guest-accounts:NAME|room:!ID")
@click.argument("service", metavar="PEER/SERVICE", shell_complete=completing.services)
def _grant(for_time: str, because: str | None, subject: str, service: str) -> Words:
    """Give a right for a limited time. The service's grantable_to says to whom."""
    return ("grant", subject, service, *_lasting("for", for_time), *_because(because))


@_command("revoke")
@because_option
@click.argument(
    "grant", metavar="ID|@USER:SERVER|server:NAME|guest-accounts:NAME|room:!ID", shell_complete=completing.grants
)
@click.argument("service", metavar="[PEER/SERVICE]", required=False, shell_complete=completing.services)
def _revoke(because: str | None, grant: str, service: str | None) -> Words:
    """Revoke a grant by its number, or all grants of a user. Live sessions end at once."""
    return ("revoke", grant, *([service] if service else []), *_because(because))


@_command("allow")
@click.option("--once", is_flag=True, help="For one session.")
@click.option("--for", "for_time", metavar="TIME", help="For another time than was asked for.")
@click.argument("request", metavar="N", type=click.IntRange(1), shell_complete=completing.requests)
def _allow(once: bool, for_time: str | None, request: int) -> Words:
    """Allow a request for access."""
    if once and for_time:
        raise click.UsageError("--once and --for exclude each other; give one of them.")
    more = ("once",) if once else _lasting("for", for_time)
    return ("allow", str(request), *more)


@_command("deny")
@because_option
@click.argument("request", metavar="N", type=click.IntRange(1), shell_complete=completing.requests)
def _deny(because: str | None, request: int) -> Words:
    """Refuse a request for access."""
    return ("deny", str(request), *_because(because))


@_command("kick")
@because_option
@click.argument("whom", metavar="SESSION|@USER:SERVER", shell_complete=completing.sessions)
def _kick(because: str | None, whom: str) -> Words:
    """End a session, or all sessions of a user. Both sides are told. The user keeps their rights: revoke takes them."""
    return ("kick", whom, *_because(because))


@_command("pause")
def _pause() -> Words:
    """Accept no new sessions until resume or the next start. Live ones go on."""
    return ("pause",)


@_command("resume")
def _resume() -> Words:
    """Accept new sessions again."""
    return ("resume",)


@_command("reload")
def _reload() -> Words:
    """Reload the configuration, and say what came of it.

    Exit code 78 if the file has mistakes, which are listed; then the old one stays in force. 1 if not all of it could
    be put in force.
    """
    return ("reload",)


@_command("verify", _VERIFICATIONS)
@click.option("--same", "answer", flag_value="same", help="Both sides show the same.")
@click.option("--different", "answer", flag_value="different", help="They differ: end the verification.")
@json_option
@click.argument(
    "verification", metavar="[N]", type=click.IntRange(1), required=False, shell_complete=completing.verifications
)
def _verify(answer: str | None, verification: int | None) -> Words:
    """Compare emoji with a user, who verifies a peer by that.

    Without a number: shows what users want to compare with their peer. With one: says whether both sides show the same.

    Compare the emoji or the numbers with the user over a way that the homeserver has no part in. If they are the same,
    the user's identity counts as verified, for all peers.
    """
    if (verification is None) != (answer is None):
        raise click.UsageError("Give the number and one of --same and --different, or nothing to see what waits.")
    if verification is None or answer is None:
        return ("verify",)
    return ("verify", str(verification), answer)


@_command("trust")
@click.option("--key", metavar="KEY", help="The identity that the user has told you: accept this one only.")
@click.argument("user", metavar="@USER:SERVER")
def _trust(key: str | None, user: str) -> Words:
    """Accept the identity that a user shows now.

    Do so after they have told you that they have made a new one. With a KEY that you have from the user over another
    way, it counts as verified. Users read it in their client, or with: mxrtc devices
    """
    return ("trust", user, *([key] if key else []))
