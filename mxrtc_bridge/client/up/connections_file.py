"""The file of ``mxrtc up``: which local address leads to which service.

TOML, with one table::

    [connections]
    "2222" = "build/ssh"
    "127.0.0.1:8080" = "build/web"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge import system
from mxrtc_bridge.client.accounts import FIRST
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, Forward, parse_forward, peer_name
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.text.display import quoted

MAX_FILE_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
TABLE = "connections"
EXAMPLE = '[connections]\n"2222" = "build/ssh"'


@dataclass(frozen=True, slots=True)
class UpConnection:
    """One line: listen there for this service."""

    forward: Forward
    name: PeerName


def usual_file(context: Context) -> Path:
    """Where the file is if nobody names one: ``up.toml`` below ``mxrtc`` in :func:`config_home`.

    Each account but the first has one of its own, ``up-NAME.toml``.

    Raises:
        ClientError: there is no home directory, or no such account.
    """
    account = account_name(context)
    name = "up.toml" if account == FIRST else f"up-{account}.toml"
    return config_home() / "mxrtc" / name


def account_name(context: Context) -> str:
    """What the account is called that is used."""
    path = context.state.path
    return FIRST if path == context.accounts.folder(FIRST).path else path.name


def config_home() -> Path:
    """What :func:`mxrtc_bridge.system.config_home` says, in full.

    Raises:
        ClientError: there is no home directory.
    """
    try:
        return system.config_home().expanduser()
    except RuntimeError:
        words = f"there is no home directory for {system.config_home()}; set XDG_CONFIG_HOME or HOME"
        raise ClientError(Exit.LOCAL, words) from None


def read_connections(path: Path, login: Login) -> list[UpConnection]:
    """Read the file.

    Args:
        path: the file.
        login: as whom; names of peers without a server mean those of its server.

    Raises:
        ClientError: it cannot be read, or used: names all its mistakes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ClientError(Exit.USAGE, f"there is no {path}; write one, for example:\n{EXAMPLE}") from None
    except OSError as error:
        raise ClientError(Exit.LOCAL, f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ClientError(Exit.USAGE, f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        table = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ClientError(Exit.USAGE, f"{path} is not TOML: {error}") from error
    return _connections(path, table, login)


def _connections(path: Path, table: dict[str, object], login: Login) -> list[UpConnection]:
    mistakes = [f"{quoted(key)} is not known; there is {TABLE}" for key in table if key != TABLE]
    lines = table.get(TABLE)
    if not isinstance(lines, dict) or not 0 < len(lines) <= MAX_CONNECTIONS:
        mistakes.append(f"[{TABLE}] must have 1 to {MAX_CONNECTIONS} lines such as {EXAMPLE.splitlines()[1]}")
        lines = {}
    found: list[UpConnection] = []
    for where, what in lines.items():
        try:
            found.append(_connection(where, what, login))
        except MxrtcError as error:
            mistakes.append(f"{quoted(where)}: {error}")
    if mistakes:
        raise ClientError(Exit.USAGE, f"{path} cannot be used:\n" + "\n".join(mistakes))
    return found


def _connection(where: str, what: object, login: Login) -> UpConnection:
    if not isinstance(what, str):
        raise ClientError(Exit.USAGE, 'write what it leads to as text, like "build/ssh"')
    if "=" in where:
        raise ClientError(Exit.USAGE, "write [BIND:]PORT before the =, and PEER/SERVICE behind it")
    name = peer_name(login, what)
    if name.service is None:
        raise ClientError(Exit.USAGE, f"{quoted(what)} names no service; write PEER/SERVICE")
    return UpConnection(parse_forward(where), name)
