"""The path model: rounds, filters and bounds, sample by sample."""

from __future__ import annotations

from math import inf

import pytest

from mxrtc_bridge.sctp.bbr_model import BETA, MIN_ROUND, PathModel, is_excessive
from mxrtc_bridge.sctp.congestion import RateSample

PACKET = 1000
RTT = 0.1


def sample(
    total: int, *, prior: int, rate: float = 100_000.0, interval: float = RTT, app_limited: bool = False
) -> RateSample:
    made = RateSample()
    made.total_delivered = total
    made.prior_delivered = prior
    made.delivered = int(rate * interval)
    made.interval = interval
    made.app_limited = app_limited
    made.newly_acked = PACKET
    return made


class Driver:
    """Feeds a model one sample for each round trip."""

    def __init__(self) -> None:
        self.model = PathModel(PACKET)
        self.now = 0.0
        self.total = 0

    def round(self, rate: float, *, app_limited: bool = False, rtt: float = RTT, lost: int = 0) -> None:
        prior = self.total
        self.now += rtt
        self.total += int(rate * rtt)
        for _ in range(lost):
            self.model.take_loss(self.now, PACKET, new_range=True)
        self.model.take_sample(self.now, sample(self.total, prior=prior, rate=rate, app_limited=app_limited))
        self.model.take_rtt(self.now, rtt)


def finish(driver: Driver, *, window: int = 10**6, probing: bool = False) -> None:
    if driver.model.loss_round_start:
        driver.model.end_loss_round(window, probing)
    driver.model.bound_bw(0)


# Losses


@pytest.mark.parametrize(
    ("lost", "volume", "expected"),
    [
        (4, 149, True),
        (4, 150, False),  # exactly two percent and one packet are tolerated
        (2, 49, True),
        (2, 50, False),
        (1, 9, False),
        (1, 8, True),
        (0, 0, False),
        (1, 0, True),
    ],
)
def test_loss_is_excessive_above_two_percent_and_one_packet_or_from_an_eighth(
    lost: int, volume: int, expected: bool
) -> None:
    assert is_excessive(lost * PACKET, volume * PACKET, PACKET) is expected


def test_short_term_bounds_follow_a_round_with_excessive_loss_and_not_one_with_less() -> None:
    driver = Driver()
    for _ in range(3):
        driver.round(100_000.0)
        finish(driver)
    driver.round(90_000.0, lost=1)
    finish(driver)
    driver.round(90_000.0)
    finish(driver)
    assert driver.model.bw_shortterm == inf
    driver.round(90_000.0, lost=3)
    finish(driver)
    driver.round(90_000.0)
    finish(driver)
    assert driver.model.bw_shortterm == pytest.approx(90_000.0)
    assert driver.model.bw == pytest.approx(90_000.0)
    assert driver.model.inflight_shortterm == pytest.approx(BETA * 10**6)


def test_short_term_bounds_fall_by_the_factor_at_most_and_not_while_probing() -> None:
    driver = Driver()
    for _ in range(3):
        driver.round(100_000.0)
        finish(driver)
    for _ in range(2):
        driver.round(1_000.0, lost=5)
        finish(driver, probing=True)
    assert driver.model.bw_shortterm == inf
    for _ in range(2):
        driver.round(1_000.0, lost=5)
        finish(driver)
    assert driver.model.bw_shortterm == pytest.approx(BETA * 100_000.0)
    driver.model.reset_short_term()
    assert driver.model.bw_shortterm == inf


# Rounds


def test_a_round_ends_with_a_packet_that_left_after_it_began() -> None:
    model = PathModel(PACKET)
    starts = []
    for step, prior in enumerate([0, 0, 0, 1000, 1000, 3000, 4000, 7000]):
        model.take_sample(step * 0.1, sample((step + 1) * 1000, prior=prior))
        starts.append(model.round_start)
    assert starts == [True, False, False, True, False, False, True, True]


def test_a_round_lasts_at_least_what_a_host_can_resolve() -> None:
    model = PathModel(PACKET)
    total = 0
    counted = []
    for step in range(60):  # a round trip of 100 microseconds
        total += PACKET
        model.take_sample(step * 0.0001, sample(total, prior=total - PACKET, interval=0.0001))
        if model.round_start:
            counted.append(step * 0.0001)
    assert len(counted) == 2
    assert counted[1] >= MIN_ROUND


# Bandwidth


def test_max_bw_remembers_two_cycles() -> None:
    driver = Driver()
    driver.round(100_000.0)
    driver.model.advance_max_bw()
    driver.round(60_000.0)
    assert driver.model.max_bw == pytest.approx(100_000.0)
    driver.model.advance_max_bw()
    assert driver.model.max_bw == pytest.approx(60_000.0)
    driver.model.advance_max_bw()
    assert driver.model.max_bw == pytest.approx(60_000.0), "a cycle without samples does not count"


