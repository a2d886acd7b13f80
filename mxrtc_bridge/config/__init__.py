"""The configuration: read from a file, checked as a whole, handed out as frozen values."""

from __future__ import annotations

from mxrtc_bridge.config.config import (
    AppserviceSettings,
    Config,
    HomeserverSettings,
    IceSettings,
    LimitSettings,
    Listen,
    PeerSettings,
    PolicyTest,
    ServiceSettings,
    TcpListen,
    UnixListen,
)
from mxrtc_bridge.config.loader import load_config, parse_config
from mxrtc_bridge.config.problems import Finding, InvalidConfigError, Level, Problem

__all__ = [
    "AppserviceSettings",
    "Config",
    "Finding",
    "HomeserverSettings",
    "IceSettings",
    "InvalidConfigError",
    "Level",
    "LimitSettings",
    "Listen",
    "PeerSettings",
    "PolicyTest",
    "Problem",
    "ServiceSettings",
    "TcpListen",
    "UnixListen",
    "load_config",
    "parse_config",
]
