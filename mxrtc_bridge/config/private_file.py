"""Write files that hold secrets: private from their first byte, complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from mxrtc_bridge.core.errors import ConfigError


def write_private(path: Path, text: str, *, replace: bool) -> None:
    """Write ``text`` to ``path`` with mode 0600; after a crash there is the old file or the new one.

    Args:
        path: where to; its folder must exist.
        text: the content.
        replace: whether a file that is there already may be replaced.

    Raises:
        ConfigError: it exists and must not be replaced, or cannot be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # Created with its final mode: a chmod afterwards would leave a moment in which others can open it.
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        if replace:
            aside.replace(path)
        else:
            # Unlike rename(2), link(2) never takes the place of a file that has appeared meanwhile.
            os.link(aside, path)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; use --force to replace it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