def test_app_limited_samples_raise_the_bandwidth_and_never_lower_it() -> None:
    driver = Driver()
    driver.round(100_000.0)
    driver.model.advance_max_bw()
    driver.round(50_000.0, app_limited=True)
    driver.model.advance_max_bw()
    assert driver.model.max_bw == pytest.approx(100_000.0)
    driver.round(200_000.0, app_limited=True)
    assert driver.model.max_bw == pytest.approx(200_000.0)


def test_a_sample_shorter_than_the_path_gives_no_rate() -> None:
    driver = Driver()
    driver.round(100_000.0)
    driver.model.take_sample(driver.now + 0.01, sample(20_000, prior=10_000, rate=9e9, interval=RTT / 2))
    assert driver.model.rate == 0.0
    assert driver.model.max_bw == pytest.approx(100_000.0)


def test_rates_are_ignored_from_the_call_until_a_flight_later_and_not_before() -> None:
    model = PathModel(PACKET)
    model.take_sample(1.0, sample(50_000, prior=40_000))
    model.ignore_rates(10_000)
    limited = []
    for prior in (49_000, 50_000, 60_000, 60_001):
        model.take_sample(1.1, sample(61_000, prior=prior))
        limited.append(model.app_limited)
    assert limited == [False, True, True, False]


def test_the_pipe_is_full_after_three_rounds_without_growth() -> None:
    driver = Driver()
    for rate in (10_000.0, 20_000.0, 40_000.0, 44_000.0, 44_000.0):
        driver.round(rate)
        assert not driver.model.full_bw_now
    driver.round(44_000.0, app_limited=True)
    assert not driver.model.full_bw_now, "what the application held back says nothing"
    driver.round(44_000.0)
    assert driver.model.full_bw_now
    driver.model.expect_growth(44_000.0)
    driver.round(56_000.0)
    assert not driver.model.full_bw_now


def test_a_path_counts_as_slower_after_four_rounds_and_half_a_second_at_less_than_half() -> None:
    driver = Driver()
    driver.round(100_000.0)
    for _ in range(5):
        driver.round(45_000.0)
        assert not driver.model.path_is_slower(driver.now)
    driver.round(30_000.0)
    assert driver.model.path_is_slower(driver.now)
    driver.model.accept_slower_path()
    assert driver.model.max_bw == pytest.approx(45_000.0)
    assert not driver.model.path_is_slower(driver.now)


@pytest.mark.parametrize(("rate", "app_limited"), [(50_001.0, False), (10_000.0, True)])
def test_one_round_at_half_or_without_data_starts_that_count_again(rate: float, app_limited: bool) -> None:
    driver = Driver()
    driver.round(100_000.0)
    for _ in range(5):
        driver.round(40_000.0)
    driver.round(rate, app_limited=app_limited)
    driver.round(40_000.0)
    assert not driver.model.path_is_slower(driver.now)


# Delay


def test_min_rtt_is_the_least_and_is_due_again_after_five_seconds() -> None:
    model = PathModel(PACKET)
    assert model.min_rtt == inf
    model.take_rtt(0.0, None)
    assert not model.probe_rtt_due
    for now, rtt in ((0.1, 0.05), (0.2, 0.03), (0.3, 0.04)):
        model.take_rtt(now, rtt)
    assert model.min_rtt == 0.03
    model.take_rtt(5.2, 0.06)
    assert not model.probe_rtt_due
    model.take_rtt(5.3, 0.06)
    assert model.probe_rtt_due
    assert model.min_rtt == 0.03


def test_min_rtt_rises_after_ten_seconds_to_the_last_measurement() -> None:
    model = PathModel(PACKET)
    model.take_rtt(0.0, 0.03)
    model.take_rtt(5.1, 0.08)  # measured anew, and not below what is known
    model.take_rtt(9.0, 0.09)
    assert model.min_rtt == 0.03
    model.take_rtt(10.05, 0.09)
    assert model.min_rtt == 0.08


def test_min_rtt_falls_at_once() -> None:
    model = PathModel(PACKET)
    model.take_rtt(0.0, 0.03)
    model.take_rtt(0.1, 0.01)
    assert model.min_rtt == 0.01


def test_a_delay_that_a_host_cannot_tell_from_the_least_one_puts_the_measurement_off() -> None:
    """The queue was empty: there is nothing to measure for the sake of which the flow would have to slow down."""
    model = PathModel(PACKET)
    model.take_rtt(0.0, 0.03)
    model.take_rtt(4.0, 0.031)
    model.take_rtt(8.9, 0.0312)
    assert not model.probe_rtt_due
    assert model.min_rtt == 0.03
    model.take_rtt(9.1, 0.0312)
    assert model.probe_rtt_due


# A standing queue


