"""The link that the controls are tested on behaves like one."""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp.congestion import RateSample, SentPacket
from tests.sctp.link_model import MBIT, PACKET, Clock, Flow, Host, Link


class FixedWindow:
    """Keeps so much in flight, at such a rate; notes what it is told."""

    def __init__(self, packets: int, rate: float | None = None) -> None:
        self.window_bytes = packets * PACKET
        self.pacing_rate = rate
        self.send_quantum = 10 * PACKET
        self.rates: list[float] = []
        self.rtts: list[float] = []
        self.lost = 0
        self.limited: list[bool] = []

    def set_packet_size(self, size: int) -> None:
        assert size == PACKET

    def on_sent(self, now: float, packet: SentPacket) -> None:
        assert packet.inflight <= self.window_bytes

    def on_ack(self, now: float, sample: RateSample) -> None:
        self.rates.append(sample.delivery_rate)
        self.rtts.append(sample.rtt or 0.0)
        self.limited.append(sample.app_limited)

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:
        self.lost += lost_bytes

    def on_timeout(self, now: float, inflight: int) -> None:
        self.lost += inflight

    def on_spurious(self, now: float) -> None:
        raise AssertionError("nothing is spurious here")


def test_a_window_below_the_pipe_gives_window_per_round_trip() -> None:
    clock = Clock()
    link = Link(clock, 100 * MBIT)
    flow = Flow(clock, link, FixedWindow(100), 0.1)
    clock.run(10.0)
    assert flow.rate(2.0, 10.0) == pytest.approx(100 * PACKET / 0.1, rel=0.03)
    assert flow.lost == 0


def test_a_window_above_the_pipe_gives_the_link_and_a_standing_queue() -> None:
    clock = Clock()
    link = Link(clock, 10 * MBIT)
    control = FixedWindow(200)
    flow = Flow(clock, link, control, 0.05)
    clock.run(10.0)
    assert flow.rate(2.0, 10.0) == pytest.approx(10 * MBIT, rel=0.01)
    assert link.delay_mean(2.0, 10.0) == pytest.approx(200 * PACKET / (10 * MBIT) - 0.05, rel=0.05)
    assert max(control.rates[50:]) <= 10 * MBIT * 1.01
    assert min(control.rtts[200:]) > 0.17


def test_a_full_queue_drops_and_random_loss_is_as_frequent_as_asked() -> None:
    clock = Clock()
    full = Link(clock, 10 * MBIT, queue=20 * PACKET)
    Flow(clock, full, FixedWindow(200), 0.05)
    lossy = Link(clock, 100 * MBIT, loss=0.02)
    flow = Flow(clock, lossy, FixedWindow(50), 0.02)
    clock.run(10.0)
    assert full.dropped > 0
    assert full.delay_quantile(0.0, 10.0, 1.0) <= 21 * PACKET / (10 * MBIT)
    assert flow.lost / flow.sent_bytes == pytest.approx(0.02, rel=0.2)


def test_pacing_holds_the_rate_although_timers_are_late() -> None:
    clock = Clock()
    link = Link(clock, 100 * MBIT)
    flow = Flow(clock, link, FixedWindow(10_000, rate=20 * MBIT), 0.02)
    clock.run(5.0)
    assert flow.rate(1.0, 5.0) == pytest.approx(20 * MBIT, rel=0.01)


def test_nothing_is_delivered_while_the_link_is_down_and_timeouts_are_counted() -> None:
    clock = Clock()
    link = Link(clock, 10 * MBIT)
    flow = Flow(clock, link, FixedWindow(10), 0.05)
    clock.at(2.0, lambda: setattr(link, "down", True))
    clock.at(4.0, lambda: setattr(link, "down", False))
    clock.run(8.0)
    assert flow.rate(2.2, 4.0) == 0.0
    assert flow.timeouts >= 2
    assert flow.rate(6.0, 8.0) == pytest.approx(flow.rate(0.5, 2.0), rel=0.15)


def test_samples_say_when_the_application_was_the_limit() -> None:
    clock = Clock()
    control = FixedWindow(100)
    flow = Flow(clock, Link(clock, 10 * MBIT), control, 0.05)
    flow.supply = 20 * PACKET
    clock.run(1.0)
    assert flow.delivered == 20 * PACKET
    clock.at(1.0, lambda: flow.provide(20 * PACKET))
    clock.run(2.0)
    assert flow.delivered == 40 * PACKET
    assert control.limited[0] is False
    assert control.limited[-1] is True


def test_a_stalled_host_is_late_and_never_early() -> None:
    host = Host(Clock(), seed=3, stall=0.005, every=0.01)
    lateness = [host.when(step / 1000) - step / 1000 for step in range(1000)]
    assert min(lateness) == 0.0
    assert 0.002 < max(lateness) < 0.02
