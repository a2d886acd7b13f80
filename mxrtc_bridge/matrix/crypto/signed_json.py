"""Signed JSON: signatures, and the strict reading of keys that a homeserver passes on.

Appendices of the specification, "Signing JSON". Whatever comes from ``/keys/query`` and ``/keys/claim`` was written by
users of any server: it is bounded here, and a device whose keys are not well-formed and signed by itself does not exist
for us.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from mxrtc_bridge.core.crypto.canonical_json import canonical_json
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.text.foreign_json import inside, object_inside
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.values import MEGOLM, OLM, CrossSigningKeys, DeviceIdentity, DeviceKeys

MAX_DEVICES = 256
"""Devices of one user that are looked at. People have a few; a bot that leaks a device with each login has hundreds."""
MAX_KEY_CHARS = 8192
"""The canonical JSON of one device's keys, or of one cross-signing key."""
MAX_SIGNATURES = 300
"""Of its user on one key: each device may have signed the master key."""
MAX_SIGNATURE_CHARS = 512
"""Of a signature with the name of its key."""
_KEY = re.compile(r"[A-Za-z0-9+/]{43}")
_DEVICE_ID = re.compile(r"[!-~]{1,255}")


def signable(value: Mapping[str, Any]) -> bytes:
    """Return what is signed: everything but the signatures and ``unsigned``."""
    return canonical_json({key: item for key, item in value.items() if key not in ("signatures", "unsigned")})


def with_signature(value: Mapping[str, Any], user: UserId, key_id: str, sign: Callable[[bytes], str]) -> dict[str, Any]:
    """Return ``value`` with one signature more; ``sign`` gives unpadded base64."""
    signatures = {whose: dict(keys) for whose, keys in (value.get("signatures") or {}).items()}
    signatures.setdefault(user, {})[f"ed25519:{key_id}"] = sign(signable(value))
    return {**value, "signatures": signatures}


def is_signed(value: Mapping[str, Any], user: UserId, key_id: str, ed25519: str) -> bool:
    """Whether ``value`` has a valid signature of ``user`` by the key ``ed25519``, named ``key_id``."""
    signature = inside(value, "signatures", user, f"ed25519:{key_id}")
    if not isinstance(signature, str) or len(signature) > 128:
        return False
    try:
        message = signable(value)
        key = vodozemac.Ed25519PublicKey.from_base64(ed25519)
        key.verify_signature(message, vodozemac.Ed25519Signature.from_base64(signature))
    except (EventError, ValueError):
        return False
    return True


def is_key(value: object) -> bool:
    """Whether ``value`` is a key of 32 bytes in unpadded base64, in its one canonical spelling."""
    if not isinstance(value, str) or _KEY.fullmatch(value) is None:
        return False
    return unpadded(base64.b64decode(value + "=")) == value


def unpadded(data: bytes) -> str:
    """Unpadded base64, as Matrix writes bytes."""
    return base64.b64encode(data).decode().rstrip("=")


def from_unpadded(text: str) -> bytes:
    """Read base64 with or without padding.

    Raises:
        EventError: it is no base64.
    """
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EventError(RefusalCode.BAD_KEY, "this is no base64") from error


def parse_device_keys(value: object, user: UserId, device: str | None = None) -> DeviceKeys:
    """Read the keys of a device of ``user``.

    Args:
        value: what the homeserver or the device itself gave.
        user: whose device it must be.
        device: which one it must be; None where the object itself says it.

    Raises:
        EventError: it is not well-formed, names another device, or is not signed by itself.
    """
    if not isinstance(value, dict):
        raise EventError(RefusalCode.BAD_KEY, "the keys of a device must be an object")
    named, owner, keys, algorithms = (value.get(name) for name in ("device_id", "user_id", "keys", "algorithms"))
    if not isinstance(named, str) or _DEVICE_ID.fullmatch(named) is None or (device is not None and named != device):
        raise EventError(RefusalCode.BAD_KEY, "the keys of a device name another device")
    if owner != user:
        raise EventError(RefusalCode.BAD_KEY, "the keys of a device name another user")
    if not isinstance(algorithms, list) or OLM not in algorithms or MEGOLM not in algorithms:
        raise EventError(RefusalCode.BAD_KEY, "a device that does not know Olm and Megolm")
    ed25519, curve25519 = (inside(keys, f"{kind}:{named}") for kind in ("ed25519", "curve25519"))
    if not is_key(ed25519) or not is_key(curve25519):
        raise EventError(RefusalCode.BAD_KEY, "the keys of a device are not keys")
    if len(signable(value)) > MAX_KEY_CHARS or not is_signed(value, user, named, str(ed25519)):
        raise EventError(RefusalCode.BAD_KEY, "the keys of a device are not signed by itself")
    return DeviceKeys(user, DeviceId(named), str(ed25519), str(curve25519), kept(value, user))


