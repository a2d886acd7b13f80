"""What follows from BBR's model: the window, the pacing rate, the burst size, and the volumes that states compare with.

Draft-ietf-ccwg-bbr-06 section 5.6, and the states of section 5.1 with how hard each of them sends: which follows which
is decided in :mod:`mxrtc_bridge.sctp.bbr`. It must never stop a flow: the window holds at least four packets, and the
rate has a floor, whatever was measured.

Where it leaves the draft (docs/explanation/congestion-control.md says why): the window covers at least four
milliseconds, a burst may take two, and the smallest window in flight while measuring the delay is one burst.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from mxrtc_bridge.sctp.bbr_model import PathModel


class BbrState(Enum):
    """What the flow does at present."""

    STARTUP = "looking for the path's bandwidth, doubling the rate each round trip"
    DRAIN = "emptying the queue that Startup left"
    PROBE_BW_DOWN = "sending slower than the path delivers, to leave room for others"
    PROBE_BW_CRUISE = "sending as fast as the path delivers"
    PROBE_BW_REFILL = "filling the pipe for one round trip before probing"
    PROBE_BW_UP = "sending faster than the path delivers, to see whether there is more"
    PROBE_RTT = "keeping little in flight, to see the propagation delay"


class Feedback(Enum):
    """Which part of a bandwidth probe the present acknowledgements tell about (``ack_phase`` of the draft)."""

    NONE = "none"
    REFILLING = "what was sent while refilling"
    PROBE_STARTING = "what was sent before the probe, which has begun"
    PROBE_FEEDBACK = "what was sent during the probe"
    PROBE_STOPPING = "what was sent during the probe, which has ended"


STARTUP: Final = BbrState.STARTUP
DRAIN: Final = BbrState.DRAIN
DOWN: Final = BbrState.PROBE_BW_DOWN
CRUISE: Final = BbrState.PROBE_BW_CRUISE
REFILL: Final = BbrState.PROBE_BW_REFILL
UP: Final = BbrState.PROBE_BW_UP
PROBE_RTT: Final = BbrState.PROBE_RTT

_PROBE_RTT_WINDOW_GAIN: Final = 0.5
_WINDOW_GAIN: Final = 2.0
GAINS: Final[dict[BbrState, tuple[float, float]]] = {
    STARTUP: (2.77, _WINDOW_GAIN),
    DRAIN: (0.5, _WINDOW_GAIN),
    DOWN: (0.90, _WINDOW_GAIN),
    CRUISE: (1.0, _WINDOW_GAIN),
    REFILL: (1.0, _WINDOW_GAIN),
    UP: (1.25, 2.25),
    PROBE_RTT: (1.0, _PROBE_RTT_WINDOW_GAIN),
}
"""Factors of the bandwidth, for pacing, and of the bandwidth-delay product, for the window."""

_PACING_MARGIN: Final = 0.99
"""The rate stays one percent below the estimate, so that a queue shrinks rather than grows (section 5.6.2)."""
_MIN_PIPE_PACKETS: Final = 4
_INITIAL_PACKETS: Final = 10
_HEADROOM: Final = 0.15
_FIRST_RTT: Final = 0.001
"""Assumed for the rate until a round trip was measured (section 5.6.2)."""
_QUANTUM_SECONDS: Final = 0.002
"""Timers of an event loop fire up to a millisecond late: bursts of twice that keep the rate."""
_MAX_QUANTUM: Final = 64 * 1024
_HOST_SECONDS: Final = 0.004
"""The window covers this much time whatever the round trip: both hosts stop for milliseconds now and then."""
_SLOWEST_ROUND: Final = 0.1
"""The rate's floor is the smallest window in this time, or in ``min_rtt`` where that is longer."""


