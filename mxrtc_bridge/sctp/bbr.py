"""BBR version 3: congestion control by a model of the path instead of by single losses (draft-ietf-ccwg-bbr-06).

It alternates between sending faster than the path delivers (to see whether there is more), slower (to drain what that
left in queues) and equally fast. What it learns is kept in :class:`mxrtc_bridge.sctp.bbr_model.PathModel`; here are
the states and what leads from one to another, and :mod:`mxrtc_bridge.sctp.bbr_limits` makes the window, the pacing rate
and the burst size of both.

It must never read a clock or draw a random number: the time is an argument, and so are the numbers for the waits.

The order of the work for one SACK is that of the draft, section 5.2.3. Names are the draft's too, so that both can be
read side by side. docs/explanation/congestion-control.md tells the story, and lists where we leave the draft.

One file: the states lead to each other, and are read beside one section of the draft.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from mxrtc_bridge.sctp.bbr_limits import (
    CRUISE,
    DOWN,
    DRAIN,
    PROBE_RTT,
    REFILL,
    STARTUP,
    UP,
    BbrLimits,
    BbrState,
    Feedback,
)
from mxrtc_bridge.sctp.bbr_model import BETA, LOSS_THRESHOLD, PathModel, is_excessive
from mxrtc_bridge.sctp.congestion import RateSample, SentPacket

_STARTUP_LOSS_RANGES: Final = 6
_DRAIN_ROUNDS: Final = 3
_MAX_RENO_ROUNDS: Final = 63
_PROBE_WAIT: Final = 2.0
_PROBE_RTT_SECONDS: Final = 0.2
_MAX_SLOPE_ROUNDS: Final = 30
_DRAIN_FACTOR: Final = 10.0
"""A queue that is our own is gone after so many times its length, at the rate of ProbeBW Down; a shared one is not."""


class Bbr:
    """The model-based control.

    Args:
        packet_size: bytes of DATA chunks in a full packet.
        draw: returns a number from 0 to below 1, for the waits between probes: flows that share a path must not probe
            in step. Nothing about them needs to be secret.
        max_window: bytes that the window never exceeds.
    """

    def __init__(self, packet_size: int, draw: Callable[[], float], max_window: int = 64 * 1024 * 1024) -> None:
        self._draw = draw
        self._model = PathModel(packet_size)
        self._limits = BbrLimits(self._model, packet_size, max_window)
        self._prior_window = 0

        self._state = STARTUP
        self._full_bw_reached = False
        self._drain_round = 0
        self._drain_until = inf
        self._idle_restart = False
        self._timed_out = False

        self._cwnd_limited = False
        self._cwnd_limited_before = False
        self._last_lost = -2

        self._cycle_at = 0.0
        self._probe_wait = 0.0
        self._may_slow_down = True
        self._rounds_since_probe = 0
        self._feedback = Feedback.NONE
        self._is_probe_sample = False
        self._probe_too_high = False
        self._precautionary = False
        self._probe_up_acked = 0
        self._probe_up_rounds = 0
        self._probe_up_step = inf

        self._probe_rtt_done_at = 0.0
        self._probe_rtt_round_done = False

        self._saved_at = -inf
        self._undo_state: BbrState | None = None
        self._undo_bw_shortterm = 0.0
        self._undo_inflight_shortterm = 0.0
        self._undo_inflight_longterm = 0.0

    # What the association asks

    @property
    def window_bytes(self) -> int:
        return self._limits.window

    @property
    def pacing_rate(self) -> float | None:
        return self._limits.rate

    @property
    def send_quantum(self) -> int:
        return self._limits.quantum

    # What diagnostics ask

    @property
    def state(self) -> BbrState:
        return self._state

    @property
    def bandwidth(self) -> float:
        """Bytes per second that the path is believed to carry; 0.0 before the first sample."""
        return self._model.bw

    @property
    def min_rtt(self) -> float | None:
        """Seconds of propagation delay, both ways together; None before the first sample."""
        return None if self._model.min_rtt == inf else self._model.min_rtt

    # What the association tells

    def set_packet_size(self, size: int) -> None:
        self._model.packet_size = size
        self._limits.set_packet_size(size)

    def on_sent(self, now: float, packet: SentPacket) -> None:
        inflight = packet.inflight
        # The association's total is the better one: it may count a timeout's losses otherwise than we do.
        self._model.lost = packet.lost
        limits = self._limits
        if inflight + limits.packet_size > limits.window:
            self._cwnd_limited = True
        elif inflight == packet.size and packet.app_limited:
            self._restart_from_idle(now)

    def on_ack(self, now: float, sample: RateSample) -> None:
        model = self._model
        newly_acked = sample.newly_acked
        if newly_acked > 0:
            model.take_sample(now, sample)
            if model.round_start:
                self._begin_round()
            if model.loss_round_start:
                self._end_loss_round(sample)
            model.take_aggregation(now, newly_acked, self._limits.window, not self._full_bw_reached)
            if model.full_bw_now:
                self._full_bw_reached = True
            if self._full_bw_reached:
                self._advance_state(now, sample)
            model.take_rtt(now, sample.rtt)
            if self._state is PROBE_RTT or model.probe_rtt_due:
                self._check_probe_rtt(now, sample)
            self._idle_restart = False
            model.bound_bw(sample.delivered)
        limits = self._limits
        limits.update_rate(sample.rtt, self._full_bw_reached)
        limits.update_window(newly_acked, self._state, self._full_bw_reached)

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:  # noqa: ARG002 - as told
        model = self._model
        number = packet.number
        if packet.sent_at > self._saved_at:
            self._save_for_undo(now)
        model.take_loss(now, lost_bytes, number != self._last_lost + 1)
        self._last_lost = number
        if not self._is_probe_sample:
            return
        lost = model.lost - packet.lost
        if is_excessive(lost, packet.inflight, self._limits.packet_size):
            self._undo_state = UP if self._state is UP else self._undo_state
            safe = _inflight_at_loss(packet.inflight, lost, packet.size)
            self._inflight_too_high(now, safe, packet.app_limited)

    def on_timeout(self, now: float, inflight: int) -> None:
        """Nothing came back: begin with one packet, and take the window back after a round trip (section 5.6.4.4)."""
        model = self._model
        if not self._timed_out:
            self._save_for_undo(now)
        model.take_loss(now, inflight, new_range=True)
        if self._is_probe_sample:
            self._undo_state = UP if self._state is UP else self._undo_state
            self._inflight_too_high(now, BETA * inflight, app_limited=False)
        self._limits.collapse()
        self._timed_out = True
        model.start_round(now)

    def on_spurious(self, now: float) -> None:
        model = self._model
        self._limits.restore(self._prior_window)
        self._timed_out = False
        model.loss_in_round = False
        model.expect_growth(0.0)
        model.bw_shortterm = max(model.bw_shortterm, self._undo_bw_shortterm)
        model.inflight_shortterm = max(model.inflight_shortterm, self._undo_inflight_shortterm)
        model.inflight_longterm = max(model.inflight_longterm, self._undo_inflight_longterm)
        before, self._undo_state = self._undo_state, None
        if before is STARTUP and self._state is not STARTUP:
            self._full_bw_reached = False
            if self._state is not PROBE_RTT:
                self._enter(STARTUP)
        elif before is UP and self._state is not UP and self._state is not PROBE_RTT:
            self._start_refill(now)

    # Round trips and losses

    def _begin_round(self) -> None:
        self._rounds_since_probe += 1
        self._cwnd_limited_before = self._cwnd_limited
        self._cwnd_limited = False
        if self._timed_out:
            self._timed_out = False
            self._limits.restore(self._prior_window)

    def _end_loss_round(self, sample: RateSample) -> None:
        model = self._model
        state = self._state
        if (
            state is STARTUP
            and model.loss_in_round
            and model.loss_ranges >= _STARTUP_LOSS_RANGES
            and model.loss_round_is_excessive()
            and is_excessive(sample.lost, sample.sent_inflight, self._limits.packet_size)
        ):
            self._undo_state = STARTUP
            self._full_bw_reached = True
            model.inflight_longterm = max(self._limits.bdp(), model.inflight_latest)
        probing = state is STARTUP or state is REFILL or state is UP
        model.end_loss_round(self._limits.window, probing)

    def _inflight_too_high(self, now: float, safe: float, app_limited: bool) -> None:
        self._probe_too_high = True
        self._is_probe_sample = False  # one answer to one probe
        if not app_limited:
            target = min(self._limits.bdp(), float(self._limits.window))
            self._model.inflight_longterm = max(safe, target * BETA)
        if self._state is UP:
            self._start_down(now)

    def _save_for_undo(self, now: float) -> None:
        """Remember how it was before the losses of what was sent until now (section 5.5.11.1)."""
        model = self._model
        self._save_window()
        self._saved_at = now
        self._undo_state = None
        self._undo_bw_shortterm = model.bw_shortterm
        self._undo_inflight_shortterm = model.inflight_shortterm
        self._undo_inflight_longterm = model.inflight_longterm

    def _save_window(self) -> None:
        reduced = self._timed_out or self._state is PROBE_RTT
        self._prior_window = max(self._prior_window, self._limits.window) if reduced else self._limits.window

    # States

    def _enter(self, state: BbrState) -> None:
        self._state = state
        self._limits.set_gains(state)

    def _advance_state(self, now: float, sample: RateSample) -> None:
        model = self._model
        if self._state is STARTUP:
            self._enter(DRAIN)
            self._drain_round = model.round_count
        if self._state is DRAIN and (
            sample.inflight <= self._limits.drained() or model.round_count > self._drain_round + _DRAIN_ROUNDS
        ):
            self._start_down(now)
        if self._adapt_long_term(now, sample):
            return
        state = self._state
        if state is CRUISE or state is DOWN:
            self._advance_between_probes(now, sample)
        elif state is REFILL:
            if model.round_start:
                self._is_probe_sample = True
                self._start_up(now)
        elif state is UP and self._probe_is_over(sample.prior_inflight):
            self._probe_too_high = False  # as far as we know: its losses may still come
            self._start_down(now)

    def _advance_between_probes(self, now: float, sample: RateSample) -> None:
        model = self._model
        inflight = sample.inflight
        if self._state is CRUISE and sample.rtt is not None:
            queue = model.correct_by_standing_queue(now, sample.rtt)
            if queue:
                self._enter(DOWN)
                self._drain_until = now + queue * _DRAIN_FACTOR
        if self._may_slow_down and model.path_is_slower(now):
            self._may_slow_down = False
            model.accept_slower_path()
        if self._probe_is_due(now):
            self._start_refill(now)
        elif self._state is DOWN and (
            now >= self._drain_until or inflight <= min(self._limits.with_headroom(), self._limits.drained())
        ):
            self._enter(CRUISE)

    def _adapt_long_term(self, now: float, sample: RateSample) -> bool:
        """Follow the feedback of a probe, and raise the long-term bound; say whether a state was chosen by it."""
        model = self._model
        if model.round_start:
            if self._feedback is Feedback.PROBE_STARTING:
                self._feedback = Feedback.PROBE_FEEDBACK
            elif self._feedback is Feedback.PROBE_STOPPING:
                probed, self._is_probe_sample = self._is_probe_sample, False
                self._feedback = Feedback.NONE
                in_probe_bw = self._state is not PROBE_RTT and self._state is not DRAIN
                # A probe that measuring the delay cut short has measured the bandwidth all the same.
                if (in_probe_bw or probed) and not model.app_limited:
                    model.advance_max_bw()
                if in_probe_bw and self._precautionary and not self._probe_too_high:
                    self._start_refill(now)
                    return True
        if model.inflight_longterm != inf and not is_excessive(
            sample.lost, sample.sent_inflight, self._limits.packet_size
        ):
            model.inflight_longterm = max(model.inflight_longterm, sample.sent_inflight)
            if self._state is UP:
                self._raise_long_term(sample.newly_acked)
        return False

    def _start_down(self, now: float) -> None:
        model = self._model
        model.reset_congestion_signals()
        self._probe_up_step = inf
        self._rounds_since_probe = int(self._draw() >= 0.5)
        self._probe_wait = _PROBE_WAIT + self._draw()
        self._cycle_at = now
        self._may_slow_down = True
        self._drain_until = inf
        self._feedback = Feedback.PROBE_STOPPING
        model.start_round(now)
        self._enter(DOWN)

    def _start_refill(self, now: float) -> None:
        model = self._model
        model.reset_short_term()
        model.forget_correction()
        self._probe_up_rounds = 0
        self._probe_up_acked = 0
        self._precautionary = False
        self._feedback = Feedback.REFILLING
        model.start_round(now)
        self._enter(REFILL)

    def _start_up(self, now: float) -> None:
        model = self._model
        self._feedback = Feedback.PROBE_STARTING
        model.start_round(now)
        model.expect_growth(model.rate)
        self._enter(UP)
        self._steepen()

    def _probe_is_due(self, now: float) -> bool:
        rounds = self._rounds_since_probe
        if now > self._cycle_at + self._probe_wait or rounds >= _MAX_RENO_ROUNDS:
            return True
        limits = self._limits
        volume = rounds * limits.packet_size
        return volume >= limits.window or volume >= limits.drained()

    def _probe_is_over(self, inflight: int) -> bool:
        model = self._model
        # The window keeps the flight a part of a packet below the bound: that is as near as it comes.
        if self._probe_too_high and inflight + self._limits.packet_size > model.inflight_longterm:
            self._precautionary = True
            return True
        if self._cwnd_limited_before and self._limits.window >= model.inflight_longterm:
            model.expect_growth(model.rate)  # it is our own bound that keeps the rate from growing
            return False
        return model.full_bw_now

    def _raise_long_term(self, newly_acked: int) -> None:
        model = self._model
        if not self._cwnd_limited_before or self._limits.window < model.inflight_longterm:
            return
        self._probe_up_acked += newly_acked
        if self._probe_up_acked >= self._probe_up_step:
            steps = int(self._probe_up_acked / self._probe_up_step)
            self._probe_up_acked -= int(steps * self._probe_up_step)
            model.inflight_longterm += steps * self._limits.packet_size
        if model.round_start:
            self._steepen()

    def _steepen(self) -> None:
        """Let the long-term bound grow by twice as many packets in the next round trip."""
        growth = 1 << self._probe_up_rounds
        self._probe_up_rounds = min(self._probe_up_rounds + 1, _MAX_SLOPE_ROUNDS)
        self._probe_up_step = max(self._limits.window / growth, self._limits.packet_size)

    # Measuring the propagation delay, and idle times

    def _check_probe_rtt(self, now: float, sample: RateSample) -> None:
        model = self._model
        if self._state is not PROBE_RTT:
            if self._idle_restart:
                return  # the silence has drained the queue as well as we could
            self._save_window()
            self._enter(PROBE_RTT)
            self._probe_rtt_done_at = 0.0
            self._feedback = Feedback.PROBE_STOPPING
            model.start_round(now)
        model.ignore_rates(sample.inflight)
        if self._probe_rtt_done_at == 0.0:
            if sample.inflight <= self._limits.probe_rtt_window():
                self._probe_rtt_done_at = now + _PROBE_RTT_SECONDS
                self._probe_rtt_round_done = False
                model.start_round(now)
        else:
            if model.round_start:
                self._probe_rtt_round_done = True
            if self._probe_rtt_round_done:
                self._leave_probe_rtt_when_done(now)

    def _leave_probe_rtt_when_done(self, now: float) -> None:
        if self._probe_rtt_done_at == 0.0 or now <= self._probe_rtt_done_at:
            return
        model = self._model
        model.probe_rtt_at = now
        self._limits.restore(self._prior_window)
        model.reset_short_term()
        if self._full_bw_reached:
            self._start_down(now)
            self._enter(CRUISE)
        else:
            self._enter(STARTUP)

    def _restart_from_idle(self, now: float) -> None:
        self._idle_restart = True
        self._model.restart_aggregation(now)
        if self._state is PROBE_RTT:
            self._leave_probe_rtt_when_done(now)
        elif self._full_bw_reached and self._state is not DRAIN:
            self._limits.pace_at_bandwidth()


def _inflight_at_loss(inflight: int, lost: int, size: int) -> float:
    """Estimate how much was in flight when losses began to exceed the threshold (section 5.5.10.2)."""
    before = inflight - size
    lost_before = lost - size
    prefix = (LOSS_THRESHOLD * before - lost_before) / (1.0 - LOSS_THRESHOLD)
    return before + max(prefix, 0.0)
