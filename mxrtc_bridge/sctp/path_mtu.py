"""Path MTU discovery by probing (RFC 8899), with HEARTBEAT and PAD (RFC 4820) as its section 6.2.1 describes.

A probe carries no user data, so its loss says nothing about congestion. Packets are small until one of the usual size
has arrived: what was cut too large could not be cut again. Then the largest size is tried, as it works on most paths,
then the middle of what remains.

Only probes are lost where they do not fit. Data may be fragmented: a chunk keeps its size for ever (RFC 9260 section
6.9), and one that was cut for a wide path has to get through a narrow one. So nothing fails when the path gets
narrower, and while data flows the size is confirmed from time to time (RFC 8899 section 5.1.1, CONFIRMATION_TIMER).
Where fragments are lost as well, retransmissions fail: then packets are small at once, and the search begins again.
"""

from __future__ import annotations

from math import inf

from mxrtc_bridge.sctp import chunks

_TRIES = 3
_PRECISION = 16
_RETRY_S = 60.0
_RAISE_S = 600.0
"""RFC 8899 section 5.1.1, PMTU_RAISE_TIMER."""
_CONFIRM_S = 15.0
"""Fragments cost some rate and nothing else, so there is no hurry."""


class PathMtu:
    """Searches for the largest packet that arrives.

    Args:
        start: bytes of an SCTP packet that arrives on almost every path.
        ceiling: the largest that is tried.
        floor: what arrives on every path; equal to ``start`` if that does.

    Attributes:
        size: the largest packet to send now.
        probe_at: when the next probe is due; infinity for never.
    """

    __slots__ = (
        "_candidate", "_ceiling", "_confirm_at", "_confirming", "_floor", "_high", "_nonce", "_raise_at", "_start",
        "_tries", "probe_at", "size",
    )  # fmt: skip

    def __init__(self, start: int, ceiling: int, floor: int) -> None:
        self._start = self.size = start & ~3
        self._floor = min(floor & ~3, self._start)
        self._ceiling = max(ceiling & ~3, self._start)
        self._high = self._ceiling
        self._candidate = self._ceiling
        self._tries = 0
        self._nonce = 0
        self._confirming = False
        self._confirm_at = self._raise_at = inf
        self.probe_at = inf

    def begin(self, now: float) -> None:
        """Start a search from the floor, if there is anything to find."""
        self.size = self._floor
        self._search(now, self._start if self._floor < self._start else self._ceiling)

    def _search(self, now: float, candidate: int) -> None:
        self._high, self._candidate = self._ceiling, candidate
        self._tries = 0
        self._confirming = False
        self.probe_at = now if self._ceiling > self.size else inf

    def is_due(self, now: float, *, sending: bool) -> bool:
        """Whether a probe is due: one of a search, or, while data is on its way, one that confirms the size."""
        if sending and self._confirm_at <= now and not self._tries and self.probe_at > now:
            self._confirming = True
            self._candidate = self.size
            return True
        return self.probe_at <= now

    def probe(self, now: float, timeout: float) -> list[bytes] | None:
        """Return the chunks of the probe that is due, or None if the one before it was the last."""
        if self._tries >= _TRIES:
            self._high = self._candidate - 4
            if self._confirming:
                self._confirming, self.size = False, self._floor
                self._confirm_at = inf
            if not self._next():
                self.probe_at = self._raise_at = now + _RAISE_S
                return None
        if self._candidate <= self.size and not self._confirming:
            self._search(now, self._ceiling)  # the raise timer expired
        self._tries += 1
        self._nonce += 1
        self.probe_at = now + timeout
        heartbeat = chunks.chunk(chunks.HEARTBEAT, chunks.parameter(1, b"M" + self._nonce.to_bytes(7, "big")))
        rest = self._candidate - chunks.HEADER_SIZE - len(heartbeat) - 4
        return [heartbeat, chunks.chunk(chunks.PAD, bytes(max(rest, 0)))]

    def acknowledged(self, now: float, information: bytes) -> bool:
        """Take the information of a HEARTBEAT-ACK; True if packets may be larger from now on."""
        # One of this size, whichever: on a long path the answer comes after the question was repeated.
        if information[:1] != b"M" or not 0 <= self._nonce - int.from_bytes(information[1:8]) < self._tries:
            return False
        self._confirm_at = now + _CONFIRM_S
        if self._confirming:
            self._confirming = False
            self._tries = 0
            self.probe_at = self._raise_at
            return False
        self.size = self._candidate
        searching = self._next()
        self._raise_at = inf if self.size == self._ceiling else now + _RAISE_S
        self.probe_at = now if searching else self._raise_at
        return True

    def _next(self) -> bool:
        self._tries = 0
        if self._high - self.size < _PRECISION:
            self._candidate = self.size
            return False
        if self.size < self._start <= self._high:
            self._candidate = self._start
        elif self.size == self._start and self._high == self._ceiling:
            self._candidate = self._ceiling
        else:
            self._candidate = (self.size + self._high + 4) // 2 & ~3
        return True

    def black_hole(self, now: float) -> bool:
        """Fall back to the floor; True if packets were larger than that."""
        if self.size == self._floor:
            return False
        self.begin(now)
        self._confirm_at = inf
        if self._floor == self._start:
            self.probe_at = self._raise_at = now + _RETRY_S
        return True
