"""What the commands for a running bridge need of a configuration that may have mistakes: where the bridge can be found.

Somebody who edits the file while the bridge runs with the old one must still be able to end a session. So nothing is
judged here; what cannot be read is taken as if it were not there, and the defaults count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mxrtc_bridge.config import build, schema
from mxrtc_bridge.config.encryption import beside
from mxrtc_bridge.config.problems import KeyPath
from mxrtc_bridge.config.secrets import read_file
from mxrtc_bridge.config.yaml_reader import Value, read_yaml

_SECTION = re.compile(r"^(?=[A-Za-z_]+[ \t]*:)", re.MULTILINE)
"""Where a key of the first level begins, in a file that is written in lines."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Where a bridge keeps what it keeps, as far as its configuration says so."""

    state: Path
    """The file of the database; the folder of the configuration where the database is a server."""
    control_socket: Path | None
    """None where the configuration switches it off, or names no path that a socket can have."""


def read_outline(path: Path, environ: Mapping[str, str] | None = None) -> Outline:
    """Read where the bridge is.

    Args:
        path: the configuration.
        environ: the environment; that of the process by default.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    path = path.absolute()
    text, folder = read_file(path, whole=False).text, path.parent
    found = _sections(text)
    named = found.get("database")
    default = str(schema.Root.model_fields["database"].get_default())
    mistakes: list[str] = []

    def complain(_place: KeyPath, message: str) -> None:
        mistakes.append(message)

    url = named if isinstance(named, str) and named else default
    database = build.build_database(url, folder, os.environ if environ is None else environ, complain)
    if mistakes:
        database = build.build_database(default, folder, {}, complain)
    scheme, _, file = database.partition("://")
    control = build.build_control(_control(found.get("control")), beside(database, folder), folder, complain)
    return Outline(Path(unquote(file)) if scheme == "sqlite" else folder, control)


def named_services(path: Path) -> dict[str, tuple[str, ...]]:
    """The peers that a configuration names, each with its services, whatever else is wrong with it.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    peers = _sections(read_file(path.absolute(), whole=False).text).get("peers")
    named: dict[str, tuple[str, ...]] = {}
    for peer, section in peers.items() if isinstance(peers, dict) else ():
        services = section.get("services") if isinstance(section, dict) else None
        named[str(peer)] = tuple(map(str, services)) if isinstance(services, dict) else ()
    return named


def _control(found: Value) -> schema.ControlSection:
    wanted = found if isinstance(found, dict) else {}
    socket, enabled = wanted.get("socket"), wanted.get("enabled")
    return schema.ControlSection(
        enabled=enabled if isinstance(enabled, bool) else True,
        socket=socket if isinstance(socket, str) and socket and "\0" not in socket else None,
    )


def _sections(text: str) -> dict[str, Value]:
    """The values of the first level; what stands behind a mistake is looked for section by section."""
    found: dict[str, Value] = {}
    for part in _parts(text):
        data = read_yaml(part).data
        if isinstance(data, dict):
            found = {**data, **found}
    return found


def _parts(text: str) -> Iterator[str]:
    yield text
    yield from (part for part in _SECTION.split(text) if part.startswith(("database", "control", "peers")))
