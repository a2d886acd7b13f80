"""Records that one side of an open DTLS connection could send, and no implementation does."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

HANDSHAKE, ALERT, HEARTBEAT = 22, 21, 24
FINISHED = 20
_DTLS_1_2 = bytes([254, 253])


class Forger:
    """Encrypts as one side of a connection with AES-128-GCM does it (RFC 5246 section 6.3, RFC 5288, RFC 6347).

    Args:
        ssl: of that side.
        is_client: whether it is the client.
    """

    def __init__(self, ssl: SSL.Connection, *, is_client: bool) -> None:
        assert ssl.get_cipher_name() == "ECDHE-ECDSA-AES128-GCM-SHA256"
        seed = b"key expansion" + ssl.server_random() + ssl.client_random()
        block, link = b"", seed
        while len(block) < 40:
            link = hmac.digest(ssl.master_key(), link, "sha256")
            block += hmac.digest(ssl.master_key(), link + seed, "sha256")
        key, salt = (block[:16], block[32:36]) if is_client else (block[16:32], block[36:40])
        self._cipher, self._salt = AESGCM(key), salt
        self._number = 1 << 20

    def record(self, kind: int, plaintext: bytes) -> bytes:
        """Return a record whose number was never used."""
        number = bytes([0, 1]) + self._number.to_bytes(6)
        self._number += 1
        head = bytes([kind]) + _DTLS_1_2
        associated = number + head + len(plaintext).to_bytes(2)
        body = number + self._cipher.encrypt(self._salt + number, plaintext, associated)
        return head + number + len(body).to_bytes(2) + body


def handshake_message(kind: int, body: bytes, number: int = 5) -> bytes:
    """Return a message of a handshake in one fragment (RFC 6347 section 4.2.2)."""
    size = len(body).to_bytes(3)
    return bytes([kind]) + size + number.to_bytes(2) + bytes(3) + size + body
