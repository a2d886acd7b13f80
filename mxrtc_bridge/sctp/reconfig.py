"""Stream reset in both directions (RFC 6525 sections 4.1, 4.4, 5.1 and 5.2, as RFC 8831 section 6.7 uses it).

Ours: one request at a time, for all streams whose messages have all been sent; it names the last TSN, so that the other
side carries it out when it has everything up to there, and it is repeated until answered. Theirs: carried out at once,
or answered "in progress" and carried out when the last TSN has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from struct import Struct

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.numbers import MASK32, unwrap
from mxrtc_bridge.sctp.outbound_queue import OutStream

_OUTGOING_REQUEST = 13
_RESPONSE = 16
_OTHER_REQUESTS = frozenset({14, 15, 17, 18})
_REQUEST = Struct("!LLL")
_ANSWER = Struct("!LL")
_NUMBER = Struct("!H")

_PERFORMED = 1
_DENIED = 2
_BAD_SEQUENCE = 5
_IN_PROGRESS = 6

_MAX_STREAMS_PER_REQUEST = 256
_MAX_AHEAD = 1024
"""So many requests may be lost before one that comes; more are no loss but another idea of the numbers."""
_MAX_KEPT = 64
"""Requests that are kept until those before them have come; none is longer than a packet."""


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A request of the other side that waits for TSNs."""

    last_tsn: int
    streams: tuple[int, ...]


