"""Round-trip time and retransmission timeout (RFC 9260 section 6.3.1, RFC 6298)."""

from __future__ import annotations

_MIN_WINDOW_S = 300.0
_GRANULARITY_S = 0.001
_MAX_DOUBLINGS = 6


class RoundTrip:
    """Smoothed round-trip time, its variation, its minimum, and the timeout that follows.

    Attributes:
        smoothed: seconds; 0.0 before the first sample.
        minimum: smallest of the last five to ten minutes; 0.0 before the first sample.
        timeout: RTO without back-off.
    """

    __slots__ = ("_deviation", "_floor", "_limit", "_recent", "_recent_since", "minimum", "smoothed", "timeout")

    def __init__(self, initial: float, floor: float, limit: float) -> None:
        self.smoothed = 0.0
        self.minimum = 0.0
        self.timeout = initial
        self._deviation = 0.0
        self._floor = floor
        self._limit = limit
        self._recent = 0.0
        self._recent_since = 0.0

    def backed_off(self, times: int, longest: float) -> float:
        """Return the timeout after so many in vain: doubled by each up to ``longest``, and never less than without."""
        return max(self.timeout, min(self.timeout * 2.0 ** min(times, _MAX_DOUBLINGS), longest))

    def sample(self, now: float, rtt: float) -> None:
        """Take the time from sending a packet to its acknowledgement; it must have been sent once only (Karn)."""
        rtt = max(rtt, 1e-6)
        if self.smoothed:
            self._deviation += 0.25 * (abs(self.smoothed - rtt) - self._deviation)
            self.smoothed += 0.125 * (rtt - self.smoothed)
        else:
            self.smoothed = rtt
            self._deviation = rtt / 2
            self.minimum = self._recent = rtt
            self._recent_since = now
        self.timeout = min(max(self.smoothed + max(_GRANULARITY_S, 4 * self._deviation), self._floor), self._limit)
        self._recent = min(self._recent, rtt)
        if rtt < self.minimum:
            self.minimum = rtt
        elif now - self._recent_since > _MIN_WINDOW_S:
            self.minimum = self._recent
            self._recent = rtt
            self._recent_since = now
