"""The configuration: read from a file, checked as a whole, handed out as frozen values."""

from __future__ import annotations

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config, parse_config
from mxrtc_bridge.config.problems import Finding, InvalidConfigError, Level
from mxrtc_bridge.config.values import Listen, TcpListen, UnixListen

__all__ = [
    "Config", "Finding", "InvalidConfigError", "Level", "Listen", "TcpListen", "UnixListen", "load_config",
    "parse_config",
]  # fmt: skip
