"""How fast two associations in one process are, without DTLS and sockets: ``python -m tests.sctp.speed``.

Prints MB/s and microseconds per DATA packet, sent and received together, for bulk messages and for small ones.
"""

from __future__ import annotations

import gc
import sys
import time

from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import MessageReceived
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.draws import Draws
from tests.sctp.links import association
from tests.sctp.newreno import NewReno


def exchange(now: float, one: Association, other: Association) -> int:
    """Carry one batch each way; return the bytes of messages that arrived at ``other``."""
    got = 0
    for packet in one.datagrams(now):
        other.receive(now, packet)
    while (event := other.poll_event()) is not None:
        if isinstance(event, MessageReceived):
            got += len(event.data)
            other.consumed(len(event.data))
    for packet in other.datagrams(now):
        one.receive(now, packet)
    while one.poll_event() is not None:
        pass
    return got


def measure(name: str, settings: SctpSettings, size: int, total: int, control: CongestionControl | None = None) -> None:
    control = control or NewReno(settings.packet_size - 12, 1 << 20)
    left, right = association(1, settings, control), association(2, settings)
    now = 0.0
    left.start(now)
    right.start(now)
    for _ in range(8):
        exchange(now, left, right)
    data = bytes(size)
    sent = got = 0
    packets = left.packets_sent
    gc.collect()
    began = time.perf_counter()
    while got < total:
        while sent < total and left.buffered() < 256 * 1024:
            left.send(now, 0, 53, data)
            sent += size
        now += 0.0001
        got += exchange(now, left, right)
        deadline = left.next_deadline()
        if deadline is not None and deadline <= now:
            left.handle_timeout(now)
    took = time.perf_counter() - began
    packets = left.packets_sent - packets
    rate = got / took / 1e6
    print(f"{name:34} {rate:7.1f} MB/s {took / packets * 1e6:6.2f} us/packet {packets} packets")


def main() -> None:
    total = int(sys.argv[1]) * 1_000_000 if len(sys.argv) > 1 else 60_000_000
    measure("16 KiB, DATA, zero checksum", SctpSettings(interleaving=False), 16384, total)
    measure("16 KiB, I-DATA, zero checksum", SctpSettings(), 16384, total)
    measure("16 KiB, I-DATA, CRC32c", SctpSettings(zero_checksum=False), 16384, total)
    measure("64 KiB, I-DATA, 1440-byte packets", SctpSettings(packet_size=1440), 65536, total)
    measure("16 KiB, I-DATA, BBR", SctpSettings(), 16384, total, Bbr(1160, Draws(1).fraction, 1 << 20))
    measure("100 bytes, I-DATA", SctpSettings(), 100, total // 30)


if __name__ == "__main__":
    main()
