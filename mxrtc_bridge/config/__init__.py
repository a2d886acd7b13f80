"""The configuration: read from a file, checked as a whole, handed out as frozen values.

What is named here is loaded when it is asked for: programs that need a part of this package only, as the user's command
line does, do not load what reads YAML and checks it, a sixth of all that they load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxrtc_bridge.config.config import Config
    from mxrtc_bridge.config.loader import load_config, parse_config
    from mxrtc_bridge.config.problems import Finding, InvalidConfigError, Level
    from mxrtc_bridge.config.values import Listen, TcpListen, UnixListen

__all__ = [
    "Config", "Finding", "InvalidConfigError", "Level", "Listen", "TcpListen", "UnixListen", "load_config",
    "parse_config",
]  # fmt: skip

_HOMES = {
    "Config": "config",
    **dict.fromkeys(("load_config", "parse_config"), "loader"),
    **dict.fromkeys(("Finding", "InvalidConfigError", "Level"), "problems"),
    **dict.fromkeys(("Listen", "TcpListen", "UnixListen"), "values"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
