"""A small configuration that can be used, and ways to change one part of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.config.problems import InvalidConfigError
from mxrtc_bridge.config.yaml_writer import scalar

PATH = Path("/etc/mxrtc/config.yaml")
HS_TOKEN = "hs-token-for-the-tests"
AS_TOKEN = "as-token-for-the-tests"

GOOD: dict[str, Any] = {
    "version": 2,
    "homeserver": {"address": "http://127.0.0.1:8008", "domain": "example.org"},
    "appservice": {"hs_token": HS_TOKEN, "as_token": AS_TOKEN},
    "peers": {
        "build": {
            "services": {
                "ssh": {"target": "tcp:127.0.0.1:22"},
                "web": {"target": "unix:/run/build/web.sock", "raw": True},
            }
        },
        "lab": {"displayname": "The lab", "services": {"ssh": {"target": "tcp:lab.internal:22"}}},
    },
    "groups": {"ops": ["@alice:example.org", "server:ops.example.org"]},
    "grants": [{"id": "ops-ssh", "from": ["group:ops"], "to": ["build/ssh"]}],
}


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """The good configuration with one value replaced (or added)."""
    data = copy.deepcopy(GOOD)
    place: Any = data
    for part in path[:-1]:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[path[-1]] = to
    return data


def text_of(data: dict[str, Any]) -> str:
    """One line for each top-level key, so that line numbers are easy to tell."""
    return "".join(f"{key}: {scalar(value)}\n" for key, value in data.items())


def load(
    data: dict[str, Any] | str, environ: dict[str, str] | None = None, path: Path = PATH, exposure: str | None = None
) -> Config:
    text = data if isinstance(data, str) else text_of(data)
    return parse_config(text, path, environ or {}, exposure)


def mistakes(data: dict[str, Any] | str, environ: dict[str, str] | None = None, path: Path = PATH) -> list[str]:
    """The lines of the report, without its head; empty if there is nothing to report."""
    try:
        load(data, environ, path)
    except InvalidConfigError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []
