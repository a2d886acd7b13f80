"""Checks the types of the user's side as on macOS, which says what is called that only Linux has."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path


def loaded_modules() -> list[str]:
    """Import all of ``mxrtc``, and return which modules of ours that has loaded. Run it in a process of its own."""
    for name in ("mxrtc_bridge.client", "mxrtc_bridge.cli.client"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    return sorted(name for name in sys.modules if name.partition(".")[0] == "mxrtc_bridge")


def main() -> int:
    """Run mypy; returns its exit code."""
    modules = [word for name in loaded_modules() for word in ("-m", name)]
    mypy = Path(sys.executable).with_name("mypy")
    command = [mypy, "--platform", "darwin", "--cache-dir", ".mypy_cache/darwin", *modules]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
