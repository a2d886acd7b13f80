"""What BBR believes about the path: how much it carries, how long it is, and how much fits into it.

Three kinds of estimates, each with its own memory (draft-ietf-ccwg-bbr-06 section 5.5):

- the bandwidth ``max_bw``, the highest delivery rate of two probing cycles, and the propagation delay ``min_rtt``;
- long-term bounds, from what was lost while we probed: ``inflight_longterm``;
- short-term bounds, from what was lost while we did not: ``bw_shortterm``, ``inflight_shortterm``.

The model never decides what to do next: :mod:`mxrtc_bridge.sctp.bbr` does. It must never take the word of a single
sample for a bound: rates enter through a maximum, delays through a minimum, losses by the round trip.

Where it leaves the draft (docs/explanation/congestion-control.md says why): a round lasts at least
:data:`MIN_ROUND`, and loss counts as a sign of congestion only where :func:`is_excessive` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from mxrtc_bridge.sctp.congestion import RateSample

LOSS_THRESHOLD: Final = 0.02
"""The share of the flight whose loss is tolerated."""
_LARGE_SHARE: Final = 0.125
BETA: Final = 0.7
"""The largest reduction by one round trip with excessive loss."""
MIN_ROUND: Final = 0.003
"""Seconds that a round lasts at least: below, it is the host's scheduling that is measured and not the path."""

_SHORTEST_INTERVAL: Final = 0.99
_FULL_PIPE_GROWTH: Final = 1.25
_FULL_PIPE_ROUNDS: Final = 3
_SLOW_SHARE: Final = 0.5
_SLOW_ROUNDS: Final = 4
_SLOW_SECONDS: Final = 0.5
_MIN_RTT_WINDOW: Final = 10.0
_PROBE_RTT_INTERVAL: Final = 5.0
_EXTRA_ACKED_ROUNDS: Final = 5
"""Rounds in one half of the aggregation filter: its memory is five to ten rounds."""
_EXTRA_ACKED_SECONDS: Final = 0.1
_HOST_DELAY: Final = 0.004
"""Seconds: shorter delays come from the hosts and not from queues on the path."""
_HOST_JITTER: Final = 0.001
"""Seconds by which the same delay looks different: the queue was empty all the same."""
_STANDING_SHARE: Final = 0.125
_STANDING_SECONDS: Final = 0.1
"""In this time hosts that are a millisecond late make an error of one percent."""
_STANDING_ROUNDS: Final = 2
_LARGEST_CORRECTION: Final = 0.2
"""By what share late hosts may have made ``max_bw`` too high."""


def is_excessive(lost: int, volume: float, packet_size: int) -> bool:
    """Say whether losing ``lost`` of ``volume`` bytes means congestion.

    That is more than the draft's 2 % and one packet, or an eighth of the flight: of fifty packets one is already 2 %,
    and a single packet is lost for other reasons too.
    """
    return lost > volume * LOSS_THRESHOLD + packet_size or (lost > 0 and lost >= volume * _LARGE_SHARE)


