"""``mxrtc-bridge add``, ``remove`` and ``list``: services, by the configuration.

What an edit would make of the file is checked before it is written, and the running bridge is asked to reload.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from mxrtc_bridge.cli.bridge import completing
from mxrtc_bridge.cli.bridge.acting import load_as_owner
from mxrtc_bridge.cli.bridge.admin import Columns, Row, run_words, show_rows
from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option, json_option, socket_option
from mxrtc_bridge.cli.bridge.editing import edit_config
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.problems import near_miss
from mxrtc_bridge.config.service_edits import add_service, remove_service, settings_of
from mxrtc_bridge.core.access.policy import Service, parse_subject
from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.text.display import display, quoted, sentence

_COLUMNS: Columns = {
    "service": lambda row: str(row["service"]),
    "target": lambda row: str(row["target"]),
    "who": lambda row: ", ".join(_strings(row["who"])) or "nobody",
}


def service_settings(target: str, name: str = "TARGET") -> dict[str, Any]:
    """What stands in the configuration for a target as it is typed.

    Args:
        target: as typed.
        name: what it is called in the message.

    Raises:
        click.UsageError: it is none.
    """
    try:
        return settings_of(target)
    except ValueError as error:
        forms = "tcp:HOST:PORT, unix:/path, append:/path, read:/path, inbox:/directory or share:/directory"
        raise click.UsageError(f"{name}: {error}. It is one of: {forms}.") from None


def checked_subject(text: str) -> str:
    """Who gets a right, as it is typed; a group is looked for in the configuration later.

    Raises:
        click.UsageError: it is nobody, or everybody.
    """
    if text == "*":
        raise click.UsageError('--allow: "*" lets in the whole world; write such a grant into the file yourself.')
    try:
        if not text.startswith("group:"):
            parse_subject(text)
    except ConfigError as error:
        raise click.UsageError(f"--allow: {error}.") from None
    return text


@click.command("add")
@config_option
@socket_option
@click.option("--allow", multiple=True, metavar="WHO", help="@user:server, server:NAME, group:NAME or room:!ID.")
@click.argument("name", metavar="[PEER/]SERVICE", shell_complete=completing.new_service)
@click.argument("target", metavar="TARGET")
def add_command(path: Path, socket: Path | None, allow: tuple[str, ...], name: str, target: str) -> int:
    """Add a service to the configuration, and reload it.

    TARGET is where it leads: tcp:HOST:PORT, unix:/path, append:/path, read:/path; inbox:/directory for files that
    callers send, share:/directory for files that they fetch. --allow says who may use it, and may be given several
    times. The peer is made if there is none of that name, and may be left out where there is one only.

    The file keeps its comments, its owner and its mode. With a mistake in it, or where one of its tests would fail,
    nothing is written.
    """
    settings, subjects = service_settings(target), [checked_subject(each) for each in allow]

    def change(config: Config, text: str) -> tuple[str, tuple[str, str]]:
        peer, service = _place(config, name)
        if config.service(config.peer_id(peer), service) is not None:
            raise click.UsageError(
                f"{peer}/{service} is there already; to replace it: mxrtc-bridge remove {peer}/{service}"
            )
        return add_service(text, peer, service, settings, subjects), (peer, service)

    config, (peer, service), _ = edit_config(path, change)
    who = ", ".join(_who(config, peer, service))
    click.echo(f"Added {peer}/{service}. Who may use it: {who or 'nobody'}.")
    if not who:
        click.echo("Give a right to it with --allow, or under grants in the file.", err=True)
    return _reload(path, socket)


@click.command("remove")
@config_option
@socket_option
@click.argument("name", metavar="[PEER/]SERVICE", shell_complete=completing.services)
def remove_command(path: Path, socket: Path | None, name: str) -> int:
    """Remove a service from the configuration, and reload it.

    Its sessions end. Grants and tests that name it lose its name, and go if they name nothing else. A peer without
    services goes as well.
    """

    def change(config: Config, text: str) -> tuple[str, tuple[str, str]]:
        peer, service = _existing(config, name)
        return remove_service(text, peer, service), (peer, service)

    config, (peer, service), _ = edit_config(path, change)
    gone = "" if config.peer_id(peer) in config.peers else f" and the peer {peer}, which has no other"
    click.echo(f"Removed {peer}/{service}{gone}.")
    return _reload(path, socket)


@click.command("list")
@config_option
@json_option
def list_command(path: Path, as_json: bool) -> int:
    """List the services of the configuration.

    Of each: its name, where it leads, and who may use it. What admins have given for a time is not
    shown: mxrtc-bridge grants.
    """
    config = load_as_owner(path)
    rows: list[Row] = [
        {
            "service": f"{peer.name}/{service.name}",
            "target": str(service.target),
            "who": _who(config, peer.name, service.name),
        }
        for peer, service in config.services()
    ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        show_rows(rows, _COLUMNS)
    return ExitCode.DONE


def _strings(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _who(config: Config, peer: str, service: str) -> list[str]:
    wanted, now_ms = Service(config.peer_id(peer), ServiceName(service)), time.time_ns() // 1_000_000
    grants = (grant for grant in config.grants if wanted in grant.services and grant.in_force(now_ms))
    return sorted({str(subject) for grant in grants for subject in grant.subjects})


def _place(config: Config, name: str) -> tuple[str, str]:
    """The peer and the service that a new one is to be."""
    peer, slash, service = name.rpartition("/")
    if not slash:
        names = sorted(each.name for each in config.peers.values())
        if len(names) != 1:
            peers = f"the peers are {', '.join(names)}" if names else "there is no peer yet"
            raise click.UsageError(f"Say which peer, as in {names[0] if names else 'build'}/{service[:63]}: {peers}.")
        peer = names[0]
    return peer, service


def _existing(config: Config, name: str) -> tuple[str, str]:
    known = [(peer.name, service.name) for peer, service in config.services()]
    found = [each for each in known if name in (f"{each[0]}/{each[1]}", each[1])]
    if not found:
        likely = near_miss(name, [each for peer, service in known for each in (f"{peer}/{service}", service)])
        raise click.UsageError(f"There is no service {quoted(name)}{likely or '; mxrtc-bridge list shows them all.'}")
    if len(found) > 1:
        raise click.UsageError(f"Say which: {', '.join(sorted(f'{peer}/{service}' for peer, service in found))}.")
    return found[0]


def _reload(path: Path, socket: Path | None) -> int:
    try:
        return run_words(path, socket, ("reload",))
    except LocalError as error:
        click.echo(f"{display(sentence(str(error)), 500)} The change counts from its next start on.", err=True)
        return ExitCode.DONE
