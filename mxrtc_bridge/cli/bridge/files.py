"""``mxrtc-bridge files``: what callers have put into a directory, and who it was."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from mxrtc_bridge.cli.bridge import completing
from mxrtc_bridge.cli.bridge.acting import load_as_owner
from mxrtc_bridge.cli.bridge.command_line import config_option, json_option
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.sinks.files.receive.drop_box import BoxEntry, read_box

_MAX_COLUMNS = 4096
"""Longer than any path, also when all of it is escaped but the end."""


@click.command("files")
@config_option
@click.option("--all", "everything", is_flag=True, help="Also what was moved away or changed since.")
@json_option
@click.argument("service", metavar="PEER/SERVICE", shell_complete=completing.services)
def files_command(path: Path, everything: bool, as_json: bool, service: str) -> int:
    """List the files that callers have put into a service.

    Oldest first, with time, sender, size, SHA-256 and name. The columns are separated by tabs. Works while the bridge
    runs. What is unfinished is not listed.
    """
    target = _target(load_as_owner(path), service)
    for entry in read_box(Path(target.path)):
        if entry.receipt.is_directory or not (everything or entry.present):
            continue
        # Line by line: a ledger has no limit, and a reader like head may stop early.
        click.echo(_as_json(entry) if as_json else _as_line(entry))
    sys.stdout.flush()
    return 0


def _target(config: Config, service: str) -> FilesTarget:
    name, _, service_name = service.partition("/")
    target = config.target(config.peer_id(name), service_name)
    if isinstance(target, FilesTarget) and target.direction.receives:
        return target
    known = sorted(
        f"{peer.name}/{settings.name}"
        for peer, settings in config.services()
        if isinstance(settings.target, FilesTarget) and settings.target.direction.receives
    )
    raise click.UsageError(f"{service[:80]!a} receives no files; these do: {', '.join(known) or 'none'}.")


def _time(entry: BoxEntry) -> str:
    moment = datetime.fromtimestamp(entry.receipt.time_ms / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _as_line(entry: BoxEntry) -> str:
    receipt = entry.receipt
    columns = (_time(entry), display(receipt.sender), str(receipt.size), receipt.digest)
    gone = () if entry.present else ("gone",)
    return "\t".join((*columns, display(receipt.name, _MAX_COLUMNS), *gone))


def _as_json(entry: BoxEntry) -> str:
    receipt = entry.receipt
    return json.dumps(
        {
            "time": _time(entry),
            "sender": receipt.sender,
            "size": receipt.size,
            "sha256": receipt.digest,
            "name": receipt.name,
            "offered_as": receipt.path,
            "present": entry.present,
        }
    )
