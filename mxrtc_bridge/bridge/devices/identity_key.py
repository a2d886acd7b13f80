"""Whether encryption can be had here, and the key that all identities of virtual users come from."""

from __future__ import annotations

import logging
import secrets

from mxrtc_bridge.config.config import EncryptionMode, EncryptionSettings
from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.config.secrets import read_secret_file
from mxrtc_bridge.matrix.crypto.binding import available

log = logging.getLogger(__name__)

NO_LIBRARY = "the package vodozemac is not installed (it exists for Linux on x86-64 and aarch64, and for macOS)"


def why_impossible(settings: EncryptionSettings) -> str | None:
    """Why encryption cannot be had, as far as it can be told without the homeserver; None if it can."""
    if settings.mode is EncryptionMode.OFF:
        return "encryption.enabled is off"
    return None if available() else NO_LIBRARY


def load_key(settings: EncryptionSettings) -> bytes:
    """Return the key of the configuration, or the bridge's own, which is made where there is none.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    if settings.key is not None:
        return settings.key
    path = settings.key_file
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32) + "\n", replace=False)
        log.warning("the key of all identities was made: %s; keep a copy of it", path)
    return read_secret_file(path).encode()
