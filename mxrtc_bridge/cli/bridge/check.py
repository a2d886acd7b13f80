"""``mxrtc-bridge check``: everything that can be wrong between a configuration and a running bridge, with its fix."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop

from mxrtc_bridge.cli.bridge.acting import load_as_owner
from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option, json_option
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.lint import inspect
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.text.display import display

_MAX_PORTS_TRIED = 1000
_MAX_COLUMNS = 500
_STYLES = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "red")}


@click.command("check")
@config_option
@click.option("--offline", is_flag=True, help="Look at the configuration and this machine only.")
@json_option
def check_command(path: Path, offline: bool, as_json: bool) -> int:
    """Find what is wrong, each with its fix.

    Looks at configuration, files, homeserver, TURN, ports and targets.

    Exit code 0 if the bridge can work (perhaps with warnings), 1 if something is wrong, 78 if the configuration is.
    """
    config = load_as_owner(path)
    failed = False
    for finding in _findings(config, offline):
        failed = failed or finding.level is Level.FAIL
        _show(finding, as_json)
    return ExitCode.FAILED if failed else ExitCode.DONE


def _findings(config: Config, offline: bool) -> Iterator[Finding]:
    yield from inspect(config, time.time_ns() // 1_000_000)
    yield from udp_findings(config)
    if not offline:
        # What can be said without the network libraries is said before they are loaded.
        with loading():
            from mxrtc_bridge.bridge.check import check  # noqa: PLC0415

        yield from uvloop.run(check(config))


def _show(finding: Finding, as_json: bool) -> None:
    if as_json:
        row = {"kind": "finding", "level": finding.level.value, "what": finding.what, "fix": finding.fix}
        click.echo(json.dumps(row))
        return
    word, colour = _STYLES[finding.level]
    # A finding may quote what a homeserver or a TURN server said.
    click.echo(
        f"{click.style(word, fg=colour)}  {display(finding.what, _MAX_COLUMNS)}",
        color=False if os.environ.get("NO_COLOR") else None,
    )
    if finding.fix:
        click.echo(f"      fix: {display(finding.fix, _MAX_COLUMNS)}")


def udp_findings(config: Config) -> list[Finding]:
    """Try to bind the UDP ports that sessions will use; of a large range, a sample."""
    if config.ice.port_range is None:
        return []
    first, last = config.ice.port_range
    step = max(1, (last - first + 1) // _MAX_PORTS_TRIED)
    tried = range(first, last + 1, step)
    name = f"the UDP ports {first} to {last}"
    busy = 0
    for port in tried:
        try:
            _bind(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                fix = "choose ports in ice.port_range that the bridge's user may bind"
                return [Finding(Level.FAIL, f"{name} cannot be bound: {error.strerror}", fix)]
            busy += 1
    if busy == len(tried):
        return [Finding(Level.FAIL, f"{name} are all in use", "choose another ice.port_range, or end what uses it")]
    if busy * 2 > len(tried):
        fix = "choose another ice.port_range; if the bridge is running now, these may be its own calls"
        return [Finding(Level.WARN, f"more than half of {name} is in use", fix)]
    return [Finding(Level.OK, f"{name} can be bound (tried: {len(tried)}, in use: {busy})")]


def _bind(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", port))