@dataclass(slots=True, eq=False)
class PathModel:
    """The estimates, and the clocks in round trips that they need.

    Attributes:
        bw: bytes per second that the path carries, as far as we may use it now.
        max_bw: bytes per second, the most of two probing cycles.
        min_rtt: seconds; infinite before the first sample.
        extra_acked: bytes acknowledged beyond ``bw`` at once, the most of some round trips.
        rate: bytes per second of the present sample, 0.0 when it gives none.
        app_limited: the present sample says nothing about the path's limit.
        delivered: bytes delivered in all.
        lost: bytes lost in all.
        round_start: the present sample is the first of a new round trip.
        round_count: round trips so far.
        loss_round_start: the present sample ends the round trip after a loss.
        full_bw_now: sending faster did not deliver faster for three round trips.
        probe_rtt_due: it is time to measure the propagation delay again.
        inflight_longterm: bytes that were too many when we probed; infinite when not known.
    """

    packet_size: int
    bw: float = 0.0
    max_bw: float = 0.0
    _bw_previous_cycle: float = 0.0
    _bw_this_cycle: float = 0.0
    _round_rate: float = 0.0
    _slow_best: float = 0.0
    _slow_from: float = 0.0
    _slow_rounds: int = 0
    _standing_from: float = inf
    _standing_delivered: int = 0
    _steady_bw: float = 0.0
    _uncorrected_bw: float = 0.0
    rate: float = 0.0
    app_limited: bool = False
    _limited_from: int = 0
    _limited_until: int = -1

    min_rtt: float = inf
    _min_rtt_at: float = inf
    _probe_rtt_delay: float = inf
    probe_rtt_at: float = inf
    probe_rtt_due: bool = False

    delivered: int = 0
    round_start: bool = False
    round_count: int = 0
    _next_round_delivered: int = 0
    _round_ends: float = -inf

    lost: int = 0
    loss_in_round: bool = False
    loss_round_start: bool = False
    loss_ranges: int = 0
    _loss_round_delivered: int = 0
    _loss_round_ends: float = -inf
    _loss_round_from: int = 0
    _loss_round_lost: int = 0

    _full_bw: float = 0.0
    _full_bw_count: int = 0
    full_bw_now: bool = False

    extra_acked: int = 0
    _extra_acked_before: int = 0
    _extra_acked_now: int = 0
    _extra_acked_round: int = 0
    _extra_acked_bytes: int = 0
    _extra_acked_from: float = 0.0

    bw_latest: float = 0.0
    inflight_latest: int = 0
    bw_shortterm: float = inf
    inflight_shortterm: float = inf
    inflight_longterm: float = inf

    # Rates and rounds, at each acknowledgement

    def take_sample(self, now: float, sample: RateSample) -> None:
        """Update rounds, bandwidth and the full-pipe estimate from what a SACK acknowledged."""
        delivered = sample.delivered
        interval = sample.interval
        prior = sample.prior_delivered
        # An interval below the propagation delay belongs to a retransmission whose original arrived (section 4.1.2.3).
        plausible = interval > 0.0 and (self.min_rtt == inf or interval > self.min_rtt * _SHORTEST_INTERVAL)
        rate = delivered / interval if plausible else 0.0
        self.rate = rate
        limited = sample.app_limited or self._limited_from <= prior <= self._limited_until
        self.app_limited = limited
        self.delivered = total = sample.total_delivered

        # Conditional expressions instead of max() and min(), here and below: a call costs more than all the rest.
        self.bw_latest = rate if rate > self.bw_latest else self.bw_latest
        self.inflight_latest = delivered if delivered > self.inflight_latest else self.inflight_latest
        if prior >= self._loss_round_delivered and now >= self._loss_round_ends:
            self._loss_round_delivered = total
            self._loss_round_ends = now + MIN_ROUND
            self.loss_round_start = True
        else:
            self.loss_round_start = False

        self._round_rate = rate if rate > self._round_rate else self._round_rate
        if prior >= self._next_round_delivered and now >= self._round_ends:
            self.start_round(now)
            self.round_count += 1
            self.round_start = True
            self._count_slow_round(now)
        else:
            self.round_start = False

        if rate > 0.0 and (not limited or rate >= self.max_bw):
            if rate > self._bw_this_cycle and not self._steady_bw <= rate < self._uncorrected_bw:
                self._bw_this_cycle = rate
                self.max_bw = max(self._bw_previous_cycle, rate)
            if not limited and not self.full_bw_now:
                self._look_for_full_pipe(rate)

    def start_round(self, now: float) -> None:
        """Let the round trip end with a packet that leaves from now on."""
        self._next_round_delivered = self.delivered
        self._round_ends = now + MIN_ROUND

    def advance_max_bw(self) -> None:
        """Forget the bandwidth of the probing cycle before the last one; a cycle without samples does not count."""
        if self._bw_this_cycle > 0.0:
            self._bw_previous_cycle = self._bw_this_cycle
            self._bw_this_cycle = 0.0
            self.max_bw = self._bw_previous_cycle

    def correct_by_standing_queue(self, now: float, rtt: float) -> float:
        """Between probes: lower ``max_bw`` to what comes through while a queue stands; return its seconds if so.

        A rate sample spans a round trip, and both of its ends are as inexact as hosts are late; the maximum keeps the
        most inexact one. At that rate the queue grows until the window stops it. But as long as it stands the
        bottleneck is busy, so what comes through in several round trips is the rate that it has for us.
        """
        min_rtt = self.min_rtt
        queue = rtt - min_rtt
        if queue < max(_HOST_DELAY, min_rtt * _STANDING_SHARE) or self.app_limited or min_rtt < _HOST_DELAY:
            self._standing_from = inf
        elif self._standing_from == inf:
            self._standing_from = now
            self._standing_delivered = self.delivered
        elif now - self._standing_from >= max(_STANDING_SECONDS, _STANDING_ROUNDS * min_rtt):
            rate = (self.delivered - self._standing_delivered) / (now - self._standing_from)
            self._standing_from = inf
            most = self._uncorrected_bw or self.max_bw
            # Beyond that it is another flow that takes its share, and the next probe will tell.
            if most * (1.0 - _LARGEST_CORRECTION) <= rate < self.max_bw:
                self._uncorrected_bw = most
                self._steady_bw = self._bw_this_cycle = self._bw_previous_cycle = self.max_bw = rate
                return queue
        return 0.0

    def forget_correction(self) -> None:
        """Believe all samples again: a probe begins."""
        self._standing_from = inf
        self._steady_bw = self._uncorrected_bw = 0.0

    def path_is_slower(self, now: float) -> bool:
        """Whether, for some time, not even half of ``max_bw`` came through although we sent what we could."""
        return self._slow_rounds >= _SLOW_ROUNDS and now >= self._slow_from + _SLOW_SECONDS

    def accept_slower_path(self) -> None:
        """Believe what came through lately rather than the last two probing cycles."""
        self._bw_previous_cycle = 0.0
        self._bw_this_cycle = self.max_bw = self._slow_best
        self._slow_rounds = 0

    def _count_slow_round(self, now: float) -> None:
        rate, self._round_rate = self._round_rate, 0.0
        if self.app_limited or rate >= self.max_bw * _SLOW_SHARE:
            self._slow_rounds = 0
            return
        if not self._slow_rounds:
            self._slow_from = now
            self._slow_best = 0.0
        self._slow_rounds += 1
        self._slow_best = max(self._slow_best, rate)

    def ignore_rates(self, inflight: int) -> None:
        """Take the samples of what is sent until one flight after this call as limited by us (section 4.1.2.4)."""
        if self._limited_until < self.delivered:
            self._limited_from = self.delivered
        self._limited_until = self.delivered + inflight

    def bound_bw(self, delivered: int) -> None:
        """End the work for a sample of ``delivered`` bytes: apply the short-term bound, begin new maxima."""
        if self.loss_round_start:
            self.bw_latest = self.rate
            self.inflight_latest = delivered
        self.bw = self.max_bw if self.max_bw < self.bw_shortterm else self.bw_shortterm

    def _look_for_full_pipe(self, rate: float) -> None:
        if rate >= self._full_bw * _FULL_PIPE_GROWTH:
            self.expect_growth(rate)
        elif self.round_start:
            self._full_bw_count += 1
            self.full_bw_now = self._full_bw_count >= _FULL_PIPE_ROUNDS

    def expect_growth(self, rate: float) -> None:
        """Start to look for a plateau of the delivery rate, from ``rate`` (section 5.3.1.2)."""
        self._full_bw = rate
        self._full_bw_count = 0
        self.full_bw_now = False

    # Delay and aggregation

    def take_rtt(self, now: float, rtt: float | None) -> None:
        """Update ``min_rtt`` and say in ``probe_rtt_due`` whether it is too old (section 5.3.4.3)."""
        self.probe_rtt_due = due = now > self.probe_rtt_at + _PROBE_RTT_INTERVAL
        if rtt is not None and (due or rtt <= self._probe_rtt_delay):
            self._probe_rtt_delay = rtt
            self.probe_rtt_at = now
        elif rtt is not None and rtt <= self._probe_rtt_delay + _HOST_JITTER:
            self.probe_rtt_at = now
        if self._probe_rtt_delay < self.min_rtt or now > self._min_rtt_at + _MIN_RTT_WINDOW:
            self.min_rtt = self._probe_rtt_delay
            self._min_rtt_at = self.probe_rtt_at

    def take_aggregation(self, now: float, newly_acked: int, window: int, startup: bool) -> None:
        """Update ``extra_acked``; ``startup`` shortens its memory to one round (section 5.5.9)."""
        expected = self.bw * (now - self._extra_acked_from)
        if self._extra_acked_bytes <= expected:
            self._extra_acked_bytes = 0
            self._extra_acked_from = now
            expected = 0.0
        self._extra_acked_bytes += newly_acked
        extra = self._extra_acked_bytes - int(expected)
        if self.round_start and self.round_count - self._extra_acked_round >= (1 if startup else _EXTRA_ACKED_ROUNDS):
            self._extra_acked_round = self.round_count
            self._extra_acked_before = 0 if startup else self._extra_acked_now
            self._extra_acked_now = 0
        if extra > self._extra_acked_now:
            self._extra_acked_now = min(extra, window, int(self.bw * _EXTRA_ACKED_SECONDS))
        present, before = self._extra_acked_now, self._extra_acked_before
        self.extra_acked = present if present > before else before

    def restart_aggregation(self, now: float) -> None:
        """Do not take the burst after an idle time for aggregation (section 5.4.1)."""
        self._extra_acked_from = now
        self._extra_acked_bytes = 0

    # Loss

    def take_loss(self, now: float, lost_bytes: int, new_range: bool) -> None:
        """Count a loss; the first one of a round trip begins the round that losses are judged by."""
        self.lost += lost_bytes
        if not self.loss_in_round:
            self.loss_in_round = True
            self.loss_ranges = 0
            self._loss_round_delivered = self._loss_round_from = self.delivered
            self._loss_round_ends = now + MIN_ROUND
            self._loss_round_lost = 0
        self._loss_round_lost += lost_bytes
        if new_range:
            self.loss_ranges += 1

    def loss_round_is_excessive(self) -> bool:
        """Whether the round trip that just ended lost more than is tolerated."""
        lost = self._loss_round_lost
        return is_excessive(lost, lost + self.delivered - self._loss_round_from, self.packet_size)

    def end_loss_round(self, window: int, probing: bool) -> None:
        """Lower the short-term bounds once for a round trip with excessive loss, unless we probe (section 5.5.10.3)."""
        if not self.loss_in_round:
            return
        self.loss_in_round = False
        if probing or not self.loss_round_is_excessive():
            return
        bw = self.max_bw if self.bw_shortterm == inf else self.bw_shortterm
        inflight = window if self.inflight_shortterm == inf else self.inflight_shortterm
        self.bw_shortterm = max(self.bw_latest, BETA * bw)
        self.inflight_shortterm = max(self.inflight_latest, BETA * inflight)

    def reset_congestion_signals(self) -> None:
        self.loss_in_round = False
        self.bw_latest = 0.0
        self.inflight_latest = 0

    def reset_short_term(self) -> None:
        self.bw_shortterm = inf
        self.inflight_shortterm = inf
