"""``mxrtc`` as it is installed: takes signals before everything else is loaded, which takes a while."""

from __future__ import annotations

from typing import NoReturn

from mxrtc_bridge.cli.shutdown import Shutdown


def main() -> NoReturn:
    """Run the command line."""
    Shutdown().begin()
    from mxrtc_bridge.cli.client.main import main as command_line  # noqa: PLC0415

    command_line()
