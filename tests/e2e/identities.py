"""Identities (cross-signing keys) of people, as their other clients make them: for the end-to-end tests."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from mxrtc_bridge.matrix.crypto.signed_json import with_signature
from tests.e2e.world import DOMAIN, PASSWORD, World
from tests.synapse import SynapseLogin


def own_device(world: World, name: str) -> tuple[str, str]:
    """Device and token of a user's ``mxrtc``."""
    login = json.loads((world.folder / f"state-{name}" / "login.json").read_text())
    return login["device_id"], login["access_token"]


@dataclass
class OtherClient:
    """A second client of a user, with another device."""

    world: World
    name: str
    login: SynapseLogin
    keys: IdentityKeys | None = None

    @classmethod
    async def log_in(cls, world: World, name: str) -> OtherClient:
        return cls(world, name, await world.homeserver.login(name, PASSWORD))

    @property
    def user(self) -> UserId:
        return UserId(f"@{self.name}:{DOMAIN}")

    async def ask(self, method: str, path: str, content: dict[str, Any]) -> Any:
        return await self.world.homeserver.request(
            method, f"/_matrix/client/v3/{path}", token=self.login.access_token, body=content
        )

    async def make_identity(self) -> None:
        """Make a new identity, which has signed nothing yet."""
        self.keys = IdentityKeys.derived(secrets.token_bytes(32), self.user)
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user},
            "password": PASSWORD,
        }
        await self.ask("POST", "keys/device_signing/upload", {**identity_content(self.user, self.keys), "auth": auth})

    async def sign(self, device: str) -> None:
        """Sign a device of the user with the identity of :meth:`make_identity`."""
        assert self.keys is not None
        listed = await self.ask("POST", "keys/query", {"device_keys": {self.user: []}})
        key = self.keys.self_signing
        signed = with_signature(listed["device_keys"][self.user][device], self.user, key.public, key.sign)
        signed.pop("unsigned", None)
        answer = await self.ask("POST", "keys/signatures/upload", {self.user: {device: signed}})
        assert not answer.get("failures"), answer
