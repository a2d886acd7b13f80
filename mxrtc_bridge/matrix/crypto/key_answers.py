"""The answer to ``/keys/query``, user by user: keys, no keys, or no answer.

An answer that is none must never pass for one without devices, which ends sessions; and one without devices never for
none, which lets them live. Our own homeserver says which other servers did not answer it (client-server API,
``failures``). It adds the identity of a user from its memory also when the user's server did not answer, so that an
identity alone says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.core.text.foreign_json import inside, object_inside


@dataclass(frozen=True, slots=True)
class UserKeys:
    """What was answered about one user; nothing in it has been judged but its outer form."""

    devices: Mapping[str, Any] = field(repr=False)
    master: object = field(repr=False)
    self_signing: object = field(repr=False)

    @property
    def identity(self) -> tuple[object, object]:
        """The two keys of the user that lead to the devices."""
        return self.master, self.self_signing

    def digest(self) -> bytes:
        """The same for the same keys, so that they need not be judged again.

        Raises:
            ValueError: they hold what JSON cannot hold.
            RecursionError: they are nested too deeply.
        """
        text = json.dumps([self.devices, self.master, self.self_signing], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()


def keys_in(answer: Mapping[str, object], user: UserId) -> UserKeys | None:
    """What the answer says about a user; None if that is nothing."""
    listed = answer.get("device_keys")
    failures = answer.get("failures", {})
    if not isinstance(listed, dict) or not isinstance(failures, dict):
        return None
    devices = listed.get(user, {})
    if not isinstance(devices, dict) or (not devices and server_of(user) in map(str.lower, failures)):
        return None
    return UserKeys(devices, inside(answer, "master_keys", user), inside(answer, "self_signing_keys", user))


def is_named_in(answer: Mapping[str, object], user: UserId) -> bool:
    """Whether the answer has a list of the user's devices, be it empty.

    A homeserver may answer only about users who share a room with whoever asks, and leave out all others.
    """
    return user in object_inside(answer, "device_keys")
