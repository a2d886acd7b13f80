"""BBR version 3: congestion control by a model of the path instead of by single losses (draft-ietf-ccwg-bbr-06).

It alternates between sending faster than the path delivers (to see whether there is more), slower (to drain what that
left in queues) and equally fast. What it learns is kept in :class:`mxrtc_bridge.sctp.bbr_model.PathModel`; here are
the states, and what follows from them: the pacing rate, the burst size and the window.

It must never stop a flow: the window holds at least four packets, and the rate has a floor, whatever was measured.
It must never read a clock or draw a random number: the time is an argument, the waits come from the seed.

The order of the work for one SACK is that of the draft, section 5.2.3. Names are the draft's too, so that both can be
read side by side. docs/explanation/congestion-control.md tells the story, and lists where we leave the draft.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from mxrtc_bridge.sctp.bbr_model import BETA, LOSS_THRESHOLD, PathModel, is_excessive
from mxrtc_bridge.sctp.bbr_random import Draws
from mxrtc_bridge.sctp.congestion import RateSample, SentPacket


class BbrState(Enum):
    """What the flow does at present (section 5.1)."""

    STARTUP = "looking for the path's bandwidth, doubling the rate each round trip"
    DRAIN = "emptying the queue that Startup left"
    PROBE_BW_DOWN = "sending slower than the path delivers, to leave room for others"
    PROBE_BW_CRUISE = "sending as fast as the path delivers"
    PROBE_BW_REFILL = "filling the pipe for one round trip before probing"
    PROBE_BW_UP = "sending faster than the path delivers, to see whether there is more"
    PROBE_RTT = "keeping little in flight, to see the propagation delay"


class _Feedback(Enum):
    """Which part of a bandwidth probe the present acknowledgements tell about (``ack_phase`` of the draft)."""

    NONE = "none"
    REFILLING = "sent while refilling"
    PROBE_STARTING = "sent before the probe, which has begun"
    PROBE_FEEDBACK = "sent during the probe"
    PROBE_STOPPING = "sent during the probe, which has ended"


_STARTUP: Final = BbrState.STARTUP
_DRAIN: Final = BbrState.DRAIN
_DOWN: Final = BbrState.PROBE_BW_DOWN
_CRUISE: Final = BbrState.PROBE_BW_CRUISE
_REFILL: Final = BbrState.PROBE_BW_REFILL
_UP: Final = BbrState.PROBE_BW_UP
_PROBE_RTT: Final = BbrState.PROBE_RTT

_PACING_MARGIN: Final = 0.99
"""The rate stays one percent below the estimate, so that a queue shrinks rather than grows (section 5.6.2)."""
_CWND_GAIN: Final = 2.0
_GAINS: Final[dict[BbrState, tuple[float, float]]] = {
    _STARTUP: (2.77, _CWND_GAIN),
    _DRAIN: (0.5, _CWND_GAIN),
    _DOWN: (0.90, _CWND_GAIN),
    _CRUISE: (1.0, _CWND_GAIN),
    _REFILL: (1.0, _CWND_GAIN),
    _UP: (1.25, 2.25),
    _PROBE_RTT: (1.0, 0.5),
}
"""Pacing gain and window gain of each state (section 5.6.1)."""

_MIN_PIPE_PACKETS: Final = 4
_INITIAL_PACKETS: Final = 10
_STARTUP_LOSS_RANGES: Final = 6
_DRAIN_ROUNDS: Final = 3
_HEADROOM: Final = 0.15
_MAX_RENO_ROUNDS: Final = 63
_PROBE_WAIT: Final = 2.0
_PROBE_RTT_SECONDS: Final = 0.2
_MAX_SLOPE_ROUNDS: Final = 30

_QUANTUM_SECONDS: Final = 0.002
"""Timers of an event loop fire up to a millisecond late: bursts of twice that keep the rate."""
_MAX_QUANTUM: Final = 64 * 1024
_HOST_SECONDS: Final = 0.008
"""The window covers this much time whatever the round trip: both hosts stop for milliseconds now and then."""
_SLOWEST_ROUND: Final = 0.1
"""The rate's floor is the smallest window in this time, or in ``min_rtt`` where that is longer."""


