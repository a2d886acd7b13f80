"""A peer that writes its own packets: set up like any other, then whatever the test wants."""

from __future__ import annotations

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.chunks import BEGINS, ENDS
from mxrtc_bridge.sctp.flight import Flight
from mxrtc_bridge.sctp.handshake import Proposal, format_greeting, read_greeting
from mxrtc_bridge.sctp.packets import PacketWriter
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.links import End, association

THEIR_TAG = 0x01020304
THEIR_TSN = 1000


class Puppet:
    """Speaks to one association by hand.

    Attributes:
        end: the association under test, established.
        answers: chunks (kind, body) that it sent since the last look.
    """

    def __init__(
        self,
        settings: SctpSettings | None = None,
        *,
        interleaving: bool = False,
        window: int = 1 << 20,
        streams: int = 65_535,
        skips_unknown: bool = True,
        resets: bool = True,
    ) -> None:
        self.now = 50.0
        self.association: Association = association(77, settings)
        self.end = End(self.association)
        proposal = Proposal(
            THEIR_TAG,
            window,
            streams,
            streams,
            THEIR_TSN,
            interleaving=interleaving,
            partial=True,
            reconfiguration=True,
            skips_unknown=skips_unknown,
        )
        self.association.start(self.now)
        (packet,) = self.association.datagrams(self.now)
        greeting = read_greeting(packet[16:])
        self.tag = greeting.proposal.tag
        self.their_tsn = greeting.proposal.initial_tsn
        self._writer = PacketWriter(5000, 5000, self.tag)
        greeted = format_greeting(chunks.INIT_ACK, proposal, b"cookie")
        if not resets:
            both = bytes([chunks.RE_CONFIG, chunks.FORWARD_TSN])
            assert greeted.count(both) == 1
            greeted = greeted.replace(both, bytes([chunks.FORWARD_TSN] * 2))
        self.send(greeted)
        ((kind, body),) = self.answers()
        assert (kind, body) == (chunks.COOKIE_ECHO, b"cookie")
        self.send(chunks.chunk(chunks.COOKIE_ACK))
        self.end.drain()
        assert self.end.established

    def packet(self, *parts: bytes) -> bytes:
        """Return a packet of these chunks."""
        return self._writer.write(parts)

    def send(self, *parts: bytes) -> None:
        self.raw(self.packet(*parts))

    def raw(self, packet: bytes) -> None:
        self.association.receive(self.now, packet)
        self.end.drain()

    def data(
        self,
        tsn: int,
        payload: bytes = b"x",
        *,
        stream: int = 0,
        sequence: int = 0,
        flags: int = BEGINS | ENDS,
        ppid: int = 53,
    ) -> bytes:
        """Return a DATA chunk; ``tsn`` counts from 0."""
        wire = THEIR_TSN + tsn & 0xFFFFFFFF
        head = chunks.DATA_HEADER.pack(0, flags, 16 + len(payload), wire, stream, sequence & 0xFFFF, ppid)
        return head + payload + chunks.padding(len(payload))

    def reset(self, number: int, *streams: int, after: int = 0) -> bytes:
        """Return a RE-CONFIG that ends what it sends on streams; requests count from 0, and TSNs as in `data`."""
        last = THEIR_TSN + after - 1 & 0xFFFFFFFF
        head = (THEIR_TSN + number).to_bytes(4, "big") + bytes(4) + last.to_bytes(4, "big")
        value = head + b"".join(stream.to_bytes(2, "big") for stream in streams)
        return chunks.chunk(chunks.RE_CONFIG, chunks.PAIR.pack(13, 4 + len(value)) + value)

    def answer(self, number: int, result: int = 1) -> bytes:
        """Return a RE-CONFIG that answers a request; these count from 0 as well."""
        value = (self.their_tsn + number & 0xFFFFFFFF).to_bytes(4, "big") + result.to_bytes(4, "big")
        return chunks.chunk(chunks.RE_CONFIG, chunks.parameter(16, value))

    def i_data(self, tsn: int, payload: bytes, *, message: int, last: int, flags: int, stream: int = 0) -> bytes:
        """Return an I-DATA chunk."""
        wire = THEIR_TSN + tsn & 0xFFFFFFFF
        head = chunks.I_DATA_HEADER.pack(64, flags, 20 + len(payload), wire, stream, 0, message, last)
        return head + payload + chunks.padding(len(payload))

    def answers(self) -> list[tuple[int, bytes]]:
        """Return kind and body of every chunk that is ready to leave."""
        found = []
        while True:
            packets = self.association.datagrams(self.now)
            probe = self.association.take_probe()
            if not packets and probe is None:
                return found
            for packet in [*packets, probe] if probe is not None else packets:
                position = 12
                while position < len(packet):
                    length = int.from_bytes(packet[position + 2 : position + 4], "big")
                    found.append((packet[position], packet[position + 4 : position + length]))
                    position += length + (-length & 3)

    def wait(self, seconds: float) -> list[tuple[int, bytes]]:
        """Let time pass; return what was sent meanwhile."""
        until = self.now + seconds
        found = self.answers()
        while (deadline := self.association.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.association.handle_timeout(self.now)
            found += self.answers()
            self.end.drain()
        self.now = until
        return found

    @property
    def flight(self) -> Flight:
        """What it has sent and nobody has acknowledged for good."""
        return self.association._sender.flight

    @property
    def held(self) -> int:
        receiver = self.association._receiver
        assert receiver is not None
        return receiver.reassembly.held + receiver.reassembly.unconsumed

    @property
    def unread(self) -> int:
        """How many messages, and what else is counted as one, wait outside of the reassembly."""
        receiver = self.association._receiver
        assert receiver is not None
        return receiver.unread_messages

    @property
    def ended_because(self) -> str:
        self.end.drain()
        return self.end.ended.reason if self.end.ended is not None else ""
