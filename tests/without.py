"""Runs ``mxrtc`` on a machine that lacks modules: ``python tests/without.py NAME,NAME ARGUMENTS...``.

With ``--import MODULE,MODULE`` in place of the arguments it only loads these; with ``--bridge`` in front of them it
runs ``mxrtc-bridge``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any


class Lacking:
    """A finder that finds none of the modules of some names, whether they are installed or not."""

    def __init__(self, finder: Any, names: Sequence[str]) -> None:
        self._finder = finder
        self._names = frozenset(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        hidden = name.partition(".")[0] in self._names
        return None if hidden else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def main() -> None:
    sys.path.pop(0)  # the folder of the tests
    names = sys.argv.pop(1).split(",")
    sys.meta_path[:] = [Lacking(finder, names) for finder in sys.meta_path]
    if sys.argv[1:2] == ["--import"]:
        for name in sys.argv[2].split(","):
            importlib.import_module(name)
        return
    program = "client"
    if sys.argv[1:2] == ["--bridge"]:
        program = sys.argv.pop(1).removeprefix("--")
    importlib.import_module(f"mxrtc_bridge.cli.{program}.entry").main()


if __name__ == "__main__":
    main()
