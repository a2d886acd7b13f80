"""Runs ``mxrtc`` on a machine that lacks modules: ``python tests/without.py NAME,NAME ARGUMENTS...``.

With ``--import MODULE,MODULE`` in place of the arguments it only loads these; with ``--bridge`` in front of them it
runs ``mxrtc-bridge``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec


class Missing:
    """Finds none of the modules of these names, whether they are installed or not."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}: hidden by a test", name=name)
        return None


def main() -> None:
    sys.path.pop(0)  # the folder of the tests
    sys.meta_path.insert(0, Missing(sys.argv.pop(1).split(",")))
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
