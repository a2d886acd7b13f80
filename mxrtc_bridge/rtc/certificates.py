"""The DTLS certificate of a user: of a virtual one it is made once and kept, so that its fingerprint stays the same.

A self-signed ECDSA P-256 certificate (RFC 8827 section 6.5). Nobody checks its dates or its name: it is known by its
fingerprint alone, so it is made to last. Private keys never appear in logs or errors.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.sdp import Fingerprint

DTLS_1_2 = 0xFEFD
"""Version number on the wire (RFC 6347 section 4.1); RFC 8827 section 6.5 asks for 1.2 or later."""

VALIDITY = dt.timedelta(days=25 * 365)

DIGESTS = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
"""Fingerprint algorithms that we accept (RFC 8122 section 5), and their names in :mod:`hashlib`."""


SUITES = tuple(
    f"ECDHE-{kind}-{cipher}".encode()
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA")
    for kind in ("ECDSA", "RSA")
)
"""What we offer and take, the best first (RFC 8827 section 6.5, RFC 9325 section 4.2). Ours is an ECDSA certificate;
the RSA suites are for the other side's, which is what decides when we are the client."""

SRTP_PROFILES = b"SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80"
"""No media follows, but some implementations refuse a side that does not speak of it (RFC 5764 section 4.1)."""


class PemStore(Protocol):
    """Keeps the certificate and private key of each user, as PEM."""

    async def load(self, user: UserId) -> str | None:
        """Return what was saved for ``user``, or None."""
        ...

    async def save(self, user: UserId, pem: str) -> None:
        """Keep ``pem`` durably; it holds a private key."""
        ...


class NoCertificates:
    """A store that keeps nothing: for a side that nobody recognises by its fingerprint."""

    async def load(self, user: UserId) -> str | None:  # noqa: ARG002 - nothing is kept of anybody
        return None

    async def save(self, user: UserId, pem: str) -> None: ...


@dataclass(frozen=True, slots=True)
class DtlsCertificate:
    """A self-signed certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def context(self) -> SSL.Context:
        """Return what connections with this certificate begin with: DTLS 1.2 or later, without renegotiation.

        A renegotiation could bring another certificate than the one that was compared with the description. Whether the
        other side's is taken is decided by its fingerprint, and by nothing that stands in it.
        """
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        context.set_min_proto_version(DTLS_1_2)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        context.use_certificate(self.certificate)
        context.use_privatekey(self.key)
        context.set_cipher_list(b":".join(SUITES))
        context.set_tlsext_use_srtp(SRTP_PROFILES)
        return context


def make_certificate() -> DtlsCertificate:
    """Make a private key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "WebRTC")])
    now = dt.datetime.now(tz=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + VALIDITY)
        .sign(key, hashes.SHA256())
    )
    return DtlsCertificate(certificate, key)


def certificate_to_pem(certificate: DtlsCertificate) -> bytes:
    """Return private key and certificate as PEM, to be kept in a safe place."""
    key = certificate.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key + certificate.certificate.public_bytes(serialization.Encoding.PEM)


def certificate_from_pem(pem: bytes) -> DtlsCertificate:
    """Read what :func:`certificate_to_pem` wrote.

    Raises:
        ConfigError: it cannot be read, or key and certificate do not belong together.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError) as error:
        raise ConfigError("the stored certificate cannot be read; remove it and a new one is made") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError("the stored private key and certificate do not match; remove them and new ones are made")
    return DtlsCertificate(certificate, key)


def fingerprint_of(der: bytes, algorithm: str) -> str:
    """Return the fingerprint of a certificate as ``a=fingerprint`` writes it: upper-case hex with colons."""
    return hashlib.new(DIGESTS[algorithm], der).digest().hex(":").upper()


def local_fingerprint(certificate: DtlsCertificate) -> Fingerprint:
    """Return the SHA-256 fingerprint of our own certificate."""
    return Fingerprint(
        "sha-256", fingerprint_of(certificate.certificate.public_bytes(serialization.Encoding.DER), "sha-256")
    )
