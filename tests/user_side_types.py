"""Checks the types of the user's side as on macOS and on Windows, which says what is called that those do not have."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

PLATFORMS = ("darwin", "win32")


def loaded_modules() -> list[str]:
    """Import all of ``mxrtc``, and return which modules of ours that has loaded. Run it in a process of its own."""
    for name in ("mxrtc_bridge.client", "mxrtc_bridge.cli.client"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    return sorted(name for name in sys.modules if name.partition(".")[0] == "mxrtc_bridge")


def main() -> int:
    """Run mypy; returns its exit code."""
    # The last one is loaded where it is needed only.
    names = [*loaded_modules(), "mxrtc_bridge.system.win32"]
    modules = [word for name in names for word in ("-m", name)]
    mypy = Path(sys.executable).with_name("mypy")
    code = 0
    for platform in PLATFORMS:
        command = [mypy, "--platform", platform, "--cache-dir", f".mypy_cache/{platform}", *modules]
        code = subprocess.run(command, check=False).returncode or code
    return code


if __name__ == "__main__":
    sys.exit(main())
