"""BBR on whole paths, in virtual time: what a user gets, and what it leaves to others.

The numbers are what docs/explanation/congestion-control.md promises.
"""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.congestion import CongestionControl
from tests.long import FAST, some
from tests.sctp.draws import Draws
from tests.sctp.link_model import MBIT, PACKET, Clock, Flow, Host, Link
from tests.sctp.newreno import NewReno


def jain(rates: list[float]) -> float:
    """Return Jain's index: 1.0 when all are equal, 1/n when one has everything."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


SHARE = 0.3 if FAST else 1.0
"""Of the rate: most of what is promised does not depend on it, and what a test costs does."""


class Path:
    """A link and its flows."""

    def __init__(
        self,
        mbit: float,
        rtt: float,
        *,
        queue: float,
        loss: float = 0.0,
        seed: int = 1,
        min_queue: float = 0.0,
        share: float = SHARE,
    ) -> None:
        self.clock = Clock()
        self.rate = mbit * MBIT * share
        self.rtt = rtt
        room = max(queue * self.rate * rtt, min_queue)
        self.link = Link(self.clock, self.rate, queue=room, loss=loss, seed=seed)
        self.flows: list[Flow] = []

    def add(self, control: CongestionControl, *, start: float = 0.0, rtt: float = 0.0) -> Flow:
        flow = Flow(self.clock, self.link, control, rtt or self.rtt, start=start)
        self.flows.append(flow)
        return flow

    def shares(self, start: float, end: float) -> list[float]:
        return [flow.rate(start, end) / self.rate for flow in self.flows]


def until(usual: float, fast: float) -> float:
    """Return the second up to which a path is looked at."""
    return fast if FAST else usual


# Alone


def test_a_hundred_megabits_over_20_ms_are_used_to_95_percent_with_less_than_25_ms_of_queue() -> None:
    path = Path(100, 0.02, queue=2)
    flow = path.add(Bbr(PACKET, Draws(1).fraction))
    end = until(12.0, 7.0)
    path.clock.run(end)
    assert flow.rate(2.0, end) > 0.95 * path.rate
    assert path.link.delay_quantile(2.0, end, 0.99) < 0.025
    assert path.link.delay_mean(2.0, end) < 0.006
    assert flow.lost == 0


@pytest.mark.parametrize(("queue", "least"), some([(0.05, 0.7), (0.1, 0.9), (0.3, 0.95)], 1))
def test_a_shallow_queue_suffices_and_hardly_overflows(queue: float, least: float) -> None:
    """The shallowest one holds two milliseconds, which is one burst of ours."""
    path = Path(50, 0.04, queue=queue)
    flow = path.add(Bbr(PACKET, Draws(1).fraction))
    path.clock.run(10.0)
    assert flow.rate(2.0, 10.0) > least * path.rate
    assert flow.lost / flow.sent_bytes < 0.02


@pytest.mark.parametrize(("mbit", "seed"), some([(5, 1), (10, 2), (20, 3), (20, 4), (40, 5), (40, 6), (80, 7)], 2))
def test_one_percent_of_random_loss_on_50_ms_leaves_80_percent_of_the_rate(mbit: float, seed: int) -> None:
    path = Path(mbit, 0.05, queue=1, loss=0.01, seed=seed)
    flow = path.add(Bbr(PACKET, Draws(seed).fraction))
    end = 12.0 if mbit <= 40 else 8.0
    path.clock.run(end)
    assert flow.rate(3.0, end) > 0.8 * path.rate
    assert flow.lost / flow.sent_bytes < 0.025


def test_newreno_on_that_path_shows_what_the_model_is_worth() -> None:
    """A tenth of the rate: the comparison that the whole thing is for, and a check of the link."""
    path = Path(40, 0.05, queue=1, loss=0.01, share=1.0)
    flow = path.add(NewReno(PACKET))
    path.clock.run(20.0)
    assert 0.02 * path.rate < flow.rate(5.0, 20.0) < 0.15 * path.rate


def test_most_of_the_rate_is_reached_within_a_second() -> None:
    path = Path(100, 0.05, queue=1)
    flow = path.add(Bbr(PACKET, Draws(1).fraction))
    path.clock.run(2.0)
    assert flow.rate(0.0, 1.0) > 0.6 * path.rate
    assert flow.rate(1.0, 2.0) > 0.95 * path.rate


@pytest.mark.parametrize("kbit", [256, 1000])
def test_a_slow_link_is_filled_with_a_few_packets(kbit: float) -> None:
    path = Path(kbit / 1000, 0.1, queue=1, min_queue=10 * PACKET)
    flow = path.add(Bbr(PACKET, Draws(1).fraction))
    path.clock.run(30.0)
    assert flow.rate(5.0, 30.0) > 0.9 * path.rate
    assert path.link.delay_quantile(5.0, 30.0, 0.95) <= max(0.12, 9 * PACKET / path.rate)


# Changes


@pytest.mark.parametrize(
    ("before", "after", "queue", "seconds"),
    some([(20, 100, 2, 2), (2, 50, 1, 2), (100, 20, 0.5, 3), (100, 20, 2, 3)], 1),
)
def test_a_new_rate_is_found_within_a_few_seconds(before: float, after: float, queue: float, seconds: float) -> None:
    path = Path(max(before, after), 0.02, queue=queue)
    path.link.rate = before * MBIT
    flow = path.add(Bbr(PACKET, Draws(3).fraction))
    path.clock.at(6.0, lambda: setattr(path.link, "rate", after * MBIT))
    end = 6.0 + seconds + 2.0
    path.clock.run(end)
    assert flow.rate(6.0 + seconds, end) > 0.9 * after * MBIT
    assert path.link.delay_mean(6.0 + seconds, end) < 0.04, "the queue of the old rate is gone"
    assert flow.lost / flow.sent_bytes < 0.03


def test_an_outage_of_two_seconds_is_survived() -> None:
    path = Path(20, 0.05, queue=1)
    flow = path.add(Bbr(PACKET, Draws(1).fraction))
    path.clock.at(4.0, lambda: setattr(path.link, "down", True))
    path.clock.at(6.0, lambda: setattr(path.link, "down", False))
    path.clock.run(11.0)
    assert flow.rate(8.0, 11.0) > 0.9 * path.rate


# Together


@pytest.mark.parametrize("queue", some([0.5, 1, 2], 1))
def test_two_flows_of_different_age_share_fairly(queue: float) -> None:
    path = Path(20, 0.03, queue=queue)
    path.add(Bbr(PACKET, Draws(1).fraction))
    path.add(Bbr(PACKET, Draws(2).fraction), start=7.0)
    end = until(60.0, 30.0)
    path.clock.run(end)
    shares = path.shares(20.0, end)
    assert jain(shares) > 0.9
    assert sum(shares) > 0.95


def test_five_flows_share_fairly() -> None:
    path = Path(20, 0.03, queue=1)
    for index in range(5):
        path.add(Bbr(PACKET, Draws(index).fraction), start=2.0 * index)
    end = until(45.0, 30.0)
    path.clock.run(end)
    shares = path.shares(15.0, end)
    assert jain(shares) > 0.9
    assert sum(shares) > 0.95


def test_flows_over_30_and_90_ms_both_get_something() -> None:
    path = Path(20, 0.03, queue=1)
    path.add(Bbr(PACKET, Draws(1).fraction))
    path.add(Bbr(PACKET, Draws(2).fraction), rtt=0.09, start=3.0)
    end = until(40.0, 25.0)
    path.clock.run(end)
    assert min(path.shares(10.0, end)) > 0.2


@pytest.mark.parametrize("queue", some([0.3, 1, 2, 6], 1))
@pytest.mark.parametrize("newreno_first", [False, True])
def test_bbr_and_newreno_coexist(queue: float, newreno_first: bool) -> None:
    path = Path(20, 0.03, queue=queue)
    path.add(Bbr(PACKET, Draws(1).fraction), start=4.0 if newreno_first else 0.0)
    path.add(NewReno(PACKET), start=0.0 if newreno_first else 4.0)
    end = until(35.0, 20.0)
    path.clock.run(end)
    assert min(path.shares(10.0, end)) > 0.2
    assert sum(path.shares(10.0, end)) > 0.95


# Hosts that are not perfect


@pytest.mark.parametrize(
    ("rtt", "stall", "every", "ack_every", "ack_slot", "least"),
    some(
        [
            (0.00005, 0.0, 1.0, 2, 0.0, 0.95),
            (0.0003, 0.0, 1.0, 2, 0.001, 0.95),
            (0.0001, 0.003, 0.02, 8, 0.0, 0.85),
            (0.00005, 0.005, 0.02, 2, 0.0, 0.8),
            (0.0003, 0.005, 0.02, 2, 0.0, 0.8),
            (0.0001, 0.008, 0.02, 2, 0.0, 0.85),
        ],
        2,
    ),
)
def test_loopback_keeps_its_rate_although_hosts_stall_and_acks_come_in_bunches(
    rtt: float, stall: float, every: float, ack_every: int, ack_slot: float, least: float
) -> None:
    """The round trip is far below what the hosts resolve; both stop for milliseconds, a good part of the time."""
    clock = Clock()
    link = Link(clock, 400 * MBIT, queue=400_000)
    flow = Flow(
        clock,
        link,
        Bbr(PACKET, Draws(1).fraction),
        rtt,
        ack_every=ack_every,
        ack_slot=ack_slot,
        sender=Host(clock, seed=1, stall=stall, every=every),
        receiver=Host(clock, seed=2, stall=stall, every=every, granularity=0.0),
    )
    end = until(2.0, 1.2)
    clock.run(end)
    assert flow.rate(0.4, end) > least * link.rate
    middle = (0.4 + end) / 2
    assert flow.rate(middle, end) > 0.85 * flow.rate(0.4, middle), "it does not fall with time"


def test_a_path_shorter_than_the_hosts_resolve_is_left_alone_between_probes() -> None:
    """Its bandwidth-delay product is a few packets; probing after as many rounds would never let the queue go."""
    clock = Clock()
    link = Link(clock, 400 * MBIT, queue=1_000_000)
    flow = Flow(clock, link, Bbr(PACKET, Draws(1).fraction), 0.0001)
    end = until(2.0, 1.2)
    clock.run(end)
    assert flow.rate(0.5, end) > 0.95 * link.rate
    assert link.delay_quantile(0.5, end, 0.5) < 0.0015
    assert link.delay_mean(0.5, end) < 0.002


@pytest.mark.parametrize(("stall", "every"), some([(0.001, 0.01), (0.003, 0.05)], 1))
def test_late_hosts_do_not_leave_a_queue_on_the_path(stall: float, every: float) -> None:
    """They make rates look up to a tenth too high; at such a rate the queue would grow to a whole round trip."""
    path = Path(100, 0.02, queue=2)
    hosts = [Host(path.clock, seed=seed, stall=stall, every=every) for seed in (1, 2)]
    flow = Flow(path.clock, path.link, Bbr(PACKET, Draws(1).fraction), 0.02, sender=hosts[0], receiver=hosts[1])
    end = until(16.0, 7.0)
    path.clock.run(end)
    assert flow.rate(2.0, end) > 0.98 * path.rate
    assert path.link.delay_mean(2.0, end) < 0.01
    assert path.link.delay_quantile(2.0, end, 0.5) < 0.007


def test_acknowledgements_in_slots_of_a_radio_link_do_not_hold_the_rate_back() -> None:
    path = Path(50, 0.03, queue=2)
    flow = Flow(path.clock, path.link, Bbr(PACKET, Draws(1).fraction), 0.03, ack_slot=0.02)
    path.clock.run(10.0)
    assert flow.rate(2.0, 10.0) > 0.93 * path.rate


def test_timers_of_five_milliseconds_do_not_hold_the_rate_back() -> None:
    path = Path(50, 0.03, queue=2)
    host = Host(path.clock, granularity=0.005)
    flow = Flow(path.clock, path.link, Bbr(PACKET, Draws(1).fraction), 0.03, sender=host)
    path.clock.run(8.0)
    assert flow.rate(2.0, 8.0) > 0.93 * path.rate
