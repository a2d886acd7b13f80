"""Everything secret of the bridge's encryption comes from one key: the key for pickles, and each user's identity.

Because the identities are derived and not drawn, a bridge that has lost its database but not its key signs its new
devices with the same identities, and nobody sees a change. The price: to give a user another identity, the key has to
be replaced, and that replaces all. HKDF with SHA-256 (RFC 5869); the label names purpose and user.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.signed_json import unpadded

KEY_BYTES = 32


def derive(key: bytes, purpose: str, user: str = "") -> bytes:
    """Return 32 bytes for one purpose and user.

    Raises:
        ConfigError: the key is shorter than 32 bytes.
    """
    if len(key) < KEY_BYTES:
        raise ConfigError(f"the encryption key has {len(key)} bytes; it must have at least {KEY_BYTES}")
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"mxrtc-bridge 1 {purpose}|{user}".encode()).derive(key)


def pickle_key(key: bytes) -> bytes:
    """The key that everything secret in the database is encrypted with."""
    return derive(key, "pickle")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One ed25519 key of an identity."""

    public: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a seed of 32 bytes."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(unpadded(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)), private)

    def sign(self, message: bytes) -> str:
        """The signature in unpadded base64."""
        return unpadded(self._private.sign(message))


@dataclass(frozen=True, slots=True)
class IdentityKeys:
    """The three keys of a user's identity (client-server API, "Cross-signing")."""

    master: SigningKey
    self_signing: SigningKey
    user_signing: SigningKey
    may_replace: bool = False
    """Whether it may take the place of another identity that the homeserver shows."""

    @classmethod
    def derived(cls, key: bytes, user: UserId, *, may_replace: bool = False) -> IdentityKeys:
        """The identity of ``user`` that belongs to the bridge's ``key``."""
        master, own, users = (SigningKey.from_seed(derive(key, name, user)) for name in ("master", "self", "user"))
        return cls(master, own, users, may_replace)
