"""Payload that comes in: from whom it is taken, and where it waits until somebody can read it.

It must never hand on what comes from an address without a successful, authenticated check, and never keep more than it
says here, whoever sends it. Before DTLS is up, what is taken waits in the queue that the handshake reads from, and what
comes from an address that is still being checked waits for the end of that check. From then on it is handed to a sink
at once: in runs, without a queue in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mxrtc_bridge.rtc.datagrams import Address, Drops
from mxrtc_bridge.rtc.gathering import COMPONENT

MAX_CHECKED_ADDRESSES = 128
"""Addresses that may prove themselves, peer-reflexive ones included."""
EARLY_QUEUE = 64
"""Datagrams kept before DTLS is up: one flight of a handshake, several times."""
RELAYED_QUEUE = 2048
"""Relayed datagrams that come in one turn of the loop; the newest is dropped, as a full socket buffer does."""

MAX_HELD_DATAGRAMS = 16
"""Payload from an address whose check is about to succeed: the first flight of the other side's handshake often comes
right behind its check or its answer to ours. Dropped, it would be repeated a second later."""


class RunSink(Protocol):
    """Gets payload once DTLS is up: in runs, without a queue in between."""

    def run_received(self, data: bytes, size: int) -> None:
        """Take datagrams of ``size`` bytes each, one behind the other, of which the last may be shorter."""
        ...

    def runs_ended(self) -> None:
        """No further payload comes with this batch."""
        ...


class IncomingPayload:
    """Payload of one connection; must be made inside a running event loop.

    Args:
        queue: what a handshake reads from until a sink is attached.
        drops: where it is counted what is thrown away.
        is_being_checked: whether an address, though no candidate is known that has it, has checks that are good but
            wait for something.
    """

    def __init__(
        self,
        queue: asyncio.Queue[tuple[bytes, int] | None],
        drops: Drops,
        is_being_checked: Callable[[Address], bool],
    ) -> None:
        self._queue = queue
        self._drops = drops
        self._is_being_checked = is_being_checked
        self._checked: set[Address] = set()
        self._expected: set[Address] = set()
        self._held: deque[tuple[bytes, Address]] = deque(maxlen=MAX_HELD_DATAGRAMS)
        self._sink: RunSink | None = None
        self._relayed: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()

    @property
    def held(self) -> int:
        """How many datagrams wait for the end of the check of their address."""
        return len(self._held)

    def expect(self, address: Address) -> None:
        """A candidate of the other side has this address, which will be checked."""
        self._expected.add(address)

    def may_trust(self, address: Address) -> bool:
        """Whether there is a place for this address among those that have proved themselves, or it has one."""
        return address in self._checked or len(self._checked) < MAX_CHECKED_ADDRESSES

    def trust(self, address: Address) -> None:
        """``address`` has passed an authenticated check: take what it has sent meanwhile, and what it sends."""
        if address not in self._checked:
            self._checked.add(address)
            held, self._held = self._held, deque(maxlen=MAX_HELD_DATAGRAMS)
            for data, source in held:
                self._take_early(data, source)  # of other addresses: held again

    def run_received(self, data: bytes, size: int, address: Address) -> None:
        """Take payload that a socket has read, if it comes from a checked address."""
        if self._sink is not None and address in self._checked:
            self._sink.run_received(data, size)
            return
        for start in range(0, len(data), size):
            self._take_early(data[start : start + size], address)

    def runs_ended(self) -> None:
        """The socket has read a batch."""
        if self._sink is not None:
            self._sink.runs_ended()

    def one_received(self, data: bytes, address: Address) -> None:
        """Take one datagram that came through a relay."""
        if self._sink is None or address not in self._checked:
            self._take_early(data, address)
        elif len(self._relayed) >= RELAYED_QUEUE:
            self._drops.overflow += 1
        else:
            # They come one by one; those of one turn of the loop are a batch.
            if not self._relayed:
                self._loop.call_soon(self._hand_relayed)
            self._relayed.append(data)

    def _hand_relayed(self) -> None:
        relayed, self._relayed = self._relayed, deque()
        if self._sink is not None:
            for datagram in relayed:
                self._sink.run_received(datagram, len(datagram))
            self._sink.runs_ended()

    def _take_early(self, data: bytes, address: Address) -> None:
        if address not in self._checked:
            self._hold(data, address)
        elif self._queue.qsize() >= EARLY_QUEUE:
            self._drops.overflow += 1
        else:
            self._queue.put_nowait((data, COMPONENT))

    def _hold(self, data: bytes, address: Address) -> None:
        """Keep payload that comes before its address has proved itself, if that is still being found out."""
        if self._sink is None and (address in self._expected or self._is_being_checked(address)):
            self._held.append((data, address))
        else:
            self._drops.stranger += 1

    def attach(self, sink: RunSink) -> None:
        """DTLS is up: hand what was queued to ``sink``, and everything from now on, in the order of arrival.

        The queue then only says, by waking whoever reads from it, that the connection has ended.
        """
        self._held.clear()
        self._sink = sink
        ended = False
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is None:
                ended = True
            else:
                sink.run_received(item[0], len(item[0]))
        if ended:
            self._queue.put_nowait(None)
        sink.runs_ended()

    def detach(self) -> None:
        """Hand out nothing any more."""
        self._sink = None
