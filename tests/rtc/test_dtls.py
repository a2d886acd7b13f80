"""Flights of a handshake are cut at record boundaries, and repeated before OpenSSL would do it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.dtls import RECORD_HEADER, record_numbers, split_records
from mxrtc_bridge.rtc.ice import SAFE_DATAGRAM
from mxrtc_bridge.rtc.udp import UdpTransport
from tests.rtc.peers import Pair, make_peer


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
