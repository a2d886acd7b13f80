"""Flights of a handshake are cut at record boundaries, and repeated before OpenSSL would do it."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from aiortc.rtcdtlstransport import SRTPProtectionProfile
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.rtc.certificates import DtlsCertificate
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.dtls import RECORD_HEADER, reason_of, record_numbers, split_records
from mxrtc_bridge.rtc.ice import SAFE_DATAGRAM
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from mxrtc_bridge.rtc.peer import DataPeerConnection
from mxrtc_bridge.rtc.udp import UdpTransport
from tests.rtc.peers import LOOPBACK, Pair, answer_of, make_peer, offer_of


def record(size: int) -> bytes:
    return bytes([22]) + bytes(10) + size.to_bytes(2) + b"r" * size


@given(st.lists(st.sampled_from([0, 1, 100, 587, 1186, 1187, 1188, 1400]), max_size=12))
def test_flight_is_cut_into_whole_records_that_fit(sizes: list[int]) -> None:
    records = [record(size) for size in sizes]
    datagrams = list(split_records(b"".join(records)))
    assert b"".join(datagrams) == b"".join(records)
    for datagram in datagrams:
        assert len(datagram) <= SAFE_DATAGRAM or datagram in records


def test_single_record_is_one_datagram() -> None:
    assert list(split_records(record(1000))) == [record(1000)]


def test_records_share_a_datagram_up_to_the_limit() -> None:
    half = record(SAFE_DATAGRAM // 2 - RECORD_HEADER)
    assert list(split_records(half * 3)) == [half * 2, half]


def test_remainder_that_is_no_record_is_kept() -> None:
    assert list(split_records(record(10) + b"rest")) == [record(10) + b"rest"]


def test_nothing_is_no_datagram() -> None:
    assert list(split_records(b"")) == []


def test_records_are_told_apart_by_epoch_and_number() -> None:
    first, second = (bytes([22, 254, 253]) + number.to_bytes(8) + (1).to_bytes(2) + b"x" for number in (7, 1 << 48))
    assert record_numbers(first + second + b"rest") == {(7).to_bytes(8), (1 << 48).to_bytes(8)}


class Losses:
    """Loses the datagrams of one kind whose places are given, counted over both sides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, places: set[int], kinds: range) -> None:
        self.lost: list[bytes] = []
        self.carried: list[bytes] = []
        send = UdpTransport.send_run

        def lossy(transport: UdpTransport, data: bytes, size: int, address: Address) -> None:
            if data[0] in kinds and len(self.lost) + len(self.carried) in places:
                self.lost.append(data)
                return
            if data[0] in kinds:
                self.carried.append(data)
            send(transport, data, size, address)

        monkeypatch.setattr(UdpTransport, "send_run", lossy)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_lost_flight_is_repeated_without_openssl(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Its timer of a second, which doubles, is not waited for; nobody waits for an answer to the last flight."""
    usual = SSL.Connection.DTLSv1_get_timeout
    monkeypatch.setattr(SSL.Connection, "DTLSv1_get_timeout", lambda ssl: None if usual(ssl) is None else 3600.0)
    losses = Losses(monkeypatch, {place}, range(20, 23))
    async with Pair():
        assert set(losses.lost) <= set(losses.carried), "as it was: OpenSSL gives its records new numbers"


@pytest.mark.parametrize(("again_s", "places"), [(0.1, {0, 1, 2, 3}), (3600.0, {0})])
async def test_lost_check_is_repeated_without_the_timer_of_stun(
    monkeypatch: pytest.MonkeyPatch, again_s: float, places: set[int]
) -> None:
    """By its own pace, and at once when the other side asks."""
    monkeypatch.setattr("aioice.stun.RETRY_RTO", 3600.0)
    losses = Losses(monkeypatch, places, range(4))
    async with Pair(make_peer(check_again_s=again_s), make_peer(check_again_s=again_s)):
        assert len(losses.lost) == len(places)


class OneSuite(DtlsCertificate):
    """A side that speaks a single cipher suite."""

    suite = b""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(self.suite)
        return context


def certificate(suite: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> OneSuite:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    odd = OneSuite(key=key, cert=made.sign(key, hashes.SHA256()))  # type: ignore[arg-type] - aiortc names one kind only
    odd.suite = suite.encode()
    return odd


def peer_with(odd: OneSuite) -> DataPeerConnection:
    return DataPeerConnection(LOOPBACK, odd, ServerPlan())


@pytest.mark.parametrize("odd_offers", [False, True])
@pytest.mark.parametrize(
    ("suite", "kind"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "ecdsa"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "ecdsa"),
        ("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", "rsa"),
        ("ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-CHACHA20-POLY1305", "rsa"),
    ],
)
async def test_certificates_and_suites_of_others_connect_in_both_roles(suite: str, kind: str, odd_offers: bool) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    odd = peer_with(certificate(suite, key))
    caller, callee = (odd, make_peer()) if odd_offers else (make_peer(), odd)
    async with Pair(caller, callee) as pair:
        ours, theirs = await pair.open()
        ours.channel.send(b"x" * 5000)
        await theirs.until(lambda end: end.received_bytes == 5000)


@pytest.mark.parametrize("odd_offers", [False, True])
async def test_a_handshake_without_a_common_suite_says_so_on_both_sides_at_once(odd_offers: bool) -> None:
    odd = peer_with(certificate("ECDHE-ECDSA-AES128-CCM", ec.generate_private_key(ec.SECP256R1())))
    caller, callee = (odd, make_peer()) if odd_offers else (make_peer(), odd)
    try:
        callee_answer = await callee.create_answer(offer_of(await caller.create_offer()))
        caller.apply_answer(answer_of(callee_answer))
        async with asyncio.timeout(5):
            failures = await asyncio.gather(caller.connect(), callee.connect(), return_exceptions=True)
    finally:
        await caller.close()
        await callee.close()
    words = [str(each) for each in failures if isinstance(each, TransportError)]
    assert len(words) == 2
    assert any("both sides have no cipher suite in common" in each for each in words), words
    assert any("the other side finds no cipher suite in common" in each for each in words), words


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SSL.Error([("SSL routines", "", "no shared cipher")]), "both sides have no cipher suite in common"),
        (
            SSL.Error([("SSL routines", "", "tlsv1 alert insufficient security")]),  # as pion says it
            "the other side finds no cipher suite in common, or no certificate that it takes",
        ),
        (SSL.Error([("", "", ""), ("SSL routines", "", "bad signature")]), "bad signature"),
        (SSL.Error([]), ""),
        (SSL.Error(), ""),
        (SSL.Error(-1, "Unexpected EOF"), ""),
    ],
)
def test_reasons_of_openssl_are_told_whatever_they_look_like(error: SSL.Error, said: str) -> None:
    assert reason_of(error) == said