def kept(value: Mapping[str, Any], user: UserId) -> dict[str, Any]:
    """What is worth keeping of a signed object: what is signed, and the signatures of ``user`` by their keys.

    The signatures of others are none of ours to check, and those that are not signed over may be of any size.

    Raises:
        EventError: the user has put more signatures on it than anybody does.
    """
    good = {
        name: signature
        for name, signature in object_inside(value, "signatures", user).items()
        if isinstance(signature, str) and len(name) + len(signature) <= MAX_SIGNATURE_CHARS
    }
    if len(good) > MAX_SIGNATURES:
        raise EventError(RefusalCode.BAD_KEY, f"a key with {len(good)} signatures; the limit is {MAX_SIGNATURES}")
    signed = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
    return {**signed, "signatures": {user: good}}


def parse_cross_signing(master: object, self_signing: object, user: UserId) -> CrossSigningKeys | None:
    """Read the public identity of a user; None where there is none, or where the chain does not hold."""
    try:
        master_key, _ = _one_key(master, user, "master")
        signing_key, signed = _one_key(self_signing, user, "self_signing")
    except EventError:
        return None
    if not is_signed(signed, user, master_key, master_key):
        return None
    return CrossSigningKeys(user, master_key, signing_key)


def _one_key(value: object, user: UserId, usage: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(value, dict) or value.get("user_id") != user:
        raise EventError(RefusalCode.BAD_KEY, "a cross-signing key must be an object of its user")
    usages, keys = value.get("usage"), value.get("keys")
    if not isinstance(usages, list) or usage not in usages or not isinstance(keys, dict) or len(keys) != 1:
        raise EventError(RefusalCode.BAD_KEY, f"this is no {usage} key")
    ((name, key),) = keys.items()
    if not is_key(key) or name != f"ed25519:{key}" or len(signable(value)) > MAX_KEY_CHARS:
        raise EventError(RefusalCode.BAD_KEY, f"the {usage} key is not well-formed")
    return key, kept(value, user)


def is_signed_by_owner(device: DeviceKeys, identity: CrossSigningKeys | None) -> bool:
    """Whether the user has signed the device with the identity."""
    return (
        identity is not None
        and identity.user == device.user
        and is_signed(device.signed, device.user, identity.self_signing, identity.self_signing)
    )


def parse_devices(value: object, user: UserId) -> tuple[DeviceKeys, ...]:
    """Read ``device_keys[user]`` of a ``/keys/query`` answer; what is not well-formed is left out."""
    found: list[DeviceKeys] = []
    if isinstance(value, dict):
        for device, keys in value.items():
            if len(found) == MAX_DEVICES:
                break
            try:
                found.append(parse_device_keys(keys, user, device))
            except EventError:
                continue
    return tuple(found)


def parse_one_time_key(value: object, device: DeviceIdentity) -> str | None:
    """Read the claimed key of a device: the curve25519 key, or None unless the device itself has signed it."""
    if not isinstance(value, dict) or len(value) > 8:
        return None
    for name, signed in value.items():
        if not (isinstance(name, str) and name.startswith("signed_curve25519:") and isinstance(signed, dict)):
            continue
        key = signed.get("key")
        if is_key(key) and is_signed(signed, device.user, device.device, device.ed25519):
            return str(key)
    return None


def identity_of(keys: DeviceKeys, trust: Trust) -> DeviceIdentity:
    """The device without its signatures."""
    return DeviceIdentity(keys.user, keys.device, keys.ed25519, keys.curve25519, trust)
