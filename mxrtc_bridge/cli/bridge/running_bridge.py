"""Asking the running bridge: for the commands that must work whatever its configuration looks like now.

Root asks as root, and the bridge writes down that it was root. So the socket is opened by its descriptor, without
following a link, and must belong to root or to the owner of the configuration: whoever else can put something in its
place is not asked, and answers nothing that an admin would believe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import uvloop

from mxrtc_bridge.cli.bridge.acting import acting_as_owner, owner_of_bridge
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.config.outline import read_outline
from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.core.text.display import display, is_text


def ask_bridge(path: Path, socket: Path | None, words: tuple[str, ...]) -> tuple[int, dict[str, object]]:
    """Have the running bridge carry out a command; returns the status and the answer.

    Args:
        path: of the configuration, of which only the place of the socket counts.
        socket: where the bridge listens, if that was said; the configuration is not read then.
        words: the command.

    Raises:
        ConfigError: the configuration does not say where the bridge is.
        LocalError: no bridge answers there.
        click.UsageError: a word is no text.
    """
    for word in words:
        if not is_text(word):
            raise click.UsageError(f"{display(word)} is not text in UTF-8; look at the locale of your terminal.")
    # Only these commands need the client, whose library takes its time to load.
    with loading():
        from mxrtc_bridge.web.control import ask_until_ready  # noqa: PLC0415

    def waits(what: str) -> None:
        click.echo(what, err=True)

    with _reached(path, socket) as (way, shown):
        return uvloop.run(ask_until_ready(way, words, waits, shown=shown))


def ask_at_once(path: Path, socket: Path | None, words: tuple[str, ...], within_s: float) -> dict[str, object]:
    """Like :func:`ask_bridge`, for what nobody waits for: of a bridge that starts, hangs or refuses there is nothing.

    Args:
        path: as there.
        socket: as there.
        words: a command that changes nothing.
        within_s: how long an answer may take.

    Raises:
        ConfigError: as there.
        LocalError: no bridge answers there in time.
    """
    with loading():
        from mxrtc_bridge.web.control import ask  # noqa: PLC0415

    with _reached(path, socket) as (way, shown):
        status, answer = uvloop.run(ask(way, words, shown=shown, answer_s=within_s))
    return answer if status < 400 else {}


def number_in(row: Mapping[str, object], name: str) -> float:
    """A number of a row of an answer; 0 where it has none."""
    value = row.get(name)
    return value if isinstance(value, int | float) else 0


@contextmanager
def _reached(path: Path, socket: Path | None) -> Iterator[tuple[str, str]]:
    """Where the bridge can be asked, and how that place is called."""
    owners = None
    if socket is None:
        with acting_as_owner(path):
            socket = _socket_of(path)
        owners = {0, owner_of_bridge(path)} if os.geteuid() == 0 else None
    with _way_to(socket, owners) as way:
        yield way, str(socket)


def _socket_of(path: Path) -> Path:
    try:
        socket = read_outline(path).control_socket
    except ConfigError as error:
        raise ConfigError(f"{error}\nwhere the running bridge listens can be said as well: --socket PATH") from None
    if socket is None:
        raise ConfigError("control.enabled is false, so the running bridge cannot be reached from here")
    return socket


@contextmanager
def _way_to(socket: Path, owners: set[int] | None) -> Iterator[str]:
    """A path to the socket by which nothing else can be reached; of another user than root it is the path itself."""
    if os.geteuid() != 0:
        yield str(socket)
        return
    try:
        descriptor = os.open(socket, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield str(socket)  # and asking there says what is the matter
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode):
            raise LocalError(f"{socket} is no socket, so no bridge listens there")
        if owners is not None and status.st_uid not in owners:
            raise LocalError(
                f"{socket} belongs to user {status.st_uid}, who is not the owner of the configuration, so what listens "
                "there may be another's; if it is your bridge, say so with --socket"
            )
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
