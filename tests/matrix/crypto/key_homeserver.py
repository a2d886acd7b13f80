"""A homeserver that answers ``/keys/query`` with real, signed keys, and that can lie about them.

What a test needs of it is said by what it sets. ``honesty`` is enough for most: it tells the truth; it is *stale* and
goes on telling an old one; it is *silent*; its answer is *wrong*. More exactly: ``silent`` says what it fails with,
``gate`` lets it hang, ``wrong`` is what it says instead; ``failures`` are servers that did not answer *it*.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId, server_of
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from mxrtc_bridge.matrix.crypto.signed_json import with_signature
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity
from tests.honesty import Honesty

PICKLE_KEY = b"p" * 32


class KeyHomeserver:
    """See the head of this module; stands in for :class:`mxrtc_bridge.matrix.crypto.key_server.KeyServer`."""

    def __init__(self) -> None:
        self.listed: dict[UserId, dict[DeviceId, dict[str, Any]]] = {}
        self.identities: dict[UserId, IdentityKeys] = {}
        self._old: dict[str, Any] | None = None
        self.silent: str | None = None
        """What it fails with; None to answer."""
        self.gate: asyncio.Event | None = None
        """An answer is held back until this is set; it is made before."""
        self.wrong: object = None
        """Given instead of an answer."""
        self.failures: set[str] = set()
        """Servers that did not answer this one, as it says."""
        self.forgets: set[UserId] = set()
        """Users that it leaves out of its answers."""
        self.asked: list[tuple[UserId, ...]] = []

    @property
    def honesty(self) -> Honesty:
        if self.silent is not None:
            return Honesty.SILENT
        if self.wrong is not None:
            return Honesty.WRONG
        return Honesty.TRUE if self._old is None else Honesty.STALE

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        self.silent = "away" if honesty is Honesty.SILENT else None
        self.wrong = {"device_keys": []} if honesty is Honesty.WRONG else None
        self._old = None
        if honesty is Honesty.STALE:
            self.grow_stale()

    # What people do

    def log_in(self, user: UserId, name: str, *, signed: bool = True) -> DeviceIdentity:
        """A new device, or another one with the name of an old one."""
        account = OwnAccount.new(user, DeviceId(name), PICKLE_KEY)
        keys = account.device_keys()
        self.listed.setdefault(user, {})[account.device] = keys
        if signed and user in self.identities:
            self.sign(user, name)
        return DeviceIdentity(user, account.device, account.ed25519, account.curve25519)

    def log_out(self, user: UserId, name: str | None = None) -> None:
        """Delete a device, or all of them: then the identity stays, as with Synapse."""
        for device in [DeviceId(name)] if name else list(self.listed[user]):
            del self.listed[user][device]

    def make_identity(self, user: UserId, seed: str = "first") -> str:
        """A new identity, which has signed nothing yet; returns its key."""
        keys = IdentityKeys.derived(seed.encode().ljust(32, b"."), user)
        self.identities[user] = keys
        return keys.master.public

    def sign(self, user: UserId, name: str) -> None:
        """Have the identity sign a device."""
        key = self.identities[user].self_signing
        listed = self.listed[user]
        listed[DeviceId(name)] = with_signature(listed[DeviceId(name)], user, key.public, key.sign)

    def grow_stale(self) -> None:
        """From now on tell what is true now, whatever happens."""
        self._old = self.truth(tuple(self.listed))

    # What it answers

    def truth(self, users: Sequence[UserId]) -> dict[str, Any]:
        answer: dict[str, Any] = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}, "failures": {}}
        for user in users:
            if user in self.identities:
                content = identity_content(user, self.identities[user])
                answer["master_keys"][user] = content["master_key"]
                answer["self_signing_keys"][user] = content["self_signing_key"]
            if server_of(user) in self.failures:
                answer["failures"][server_of(user)] = {"status": 503}
            elif user not in self.forgets:
                answer["device_keys"][user] = copy.deepcopy(dict(self.listed.get(user, {})))
        return answer

    async def query_keys(self, users: Sequence[UserId]) -> Mapping[str, object]:
        self.asked.append(tuple(users))
        answer = self._old or self.truth(users)
        if self.gate is not None:
            await self.gate.wait()
        if self.silent is not None:
            raise HomeserverError(self.silent)
        return answer if self.wrong is None else self.wrong  # type: ignore[return-value]
