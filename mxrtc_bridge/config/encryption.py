"""The section on encryption: where its key comes from, and whose identities are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from mxrtc_bridge.config import schema
from mxrtc_bridge.config.config import EncryptionMode, EncryptionSettings
from mxrtc_bridge.config.problems import Complain, quoted
from mxrtc_bridge.config.secrets import find_secret
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.ids import typed_user_id

MIN_KEY_CHARS = 32
KEY_FILE = "encryption.key"


def build_encryption(
    section: schema.EncryptionSection, database: str, folder: Path, environ: Mapping[str, str], complain: Complain
) -> EncryptionSettings:
    """Judge the section on encryption.

    Args:
        section: the section.
        database: URL of the database, with an absolute path for a file.
        folder: what relative paths are relative to.
        environ: the environment.
        complain: told each mistake.
    """
    identities = {}
    for user, key in section.identities.items():
        try:
            identities[typed_user_id(user)] = key
        except EventError:
            complain(("encryption", "identities", user), f"{quoted(user)} is not a user id like @user:example.org")
    if section.enabled == "off" and section.devices != "any":
        complain(("encryption", "devices"), f"{section.devices} needs encryption: without it no device can be told")
    return EncryptionSettings(
        mode=EncryptionMode(section.enabled),
        key=_key(section, folder, environ, complain),
        key_file=beside(database, folder) / KEY_FILE,
        least=Trust(section.devices),
        identities=MappingProxyType(identities),
        announced=section.receive == "transactions",
    )


def _key(
    section: schema.EncryptionSection, folder: Path, environ: Mapping[str, str], complain: Complain
) -> bytes | None:
    if section.key is not None and section.key_file is not None:
        complain(("encryption", "key"), "give key or key_file, not both")
        return None
    try:
        key = find_secret("encryption_key", section.key, section.key_file, folder, environ)
    except ConfigError as error:
        complain(("encryption", "key_file"), str(error))
        return None
    if key is not None and len(key) < MIN_KEY_CHARS:
        text = (
            f"the key has {len(key)} characters, at least {MIN_KEY_CHARS} are needed; make one: openssl rand -base64 32"
        )
        complain(("encryption", "key"), text)
        return None
    return None if key is None else key.encode()


def beside(database: str, folder: Path) -> Path:
    """Return the folder of a database file, which the bridge can write to; that of the configuration for a server."""
    scheme, _, path = database.partition("://")
    return Path(unquote(path)).parent if scheme == "sqlite" and path else folder
