"""The identities of virtual users before anything is done with them: what our key makes, and what the homeserver shows.

Implements :class:`mxrtc_bridge.matrix.virtual_users.Identities`. Makes no key: where there is none yet, an identity
that the homeserver shows is certainly another one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from mxrtc_bridge.bridge.devices.identity_key import load_key, why_impossible
from mxrtc_bridge.config.config import Config, EncryptionMode
from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.cross_signing import ShownIdentity, shown_identities
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys

log = logging.getLogger(__name__)

USERS_AT_A_TIME = 100
"""Whose identities are asked for in one request."""


class BridgeIdentities:
    """See the head of this module; :meth:`load` comes first.

    Args:
        config: the configuration.
        transport: to the homeserver, with the token of the application service.
    """

    def __init__(self, config: Config, transport: Transport) -> None:
        self._settings = config.encryption
        self._is_on = why_impossible(config.encryption) is None
        self._key: bytes | None = None
        self._server = KeyServer(transport, config.appservice.bot, masquerade=False)

    @property
    def key_place(self) -> str:
        """Where the key is kept, for people."""
        return "encryption.key of the configuration" if self._settings.key is not None else str(self._settings.key_file)

    async def load(self) -> None:
        """Read the key, if there is one.

        Raises:
            ConfigError: it cannot be read, and encryption was demanded.
        """
        if (
            not self._is_on
            or self._key is not None
            or (self._settings.key is None and not self._settings.key_file.exists())
        ):
            return
        try:
            self._key = await in_new_thread(load_key, self._settings)
        except ConfigError:
            if self._settings.mode is EncryptionMode.ON:
                raise
            self._is_on = False  # and says so itself when it is started

    def expected(self, user: UserId) -> str | None:
        """The master key that our key makes for ``user``; an empty text where there is no key yet."""
        if not self._is_on:
            return None
        return "" if self._key is None else IdentityKeys.derived(self._key, user).master.public

    async def shown(self, users: Collection[UserId]) -> Mapping[UserId, ShownIdentity]:
        """What the homeserver shows; see :class:`mxrtc_bridge.matrix.virtual_users.Identities`."""
        found: dict[UserId, ShownIdentity] = {}
        every = list(users) if self._is_on else []
        for start in range(0, len(every), USERS_AT_A_TIME):
            some = every[start : start + USERS_AT_A_TIME]
            try:
                found |= shown_identities(await self._server.query_keys(some), some)
            except HomeserverError as error:
                if error.status not in (400, 403, 404, 405):
                    raise
                # A homeserver without identities; each device asks once more before it publishes one.
                log.info("the homeserver does not say which identities it knows: %s", error)
        return found
