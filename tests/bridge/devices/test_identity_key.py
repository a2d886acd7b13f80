"""The key of all identities: from the configuration, or one that nobody else can read."""

from __future__ import annotations

import pytest

from mxrtc_bridge.bridge.devices.identity_key import load_key
from mxrtc_bridge.core.errors import ConfigError
from tests.bridge.devices.test_devices import KeyServerDouble, server

__all__ = ["server"]


async def test_key_of_the_configuration_leaves_no_file(server: KeyServerDouble) -> None:
    config = server.config(encryption={"key": "k" * 32})
    assert load_key(config.encryption) == b"k" * 32
    assert "k" * 32 not in repr(config)
    assert not config.encryption.key_file.exists()


async def test_key_that_others_can_read_is_refused(server: KeyServerDouble) -> None:
    settings = server.config(encryption={}).encryption
    settings.key_file.write_text("x" * 43)
    settings.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0600"):
        load_key(settings)