class Bbr:
    """The model-based control.

    Args:
        packet_size: bytes of DATA chunks in a full packet.
        seed: for the waits between probes; another one for each flow.
        max_window: bytes that the window never exceeds.
    """

    __slots__ = (
        "_cwnd_limited",
        "_cwnd_limited_before",
        "_cycle_at",
        "_drain_round",
        "_draws",
        "_feedback",
        "_full_bw_reached",
        "_idle_restart",
        "_initial_window",
        "_is_probe_sample",
        "_last_lost",
        "_max_window",
        "_model",
        "_pacing_gain",
        "_pacing_rate",
        "_packet",
        "_precautionary",
        "_prior_window",
        "_probe_rtt_done_at",
        "_probe_rtt_round_done",
        "_probe_too_high",
        "_probe_up_acked",
        "_probe_up_rounds",
        "_probe_up_step",
        "_probe_wait",
        "_quantum",
        "_rounds_since_probe",
        "_seen_rtt",
        "_state",
        "_timed_out",
        "_undo_bw_shortterm",
        "_undo_inflight_longterm",
        "_undo_inflight_shortterm",
        "_undo_state",
        "_window",
        "_window_gain",
    )

    def __init__(self, packet_size: int, seed: int, max_window: int = 64 * 1024 * 1024) -> None:
        self._packet = packet_size
        self._max_window = max_window
        self._initial_window = min(_INITIAL_PACKETS * packet_size, max_window)
        self._window = self._initial_window
        self._prior_window = 0
        self._draws = Draws(seed)
        self._model = PathModel(packet_size)

        self._state = _STARTUP
        self._pacing_gain, self._window_gain = _GAINS[_STARTUP]
        self._pacing_rate = self._pacing_gain * self._initial_window / 0.001
        self._quantum = min(max(int(self._pacing_rate * _QUANTUM_SECONDS), 2 * packet_size), _MAX_QUANTUM)
        self._seen_rtt = False
        self._full_bw_reached = False
        self._drain_round = 0
        self._idle_restart = False
        self._timed_out = False

        self._cwnd_limited = False
        self._cwnd_limited_before = False
        self._last_lost = -2

        self._cycle_at = 0.0
        self._probe_wait = 0.0
        self._rounds_since_probe = 0
        self._feedback = _Feedback.NONE
        self._is_probe_sample = False
        self._probe_too_high = False
        self._precautionary = False
        self._probe_up_acked = 0
        self._probe_up_rounds = 0
        self._probe_up_step = inf

        self._probe_rtt_done_at = 0.0
        self._probe_rtt_round_done = False

        self._undo_state: BbrState | None = None
        self._undo_bw_shortterm = 0.0
        self._undo_inflight_shortterm = 0.0
        self._undo_inflight_longterm = 0.0

    # What the association asks

    @property
    def window_bytes(self) -> int:
        return self._window

    @property
    def pacing_rate(self) -> float | None:
        return self._pacing_rate

    @property
    def send_quantum(self) -> int:
        return self._quantum

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
        self._packet = size
        self._model.packet_size = size
        self._window = max(self._window, min(_MIN_PIPE_PACKETS * size, self._max_window))

    def on_sent(self, now: float, packet: SentPacket) -> None:
        inflight = packet.inflight
        # The association's total is the better one: it may count a timeout's losses otherwise than we do.
        self._model.lost = packet.lost
        if inflight + self._packet > self._window:
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
            model.take_aggregation(now, newly_acked, self._window, not self._full_bw_reached)
            if model.full_bw_now:
                self._full_bw_reached = True
            if self._full_bw_reached:
                self._advance_state(now, sample)
            model.take_rtt(now, sample.rtt)
            if self._state is _PROBE_RTT or model.probe_rtt_due:
                self._check_probe_rtt(now, sample)
            self._idle_restart = False
            model.bound_bw(sample.delivered)
        self._set_rate(sample.rtt)
        self._set_window(newly_acked)

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:  # noqa: ARG002 - as told
        model = self._model
        number = packet.number
        if model.take_loss(now, lost_bytes, number != self._last_lost + 1):
            self._save_for_undo()
        self._last_lost = number
        if not self._is_probe_sample:
            return
        lost = model.lost - packet.lost
        if is_excessive(lost, packet.inflight, self._packet):
            self._undo_state = _UP if self._state is _UP else self._undo_state
            safe = _inflight_at_loss(packet.inflight, lost, packet.size)
            self._inflight_too_high(now, safe, packet.app_limited)

    def on_timeout(self, now: float, inflight: int) -> None:
        """Nothing came back: begin with one packet, and take the window back after a round trip (section 5.6.4.4)."""
        model = self._model
        if not self._timed_out:
            self._save_for_undo()
        model.take_loss(now, inflight, new_range=True)
        if self._is_probe_sample:
            self._undo_state = _UP if self._state is _UP else self._undo_state
            self._inflight_too_high(now, BETA * inflight, app_limited=False)
        self._window = self._packet
        self._timed_out = True
        model.start_round(now)

    def on_spurious(self, now: float) -> None:
        model = self._model
        self._window = max(self._window, self._prior_window)
        self._timed_out = False
        model.loss_in_round = False
        model.expect_growth(0.0)
        model.bw_shortterm = max(model.bw_shortterm, self._undo_bw_shortterm)
        model.inflight_shortterm = max(model.inflight_shortterm, self._undo_inflight_shortterm)
        model.inflight_longterm = max(model.inflight_longterm, self._undo_inflight_longterm)
        before, self._undo_state = self._undo_state, None
        if before is _STARTUP and self._state is not _STARTUP:
            self._full_bw_reached = False
            if self._state is not _PROBE_RTT:
                self._enter(_STARTUP)
        elif before is _UP and self._state is not _UP and self._state is not _PROBE_RTT:
            self._start_refill(now)

    # Round trips and losses

    def _begin_round(self) -> None:
        self._rounds_since_probe += 1
        self._cwnd_limited_before = self._cwnd_limited
        self._cwnd_limited = False
        if self._timed_out:
            self._timed_out = False
            self._window = max(self._window, self._prior_window)

    def _end_loss_round(self, sample: RateSample) -> None:
        model = self._model
        state = self._state
        if (
            state is _STARTUP
            and model.loss_in_round
            and model.loss_ranges >= _STARTUP_LOSS_RANGES
            and model.loss_round_is_excessive()
            and is_excessive(sample.lost, sample.sent_inflight, self._packet)
        ):
            self._undo_state = _STARTUP
            self._full_bw_reached = True
            model.inflight_longterm = max(self._bdp(), model.inflight_latest)
        probing = state is _STARTUP or state is _REFILL or state is _UP
        model.end_loss_round(self._window, probing)

    def _inflight_too_high(self, now: float, safe: float, app_limited: bool) -> None:
        self._probe_too_high = True
        self._is_probe_sample = False  # one answer to one probe
        if not app_limited:
            target = min(self._bdp(), float(self._window))
            self._model.inflight_longterm = max(safe, target * BETA)
        if self._state is _UP:
            self._start_down(now)

    def _save_for_undo(self) -> None:
        model = self._model
        self._save_window()
        self._undo_state = None
        self._undo_bw_shortterm = model.bw_shortterm
        self._undo_inflight_shortterm = model.inflight_shortterm
        self._undo_inflight_longterm = model.inflight_longterm

    def _save_window(self) -> None:
        reduced = self._timed_out or self._state is _PROBE_RTT
        self._prior_window = max(self._prior_window, self._window) if reduced else self._window

    # States

    def _enter(self, state: BbrState) -> None:
        self._state = state
        self._pacing_gain, self._window_gain = _GAINS[state]

    def _advance_state(self, now: float, sample: RateSample) -> None:
        state = self._state
        if state is _STARTUP:
            self._enter(_DRAIN)
            self._drain_round = self._model.round_count
            state = _DRAIN
        if state is _DRAIN and (
            sample.inflight <= self._drained_volume() or self._model.round_count > self._drain_round + _DRAIN_ROUNDS
        ):
            self._start_down(now)
        if self._adapt_long_term(now, sample):
            return
        state = self._state
        if state is _CRUISE:
            self._start_probe_when_due(now)
        elif state is _DOWN:
            if not self._start_probe_when_due(now) and self._may_cruise(sample.inflight):
                self._enter(_CRUISE)
        elif state is _REFILL:
            if self._model.round_start:
                self._is_probe_sample = True
                self._start_up(now)
        elif state is _UP and self._probe_is_over(sample.inflight):
            self._probe_too_high = False  # as far as we know: its losses may still come
            self._start_down(now)

    def _adapt_long_term(self, now: float, sample: RateSample) -> bool:
        """Follow the feedback of a probe, and raise the long-term bound; say whether a state was chosen by it."""
        model = self._model
        in_probe_bw = self._state is not _PROBE_RTT and self._state is not _DRAIN
        if model.round_start:
            if self._feedback is _Feedback.PROBE_STARTING:
                self._feedback = _Feedback.PROBE_FEEDBACK
            elif self._feedback is _Feedback.PROBE_STOPPING:
                self._is_probe_sample = False
                self._feedback = _Feedback.NONE
                if in_probe_bw:
                    if not model.app_limited:
                        model.advance_max_bw()
                    if self._precautionary and not self._probe_too_high:
                        self._start_refill(now)
                        return True
        if model.inflight_longterm != inf and not is_excessive(sample.lost, sample.sent_inflight, self._packet):
            model.inflight_longterm = max(model.inflight_longterm, sample.sent_inflight)
            if self._state is _UP:
                self._raise_long_term(sample.newly_acked)
        return False

    def _start_down(self, now: float) -> None:
        model = self._model
        model.reset_congestion_signals()
        self._probe_up_step = inf
        self._rounds_since_probe = self._draws.coin()
        self._probe_wait = _PROBE_WAIT + self._draws.fraction()
        self._cycle_at = now
        self._feedback = _Feedback.PROBE_STOPPING
        model.start_round(now)
        self._enter(_DOWN)

    def _start_refill(self, now: float) -> None:
        model = self._model
        model.reset_short_term()
        self._probe_up_rounds = 0
        self._probe_up_acked = 0
        self._precautionary = False
        self._feedback = _Feedback.REFILLING
        model.start_round(now)
        self._enter(_REFILL)

    def _start_up(self, now: float) -> None:
        model = self._model
        self._feedback = _Feedback.PROBE_STARTING
        model.start_round(now)
        model.expect_growth(model.rate)
        self._enter(_UP)
        self._steepen()

    def _start_probe_when_due(self, now: float) -> bool:
        rounds = self._rounds_since_probe
        if now <= self._cycle_at + self._probe_wait and (
            rounds < _MAX_RENO_ROUNDS and rounds * self._packet < min(self._bdp(), self._window)
        ):
            return False
        self._start_refill(now)
        return True

    def _may_cruise(self, inflight: int) -> bool:
        return inflight <= self._volume_with_headroom() and inflight <= self._drained_volume()

    def _probe_is_over(self, inflight: int) -> bool:
        model = self._model
        if self._probe_too_high and inflight >= model.inflight_longterm:
            self._precautionary = True
            return True
        if self._cwnd_limited_before and self._window >= model.inflight_longterm:
            model.expect_growth(model.rate)  # it is our own bound that keeps the rate from growing
            return False
        return model.full_bw_now

    def _raise_long_term(self, newly_acked: int) -> None:
        model = self._model
        if not self._cwnd_limited_before or self._window < model.inflight_longterm:
            return
        self._probe_up_acked += newly_acked
        if self._probe_up_acked >= self._probe_up_step:
            steps = int(self._probe_up_acked / self._probe_up_step)
            self._probe_up_acked -= int(steps * self._probe_up_step)
            model.inflight_longterm += steps * self._packet
        if model.round_start:
            self._steepen()

    def _steepen(self) -> None:
        """Let the long-term bound grow by twice as many packets in the next round trip."""
        growth = 1 << self._probe_up_rounds
        self._probe_up_rounds = min(self._probe_up_rounds + 1, _MAX_SLOPE_ROUNDS)
        self._probe_up_step = max(self._window / growth, self._packet)

    # Measuring the propagation delay, and idle times

    def _check_probe_rtt(self, now: float, sample: RateSample) -> None:
        model = self._model
        if self._state is not _PROBE_RTT:
            if self._idle_restart:
                return  # the silence has drained the queue as well as we could
            self._save_window()
            self._enter(_PROBE_RTT)
            self._probe_rtt_done_at = 0.0
            self._feedback = _Feedback.PROBE_STOPPING
            model.start_round(now)
        model.ignore_rates(sample.inflight)
        if self._probe_rtt_done_at == 0.0:
            if sample.inflight <= self._probe_rtt_window():
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
        self._window = max(self._window, self._prior_window)
        model.reset_short_term()
        if self._full_bw_reached:
            self._start_down(now)
            self._enter(_CRUISE)
        else:
            self._enter(_STARTUP)

    def _restart_from_idle(self, now: float) -> None:
        self._idle_restart = True
        self._model.restart_aggregation(now)
        if self._state is _PROBE_RTT:
            self._leave_probe_rtt_when_done(now)
        elif self._full_bw_reached and self._state is not _DRAIN:
            self._pacing_rate = max(self._model.bw * _PACING_MARGIN, self._slowest_rate())

    # Volumes and control parameters

    def _bdp(self) -> float:
        model = self._model
        return float(self._initial_window) if model.min_rtt == inf else model.bw * model.min_rtt

    def _drained_volume(self) -> float:
        """Bytes in flight at which no queue is left, one burst being under way (``Inflight(1.0)`` of the draft)."""
        model = self._model
        bdp = float(self._initial_window) if model.min_rtt == inf else model.max_bw * model.min_rtt
        return max(bdp, self._quantum, _MIN_PIPE_PACKETS * self._packet)

    def _volume_with_headroom(self) -> float:
        bound = self._model.inflight_longterm
        if bound == inf:
            return inf
        return max(bound - max(self._packet, _HEADROOM * bound), _MIN_PIPE_PACKETS * self._packet)

    def _probe_rtt_window(self) -> int:
        return int(max(_GAINS[_PROBE_RTT][1] * self._bdp(), self._quantum, _MIN_PIPE_PACKETS * self._packet))

    def _slowest_rate(self) -> float:
        min_rtt = self._model.min_rtt
        return _MIN_PIPE_PACKETS * self._packet / (min_rtt if _SLOWEST_ROUND < min_rtt < inf else _SLOWEST_ROUND)

    def _set_rate(self, rtt: float | None) -> None:
        if not self._seen_rtt and rtt is not None and rtt > 0.0:
            self._seen_rtt = True
            self._pacing_rate = self._pacing_gain * self._initial_window / rtt
        rate = self._pacing_gain * self._model.bw * _PACING_MARGIN
        if self._full_bw_reached or rate > self._pacing_rate:
            self._pacing_rate = rate = max(rate, self._slowest_rate())
            self._quantum = min(max(int(rate * _QUANTUM_SECONDS), 2 * self._packet), _MAX_QUANTUM)

    def _set_window(self, newly_acked: int) -> None:
        model = self._model
        state = self._state
        least = _MIN_PIPE_PACKETS * self._packet
        window = self._window + newly_acked
        bw = model.bw
        if model.min_rtt == inf:
            most = self._window_gain * self._initial_window
        else:
            most = bw * max(self._window_gain * model.min_rtt, _HOST_SECONDS) + model.extra_acked
        most = max(most, self._quantum, least)
        if state is _UP:
            most += 2 * self._packet
        if self._full_bw_reached:
            window = int(min(window, most))
        elif self._window >= most and model.delivered >= self._initial_window:
            window = self._window
        if state is _PROBE_RTT:
            window = min(window, self._probe_rtt_window())
        bound = model.inflight_shortterm
        if state is _CRUISE or state is _PROBE_RTT:
            bound = min(bound, self._volume_with_headroom())
        elif state is not _STARTUP and state is not _DRAIN:
            bound = min(bound, model.inflight_longterm)
        if bound != inf:
            window = min(window, int(bound))
        self._window = min(max(window, least), self._max_window)


def _inflight_at_loss(inflight: int, lost: int, size: int) -> float:
    """Estimate how much was in flight when losses began to exceed the threshold (section 5.5.10.2)."""
    before = inflight - size
    lost_before = lost - size
    prefix = (LOSS_THRESHOLD * before - lost_before) / (1.0 - LOSS_THRESHOLD)
    return before + max(prefix, 0.0)