class BbrLimits:
    """The control parameters of one flow.

    Args:
        model: of the path; read only.
        packet_size: bytes of DATA chunks in a full packet.
        max_window: bytes that the window never exceeds.

    Attributes:
        window: bytes that may be in flight.
        rate: bytes per second at which packets leave.
        quantum: bytes that may leave in one burst.
    """

    def __init__(self, model: PathModel, packet_size: int, max_window: int) -> None:
        self._model = model
        self._max_window = max_window
        self._initial_window = min(_INITIAL_PACKETS * packet_size, max_window)
        self._seen_rtt = False
        self._pacing_gain, self._window_gain = GAINS[STARTUP]
        self.packet_size = packet_size
        self.window = self._initial_window
        self.rate = self._pacing_gain * self._initial_window / _FIRST_RTT
        self.quantum = self._quantum_at(self.rate)

    def set_packet_size(self, size: int) -> None:
        self.packet_size = size
        self.window = max(self.window, min(_MIN_PIPE_PACKETS * size, self._max_window))

    def set_gains(self, state: BbrState) -> None:
        self._pacing_gain, self._window_gain = GAINS[state]

    # Volumes

    def bdp(self) -> float:
        """Return the bandwidth-delay product; the initial window while the delay is not known."""
        model = self._model
        return float(self._initial_window) if model.min_rtt == inf else model.bw * model.min_rtt

    def drained(self) -> float:
        """Return the bytes in flight at which no queue is left, one burst being under way (``Inflight(1.0)``)."""
        model = self._model
        bdp = float(self._initial_window) if model.min_rtt == inf else model.max_bw * model.min_rtt
        return max(bdp, self.quantum, _MIN_PIPE_PACKETS * self.packet_size)

    def with_headroom(self) -> float:
        """Return the long-term bound less what is left to others; infinite when there is no bound."""
        bound = self._model.inflight_longterm
        if bound == inf:
            return inf
        return max(bound - max(self.packet_size, _HEADROOM * bound), _MIN_PIPE_PACKETS * self.packet_size)

    def probe_rtt_window(self) -> int:
        """Return how much may be in flight while the propagation delay is measured."""
        return int(max(_PROBE_RTT_WINDOW_GAIN * self.bdp(), self.quantum, _MIN_PIPE_PACKETS * self.packet_size))

    # Control parameters

    def collapse(self) -> None:
        """Begin again with one packet in flight: nothing came back (section 5.6.4.4)."""
        self.window = self.packet_size

    def restore(self, window: int) -> None:
        """Take back what a timeout or a measurement took away; the next acknowledgement bounds it."""
        self.window = max(self.window, window)

    def pace_at_bandwidth(self) -> None:
        """Restart from idle at the rate that the path is believed to carry (section 5.4.1)."""
        self._set_rate(self._model.bw * _PACING_MARGIN)

    def update_rate(self, rtt: float | None, full_bw_reached: bool) -> None:
        """Follow the model; until the pipe was full once, the rate only grows."""
        if not self._seen_rtt and rtt is not None and rtt > 0.0:
            self._seen_rtt = True
            self._set_rate(self._pacing_gain * self._initial_window / rtt)
        rate = self._pacing_gain * self._model.bw * _PACING_MARGIN
        if full_bw_reached or rate > self.rate:
            self._set_rate(rate)

    def _set_rate(self, rate: float) -> None:
        if rate == self.rate:
            return
        self.rate = rate = max(rate, self._slowest_rate())
        self.quantum = self._quantum_at(rate)

    def _quantum_at(self, rate: float) -> int:
        return min(max(int(rate * _QUANTUM_SECONDS), 2 * self.packet_size), _MAX_QUANTUM)

    def _slowest_rate(self) -> float:
        min_rtt = self._model.min_rtt
        return _MIN_PIPE_PACKETS * self.packet_size / (min_rtt if _SLOWEST_ROUND < min_rtt < inf else _SLOWEST_ROUND)

    def update_window(self, newly_acked: int, state: BbrState, full_bw_reached: bool) -> None:
        """Grow by what was acknowledged, up to what the model allows (sections 5.6.4.6 and 5.6.4.7)."""
        model = self._model
        least = _MIN_PIPE_PACKETS * self.packet_size
        most = self._max_inflight(least)
        if state is UP:
            most += 2 * self.packet_size
        window = self.window
        if full_bw_reached:
            window += newly_acked
            window = window if window < most else int(most)
        elif window < most or model.delivered < self._initial_window:
            window += newly_acked
        if state is PROBE_RTT:
            window = min(window, self.probe_rtt_window())
        bound = model.inflight_shortterm
        if state is CRUISE or state is PROBE_RTT:
            bound = min(bound, self.with_headroom())
        elif state is not STARTUP and state is not DRAIN:
            bound = min(bound, model.inflight_longterm)
        if bound < window:
            window = int(bound)
        window = window if window > least else least
        self.window = window if window < self._max_window else self._max_window

    def _max_inflight(self, least: int) -> float:
        model = self._model
        if model.min_rtt == inf:
            most = self._window_gain * self._initial_window
        else:
            seconds = self._window_gain * model.min_rtt
            most = model.bw * (seconds if seconds > _HOST_SECONDS else _HOST_SECONDS) + model.extra_acked
        most = most if most > self.quantum else self.quantum
        return most if most > least else least
