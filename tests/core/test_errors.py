"""The tree of exceptions at the head of the module is the one of the classes."""

from __future__ import annotations

import importlib
import pkgutil
import re

import mxrtc_bridge
from mxrtc_bridge.core import errors


def all_below(kind: type[Exception]) -> dict[str, str]:
    """Return each public error of the product by the name of the public one above it."""
    found = {}
    for child in kind.__subclasses__():
        if child.__module__.startswith("mxrtc_bridge.") and not child.__module__.startswith("mxrtc_bridge.demo"):
            if child.__name__.startswith("_"):
                found |= {
                    name: kind.__name__ if above == child.__name__ else above
                    for name, above in all_below(child).items()
                }
            else:
                found |= {child.__name__: kind.__name__, **all_below(child)}
    return found


def drawn() -> dict[str, str]:
    """Read the same from the drawing."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            if depth:
                found[match[2]] = above[depth - 1]
    return found


def test_the_drawn_tree_is_that_of_the_classes() -> None:
    for module in pkgutil.walk_packages(mxrtc_bridge.__path__, "mxrtc_bridge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert drawn() == all_below(errors.MxrtcError)
