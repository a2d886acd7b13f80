"""``mxrtc-bridge audit``: whether the audit is whole, and what it holds; works while the bridge runs or not."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import click

from mxrtc_bridge.cli.bridge.acting import load_as_owner
from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.values import parse_duration, parse_time
from mxrtc_bridge.core.audit.chain import (
    KEY_BYTES,
    NO_LINES,
    AuditEntry,
    AuditRecord,
    ChainError,
    Head,
    Removals,
    check_head,
    found_as,
    is_authentic,
    read_chain,
    read_line,
)
from mxrtc_bridge.core.errors import EventError, LocalError
from mxrtc_bridge.core.ids import typed_user_id

_KEY_FORM = "mxrtc-audit-key 1"


@click.group("audit")
def audit_command() -> None:
    """Check and export the audit. It says who was let in to what, by which rule, and what admins did."""


@audit_command.command("verify")
@config_option
@click.option("--offline", is_flag=True, help="Do not ask the database: look at the files alone.")
@click.option("--key-file", type=click.Path(path_type=Path), help="With --offline: what `audit key` has printed.")
def verify_command(path: Path, offline: bool, key_file: Path | None) -> int:
    """Check that the audit is as it was written.

    No line may have been changed, added, taken out or moved. The files are read as a chain, each line is checked with
    the key that only the bridge has, and all are compared with what the database holds. Exit code 0 if all of it holds,
    1 if not; then the first wrong line is named, counted from the oldest file on.
    """
    config = load_as_owner(path)
    if key_file is not None and not offline:
        raise click.UsageError("--key-file is for --offline; the database has the key as well.")
    try:
        # The head first: the bridge may write meanwhile, and what comes behind the head is in the chain as well.
        known = _Known(NO_LINES, _read_key(key_file)) if offline else asyncio.run(_ask_database(config))
        first, found = _verify_files(config, known)
    except ChainError as error:
        click.echo(f"broken: {error}")
        return ExitCode.FAILED
    if first is None:
        click.echo("whole: nothing has been written yet")
        return 0
    began = f"from line {first.head.number} of {_iso(first.record.at_ms)} on"
    ending = "it ends as the database says" if known.head != NO_LINES else "the database holds none of them"
    click.echo(f"whole: {found} lines, {began}" + ("" if offline else f"; {ending}"))
    click.echo(known.scope)
    if first.head.number > 1:
        click.echo(f"lines 1 to {first.head.number - 1} were removed by the bridge, as audit.keep says")
    return 0


@audit_command.command("key")
@config_option
def key_command(path: Path) -> int:
    """Print the key that lines are written with.

    Keep it elsewhere, for `audit verify --offline --key-file`. Who has the key can write lines that pass for the
    bridge's.
    """
    key = asyncio.run(_ask_database(load_as_owner(path), compared=False)).key
    if key is None:
        raise LocalError("there is no key yet: the bridge makes it at its first start")
    click.echo(f"{_KEY_FORM} {key[1]} {key[0].hex()}")
    return 0


@audit_command.command("export")
@config_option
@click.option("--since", metavar="TIME", help="Only what is not older: 2h, 3d, 2030-01-31 or 2030-01-31T18:00:00Z.")
@click.option("--user", metavar="@USER:SERVER", help="Only what is about this user.")
@click.option("--peer", metavar="PEER", help="Only what is about this peer.")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
def export_command(path: Path, since: str | None, user: str | None, peer: str | None, form: str) -> int:
    """Print the audit, oldest first.

    As the lines it consists of, or as CSV with times that people can read. What admins have done comes first where its
    file was removed. Stops at the first line that does not hold, with exit code 1. A text that a spreadsheet would take
    for a formula gets a ' in front in CSV.
    """
    config = load_as_owner(path)
    since_ms = None if since is None else _moment(since)
    wanted_user = None if user is None else found_as(_user(user))
    wanted_peer = None if peer is None else (peer if peer.startswith("@") else config.peer_id(peer))
    write = _CsvWriter().write if form == "csv" else lambda entry: click.echo(entry.line)
    try:
        for entry in _all_entries(config):
            record = entry.record
            if (
                (since_ms is None or record.at_ms >= since_ms)
                and wanted_user in (None, found_as(record.user))
                and wanted_peer in (None, record.peer)
            ):
                write(entry)
    except ChainError as error:
        click.echo(f"broken: {error}", err=True)
        return ExitCode.FAILED
    sys.stdout.flush()
    return 0


def _all_entries(config: Config) -> Iterator[AuditEntry]:
    # Only these commands need the storage, whose libraries take their time to load.
    from mxrtc_bridge.storage.audit_file import read_acts, read_lines  # noqa: PLC0415

    chain = read_chain(read_lines(config.audit.file))
    first = next(chain, None)
    if first is None:
        return
    for line in read_acts(config.audit.file):
        # After a crash the file of a line may still be there.
        if (entry := read_line(line)).head.number < first.head.number:
            yield entry
    yield first
    yield from chain


@dataclass(frozen=True, slots=True)
class _Known:
    """What the files are compared with."""

    head: Head
    key: tuple[bytes, int] | None = field(repr=False)
    """The key, and the number of the first line that was written with it."""

    @property
    def scope(self) -> str:
        if self.key is None:
            return "only the chain of hashes was checked: without the key, who can write the file can write all of it"
        return f"from line {self.key[1]} on, each was written with the key that the bridge has"


async def _ask_database(config: Config, *, compared: bool = True) -> _Known:
    """Head and key; before that, the lines of file and database are compared one by one.

    Raises:
        ChainError: they are not the same.
    """
    with loading():
        from mxrtc_bridge.bridge.audit.recovery import compare  # noqa: PLC0415
        from mxrtc_bridge.storage.audit import AuditContradictionError, AuditReader  # noqa: PLC0415
        from mxrtc_bridge.storage.audit_file import read_links  # noqa: PLC0415
        from mxrtc_bridge.storage.inspection import read_only  # noqa: PLC0415

    async with read_only(config.database) as database:
        if database is None:
            return _Known(NO_LINES, None)
        stored = AuditReader(database)
        head, key = await stored.head(), await stored.key()
        if compared and head != NO_LINES:
            try:
                await compare(stored, read_links(config.audit.file), until=head, thorough=True)
            except AuditContradictionError as error:
                raise ChainError(str(error)) from error
    return _Known(head, None if key is None else (key.secret, key.since))


def _read_key(path: Path | None) -> tuple[bytes, int] | None:
    if path is None:
        return None
    try:
        form, _, rest = path.read_text("ascii").strip().rpartition(_KEY_FORM)
        since, secret = rest.split()
        key = bytes.fromhex(secret), int(since)
    except (OSError, ValueError):
        form, key = "?", (b"", 0)
    if form or len(key[0]) != KEY_BYTES:
        raise LocalError(f"{path} does not hold what mxrtc-bridge audit key prints")
    return key


def _verify_files(config: Config, known: _Known) -> tuple[AuditEntry | None, int]:
    """Check chain, key, end and beginning; returns the first line, and how many there are.

    Raises:
        ChainError: something does not hold.
    """
    from mxrtc_bridge.storage.audit_file import read_acts, read_lines  # noqa: PLC0415

    secret, since = known.key or (None, 1)
    removals = Removals()
    count = check_head(removals.watch(read_chain(read_lines(config.audit.file), secret, since)), known.head)
    if removals.first is not None:
        last = removals.first.head.number + count - 1
        if secret is not None and last < since:
            raise ChainError(f"it ends with line {last}, and the key was made for line {since} on")
        # Without the key, nobody vouches for what says that lines were removed; the head of the database does.
        removals.check()
    for place, line in enumerate(read_acts(config.audit.file), 1):
        try:
            entry = read_line(line)
            proved = secret is None or entry.head.number < since or is_authentic(entry, secret)
        except ChainError:
            proved = False
        if not proved:
            raise ChainError(f"line {place} of the lines that are kept of removed files was not written by the bridge")
    return removals.first, count


class _CsvWriter:
    """Writes records as rows."""

    def __init__(self) -> None:
        self._columns = [each.name for each in fields(AuditRecord) if each.name != "at_ms"]
        self._rows = csv.writer(sys.stdout)
        self._rows.writerow(["number", "time", *self._columns])

    def write(self, entry: AuditEntry) -> None:
        values = (getattr(entry.record, name) for name in self._columns)
        self._rows.writerow([entry.head.number, _iso(entry.record.at_ms), *map(_cell, values)])


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
            raise click.UsageError(f"--since: {error}.") from None
    return round((datetime.now(UTC).timestamp() - seconds) * 1000)


def _user(text: str) -> str:
    try:
        return typed_user_id(text)
    except EventError as error:
        raise click.UsageError(f"--user: {error}.") from None
