"""Path MTU discovery by probing (RFC 8899), with HEARTBEAT and PAD (RFC 4820) as its section 6.2.1 describes.

A probe carries no user data, so its loss says nothing about congestion. Packets are small until one of the usual size
has arrived: what was cut too large could not be cut again. Then the largest size is tried, as it works on most paths,
then the middle of what remains.

Only probes are lost where they do not fit. Data may be fragmented: a chunk keeps its size for ever (RFC 9260 section
6.9), and one that was cut for a wide path has to get through a narrow one. So nothing fails when the path gets
narrower, and while data flows the size is confirmed from time to time (RFC 8899 section 5.1.1, CONFIRMATION_TIMER).
Where fragments are lost as well, retransmissions fail: then packets are small at once, the search begins again, and
what was cut before goes in pieces (:mod:`mxrtc_bridge.sctp.pieces`), if the other side takes them.
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

_STUCK_TIMEOUTS, _STUCK_ANSWERS = 4, 4
"""With pauses of 0.2, 0.4, ... 2 s these are some 11 s."""


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
        "_candidate", "_ceiling", "_confirm_at", "_confirming", "_floor", "_high", "_nonce", "_oldest", "_raise_at",
        "_sent_at", "_start", "_tries", "probe_at", "size",
    )  # fmt: skip

    def __init__(self, start: int, ceiling: int, floor: int) -> None:
        self._start = self.size = start & ~3
        self._floor = min(floor & ~3, self._start)
        self._ceiling = max(ceiling & ~3, self._start)
        self._high = self._ceiling
        self._candidate = self._ceiling
        self._tries = 0
        self._nonce = self._oldest = 0
        self._sent_at = 0.0
        self._confirming = False
        self._confirm_at = self._raise_at = inf
        self.probe_at = inf

    def begin(self, now: float) -> None:
        """Start a search from the floor, if there is anything to find."""
        self.size = self._floor
        self._search(now, self._start if self._floor < self._start else self._ceiling)

    @property
    def is_known(self) -> bool:
        """Whether packets are as large as is usual, or no larger ones have arrived."""
        return self.size >= self._start or self.probe_at == self._raise_at

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

    def is_silent(self, heard_at: float) -> bool:
        """Whether nothing at all has come since the last probe, if ``heard_at`` is when something has come last.

        Its loss says nothing about sizes then: packets would stay small for long after an outage.
        """
        return self._tries > 0 and heard_at < self._sent_at

    def probe(self, now: float, timeout: float, *, silent: bool = False) -> list[bytes] | None:
        """Return the chunks of the probe that is due, or None if the one before it was the last.

        Args:
            now: seconds.
            timeout: until the next try.
            silent: see :meth:`is_silent`; the try before does not count then.
        """
        if silent:
            self._tries -= 1
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
        self._nonce += 1
        if not self._tries:
            self._oldest = self._nonce
        self._tries += 1
        self._sent_at = now
        self.probe_at = now + timeout
        information = b"M" + self._nonce.to_bytes(7, "big")
        if self._tries == _TRIES:
            # Its answer is as large. pion 4.2 drops a packet with a chunk that it does not know, and PAD is one.
            information += bytes(max(self._candidate - chunks.HEADER_SIZE - 8 - len(information), 0))
            return [chunks.chunk(chunks.HEARTBEAT, chunks.parameter(1, information))]
        heartbeat = chunks.chunk(chunks.HEARTBEAT, chunks.parameter(1, information))
        rest = self._candidate - chunks.HEADER_SIZE - len(heartbeat) - 4
        return [heartbeat, chunks.chunk(chunks.PAD, bytes(max(rest, 0)))]

    def acknowledged(self, now: float, information: bytes) -> bool:
        """Take the information of a HEARTBEAT-ACK; True if packets may be larger from now on."""
        # One of this size, whichever: on a long path the answer comes after the question was repeated.
        number = int.from_bytes(information[1:8])
        if information[:1] != b"M" or not self._tries or not self._oldest <= number <= self._nonce:
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


class DeadEnd:
    """Tells that only what is too large for the path is left, with a side that takes no pieces.

    It is no outage, as the other side is heard; and no chance, as that happens several times in a row. A new
    association begins with small packets, where this one would wait for a minute.
    """

    __slots__ = ("_asked_at", "_timeouts", "_unmoved")

    def __init__(self) -> None:
        self._asked_at = inf
        self._timeouts = self._unmoved = 0

    def is_new(self, timeouts: int) -> bool:
        """Whether there is one more timeout of the retransmission timer, of so many in a row that it is no chance."""
        if timeouts < self._timeouts:
            self._unmoved, self._asked_at = 0, inf
        is_new, self._timeouts = timeouts > self._timeouts, timeouts
        return is_new and timeouts >= _STUCK_TIMEOUTS

    def is_reached(self, now: float, heard_at: float) -> bool:
        """Whether the other side has been heard after each of the last questions; another one is to be asked now."""
        self._unmoved = self._unmoved + 1 if heard_at > self._asked_at else 0
        self._asked_at = now
        return self._unmoved >= _STUCK_ANSWERS
