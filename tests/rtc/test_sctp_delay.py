"""A long path is not a full one."""

from __future__ import annotations

from mxrtc_bridge.rtc.sctp_delay import FULL_S, MEMORY_S, QueueingDelay


def test_long_path_is_not_full() -> None:
    delay = QueueingDelay()
    for now in range(10):
        delay.add(now, 0.4)
    assert not delay.is_high(0.4)
    assert not delay.is_high(0.4 + FULL_S)


def test_round_trip_above_the_shortest_shows_a_queue() -> None:
    delay = QueueingDelay()
    delay.add(0, 0.02)
    delay.add(1, 0.3)
    assert delay.is_high(0.02 + FULL_S + 0.001)
    assert not delay.is_high(0.02 + FULL_S)


def test_shortest_round_trip_is_forgotten_when_the_path_has_changed() -> None:
    delay = QueueingDelay()
    delay.add(0, 0.02)
    delay.add(MEMORY_S + 1, 0.3)
    assert delay.is_high(0.3)
    delay.add(2 * MEMORY_S + 2, 0.3)
    assert not delay.is_high(0.3)


def test_nothing_is_high_before_the_first_measurement() -> None:
    assert not QueueingDelay().is_high(10.0)
