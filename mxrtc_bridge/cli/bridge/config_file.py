"""``mxrtc-bridge config``: the file itself."""

from __future__ import annotations

from pathlib import Path

import click

from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option
from mxrtc_bridge.cli.bridge.editing import edit_config
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.values import LATEST_VERSION
from mxrtc_bridge.config.versions import additions, upgraded_text
from mxrtc_bridge.config.yaml_reader import read_yaml


@click.group("config")
def config_group() -> None:
    """The configuration file."""


@config_group.command("upgrade")
@config_option
def upgrade_command(path: Path) -> int:
    """Rewrite a configuration of an earlier version in the latest one.

    It says the same afterwards, so nothing is to be reloaded: what is left out, and means something else in the latest
    version, is written down, and each such line is told. Comments, owner and mode stay. The file of before is kept
    beside it, with which an earlier program can be run again.

    An earlier version is read as it was meant when it was written, so this is never urgent.
    """

    def change(_config: Config, text: str) -> tuple[str, list[str]]:
        return upgraded_text(text), [str(each) for each in additions(read_yaml(text).data)]

    _, added, kept = edit_config(path, change, keep_as=lambda before: f"{path.resolve().name}.version-{before.version}")
    if kept is None:
        click.echo(f"{path} is in version {LATEST_VERSION} already, the latest one.")
        return ExitCode.DONE
    for line in added:
        click.echo(line)
    click.echo(f"{path} is in version {LATEST_VERSION} now, and says what it said. The file of before is {kept}.")
    return ExitCode.DONE
