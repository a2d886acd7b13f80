"""Reads a configuration that somebody may be writing at this moment.

A file that was written to the half may be a valid configuration that lacks the second half of ``deny``. So what was
read counts only if the file has stayed the same for a moment before and while it was read. Blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.errors import ConfigError

QUIET_S = 0.2
"""How long nothing may have been written."""
PATIENCE_S = 4.0
_LOOK_EVERY_S = 0.05


def load_settled(
    path: Path, load: Callable[[Path], Config], *, quiet_s: float = QUIET_S, patience_s: float = PATIENCE_S
) -> Config:
    """Read the configuration once nobody writes it any more.

    Args:
        path: of the file.
        load: reads it.
        quiet_s: how long nothing may have been written.
        patience_s: how long to wait for that.

    Raises:
        ConfigError: it has mistakes, or is written to without end.
    """
    deadline = time.monotonic() + patience_s
    while True:
        before = _wait_until_quiet(path, deadline, quiet_s)
        try:
            config = load(path)
        except ConfigError:
            if _state(path) == before:
                raise
        else:
            if _state(path) == before:
                return config
        if time.monotonic() > deadline:
            raise ConfigError(f"{path} changes all the time; reload again when it is written")


def _wait_until_quiet(path: Path, deadline: float, quiet_s: float) -> object:
    state, since = _state(path), time.monotonic()
    while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
        if (now := _state(path)) != state:
            state, since = now, time.monotonic()
    return state


def _state(path: Path) -> object:
    """What changes when the file is written or replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