def standing(rate: float, *, rtt: float = 0.12, rounds: int = 3, app_limited: bool = False) -> tuple[PathModel, float]:
    """A model that believes in 110,000 bytes a second over 100 ms, after some round trips with a queue."""
    driver = Driver()
    driver.round(110_000.0)
    model, queue = driver.model, 0.0
    for _ in range(rounds):
        prior = driver.total
        driver.now += rtt
        driver.total += int(rate * rtt)
        model.take_sample(driver.now, sample(driver.total, prior=prior, rate=rate, app_limited=app_limited))
        queue = model.correct_by_standing_queue(driver.now, rtt)
    return model, queue


def test_a_queue_that_stands_shows_the_rate_of_the_path() -> None:
    model, queue = standing(100_000.0)
    assert model.max_bw == pytest.approx(100_000.0)
    assert queue == pytest.approx(0.02)


def test_two_round_trips_are_needed_to_tell() -> None:
    model, queue = standing(100_000.0, rounds=2)
    assert (model.max_bw, queue) == (110_000.0, 0.0)


@pytest.mark.parametrize("rtt", [0.1, 0.112])
def test_without_a_queue_what_comes_through_is_what_we_send(rtt: float) -> None:
    model, queue = standing(100_000.0, rtt=rtt, rounds=5)
    assert (model.max_bw, queue) == (110_000.0, 0.0)


def test_what_the_application_holds_back_is_not_the_rate_of_the_path() -> None:
    model, queue = standing(100_000.0, app_limited=True)
    assert (model.max_bw, queue) == (110_000.0, 0.0)


def test_a_rate_that_is_far_below_is_that_of_a_path_with_others_on_it() -> None:
    assert standing(88_000.0)[0].max_bw == pytest.approx(88_000.0)
    assert standing(87_000.0)[0].max_bw == 110_000.0


def test_several_corrections_together_go_no_further_than_one() -> None:
    driver = Driver()
    driver.round(110_000.0)
    for rate in (100_000.0, 89_000.0, 80_000.0):
        for _ in range(4):
            driver.total += int(rate * 0.12)
            driver.now += 0.12
            driver.model.take_sample(driver.now, sample(driver.total, prior=driver.total - 1, rate=rate))
            driver.model.correct_by_standing_queue(driver.now, 0.12)
    assert driver.model.max_bw == pytest.approx(89_000.0)


def test_hosts_are_not_exact_enough_to_correct_a_short_path() -> None:
    driver = Driver()
    driver.round(110_000.0, rtt=0.0039)
    for _ in range(100):
        driver.total += 1000
        driver.now += 0.01
        driver.model.take_sample(driver.now, sample(driver.total, prior=driver.total - 1000))
        assert driver.model.correct_by_standing_queue(driver.now, 0.02) == 0.0
    assert driver.model.max_bw == 110_000.0


def test_after_a_correction_the_inexact_samples_are_not_believed_until_the_next_probe() -> None:
    model, _ = standing(100_000.0)
    model.take_sample(2.0, sample(10**6, prior=10**6 - 1, rate=105_000.0))
    assert model.max_bw == pytest.approx(100_000.0)
    model.take_sample(2.1, sample(10**6, prior=10**6 - 1, rate=115_000.0))
    assert model.max_bw == pytest.approx(115_000.0), "more than ever: the path has changed"
    model, _ = standing(100_000.0)
    model.forget_correction()
    model.take_sample(2.0, sample(10**6, prior=10**6 - 1, rate=105_000.0))
    assert model.max_bw == pytest.approx(105_000.0)


# Aggregation


def test_extra_acked_is_what_comes_beyond_the_rate_and_is_forgotten_after_ten_rounds() -> None:
    driver = Driver()
    model = driver.model
    for _ in range(2):
        driver.round(100_000.0)
        finish(driver)
        model.take_aggregation(driver.now, 10_000, 50_000, startup=False)
    for _ in range(8):  # eight packets at once, where one is expected in ten milliseconds
        model.take_aggregation(driver.now, PACKET, 50_000, startup=False)
    burst = model.extra_acked
    assert 8_000 <= burst <= 10_000
    for _ in range(4):
        driver.round(100_000.0)
        finish(driver)
        model.take_aggregation(driver.now, PACKET, 50_000, startup=False)
    assert model.extra_acked == burst
    for _ in range(11):
        driver.round(100_000.0)
        finish(driver)
        model.take_aggregation(driver.now, PACKET, 50_000, startup=False)
    assert model.extra_acked <= PACKET


def test_extra_acked_is_bounded_by_the_window_and_by_a_tenth_of_a_second() -> None:
    driver = Driver()
    model = driver.model
    driver.round(100_000.0)
    finish(driver)
    for _ in range(100):
        model.take_aggregation(driver.now, PACKET, 7_000, startup=False)
    assert model.extra_acked == 7_000
    for _ in range(100):
        model.take_aggregation(driver.now, PACKET, 10**9, startup=False)
    assert model.extra_acked == 10_000
