"""Flights of a handshake are cut at record boundaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.rtc.dtls import RECORD_HEADER, split_records
from mxrtc_bridge.rtc.ice import SAFE_DATAGRAM


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
