"""What the commands of ``mxrtc-bridge`` share: options, and what their exit codes say."""

from __future__ import annotations

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


config_option = click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), default="config.yaml", envvar="MXRTC_CONFIG",
    show_default=True, show_envvar=True, help="The configuration.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
