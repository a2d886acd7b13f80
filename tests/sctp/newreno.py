"""The congestion control of RFC 9260 section 7.2: slow start, congestion avoidance, one reduction a round trip.

Plain and unpaced, as other implementations of WebRTC have it: what ours is compared with, and what shares a path with
it. It takes each loss as congestion, which limits it on long paths. What it guards against beyond the RFC: growth while
the application does not fill the window (section 7.2.1), and a reduction for what was only reordering, which
:meth:`NewReno.on_spurious` takes back.
"""

from __future__ import annotations

from mxrtc_bridge.sctp.congestion import RateSample, SentPacket

_MIN_INITIAL_BYTES = 4404
"""RFC 9260 section 7.2.1: the initial window is min(4 packets, max(2 packets, 4404 bytes))."""
_MAX_INITIAL_PACKETS = 10
"""RFC 6928 allows ten packets, and browsers use that many."""


class NewReno:
    """Loss-based control.

    Args:
        packet_size: bytes of DATA chunks in a full packet.
        max_window: bytes that the window never exceeds.
    """

    __slots__ = (
        "_acked",
        "_max_window",
        "_packet",
        "_recovery_at",
        "_slow_start_threshold",
        "_undo_threshold",
        "_undo_window",
        "_window",
    )

    def __init__(self, packet_size: int, max_window: int = 64 * 1024 * 1024) -> None:
        self._packet = packet_size
        self._max_window = max_window
        self._window = min(_MAX_INITIAL_PACKETS * packet_size, max(2 * packet_size, 10 * _MIN_INITIAL_BYTES // 4))
        self._slow_start_threshold = max_window
        self._acked = 0
        self._recovery_at = -1.0
        self._undo_window = 0
        self._undo_threshold = 0

    @property
    def window_bytes(self) -> int:
        return self._window

    @property
    def pacing_rate(self) -> float | None:
        return None

    @property
    def send_quantum(self) -> int:
        return self._max_window

    def set_packet_size(self, size: int) -> None:
        self._packet = size
        self._window = max(self._window, 2 * size)

    def on_sent(self, now: float, packet: SentPacket) -> None:
        pass

    def on_ack(self, now: float, sample: RateSample) -> None:
        if not sample.window_limited or sample.newly_lost:
            return
        if self._window < self._slow_start_threshold:
            self._window += sample.newly_acked
        else:
            self._acked += sample.newly_acked
            if self._acked >= self._window:
                self._acked -= self._window
                self._window += self._packet
        self._window = min(self._window, self._max_window)

    def on_loss(self, now: float, packet: SentPacket, lost_bytes: int, inflight: int) -> None:
        if packet.sent_at <= self._recovery_at:
            return  # lost in the round trip that was already answered (section 7.2.4)
        self._reduce(now, max(self._window // 2, 4 * self._packet))
        self._window = self._slow_start_threshold

    def on_timeout(self, now: float, inflight: int) -> None:
        self._reduce(now, max(self._window // 2, 4 * self._packet))
        self._window = self._packet

    def on_spurious(self, now: float) -> None:
        if self._undo_window:
            self._window = max(self._window, self._undo_window)
            self._slow_start_threshold = max(self._slow_start_threshold, self._undo_threshold)
            self._undo_window = 0

    def _reduce(self, now: float, threshold: int) -> None:
        self._undo_window = max(self._window, self._undo_window if self._recovery_at >= now else 0)
        self._undo_threshold = self._slow_start_threshold
        self._slow_start_threshold = threshold
        self._recovery_at = now
        self._acked = 0
