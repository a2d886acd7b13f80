"""Certificates: they survive being stored, and nothing else passes for one."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

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
    known = {item.algorithm: item.value for item in certificate.getFingerprints()}
    der = certificate._cert.public_bytes(Encoding.DER)
    for algorithm in ("sha-256", "sha-384", "sha-512"):
        assert fingerprint_of(der, algorithm) == known[algorithm]
    assert local_fingerprint(certificate).value == known["sha-256"]


def test_two_certificates_differ() -> None:
    assert local_fingerprint(make_certificate()) != local_fingerprint(make_certificate())


def test_certificate_lasts_for_decades() -> None:
    certificate = make_certificate()
    assert certificate.expires > dt.datetime.now(tz=dt.UTC) + dt.timedelta(days=20 * 365)
    assert isinstance(certificate._cert.signature_hash_algorithm, hashes.SHA256)


def mixed_up() -> bytes:
    key = certificate_to_pem(make_certificate()).split(b"-----BEGIN CERTIFICATE")[0]
    return key + make_certificate()._cert.public_bytes(Encoding.PEM)


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
