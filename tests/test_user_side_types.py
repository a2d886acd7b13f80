"""Which modules are checked as those of the user's side."""

from __future__ import annotations

import subprocess
import sys


def test_the_modules_of_the_user_side_are_all_that_it_loads_and_nothing_of_the_bridge() -> None:
    program = "from tests.user_side_types import loaded_modules; print(*loaded_modules())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    assert {"mxrtc_bridge.client.forwarding", "mxrtc_bridge.rtc.udp", "mxrtc_bridge.system"} <= names
    assert not [name for name in names if name.startswith(("mxrtc_bridge.bridge", "mxrtc_bridge.cli.bridge"))]
