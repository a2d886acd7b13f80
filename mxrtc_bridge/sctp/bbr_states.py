"""The states of BBR, and how hard each of them sends (draft-ietf-ccwg-bbr-06 sections 5.1 and 5.6.1).

Only names and numbers: which state follows which is decided in :mod:`mxrtc_bridge.sctp.bbr`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


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

PROBE_RTT_WINDOW_GAIN: Final = 0.5
_WINDOW_GAIN: Final = 2.0
GAINS: Final[dict[BbrState, tuple[float, float]]] = {
    STARTUP: (2.77, _WINDOW_GAIN),
    DRAIN: (0.5, _WINDOW_GAIN),
    DOWN: (0.90, _WINDOW_GAIN),
    CRUISE: (1.0, _WINDOW_GAIN),
    REFILL: (1.0, _WINDOW_GAIN),
    UP: (1.25, 2.25),
    PROBE_RTT: (1.0, PROBE_RTT_WINDOW_GAIN),
}
"""Factors of the bandwidth, for pacing, and of the bandwidth-delay product, for the window."""
