"""What both edges of DTLS keep, upon OpenSSL alone and upon aiortc: handshakes, losses, identities, the end.

And the records below: flights are cut at their boundaries, and repeated before OpenSSL would do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.sdp import Fingerprint, Setup
from mxrtc_bridge.engine.ports import DTLS_CLOSED
from mxrtc_bridge.rtc.aiortc_dtls import AiortcDtls
from mxrtc_bridge.rtc.certificates import DtlsCertificate, fingerprint_of, local_fingerprint
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.dtls import APPLICATION_DATA, BROKEN, RECORD_HEADER, reason_of, record_numbers, split_records
from mxrtc_bridge.rtc.ice import SAFE_DATAGRAM
from mxrtc_bridge.rtc.openssl_dtls import OpensslDtls
from mxrtc_bridge.rtc.peer import DataPeerConnection, MakeDtls
from mxrtc_bridge.rtc.udp import UdpTransport
from tests.rtc.forged_records import ALERT, FINISHED, HANDSHAKE, HEARTBEAT, Forger, handshake_message
from tests.rtc.peers import Pair, answer_of, join, make_peer, offer_of
from tests.rtc.stock import MixedPair, stock_on_loopback
from tests.waiting import turns, until

__all__ = ["stock_on_loopback"]

EDGES: list[MakeDtls] = [AiortcDtls, OpensslDtls]
each_edge = pytest.mark.parametrize("edge", EDGES, ids=["aiortc", "openssl"])


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


@each_edge
@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_lost_flight_is_repeated_without_openssl(
    monkeypatch: pytest.MonkeyPatch, place: int, edge: MakeDtls
) -> None:
    """Its timer of a second, which doubles, is not waited for; nobody waits for an answer to the last flight."""
    usual = SSL.Connection.DTLSv1_get_timeout
    monkeypatch.setattr(SSL.Connection, "DTLSv1_get_timeout", lambda ssl: None if usual(ssl) is None else 3600.0)
    losses = Losses(monkeypatch, {place}, range(20, 23))
    async with Pair(make_peer(dtls=edge), make_peer(dtls=edge)):
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


@pytest.mark.parametrize("setup", [Setup.ACTPASS, Setup.ACTIVE])
@pytest.mark.parametrize("callee", EDGES, ids=["aiortc answers", "openssl answers"])
@pytest.mark.parametrize("caller", EDGES, ids=["aiortc offers", "openssl offers"])
async def test_all_edges_shake_hands_with_each_other_in_both_roles(
    caller: MakeDtls, callee: MakeDtls, setup: Setup
) -> None:
    pair = Pair(make_peer(dtls=caller), make_peer(dtls=callee))
    offer = offer_of(await pair.caller.peer.create_offer())
    answer = answer_of(await pair.callee.peer.create_answer(replace(offer, setup=setup)))
    assert answer.setup is (Setup.ACTIVE if setup is Setup.ACTPASS else Setup.PASSIVE)
    pair.caller.peer.apply_answer(answer)
    try:
        await asyncio.gather(pair.caller.peer.connect(), pair.callee.peer.connect())
        ours, theirs = await pair.open()
        ours.channel.send(b"x" * 50_000)
        theirs.channel.send(b"y" * 50_000)
        await theirs.until(lambda end: end.received_bytes == 50_000)
        await ours.until(lambda end: end.received_bytes == 50_000)
    finally:
        await pair.close()


@each_edge
@pytest.mark.parametrize("stock_calls", [False, True])
@pytest.mark.usefixtures("stock_on_loopback")
async def test_an_edge_shakes_hands_with_stock_aiortc_which_wants_profiles_of_media(
    edge: MakeDtls, stock_calls: bool
) -> None:
    async with MixedPair(stock_calls=stock_calls, dtls=edge) as pair:
        if stock_calls:
            offered = await pair.ours.offered_channel()
            pair.stock.channels[0].send("hello")
            assert await offered.until_count(2) == ["opened", "hello"]
        else:
            channel = pair.ours.peer.open_channel("ours", "")
            channel.send("hello")
            await pair.stock.until(lambda stock: stock.messages == ["hello"])


async def described(caller: DataPeerConnection, callee: DataPeerConnection) -> tuple[Fingerprint, ...]:
    """Let both describe themselves, and return what the answer says of the callee, which the caller has not got yet."""
    answer = answer_of(await callee.create_answer(offer_of(await caller.create_offer())))
    caller.apply_answer(replace(answer, fingerprints=()))
    await asyncio.gather(caller._connect_ice(), callee._connect_ice())
    return answer.fingerprints


def other_digit(value: str) -> str:
    return ("1" if value[0] == "0" else "0") + value[1:]


WRONG = {
    "another": lambda right: (Fingerprint("sha-256", other_digit(right[0].value)),),
    "right and wrong": lambda right: (*right, Fingerprint("sha-256", other_digit(right[0].value))),
    "of an algorithm that nobody knows": lambda right: (Fingerprint("md5", right[0].value),),
    "too short": lambda right: (Fingerprint("sha-256", right[0].value[:-3]),),
}


@each_edge
@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_certificate_that_the_description_does_not_name_is_refused(
    edge: MakeDtls, wrong: str, server: bool
) -> None:
    caller, callee = make_peer(dtls=edge), make_peer()
    try:
        right = await described(caller, callee)
        theirs = asyncio.create_task(
            callee._dtls.handshake(server=not server, fingerprints=caller_fingerprints(caller), timeout_s=5)
        )
        with pytest.raises(TransportError, match="is not the one its description names") as caught:
            await caller._dtls.handshake(server=server, fingerprints=WRONG[wrong](right), timeout_s=5)
        assert caught.value.code == "dtls_failed"
        with pytest.raises(ConnectionError):
            caller._dtls.send_packets([b"never"])
        await theirs
    finally:
        await asyncio.gather(caller.close(), callee.close())


def caller_fingerprints(peer: DataPeerConnection) -> tuple[Fingerprint, ...]:
    return (local_fingerprint(peer._certificate),)


@each_edge
async def test_several_right_fingerprints_are_taken(edge: MakeDtls) -> None:
    caller, callee = make_peer(dtls=edge), make_peer()
    try:
        (right,) = await described(caller, callee)
        der = callee._certificate.certificate.public_bytes(Encoding.DER)
        all_of_them = (
            right,
            Fingerprint("sha-384", fingerprint_of(der, "sha-384").lower()),
            Fingerprint("sha-512", fingerprint_of(der, "sha-512")),
            Fingerprint("md2", "00"),
        )
        await asyncio.gather(
            caller._dtls.handshake(server=True, fingerprints=all_of_them, timeout_s=5),
            callee._dtls.handshake(server=False, fingerprints=caller_fingerprints(caller), timeout_s=5),
        )
    finally:
        await asyncio.gather(caller.close(), callee.close())


@each_edge
@pytest.mark.parametrize("server", [False, True])
async def test_a_silent_side_is_waited_for_as_long_as_was_said(edge: MakeDtls, server: bool) -> None:
    caller, callee = make_peer(dtls=edge), make_peer()
    try:
        right = await described(caller, callee)
        began = time.monotonic()
        with pytest.raises(TransportError, match=r"the DTLS handshake did not end within 0\.2 s"):
            await caller._dtls.handshake(server=server, fingerprints=right, timeout_s=0.2)
        assert time.monotonic() - began >= 0.2
    finally:
        await asyncio.gather(caller.close(), callee.close())


@each_edge
async def test_a_goodbye_ends_the_other_side_at_once_and_once(edge: MakeDtls) -> None:
    async with Pair(make_peer(), make_peer(dtls=edge)) as pair:
        await pair.caller.peer._dtls.stop()
        assert await pair.callee.until_lost(5) == DTLS_CLOSED
        with pytest.raises(ConnectionError):
            pair.callee.peer._dtls.send_packets([b"late"])
        with pytest.raises(ConnectionError):
            pair.callee.peer._dtls.send_probe(b"late")
        await pair.callee.peer.close()
        assert pair.callee.lost == [DTLS_CLOSED]


@each_edge
async def test_a_stop_says_goodbye_and_tells_its_own_side_once(edge: MakeDtls) -> None:
    ends: list[str] = []
    caller, callee = make_peer(dtls=edge), make_peer()
    caller._dtls._ended = lambda: ends.append("ended")
    await join(caller, callee)
    await caller._dtls.stop()
    await caller._dtls.stop()
    assert ends == ["ended"]
    await until(lambda: callee._dtls.end_reason == DTLS_CLOSED)
    await asyncio.gather(caller.close(), callee.close())


@each_edge
async def test_the_end_of_the_path_is_the_end(edge: MakeDtls) -> None:
    async with Pair(make_peer(dtls=edge), make_peer()) as pair:
        dtls = pair.caller.peer._dtls
        await pair.caller.peer._ice.close()
        assert await pair.caller.until_lost(5) == dtls.end_reason != DTLS_CLOSED
        with pytest.raises(ConnectionError, match="DTLS is not open"):
            dtls.send_packets([b"late"])


@each_edge
async def test_a_stop_before_and_during_the_handshake_ends_nothing_that_was_open(edge: MakeDtls) -> None:
    ends: list[str] = []
    never, caller, callee = make_peer(dtls=edge), make_peer(dtls=edge), make_peer()
    caller._dtls._ended = never._dtls._ended = lambda: ends.append("ended")
    await never._dtls.stop()
    right = await described(caller, callee)
    handshake = asyncio.create_task(caller._dtls.handshake(server=True, fingerprints=right, timeout_s=5))
    await asyncio.sleep(0)
    await caller.close()
    with pytest.raises(TransportError, match="the DTLS handshake failed"):
        await handshake
    assert ends == []
    await asyncio.gather(never.close(), callee.close())


def hostile_records() -> list[bytes]:
    chance = random.Random(3)
    head = bytes([254, 253])
    return [
        *[bytes([kind]) + chance.randbytes(chance.randrange(1400)) for kind in range(20, 64) for _ in range(3)],
        *[bytes([kind]) + head + bytes(8) + b"\xff\xff" + chance.randbytes(50) for kind in range(20, 25)],
        *[bytes([kind]) + head + bytes(8) + b"\0\0" for kind in range(20, 25)],
        *[bytes([23]) + head + chance.randbytes(8) + (40).to_bytes(2) + chance.randbytes(40) for _ in range(20)],
        bytes([21]) + head + bytes([0, 1]) + bytes(6) + b"\0\x02\x02\x28",  # an alert in the clear
        (bytes([23]) + head + bytes(8) + b"\0\0") * 90,
        b"\x16",
        b"\x80" + bytes(40),
        bytes(40),
    ]


@each_edge
async def test_hostile_records_hurt_no_open_connection(edge: MakeDtls) -> None:
    async with Pair(make_peer(), make_peer(dtls=edge)) as pair:
        ours, theirs = await pair.open()
        dtls = pair.callee.peer._dtls
        for datagram in hostile_records():
            dtls.run_received(datagram, len(datagram))
            dtls.run_received(datagram * 3, len(datagram))
            dtls.runs_ended()
        ours.channel.send("still here")
        theirs.channel.send("here as well")
        assert await theirs.until_count(2) == ["opened", "still here"]
        assert await ours.until_count(2) == ["opened", "here as well"]


@each_edge
@pytest.mark.parametrize("server", [False, True])
async def test_hostile_records_hurt_no_handshake(edge: MakeDtls, server: bool) -> None:
    """Garbage is no message of a handshake; an alert in the clear is one (RFC 6347 section 4.1.2.7), and left out."""
    caller, callee = make_peer(dtls=edge), make_peer()
    try:
        right = await described(caller, callee)
        for datagram in hostile_records():
            if datagram[0] not in (21, 22):
                callee._ice.send_now(datagram)
        await asyncio.gather(
            caller._dtls.handshake(server=server, fingerprints=right, timeout_s=5),
            callee._dtls.handshake(server=not server, fingerprints=caller_fingerprints(caller), timeout_s=5),
        )
    finally:
        await asyncio.gather(caller.close(), callee.close())


@contextlib.asynccontextmanager
async def shaken(
    edge: MakeDtls, *, server: bool
) -> AsyncIterator[tuple[DataPeerConnection, DataPeerConnection, list[bytes], Forger]]:
    """Two sides after their handshake, what the first gets, and what forges records of the other."""
    caller, callee = make_peer(dtls=edge), make_peer()
    try:
        right = await described(caller, callee)
        await asyncio.gather(
            caller._dtls.handshake(server=server, fingerprints=right, timeout_s=5),
            callee._dtls.handshake(server=not server, fingerprints=caller_fingerprints(caller), timeout_s=5),
        )
        got: list[bytes] = []
        caller._dtls.attach(got.extend)
        assert callee._dtls._ssl is not None
        yield caller, callee, got, Forger(callee._dtls._ssl, is_client=server)
    finally:
        await asyncio.gather(caller.close(), callee.close())


def take(peer: DataPeerConnection, *datagrams: bytes) -> None:
    for datagram in datagrams:
        peer._dtls.run_received(datagram, len(datagram))
        peer._dtls.runs_ended()


NOT_ALLOWED = {
    "a greeting of a server": (HANDSHAKE, handshake_message(2, bytes(40))),
    "a greeting of a client": (HANDSHAKE, handshake_message(1, bytes(40))),
    "a certificate": (HANDSHAKE, handshake_message(11, bytes(40))),
    "an alert of one byte": (ALERT, b"\1"),
    "no renegotiation": (ALERT, b"\1\x64"),
    "a heartbeat": (HEARTBEAT, b"\1\0\1x"),
}


@each_edge
@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize("sent", NOT_ALLOWED)
async def test_what_dtls_does_not_allow_ends_an_open_connection_and_says_so(
    edge: MakeDtls, server: bool, sent: str
) -> None:
    """OpenSSL takes nothing any more afterwards: whatever came would be kept for ever."""
    async with shaken(edge, server=server) as (ours, theirs, got, forger):
        theirs._dtls.attach(lambda _: None)
        with_data = forger.record(APPLICATION_DATA, b"before") + forger.record(*NOT_ALLOWED[sent])
        take(ours, with_data, forger.record(APPLICATION_DATA, b"after"))
        assert got == [b"before"]
        with pytest.raises(ConnectionError):
            ours._dtls.send_packets([b"late"])
        assert ours._dtls.end_reason == BROKEN
        await until(lambda: theirs._dtls.end_reason == DTLS_CLOSED)


@each_edge
@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize(("count", "size"), [(1, 4000), (1, 9000), (100, 1), (1000, 1), (500, 80)])
async def test_datagrams_that_no_path_carries_leave_nothing_behind_that_is_read_later(
    edge: MakeDtls, server: bool, count: int, size: int
) -> None:
    """Of each some was left, so whoever sent them filled the memory, and what came later was read later still."""
    async with shaken(edge, server=server) as (ours, _, got, forger):
        for _ in range(5):
            take(ours, b"".join(forger.record(APPLICATION_DATA, bytes(size)) for _ in range(count))[:65_507])
        take(ours, forger.record(APPLICATION_DATA, b"usual"))
        assert got == [b"usual"]
        largest = b"".join(forger.record(APPLICATION_DATA, b"s") for _ in range(2048 // 38))
        take(ours, largest, forger.record(APPLICATION_DATA, b"usual"))
        assert got == [b"usual", *[b"s"] * (2048 // 38), b"usual"]


@each_edge
async def test_an_answer_of_openssl_behind_data_does_not_spoil_the_next_packets(edge: MakeDtls) -> None:
    """The last message of a handshake once more, to which a server says its own again."""
    async with shaken(edge, server=True) as (ours, theirs, _, forger):
        got: list[bytes] = []
        theirs._dtls.attach(got.extend)
        repeated = forger.record(HANDSHAKE, handshake_message(FINISHED, bytes(12)))
        take(ours, forger.record(APPLICATION_DATA, b"data") + repeated)
        ours._dtls.send_packets([b"packet %d" % number for number in range(9)])
        await until(lambda: len(got) == 9)
        assert got == [b"packet %d" % number for number in range(9)]


@each_edge
async def test_what_has_overtaken_the_last_flight_is_handed_over_with_the_first_packets(
    monkeypatch: pytest.MonkeyPatch, edge: MakeDtls
) -> None:
    """And is not read one packet late for as long as the connection lasts."""
    held: list[tuple[UdpTransport, bytes, int, Address]] = []
    send = UdpTransport.send_run

    def holding(transport: UdpTransport, data: bytes, size: int, address: Address) -> None:
        is_last_flight = data[0] == 20 or (data[0] == 22 and data[3:5] == b"\0\1")
        if is_last_flight and transport in [pair.protocol.transport for pair in callee._ice.nominated_pairs()]:
            held.append((transport, data, size, address))
        else:
            send(transport, data, size, address)

    caller, callee = make_peer(dtls=edge), make_peer()
    early = [b"early %d" % number for number in range(9)]
    try:
        right = await described(caller, callee)
        monkeypatch.setattr(UdpTransport, "send_run", holding)
        handshake = asyncio.create_task(caller._dtls.handshake(server=False, fingerprints=right, timeout_s=5))
        await callee._dtls.handshake(server=True, fingerprints=caller_fingerprints(caller), timeout_s=5)
        callee._dtls.send_packets(early)
        await turns(20)
        assert held
        assert not handshake.done()
        for run in held:
            send(*run)
        await handshake
        got: list[bytes] = []
        caller._dtls.attach(got.extend)
        assert got == early
    finally:
        await asyncio.gather(caller.close(), callee.close())


class OneSuite(DtlsCertificate):
    """A side that speaks a single cipher suite."""

    suite = b""

    def context(self) -> SSL.Context:
        context = super().context()
        context.set_cipher_list(self.suite)
        return context


@cache
def key_of(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def certificate(suite: str, kind: str) -> DtlsCertificate:
    key = key_of(kind)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    kind_of = type("Odd", (OneSuite,), {"suite": suite.encode()})
    odd: DtlsCertificate = kind_of(made.sign(key, hashes.SHA256()), key)
    return odd


@each_edge
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
async def test_certificates_and_suites_of_others_connect_in_both_roles(
    suite: str, kind: str, odd_offers: bool, edge: MakeDtls
) -> None:
    odd = make_peer(certificate=certificate(suite, kind))
    even = make_peer(dtls=edge)
    caller, callee = (odd, even) if odd_offers else (even, odd)
    async with Pair(caller, callee) as pair:
        ours, theirs = await pair.open()
        ours.channel.send(b"x" * 5000)
        await theirs.until(lambda end: end.received_bytes == 5000)


@each_edge
@pytest.mark.parametrize("odd_offers", [False, True])
async def test_a_handshake_without_a_common_suite_says_so_on_both_sides_at_once(
    odd_offers: bool, edge: MakeDtls
) -> None:
    odd = make_peer(dtls=edge, certificate=certificate("ECDHE-ECDSA-AES128-CCM", "ecdsa"))
    even = make_peer(dtls=edge)
    caller, callee = (odd, even) if odd_offers else (even, odd)
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
