"""Where tokens come from, and who may read the files that hold them.

A token is looked for in this order, and the first place that has one counts:

1. the environment, ``MXRTC_HS_TOKEN``;
2. the file that the environment names, ``MXRTC_HS_TOKEN_FILE``;
3. the configuration itself, ``hs_token``, or the file it names, ``hs_token_file``;
4. a file ``hs_token`` in ``$CREDENTIALS_DIRECTORY`` (systemd's ``LoadCredential=``).

A file that holds a secret must belong to us or to root, and nobody else may read or write it (its group may read it).
Where root acts as the owner of a configuration (:mod:`mxrtc_bridge.cli.bridge.acting`), "us" is that owner, and what
only root can read is none of the owner's: a configuration must not have root read and send what its owner cannot.
No message of this module contains a secret or a part of one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
"""Limit for the configuration itself."""
MAX_SECRET_BYTES = 4096
MIN_TOKEN_CHARS = 16
_FORBIDDEN_MODE = 0o027
"""Write for the group, anything for the others."""


@dataclass(frozen=True, slots=True)
class FileText:
    """The content of a file and the answer to who can read it."""

    text: str
    exposure: str | None
    """Why the file must not hold a secret, with the command that mends it; None if it may."""
    open_to_all: bool
    """Whether everybody can write to it."""


def read_file(path: Path, limit: int = MAX_FILE_BYTES, *, whole: bool = True) -> FileText:
    """Read a regular file of UTF-8 text.

    Args:
        path: of the file.
        limit: its size in bytes.
        whole: whether a file that is larger, or not UTF-8, is refused; otherwise what can be read of it is enough.

    Raises:
        ConfigError: it cannot be read, is no regular file, is larger than ``limit`` bytes, or is not UTF-8.
    """
    try:
        # O_NONBLOCK: opening a FIFO must fail here and not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if whole and len(content) > limit:
        raise ConfigError(f"{path} is larger than {limit} bytes")
    try:
        text = content.decode("utf-8-sig", "strict" if whole else "replace")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} is not UTF-8 text (line {line})") from None
    return FileText(
        text, exposure(path, status.st_mode, status.st_uid, status.st_gid), bool(status.st_mode & stat.S_IWOTH)
    )


def exposure(path: Path, mode: int, owner: int, group: int | None = None) -> str | None:
    """Say why a file with this mode, owner and group must not hold a secret, or None."""
    us = os.geteuid()
    if owner not in (0, us):
        # What the bridge's user cannot read would stop the bridge: root is given no command that makes it so.
        advice = "give it to the user that runs the bridge" if us == 0 else f"run: chown {us} {path}"
        return f"{path} holds a secret but belongs to user {owner}; {advice}"
    if owner != us and os.getuid() == 0 and not _grants_reading(mode, group):
        return (
            f"{path} holds a secret and belongs to root, and user {us}, who runs the bridge, cannot read it; "
            f"run: chown {us} {path}"
        )
    if mode & _FORBIDDEN_MODE:
        found = f"{stat.S_IMODE(mode):04o}"
        return (
            f"{path} holds a secret and has mode {found}, so that others can read or change it; run: chmod 0600 {path}"
        )
    return None


def _grants_reading(mode: int, group: int | None) -> bool:
    """Whether the mode of a file of somebody else lets us read it, whatever root may."""
    return bool(mode & (stat.S_IRGRP if group in (os.getegid(), *os.getgroups()) else stat.S_IROTH))


def read_secret_file(path: Path) -> str:
    """Read a file that holds one secret; white space around it is dropped.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    file = read_file(path, MAX_SECRET_BYTES)
    if file.exposure is not None:
        raise ConfigError(file.exposure)
    return file.text.strip()


def find_secret(
    name: str, inline: str | None, file: str | None, folder: Path, environ: Mapping[str, str]
) -> str | None:
    """Look for the secret ``name`` (``hs_token``) in all its places, in the order of the module's head.

    Args:
        name: key in the configuration, lower case.
        inline: its value in the configuration.
        file: value of the key with ``_file`` added.
        folder: what relative paths are relative to.
        environ: the environment.

    Raises:
        ConfigError: a file cannot be used.
    """
    variable = f"MXRTC_{name.upper()}"
    if environ.get(variable):
        return environ[variable]
    if environ.get(f"{variable}_FILE"):
        return read_secret_file(folder / environ[f"{variable}_FILE"])
    if inline is not None:
        return inline
    if file is not None:
        return read_secret_file(folder / file)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / name).exists():
        return read_secret_file(Path(credentials) / name)
    return None


def complaint_about_token(token: str) -> str | None:
    """Say why ``token`` cannot serve as a token, or None. The token itself is never part of the answer."""
    if len(token) < MIN_TOKEN_CHARS:
        return f"the token has {len(token)} characters; at least {MIN_TOKEN_CHARS}, better 64 random ones"
    if not all("!" <= char <= "~" for char in token):
        return "the token must consist of printable ASCII characters without spaces: it travels in an HTTP header"
    return None
