"""The identity of one of our own users: published once, and its signature under the user's device.

For the users of an application service the homeserver asks for no confirmation (MSC4190). An identity that is there
already and is not ours is replaced on purpose only: others then see that the user's identity has changed, and no
homeserver has to take the old one back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.text.foreign_json import inside, object_inside
from mxrtc_bridge.matrix.crypto.key_answers import keys_in
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys, SigningKey
from mxrtc_bridge.matrix.crypto.signed_json import is_signed, parse_cross_signing, with_signature

log = logging.getLogger(__name__)


def _key_object(user: UserId, usage: str, key: SigningKey) -> dict[str, Any]:
    return {"user_id": user, "usage": [usage], "keys": {f"ed25519:{key.public}": key.public}}


def identity_content(user: UserId, keys: IdentityKeys) -> dict[str, Any]:
    """The body of ``/keys/device_signing/upload``."""
    master, name = _key_object(user, "master", keys.master), keys.master.public
    return {
        "master_key": master,
        "self_signing_key": with_signature(
            _key_object(user, "self_signing", keys.self_signing), user, name, keys.master.sign
        ),
        "user_signing_key": with_signature(
            _key_object(user, "user_signing", keys.user_signing), user, name, keys.master.sign
        ),
    }


DEVICE_NAME = "mxrtc-bridge"
"""What a bridge calls the devices of its users."""


@dataclass(frozen=True, slots=True)
class ShownIdentity:
    """What a homeserver shows of the identity of an own user."""

    master: str
    of_a_bridge: bool = False
    """Whether the user has devices of a bridge and no others, so that it is no person; by their names only."""


class OtherIdentityError(ConfigError):
    """An own user shows an identity that the key does not make, which is never replaced unasked."""


def shown_identities(answer: Mapping[str, object], users: Iterable[UserId]) -> dict[UserId, ShownIdentity]:
    """The identities of some users in the answer to ``/keys/query``, as far as they can be read.

    A master key counts without the other keys as well, and also one that cannot be read: what is there would be lost.
    """
    found = {}
    for user in users:
        master = inside(answer, "master_keys", user)
        if master is not None:
            key = next(iter(object_inside(master, "keys").values()), "")
            found[user] = ShownIdentity(key if isinstance(key, str) else "", _is_a_bridges(answer, user))
    return found


async def ask_for_own_keys(server: KeyServer) -> dict[str, object]:
    """Ask what the homeserver shows of our own user.

    Raises:
        HomeserverError: it does not say; then nothing may be taken for lost, and nothing be put in its place.
    """
    answer = await server.query_keys([server.user])
    if keys_in(answer, server.user) is None or not isinstance(answer.get("master_keys", {}), dict):
        raise HomeserverError(f"the homeserver does not say which keys {server.user} has")
    return answer


def _is_a_bridges(answer: Mapping[str, object], user: UserId) -> bool:
    """Whether all devices of a user have the name that bridges give theirs."""
    devices = object_inside(answer, "device_keys", user).values()
    names = [inside(device, "unsigned", "device_display_name") for device in devices]
    return bool(names) and all(name == DEVICE_NAME for name in names)


def refuse_other(answer: Mapping[str, object], user: UserId, keys: IdentityKeys) -> None:
    """Raise if the answer to ``/keys/query`` shows another identity, whose place ours may not take.

    Raises:
        OtherIdentityError: so it is.
    """
    shown = shown_identities(answer, [user]).get(user)
    if not keys.may_replace and shown is not None and shown.master != keys.master.public:
        raise OtherIdentityError(f"{user} shows another identity than our key makes; it is not replaced unasked")


async def publish_identity(
    server: KeyServer,
    answer: Mapping[str, object],
    device: DeviceId,
    keys: IdentityKeys,
    device_keys: Mapping[str, Any],
    device_sign: Callable[[bytes], str],
) -> None:
    """See to it that the homeserver shows our identity, and our device signed by it.

    Args:
        server: the homeserver, as it answers the own user.
        answer: what it showed of the user, by :func:`ask_for_own_keys`, in this start of the device.
        device: our device.
        keys: the identity.
        device_keys: the signed keys of the device, as uploaded.
        device_sign: signs with the key of the device.

    Raises:
        HomeserverError: it refuses.
        OtherIdentityError: another identity is shown, and ours may not take its place; nothing was changed.
    """
    user = server.user
    shown = parse_cross_signing(inside(answer, "master_keys", user), inside(answer, "self_signing_keys", user), user)
    ours = (keys.master.public, keys.self_signing.public)
    if shown is None or (shown.master, shown.self_signing) != ours:
        refuse_other(answer, user, keys)
        try:
            await server.upload_identity(device, identity_content(user, keys))
        except HomeserverError as error:
            if shown is None or shown.master == keys.master.public or error.status < 500:
                raise
            # Synapse keeps each key that it has ever shown, and fails when it is to show one of them again.
            raise OtherIdentityError(
                f"the homeserver does not take the identity of {user} in place of the one that it shows ({error}); if "
                "it has had this identity before, it never takes it back: move the encryption key away, so that a new "
                "one is made, and start once with --new-identity"
            ) from error
    mine = inside(answer, "device_keys", user, device)
    name = keys.self_signing.public
    if isinstance(mine, dict) and is_signed(mine, user, name, name):
        return
    # The device signs the master key as well, so that its own key vouches for the identity.
    master = with_signature(_key_object(user, "master", keys.master), user, device, device_sign)
    signed = with_signature(device_keys, user, name, keys.self_signing.sign)
    failures = await server.upload_signatures(device, {user: {device: signed, keys.master.public: master}})
    if failures:
        raise HomeserverError(f"the homeserver refused the signatures of {user}", 200)
    log.info("%s has a device that its identity has signed", user)
