"""``mxrtc-bridge audit``: whether the audit is whole, and what it holds; works while the bridge runs or not."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import click

from mxrtc_bridge.config import Config, load_config
from mxrtc_bridge.config.notation import parse_duration, parse_time
from mxrtc_bridge.core.audit import AuditRecord, ChainError, Entry, Head, check_head, read_chain
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import parse_user_id

EXIT_BROKEN = 1

config_option = click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), default="config.yaml", envvar="MXRTC_CONFIG",
    show_default=True, show_envvar=True, help="The configuration.",
)  # fmt: skip


@click.group("audit")
def audit_command() -> None:
    """Check and export the audit: who was let in to what, by which rule, and what admins did."""


@audit_command.command("verify")
@config_option
def verify_command(path: Path) -> int:
    """Check that no line of the audit was changed, taken out, put in or moved since it was written.

    The file is read as a chain and compared with what the database knows of its end. Exit code 0 if all of it holds,
    1 if not; then the first wrong line is named, counted from the oldest file on.
    """
    config = load_config(path)
    # The head first: the bridge may write meanwhile, and what comes behind the head is in the chain as well.
    head = asyncio.run(_head(config))
    first: list[Entry] = []
    try:
        count = check_head(_watched(read_chain(_lines(config)), first), head)
    except ChainError as error:
        click.echo(f"broken: {error}")
        return EXIT_BROKEN
    if not count:
        click.echo("whole: nothing has been written yet")
        return 0
    began = f"from line {first[0].head.number} of {_iso(first[0].record.at_ms)} on"
    click.echo(f"whole: {count} lines, {began}; it ends as the database says")
    return 0


@audit_command.command("export")
@config_option
@click.option("--since", metavar="TIME", help="What is not older: 2h, 3d, 2030-01-31 or 2030-01-31T18:00:00Z.")
@click.option("--user", metavar="@USER:SERVER", help="What is about this user.")
@click.option("--peer", metavar="PEER", help="What is about this peer.")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
def export_command(path: Path, since: str | None, user: str | None, peer: str | None, form: str) -> int:
    """Print the audit, oldest first: as the lines it consists of, or as CSV with times that people can read.

    Stops at the first line that does not hold, with exit code 1. A text that a spreadsheet would take for a formula
    gets a ' in front in CSV.
    """
    config = load_config(path)
    since_ms = None if since is None else _moment(since)
    wanted_user = None if user is None else _user(user)
    wanted_peer = None if peer is None else (peer if peer.startswith("@") else config.peer_id(peer))
    write = _csv_writer() if form == "csv" else _write_line
    try:
        for entry in read_chain(_lines(config)):
            record = entry.record
            if (
                (since_ms is None or record.at_ms >= since_ms)
                and wanted_user in (None, record.user)
                and wanted_peer in (None, record.peer)
            ):
                write(entry)
    except ChainError as error:
        click.echo(f"broken: {error}", err=True)
        return EXIT_BROKEN
    sys.stdout.flush()
    return 0


def _lines(config: Config) -> Iterator[bytes]:
    # Only these commands need the storage, whose libraries take their time to load.
    from mxrtc_bridge.storage.audit_file import read_lines  # noqa: PLC0415

    return read_lines(config.audit.file)


async def _head(config: Config) -> Head:
    from mxrtc_bridge.storage.stores import open_stores  # noqa: PLC0415

    async with open_stores(config.database) as stores:
        return await stores.audit.head()


def _watched(entries: Iterator[Entry], first: list[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if not first:
            first.append(entry)
        yield entry


def _write_line(entry: Entry) -> None:
    click.echo(entry.line)


class _CsvWriter:
    """Writes records as rows."""

    def __init__(self) -> None:
        self._columns = [each.name for each in fields(AuditRecord) if each.name != "at_ms"]
        self._rows = csv.writer(sys.stdout)
        self._rows.writerow(["number", "time", *self._columns])

    def __call__(self, entry: Entry) -> None:
        values = (getattr(entry.record, name) for name in self._columns)
        self._rows.writerow([entry.head.number, _iso(entry.record.at_ms), *map(_cell, values)])


def _csv_writer() -> _CsvWriter:
    return _CsvWriter()


def _cell(value: object) -> object:
    if hasattr(value, "value"):
        return value.value
    # User ids begin with @ as well, and are no formula: what follows is a name with a colon.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "\t", "\r"):
        return f"'{value}"
    return "" if value is None else value


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(text: str) -> int:
    try:
        seconds = parse_duration(text)
    except ValueError:
        try:
            return parse_time(text)
        except ValueError as error:
            raise click.UsageError(f"--since: {error}") from None
    return round((datetime.now(UTC).timestamp() - seconds) * 1000)


def _user(text: str) -> str:
    try:
        return parse_user_id(text)
    except EventError as error:
        raise click.UsageError(f"--user: {error}") from None
