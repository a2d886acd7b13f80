"""A message between devices, once it is decrypted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.matrix.crypto.values import DeviceKeys


@dataclass(frozen=True, slots=True)
class OlmMessage:
    """A message that was decrypted and names us and its sender rightly."""

    type: str
    content: Mapping[str, Any] = field(repr=False)
    curve25519: str
    ed25519: str
    """What the sender says its key is; proven by ``device_keys`` or by the list of devices."""
    device_keys: DeviceKeys | None = None
    """The sender's device, where the message itself proves it (MSC4147)."""
    session_id: str = ""
    """Of the session that has brought it."""
    chars: int = 0
    """How long it is."""
