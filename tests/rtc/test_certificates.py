"""Certificates: they survive being stored, and nothing else passes for one."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

import pytest
from aiortc import RTCCertificate
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.rtc.certificates import (
    certificate_from_pem,
    certificate_to_pem,
    fingerprint_of,
    local_fingerprint,
    make_certificate,
)


def test_certificate_survives_the_store() -> None:
    certificate = make_certificate()
    restored = certificate_from_pem(certificate_to_pem(certificate))
    assert local_fingerprint(restored) == local_fingerprint(certificate)


def test_fingerprint_is_the_one_that_others_compute() -> None:
    certificate = make_certificate()
    of_aiortc = RTCCertificate(certificate.key, certificate.certificate)
    known = {item.algorithm: item.value for item in of_aiortc.getFingerprints()}
    der = certificate.certificate.public_bytes(Encoding.DER)
    for algorithm in ("sha-256", "sha-384", "sha-512"):
        assert fingerprint_of(der, algorithm) == known[algorithm]
    assert local_fingerprint(certificate).value == known["sha-256"]


def test_two_certificates_differ() -> None:
    assert local_fingerprint(make_certificate()) != local_fingerprint(make_certificate())


def test_certificate_lasts_for_decades() -> None:
    certificate = make_certificate()
    assert certificate.certificate.not_valid_after_utc > dt.datetime.now(tz=dt.UTC) + dt.timedelta(days=20 * 365)
    assert isinstance(certificate.certificate.signature_hash_algorithm, hashes.SHA256)


def mixed_up() -> bytes:
    key = certificate_to_pem(make_certificate()).split(b"-----BEGIN CERTIFICATE")[0]
    return key + make_certificate().certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "pem",
    [b"", b"nonsense", certificate_to_pem(make_certificate())[:200], mixed_up()],
    ids=["empty", "nonsense", "cut", "mixed up"],
)
def test_broken_certificate_is_refused_without_showing_it(pem: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        certificate_from_pem(pem)
    assert "BEGIN" not in str(caught.value)
    assert "remove" in str(caught.value)


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    """Carry the flights of a handshake between two connections in memory."""
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(6):
        for here, there in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                here.do_handshake()
            with suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(65536))


def ours() -> SSL.Context:
    return make_certificate().context()


def test_connections_use_dtls_1_2_and_refuse_renegotiation() -> None:
    client, server = SSL.Connection(ours()), SSL.Connection(ours())
    shake_hands(client, server)
    assert client.get_protocol_version_name() == server.get_protocol_version_name() == "DTLSv1.2"
    with pytest.raises(SSL.Error, match="renegotiation"):
        client.renegotiate()


def test_older_versions_are_refused() -> None:
    certificate = make_certificate()
    context = SSL.Context(SSL.DTLS_METHOD)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.key)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(0xFEFF)
    context.set_max_proto_version(0xFEFF)
    with pytest.raises(SSL.Error, match="unsupported protocol"):
        shake_hands(SSL.Connection(context), SSL.Connection(ours()))
