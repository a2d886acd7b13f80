"""BBR's states: what leads from one to the next, and what each does to the window and the rate."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.bbr_limits import BbrState
from mxrtc_bridge.sctp.congestion import CongestionControl, RateSample, SentPacket
from tests.long import FAST, examples
from tests.sctp.draws import Draws
from tests.sctp.link_model import MBIT, PACKET, Clock, Flow, Link

SHARE = 0.3 if FAST else 1.0
"""Of the rate, in tests of many seconds: what they look at does not depend on it, and what they cost does."""

CYCLE = [
    BbrState.PROBE_BW_DOWN,
    BbrState.PROBE_BW_CRUISE,
    BbrState.PROBE_BW_REFILL,
    BbrState.PROBE_BW_UP,
]


class Traced:
    """Notes when it enters a state, and the limits at the end of each acknowledgement.

    It has a control and is none: a compiled class has no interpreted subclasses.
    """

    def __init__(self, seed: int = 1) -> None:
        self._bbr = Bbr(PACKET, Draws(seed).fraction)
        self.entered: list[tuple[float, BbrState]] = [(0.0, BbrState.STARTUP)]
        self.limits: list[tuple[float, BbrState, int, float]] = []
        self.limited_while_measuring = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bbr, name)

    def on_ack(self, now: float, sample: RateSample) -> None:
        self._bbr.on_ack(now, sample)
        self._note(now)
        if self.state is BbrState.PROBE_RTT:
            self.limited_while_measuring = self._model.app_limited
        self.limits.append((now, self.state, self.window_bytes, self.pacing_rate or 0.0))

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:
        self._bbr.on_loss(now, packet, lost_bytes, inflight)
        self._note(now)

    def _note(self, now: float) -> None:
        if self.entered[-1][1] is not self.state:
            self.entered.append((now, self.state))

    @property
    def states(self) -> list[BbrState]:
        return [state for _, state in self.entered]

    def during(self, state: BbrState, after: float = 0.0) -> list[tuple[int, float]]:
        return [(window, rate) for at, now, window, rate in self.limits if now is state and at >= after]


class Scene:
    """One flow on a link of 20 Mbit/s and 40 ms, with a queue of two bandwidth-delay products."""

    def __init__(self, *, rate: float = 20 * MBIT, rtt: float = 0.04, loss: float = 0.0, queue: float = 2.0) -> None:
        self.clock = Clock()
        self.bdp = rate * rtt
        self.link = Link(self.clock, rate, queue=queue * self.bdp, loss=loss)
        self.control = Traced()
        self.flow = Flow(self.clock, self.link, self.control, rtt)

    def run(self, until: float) -> None:
        self.clock.run(until)

    def run_to(self, state: BbrState, limit: float = 10.0) -> None:
        """Run until a state is entered, stepping by a millisecond."""
        end = self.clock.now + limit
        while self.control.state is not state:
            assert self.clock.now < end, f"{state} was not reached"
            self.clock.run(self.clock.now + 0.001)


def test_bbr_is_a_congestion_control() -> None:
    control: CongestionControl = Bbr(PACKET, Draws(1).fraction)
    assert control.window_bytes == 10 * PACKET
    assert control.pacing_rate == pytest.approx(2.77 * 10 * PACKET / 0.001)


# Startup and Drain


def test_startup_finds_the_rate_drains_its_queue_and_begins_to_probe() -> None:
    scene = Scene()
    scene.run(4.5)
    control = scene.control
    assert control.states[:2] == [BbrState.STARTUP, BbrState.DRAIN]
    rest = control.states[2:]
    # Drain may end with the acknowledgement that also ends Down: nothing is left to drain then.
    start = CYCLE.index(rest[0])
    assert rest == [CYCLE[(start + index) % 4] for index in range(len(rest))]
    assert len(rest) >= 5
    assert control.entered[1][0] < 0.6
    assert control.bandwidth == pytest.approx(20 * MBIT, rel=0.02)
    assert control.min_rtt == pytest.approx(0.04, rel=0.03)


def test_startup_doubles_the_rate_each_round_trip() -> None:
    scene = Scene(rate=200 * MBIT, rtt=0.1)
    scene.run(1.2)
    flow = scene.flow
    rounds = [flow.rate(0.1 * step, 0.1 * (step + 1)) for step in range(1, 6)]
    growth = [later / earlier for earlier, later in pairwise(rounds)]
    assert all(1.7 < factor < 3.0 for factor in growth), growth


def test_startup_never_lowers_its_rate() -> None:
    scene = Scene()
    scene.run_to(BbrState.DRAIN)
    rates = [rate for _, rate in scene.control.during(BbrState.STARTUP)]
    assert rates[1:] == sorted(rates[1:])


def test_startup_ends_by_loss_before_the_plateau_and_bounds_the_flight() -> None:
    shallow = Scene(rate=100 * MBIT, queue=0.1)
    shallow.run_to(BbrState.DRAIN)
    assert shallow.flow.lost > 0
    assert shallow.control._model.inflight_longterm < 3 * shallow.bdp
    # With the same losses and no exit by them, the plateau takes two more round trips.
    deep = Scene(rate=100 * MBIT, queue=10.0)
    deep.run_to(BbrState.DRAIN)
    assert shallow.control.entered[-1][0] <= deep.control.entered[-1][0]
    assert deep.control._model.inflight_longterm == float("inf")


def test_drain_sends_at_half_the_bandwidth() -> None:
    scene = Scene()
    scene.run(2.0)
    rates = [rate for _, rate in scene.control.during(BbrState.DRAIN)]
    assert rates
    assert rates[-1] == pytest.approx(0.5 * 0.99 * 20 * MBIT, rel=0.03)


# ProbeBW


@pytest.mark.parametrize(
    ("state", "gain"),
    [
        (BbrState.PROBE_BW_DOWN, 0.9),
        (BbrState.PROBE_BW_CRUISE, 1.0),
        (BbrState.PROBE_BW_REFILL, 1.0),
        (BbrState.PROBE_BW_UP, 1.25),
    ],
)
def test_each_probing_state_paces_at_its_gain_below_the_bandwidth_by_one_percent(state: BbrState, gain: float) -> None:
    scene = Scene(rate=20 * SHARE * MBIT)
    scene.run(4.5)
    rates = [rate for _, rate in scene.control.during(state, after=1.0)]
    assert min(rates) == pytest.approx(gain * 0.99 * 20 * SHARE * MBIT, rel=0.02)
    assert max(rates) == pytest.approx(gain * 0.99 * 20 * SHARE * MBIT, rel=0.02)


def test_probes_are_two_to_three_seconds_apart_and_not_in_step() -> None:
    scene = Scene(rate=40 * SHARE * MBIT, rtt=0.08)
    scene.run(14.0)
    ups = [at for at, state in scene.control.entered if state is BbrState.PROBE_BW_UP]
    waits = [later - earlier for earlier, later in pairwise(ups)]
    assert len(waits) >= 3
    assert all(2.0 < wait < 5.0 for wait in waits)
    assert max(waits) - min(waits) > 0.05


def test_a_flow_with_a_small_pipe_probes_as_often_as_newreno_would() -> None:
    scene = Scene(rate=4 * MBIT, rtt=0.02)  # nine packets
    scene.run(4.0)
    ups = [at for at, state in scene.control.entered if state is BbrState.PROBE_BW_UP and at > 1.0]
    waits = [later - earlier for earlier, later in pairwise(ups)]
    assert waits
    assert max(waits) < 1.0


def test_two_seeds_probe_at_different_times_and_one_seed_repeats() -> None:
    def probes(seed: int) -> list[float]:
        clock = Clock()
        control = Traced(seed)
        Flow(clock, Link(clock, 20 * SHARE * MBIT, queue=200_000), control, 0.1)
        clock.run(8.0)
        return [at for at, state in control.entered if state is BbrState.PROBE_BW_UP]

    assert probes(1) == probes(1)
    assert probes(1) != probes(2)


def test_a_probe_that_overflows_the_queue_ends_at_once_and_leaves_headroom() -> None:
    scene = Scene(rate=50 * SHARE * MBIT, queue=0.1)
    scene.run(12.0)
    control, flow = scene.control, scene.flow
    bound = control._model.inflight_longterm
    assert scene.bdp < bound < 1.6 * scene.bdp
    cruising = [window for window, _ in control.during(BbrState.PROBE_BW_CRUISE, after=2.0)]
    assert max(cruising) <= 1.4 * scene.bdp
    assert flow.lost / flow.sent_bytes < 0.02
    assert flow.rate(2.0, 12.0) > 0.9 * 50 * SHARE * MBIT


def test_after_a_probe_with_loss_the_next_one_is_short_and_followed_by_a_full_one() -> None:
    scene = Scene(rate=50 * SHARE * MBIT, queue=0.3)
    scene.run(15.0)
    entered = scene.control.entered
    # A careful probe that went well returns to Refill straight from Down, without cruising.
    pairs = [(first, second) for (_, first), (_, second) in pairwise(entered) if first is CYCLE[0]]
    assert (BbrState.PROBE_BW_DOWN, BbrState.PROBE_BW_REFILL) in pairs


# ProbeRTT


def test_the_delay_is_measured_every_five_seconds_for_a_fifth_of_a_second_with_half_the_pipe() -> None:
    """Beside another flow the queue is never empty, so the delay does not show by itself."""
    scene = Scene(rate=20 * SHARE * MBIT)
    Flow(scene.clock, scene.link, Bbr(PACKET, Draws(2).fraction), 0.04)
    scene.run(17.0)
    control = scene.control
    begins = [index for index, state in enumerate(control.states) if state is BbrState.PROBE_RTT]
    assert len(begins) >= 2
    for index in begins:
        start, end = control.entered[index][0], control.entered[index + 1][0]
        assert 0.2 <= end - start <= 0.5
        assert control.states[index + 1] is BbrState.PROBE_BW_CRUISE
    gaps = [control.entered[later][0] - control.entered[earlier][0] for earlier, later in pairwise(begins)]
    assert all(5.0 <= gap <= 7.5 for gap in gaps)
    windows = [window for window, _ in control.during(BbrState.PROBE_RTT)]
    assert max(windows) <= 0.5 * scene.bdp
    assert control.min_rtt == pytest.approx(0.04, rel=0.1)


def test_measuring_the_delay_does_not_lower_the_bandwidth() -> None:
    scene = Scene(rate=20 * SHARE * MBIT)
    scene.run(3.0)
    scene.flow.delay += 0.01  # the path has become longer: nothing as short as before comes any more
    scene.run(18.0)
    assert BbrState.PROBE_RTT in scene.control.states
    assert scene.control.limited_while_measuring, "its samples say nothing about the path"
    assert scene.control.bandwidth == pytest.approx(20 * SHARE * MBIT, rel=0.02)
    assert scene.control.min_rtt == pytest.approx(0.06, rel=0.05)
    assert scene.flow.rate(13.0, 18.0) > 0.95 * 20 * SHARE * MBIT


def test_a_flow_that_falls_silent_need_not_measure_the_delay() -> None:
    scene = Scene()
    scene.run(3.0)
    scene.flow.supply = 0.0
    scene.run(9.5)
    scene.flow.provide(2_000_000)
    scene.run(10.5)
    assert BbrState.PROBE_RTT not in scene.control.states


# Timeouts, spurious losses, idle times


def test_a_timeout_begins_with_one_packet_and_takes_the_window_back_after_a_round_trip() -> None:
    scene = Scene()
    scene.run(3.0)
    before = scene.control.window_bytes
    scene.link.down = True
    while not scene.flow.timeouts:
        scene.run(scene.clock.now + 0.001)
    assert scene.control.window_bytes == PACKET
    scene.link.down = False
    scene.run(scene.clock.now + 0.12)
    assert scene.control.window_bytes > 0.7 * before


def test_repeated_timeouts_do_not_lose_the_window() -> None:
    scene = Scene()
    scene.run(3.0)
    before = scene.control.window_bytes
    scene.link.down = True
    scene.run(6.0)
    assert scene.flow.timeouts >= 3
    scene.link.down = False
    scene.run(9.0)
    assert scene.control.window_bytes > 0.7 * before
    assert scene.flow.rate(8.0, 9.0) > 0.9 * 20 * MBIT


def test_losses_that_were_none_are_undone() -> None:
    scene = Scene()
    scene.run(3.0)
    control = scene.control
    scene.run_to(BbrState.PROBE_BW_UP)
    scene.link.loss = 0.5
    scene.run_to(BbrState.PROBE_BW_DOWN)
    bound = control._model.inflight_longterm
    assert bound < float("inf")
    control.on_spurious(scene.clock.now)
    assert control._model.inflight_longterm == float("inf")
    assert control._model.bw_shortterm == float("inf")
    assert control.state is BbrState.PROBE_BW_REFILL, "the probe is made again"


def test_startup_goes_on_when_the_losses_that_ended_it_were_none() -> None:
    scene = Scene(rate=100 * MBIT, queue=0.1)
    scene.run_to(BbrState.DRAIN)
    scene.control.on_spurious(scene.clock.now)
    assert scene.control.state is BbrState.STARTUP


def test_a_timeout_that_was_none_is_undone() -> None:
    scene = Scene()
    scene.run(3.0)
    before = scene.control.window_bytes
    scene.control.on_timeout(3.0, 50_000)
    assert scene.control.window_bytes == PACKET
    scene.control.on_spurious(3.1)
    assert scene.control.window_bytes == before


def test_an_idle_flow_restarts_at_its_bandwidth() -> None:
    scene = Scene()
    scene.run(3.0)
    scene.flow.supply = 0.0
    scene.run(6.0)
    scene.flow.provide(5_000_000)
    scene.run(7.0)
    assert scene.flow.rate(6.0, 6.2) > 0.7 * 20 * MBIT
    assert scene.link.delay_quantile(6.0, 6.1, 1.0) < 0.01, "paced, not as a burst"


def test_a_slow_application_does_not_lower_the_bandwidth() -> None:
    scene = Scene()
    scene.run(3.0)
    scene.flow.supply = 0.0
    for step in range(1000):
        scene.clock.at(3.5 + step * 0.01, lambda: scene.flow.provide(2 * PACKET))
    scene.run(13.0)
    assert scene.flow.rate(5.0, 13.0) < 0.1 * 20 * MBIT
    assert scene.control.bandwidth == pytest.approx(20 * MBIT, rel=0.05)


# Limits


def test_the_quantum_is_two_milliseconds_within_two_packets_and_64_kib() -> None:
    seen = {}
    for rate in (0.5, 20, 300):
        scene = Scene(rate=rate * MBIT, rtt=0.01, queue=100)
        scene.run(0.5 if FAST else 1.5)
        seen[rate] = scene.control.send_quantum
    assert seen[0.5] == 2 * PACKET
    assert seen[20] == pytest.approx(20 * MBIT * 0.002, rel=0.3)
    assert seen[300] == 64 * 1024


def test_the_window_never_exceeds_its_maximum() -> None:
    clock = Clock()
    control = Bbr(PACKET, Draws(1).fraction, max_window=30 * PACKET)
    flow = Flow(clock, Link(clock, 100 * MBIT), control, 0.1)
    clock.run(3.0)
    assert max(flow.windows) == 30 * PACKET


def test_a_larger_packet_size_keeps_room_for_four_of_them() -> None:
    control = Bbr(1000, Draws(1).fraction)
    for _ in range(3):
        control.on_timeout(1.0, 5000)
    control.set_packet_size(9000)
    assert control.window_bytes == 36_000


def packet(number: int, size: int, inflight: int, delivered: int, lost: int, app_limited: bool) -> SentPacket:
    return SentPacket(number, size, 0.0, delivered, 0.0, 0.0, app_limited, inflight, lost, [])


EVENTS = st.tuples(
    st.sampled_from(["sent", "ack", "loss", "timeout", "spurious", "size"]),
    st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 5.1, 1000.0]),
    st.sampled_from([0, 1, 4, 1172, 9000, 70_000, 1 << 40]),
    st.sampled_from([0.0, 1e-9, 1e-4, 0.05, 30.0]),
    st.booleans(),
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(EVENTS, max_size=60), st.integers(0, 3))
def test_whatever_is_reported_the_limits_stay_usable(
    events: list[tuple[str, float, int, float, bool]], seed: int
) -> None:
    """Never an exception, never a window or rate that stops the flow, never a burst beyond its limit."""
    control = Bbr(PACKET, Draws(seed).fraction)
    now = 0.0
    total = lost = number = 0
    size = PACKET
    for name, wait, amount, seconds, flag in events:
        now += wait
        if name == "sent":
            number += 1
            control.on_sent(now, packet(number, amount, amount * (1 + flag), total, lost, flag))
        elif name == "ack":
            sample = RateSample()
            sample.prior_delivered = max(0, total - amount) if flag else 0
            total += amount
            sample.delivered = total - sample.prior_delivered
            sample.total_delivered = total
            sample.interval = seconds
            sample.rtt = seconds if flag else None
            sample.newly_acked = amount
            sample.app_limited = flag
            sample.inflight = sample.sent_inflight = amount
            sample.lost = amount // 2
            control.on_ack(now, sample)
        elif name == "loss":
            lost += amount
            control.on_loss(now, packet(number, size, amount, total, 0, flag), amount, amount)
        elif name == "timeout":
            lost += amount
            control.on_timeout(now, amount)
        elif name == "spurious":
            control.on_spurious(now)
        else:
            size = 9000 if flag else PACKET
            control.set_packet_size(size)
        assert PACKET <= control.window_bytes <= 64 * 1024 * 1024
        if name == "ack":
            assert control.window_bytes >= 4 * size
        rate = control.pacing_rate
        assert rate is not None
        assert rate > 0.0
        assert isfinite(rate)
        assert 0 < control.send_quantum <= 64 * 1024
