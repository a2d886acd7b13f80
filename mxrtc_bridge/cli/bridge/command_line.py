"""What the commands of ``mxrtc-bridge`` share: options, and what their exit codes say."""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path

import click


class ExitCode(IntEnum):
    """What the exit code says (docs/reference/exit-codes.md)."""

    DONE = 0
    """Done; for ``check``: nothing is wrong; for ``explain``: allowed."""
    FAILED = 1
    """Failed or refused now, may succeed later; for ``check`` and ``audit``: something is wrong."""
    USAGE = 2
    """The command line cannot be understood, or a file exists already."""
    DENIED = 3
    """``explain``: denied."""
    CONFIG = 78
    """The configuration cannot be used (``EX_CONFIG``): do not retry."""
    INTERRUPTED = 130
    """Interrupted."""


HERE, OF_THE_SERVICE = Path("config.yaml"), Path("/var/lib/mxrtc/config.yaml")


def usual_folder() -> Path:
    """Where the files of a bridge are made if nobody says so: where the unit of systemd has them, or here."""
    # Of these two functions of os none raises: what is closed to us is not there.
    return OF_THE_SERVICE.parent if os.path.isdir(OF_THE_SERVICE.parent) else HERE.parent  # noqa: PTH112


def usual_config() -> Path:
    """Where the configuration is if nobody says so: here, or where the unit of systemd has it.

    That one also where we may not look into its folder: whoever asks reads then that they may not, and not that there
    is none here. In a folder that is closed to whoever asks there is none, as for another user by sudo in that of root.
    """
    return HERE if os.path.exists(HERE) else usual_folder() / HERE.name  # noqa: PTH110


config_option = click.option(
    # What cannot be read is a configuration that cannot be used (78), and not a wrong command line.
    "-c", "--config", "path", type=click.Path(path_type=Path, readable=False), envvar="MXRTC_CONFIG",
    default=usual_config, show_default=f"{HERE} here, else {OF_THE_SERVICE}", show_envvar=True,
    help="The configuration.",
)  # fmt: skip
socket_option = click.option(
    "--socket", type=click.Path(path_type=Path), metavar="PATH",
    help="The control socket of the running bridge; the configuration is not read then.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