class Reconfiguration:
    """Resets streams.

    Args:
        ours: our initial TSN, with which our request numbers begin.
        theirs: the other side's.
        reply: takes a RE-CONFIG chunk to be sent.
        reset_incoming: called with the numbers of streams that the other side ended; none for all.

    Attributes:
        retry_at: when our request is to be repeated; infinity for never.
        failures: repetitions without an answer.
    """

    def __init__(
        self,
        ours: int,
        theirs: int,
        reply: Callable[[bytes], None],
        reset_incoming: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._next_request = ours & MASK32
        self._expected = theirs & MASK32
        self._reply = reply
        self._reset_incoming = reset_incoming
        self._waiting: list[OutStream] = []
        self._requested: dict[int, OutStream] = {}
        self._request = b""  # empty while none is under way
        self._answer = b""
        self._deferred: _Deferred | None = None
        self._ahead: dict[int, bytes] = {}
        self.retry_at = inf
        self.failures = 0

    # Ours

    def drained(self, streams: list[OutStream]) -> None:
        """Take streams that have nothing left to send and are to be reset."""
        self._waiting += streams

    @property
    def ready(self) -> bool:
        """Whether a new request can be made."""
        return bool(self._waiting) and not self._request

    def request(self, now: float, timeout: float, last_tsn: int) -> None:
        """Send a request for the streams that wait.

        Args:
            now: seconds.
            timeout: how long an answer may take.
            last_tsn: the highest TSN in use.
        """
        self._requested = {stream.id: stream for stream in self._waiting[:_MAX_STREAMS_PER_REQUEST]}
        del self._waiting[:_MAX_STREAMS_PER_REQUEST]
        numbers = b"".join([_NUMBER.pack(number) for number in self._requested])
        head = _REQUEST.pack(self._next_request, self._expected - 1 & MASK32, last_tsn & MASK32)
        self._request = chunks.chunk(chunks.RE_CONFIG, _bare(_OUTGOING_REQUEST, head + numbers))
        self.failures = 0
        self._send(now, timeout)

    def retry(self, now: float, timeout: float) -> None:
        """Repeat the request: no answer came."""
        self.failures += 1
        self._send(now, timeout)

    def _send(self, now: float, timeout: float) -> None:
        self._reply(self._request)
        self.retry_at = now + timeout

    def take_for_answered(self, number: int) -> bool:
        """Take the reset of a stream out of our request, as the other side has shown that it has carried it out.

        The request is repeated all the same until it is answered: only so it is certain that the other side expects
        the number of the next one.

        Returns:
            Whether the stream was in our request.
        """
        return self._requested.pop(number, None) is not None

    # Theirs

    def receive(self, now: float, body: bytes, cumulative: int, timeout: float) -> tuple[list[OutStream], bool]:
        """Take a RE-CONFIG chunk.

        Args:
            now: seconds.
            body: what follows the chunk header.
            cumulative: highest TSN received with all before it.
            timeout: until our request is repeated, should the answer be "in progress".

        Returns:
            The streams for which our request was answered, and whether it was carried out.

        Raises:
            MalformedError: it cannot be read.
        """
        done: list[OutStream] = []
        accepted = False
        for count, (kind, value) in enumerate(chunks.parameters(body)):
            if count >= 2:
                raise MalformedError("a RE-CONFIG with more than two parameters")
            if kind == _OUTGOING_REQUEST:
                self._receive_request(value, cumulative)
            elif kind == _RESPONSE:
                done, accepted = self._receive_response(now, value, timeout)
            elif kind in _OTHER_REQUESTS and len(value) >= 4:
                self._receive_other(int.from_bytes(value[:4], "big"))
        return done, accepted

    def _receive_request(self, value: bytes, cumulative: int) -> None:
        if len(value) < 12 or len(value) & 1:
            raise MalformedError(f"a stream reset request of {len(value)} bytes")
        number = int.from_bytes(value[:4], "big")
        if self._is_repeated(number):
            if 0 < number - self._expected & MASK32 <= _MAX_AHEAD and len(self._ahead) < _MAX_KEPT:
                self._ahead[number] = value
            return
        self._carry_out(value, cumulative)
        self._carry_out_kept(cumulative)

    def _carry_out_kept(self, cumulative: int) -> None:
        """Carry out what came ahead of its turn, as far as it is its turn now."""
        while self._deferred is None and (value := self._ahead.pop(self._expected, None)) is not None:
            self._carry_out(value, cumulative)

    def _carry_out(self, value: bytes, cumulative: int) -> None:
        _, _, last = _REQUEST.unpack_from(value)
        streams = tuple(stream for (stream,) in _NUMBER.iter_unpack(value[12:]))
        self._deferred = _Deferred(unwrap(last, cumulative), streams)
        if not self._advance(cumulative):
            self._respond(_IN_PROGRESS)

    def _receive_other(self, number: int) -> None:
        if not self._is_repeated(number):
            self._respond(_DENIED)
            self._expected = self._expected + 1 & MASK32

    def _is_repeated(self, number: int) -> bool:
        """Answer a request that is not the next one; those ahead of it wait until it has come.

        RFC 6525 section 5.2.1 has an error for them, as only one may be under way. pion 4.2 sends several, takes an
        error for the end of a request, and repeats what was not answered in any order and ever more rarely.
        """
        if number == self._expected:
            return False
        if number == self._expected - 1 & MASK32 and self._answer:
            self._reply(self._answer)
        elif not 0 < number - self._expected & MASK32 <= _MAX_AHEAD:
            self._reply(_response(number, _BAD_SEQUENCE))
        return True

    def _respond(self, result: int) -> None:
        self._answer = _response(self._expected, result)
        self._reply(self._answer)

    @property
    def waits_for_data(self) -> bool:
        """Whether a request of the other side waits for TSNs."""
        return self._deferred is not None

    def advance(self, cumulative: int) -> None:
        """Carry out what waited for TSNs up to ``cumulative``, and what waited for that."""
        if self._advance(cumulative):
            self._carry_out_kept(cumulative)

    def _advance(self, cumulative: int) -> bool:
        deferred = self._deferred
        if deferred is None or cumulative < deferred.last_tsn:
            return False
        self._deferred = None
        self._reset_incoming(deferred.streams)
        self._respond(_PERFORMED)
        self._expected = self._expected + 1 & MASK32
        return True

    def _receive_response(self, now: float, value: bytes, timeout: float) -> tuple[list[OutStream], bool]:
        if len(value) < 8:
            raise MalformedError(f"a re-configuration response of {len(value)} bytes")
        number, result = _ANSWER.unpack_from(value)
        if not self._request or number != self._next_request:
            return [], False
        if result == _IN_PROGRESS:
            self.failures = 0
            self.retry_at = now + timeout
            return [], False
        done, self._requested, self._request = list(self._requested.values()), {}, b""
        self._next_request = self._next_request + 1 & MASK32
        self.retry_at = inf
        return done, result <= _PERFORMED


def _bare(kind: int, value: bytes) -> bytes:
    """Return a parameter without padding: the last one of a chunk, whose length does not count it."""
    return chunks.PAIR.pack(kind, 4 + len(value)) + value


def _response(number: int, result: int) -> bytes:
    return chunks.chunk(chunks.RE_CONFIG, chunks.parameter(_RESPONSE, _ANSWER.pack(number, result)))
