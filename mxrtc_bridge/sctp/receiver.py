"""The receiving half: which TSNs arrived, when they are acknowledged, and how much more may come.

Acknowledgement (RFC 9260 section 6.2): every second packet, a single one after a short delay, at once after a gap, a
duplicate or a chunk that asks for it. "At once" means when the caller next collects packets. A batch that was received
together is acknowledged once, but not where the sender may need more: most count SACKs to learn that a packet was lost
(section 7.2.4), and let their window grow by a packet for each while they begin (section 7.2.1). So after a loss, and
after a pause, in which such a sender waits for us, the packets of a batch have some SACKs of their own. A fast sender
does not begin: for it, the first packets behind each new gap have theirs, which is what it counts.

Window: what the application has not consumed is subtracted from it. While it reads, what is incomplete has as much room
of its own, so that a loss does not close the window while it is repaired. A sender that ignores the window gains
nothing: chunks beyond what was announced (and one packet) are dropped, and never acknowledged. While the window is
closed, acknowledgements leave at intervals only, as some senders answer each with one packet more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from math import inf

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import DATA_HEADER, I_DATA_HEADER, IMMEDIATE, MalformedError
from mxrtc_bridge.sctp.events import MessageReceived
from mxrtc_bridge.sctp.numbers import MASK32, Ranges, unwrap
from mxrtc_bridge.sctp.reassembly import InStream, Reassembly
from mxrtc_bridge.sctp.settings import SctpSettings

_MAX_DUPLICATES = 32
"""Duplicate TSNs reported in one SACK; more are not remembered."""
_APART_FOR = 1024
"""Packets after a gap or a duplicate that do not share one SACK with all of their batch."""
_REPORTS = 4
"""The same behind a new gap, from a fast sender: one more than it takes for a loss (RFC 9260 section 7.2.4)."""
_BATCH = 64
"""The same after a pause: enough for all SACKs that one batch may have."""
_PAUSE_S = 0.004
"""A sender that rested for so long since our last SACK may have waited for it."""
_FAST = 10_000
"""Packets in a second, about 12 MB/s: nobody waits for more, and one SACK for a batch costs both sides less."""
_MEASURED_S = 0.05
"""The least time over which packets are counted to tell a fast sender."""
MAX_REPEATED = 16_384
"""Chunks that may come again beyond those that came once: more than a timeout of the largest flight sends again."""
_MESSAGE_COST = 64
"""Bytes that a message takes from the window beyond its payload while it waits."""
_CLOSED_BELOW = 1500
"""Less window than about a packet is announced as none (RFC 1122 section 4.2.3.3: no silly windows)."""


class Receiver:
    """Takes DATA and I-DATA, makes SACKs.

    Args:
        settings: limits.
        initial_tsn: of the other side.
        emit: takes each whole message, and each stream that is to be asked for its own.
        drop: counts a chunk that was refused, by reason.

    Attributes:
        cumulative: highest TSN received with all before it.
        ack_at: when a SACK is due; -1.0 for at once, infinity for never.
        apart_for: so many packets more, a SACK that is due is not to be shared with those that come after it.
    """

    def __init__(
        self,
        settings: SctpSettings,
        initial_tsn: int,
        emit: Callable[[MessageReceived | InStream], None],
        drop: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._drop = drop
        self.reassembly = Reassembly(emit, settings.max_message, settings.max_used_streams)
        self.cumulative = initial_tsn - 1
        self._expected = initial_tsn & MASK32
        self._first = initial_tsn
        self._repeated = 0
        self._beyond = Ranges()
        self._duplicates: list[int] = []
        self.ack_at = inf
        self._packets = 0
        self._fresh = False
        self._at_once = False
        self._disordered = False  # something in this packet came late, again, or behind a gap
        self._newest_gap = 0  # the TSN behind it
        self.apart_for = 0
        self._acknowledged_at = 0.0
        self._arrived = 0  # packets since the sender was measured, up to the last SACK
        self._measured_at = 0.0
        self._fast = False
        self._announced = settings.receive_window
        self._accepted = 0  # bytes of payload, ever
        self._edge = settings.receive_window + _CLOSED_BELOW  # of the bytes that were announced, ever
        self._closed_until = 0.0
        self._withheld: tuple[bytes, bool] | None = None
        self.unread_messages = 0
        """Messages whose event was not polled yet, or that were set aside: each costs memory beyond its payload."""

    # Arrival

    # Long, as it runs for every packet: a call costs more than what it would do.
    def receive_data(self, packet: bytes, position: int, length: int, interleaved: bool) -> int:  # noqa: C901, PLR0912
        """Take a chunk; return the number of its stream if there is no such stream, else -1.

        Raises:
            MalformedError: it breaks the protocol.
        """
        if interleaved:
            if length <= 20:
                raise MalformedError("an I-DATA chunk without payload")
            _, flags, _, wire, stream, _, number, last = I_DATA_HEADER.unpack_from(packet, position)
            payload = packet[position + 20 : position + length]
        else:
            if length <= 16:
                raise MalformedError("a DATA chunk without payload")
            _, flags, _, wire, stream, number, last = DATA_HEADER.unpack_from(packet, position)
            payload = packet[position + 16 : position + length]
        self._fresh = True
        cumulative = self.cumulative
        in_order = wire == self._expected
        tsn = cumulative + 1 if in_order else unwrap(wire, cumulative)
        if not in_order and self._is_known(tsn):
            return -1
        reassembly = self.reassembly
        accepted = self._accepted + len(payload)
        if accepted > self._edge and not self._has_room(in_order, len(payload)):
            self._at_once = True
            self._drop("window")
            if in_order:
                self._withheld = (packet[position : position + length], interleaved)
            return -1
        if not self._mark(tsn, in_order):
            return -1
        self._accepted = accepted
        if flags & IMMEDIATE:
            self._at_once = True
        if stream >= self._settings.max_streams:
            self._drop("stream")
            return int(stream)
        if interleaved:
            reassembly.add_interleaved(flags, stream, number, last, payload)
        else:
            reassembly.add_data(tsn, flags, stream, number, last, payload)
        if reassembly.fragments > 2 * self._settings.max_fragments:
            raise MalformedError(f"more than {2 * self._settings.max_fragments} fragments of incomplete messages")
        return -1

    def _is_known(self, tsn: int) -> bool:
        if tsn <= self.cumulative or tsn in self._beyond:
            self._at_once = self._disordered = True
            if len(self._duplicates) < _MAX_DUPLICATES:
                self._duplicates.append(tsn)
            self._drop("duplicate")
            self._repeated += 1
            if self._repeated > MAX_REPEATED + self.cumulative - self._first:
                raise MalformedError(f"{self._repeated} chunks came again")
            return True
        if tsn - self.cumulative > self._settings.max_tsn_span:
            self._drop("span")
            return True
        return False

    def _has_room(self, in_order: bool, size: int) -> bool:
        """Whether a chunk beyond the announced window may be taken all the same.

        The one that everything else waits for may, as long as the application is not what the window waits for:
        otherwise a window full of incomplete messages could never be emptied.
        """
        window, reassembly = self._settings.receive_window, self.reassembly
        if not in_order or reassembly.unconsumed + _MESSAGE_COST * self.unread_messages > window // 2:
            return False
        if reassembly.held + size > 2 * window + self._settings.max_message:
            raise MalformedError(f"incomplete messages of more than {2 * window + self._settings.max_message} bytes")
        return True

    def _mark(self, tsn: int, in_order: bool) -> bool:
        beyond = self._beyond
        if in_order:
            if len(beyond):
                tsn = beyond.drop_to(tsn)
                self._at_once = self._disordered = True
            self.cumulative = tsn
            self._expected = tsn + 1 & MASK32
            return True
        self._at_once = self._disordered = True
        too_many = len(beyond) >= self._settings.max_gaps and tsn != beyond.ends[-1] + 1
        if too_many or self.reassembly.fragments >= self._settings.max_fragments:
            self._drop("gaps" if too_many else "fragments")
            return False
        beyond.add(tsn)
        return True

    def packet_done(self, now: float) -> None:
        """Say that all chunks of a packet were taken: decides when the SACK is due."""
        if self.reassembly.leftover:
            self.reassembly.sweep()
        if not self._fresh:
            return
        self._fresh = False
        self._packets += 1
        if self._packets == 1:
            self._measure_sender(now)
        if self._disordered:
            self._disordered = False
            self._report_disorder()
        if self.apart_for:
            self.apart_for -= 1
        if now < self._closed_until:
            self._at_once = False
            self.ack_at = self._closed_until
        elif self._at_once or self._packets >= 2:
            self._at_once = False
            self.ack_at = -1.0
        elif self.ack_at == inf:
            self.ack_at = now + self._settings.ack_delay

    def _measure_sender(self, now: float) -> None:
        if now - self._measured_at >= _MEASURED_S:
            self._fast = self._arrived >= _FAST * (now - self._measured_at)
            self._arrived, self._measured_at = 0, now
        if not self._fast and now - self._acknowledged_at >= _PAUSE_S:
            self.apart_for = max(self.apart_for, _BATCH)

    def _report_disorder(self) -> None:
        beyond = self._beyond
        newest = beyond.starts[-1] if len(beyond) else 0
        if not self._fast:
            self.apart_for = _APART_FOR
        elif newest > self._newest_gap:
            self.apart_for = max(self.apart_for, _REPORTS)
        self._newest_gap = max(newest, self._newest_gap)

    def may_piggyback(self, now: float) -> bool:
        """Whether a SACK that is not due yet may leave with data."""
        return self.ack_at != inf and now >= self._closed_until

    def acknowledge_now(self) -> None:
        """Make the SACK due at once."""
        self.ack_at = -1.0

    # Window

    @property
    def window(self) -> int:
        """What may still come, as announced."""
        reassembly, size = self.reassembly, self._settings.receive_window
        unread = self.unread_messages + (reassembly.fragments if reassembly.lines else 0)
        waiting = reassembly.unconsumed + _MESSAGE_COST * unread
        free = min(size - waiting, 2 * (size - waiting) - reassembly.held)
        return free if free >= _CLOSED_BELOW else 0

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received payload have left the memory of the application."""
        reassembly = self.reassembly
        reassembly.unconsumed = max(0, reassembly.unconsumed - size)
        self._tell_opening()

    def set_aside(self, count: int) -> None:
        """Count so many messages more, or less, as unread; what was announced before must not let in small ones."""
        self.unread_messages += count
        self._pull_edge()

    def keep(self, size: int) -> None:
        """Count ``size`` bytes as unread once more."""
        self.reassembly.unconsumed += size
        self._pull_edge()

    def _pull_edge(self) -> None:
        self._edge = min(self._edge, self._accepted + self.window + _CLOSED_BELOW)

    def forget_some(self) -> None:
        """Forget some of what the other side has given up."""
        self.reassembly.sweep()
        self._tell_opening()

    def _tell_opening(self) -> None:
        half = self._settings.receive_window // 2
        if self._announced < half and self.window >= half:
            self._closed_until = 0.0
            self._announced = self.window
            self.ack_at = -1.0
            self._take_withheld()

    def _take_withheld(self) -> None:
        """Take the chunk that came while the window was closed, now that it is open.

        Such a probe fills the congestion window of a sender that has had a timeout (RFC 9260 section 7.2.3): until the
        probe is acknowledged, or the timer expires once more, it would send nothing, however large the window is.
        """
        if self._withheld is None:
            return
        (chunk, interleaved), self._withheld = self._withheld, None
        if int.from_bytes(chunk[4:8], "big") != self._expected:
            return  # it came again, or was given up
        self._edge = max(self._edge, self._accepted + self._announced)
        with contextlib.suppress(MalformedError):  # it comes again, and is answered then
            self.receive_data(chunk, 0, len(chunk), interleaved)

    # SACK

    def sack(self, now: float, room: int) -> bytes:
        """Return a SACK of at most ``room`` bytes (at least 16)."""
        window = self.window
        blocks: list[int] = []
        beyond, cumulative = self._beyond, self.cumulative
        if len(beyond):
            count = min(len(beyond), (room - 16) // 4)
            pairs = zip(beyond.starts[:count], beyond.ends[:count], strict=True)
            blocks = [tsn - cumulative for pair in pairs for tsn in pair]
        duplicates = self._duplicates
        if duplicates:
            count = max(0, min(len(duplicates), (room - 16 - 2 * len(blocks)) // 4))
            chunk = chunks.sack(cumulative & MASK32, window, blocks, [tsn & MASK32 for tsn in duplicates[:count]])
            duplicates.clear()
        else:
            chunk = chunks.sack(cumulative & MASK32, window, blocks, ())
        self._announced = window
        if window:
            self._edge = max(self._edge, self._accepted + window + _CLOSED_BELOW)
        else:
            self._closed_until = now + self._settings.closed_window_ack
        self._arrived += self._packets
        self._packets = 0
        self._acknowledged_at = now
        self.ack_at = inf
        return chunk

    # Messages given up by the sender

    def forward(self, wire: int) -> bool:
        """Take the new cumulative TSN of a FORWARD-TSN; False if it is old (RFC 3758 section 3.6)."""
        tsn = unwrap(wire, self.cumulative)
        self._at_once = self._fresh = True
        if tsn <= self.cumulative:
            return False
        self.reassembly.skip_loose(tsn)
        self.cumulative = self._beyond.drop_to(tsn)
        self._expected = self.cumulative + 1 & MASK32
        return True
