"""When the retransmission timeout is backed off, and when that is taken back."""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp.settings import KIB, SctpSettings
from tests.sctp.links import Path, established, pair
from tests.sctp.test_flow import send_bulk


def test_round_trip_beyond_the_first_timeout_is_measured_soon() -> None:
    """Until then nothing is known but the pauses that were too short (RFC 6298 section 5, rules 5.5 and 5.7)."""
    world = established(pair(23, Path(delay=0.8)))
    send_bulk(world, 256 * KIB)
    assert world.run(30, lambda: len(world.right.messages) == 16)
    sender = world.left.association._sender
    assert sender.flight.retransmitted_chunks <= 2
    assert sender.rtt.smoothed == pytest.approx(1.6, rel=0.01)


@pytest.mark.parametrize("delay", [0.2, 0.8, 1.5])
def test_round_trip_that_grows_beyond_the_timeout_is_measured_soon(delay: float) -> None:
    """A satellite after a cable, or a queue that has become long: all is repeated in vain at first."""
    world = established(pair(24, Path(delay=0.02)))
    send_bulk(world, 256 * KIB)
    assert world.run(10, lambda: len(world.right.messages) == 16)
    sender = world.left.association._sender
    world.there.path = world.back.path = Path(delay=delay)
    for _ in range(10):
        world.left.association.send(world.now, 0, 53, b"keystroke")
        world.flush()
        world.run(4 * delay)
    assert sender.rtt.timeout > 2 * delay
    before = sender.flight.retransmitted_chunks
    send_bulk(world, 256 * KIB)
    assert world.run(60 * delay, lambda: len(world.right.messages) == 42)
    assert sender.flight.retransmitted_chunks - before <= 2


def test_keystrokes_where_a_third_gets_lost_both_ways_arrive_without_much_back_off() -> None:
    """Waiting longer helps nobody there; and what came twice has lost its acknowledgement."""
    waits: list[float] = []
    for seed in range(12):
        settings = SctpSettings(max_retransmissions=30, max_init_retransmissions=30)
        world = established(pair(seed, Path(delay=0.05), settings))
        send_bulk(world, KIB, size=KIB)
        world.run(1)
        world.there.path = world.back.path = Path(delay=0.05, loss=0.3)
        for count in range(60):
            began = world.now
            send_bulk(world, 9, size=9)
            assert world.run(100, lambda: len(world.right.messages) == count + 2)  # noqa: B023
            waits.append(world.now - began)
            world.run(0.3)
    assert sum(waits) / len(waits) < 0.35
