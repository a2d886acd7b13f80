"""``mxrtc-bridge`` as it is installed: takes signals before everything else is loaded, which takes a while."""

from __future__ import annotations

import signal
import sys

from mxrtc_bridge.cli.bridge.packages import how_to_install, missing_modules
from mxrtc_bridge.cli.shutdown import Shutdown

NOT_INSTALLED = 78
"""The exit code where the extra is missing, as for a configuration that cannot be used (``EX_CONFIG``): no service
manager tries again. The commands have it as well, in a module that loads a library."""


def main() -> None:
    """Run the command line."""
    # The bridge itself has an end of its own, and hears the signals once there is something to be ended.
    if sys.argv[1:2] == ["run"]:
        # It would end us until then; now it waits, and has the configuration read again.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    else:
        Shutdown().begin()
    if missing := missing_modules():
        print(how_to_install(missing, sys.executable), file=sys.stderr)  # noqa: T201 - before click is loaded
        sys.exit(NOT_INSTALLED)
    from mxrtc_bridge.cli.bridge.main import main as command_line  # noqa: PLC0415

    command_line()
