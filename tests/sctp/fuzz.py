"""Feed an association anything: ``make fuzz``, with atheris; test_fuzz.py does the same with hypothesis.

An input is a place in a recording (two bytes: which one, and how far) and what comes from there on instead of the
recorded packets: frames of two bytes of length and the chunks of a packet. The header is made to fit, as all that gets
past DTLS has one, and a wrong one is dropped at once.

What must hold: nothing is raised, what is held stays within the limits, and each packet is answered with few.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import HEADER, HEADER_SIZE
from mxrtc_bridge.sctp.packets import PacketWriter
from tests.sctp.recorded import Recording, Replay, recordings

MAX_PACKETS = 32
MAX_ANSWERS = 600
"""Packets to one of theirs: a SACK may set free a whole window of what waits."""


def frame(packets: list[bytes]) -> bytes:
    """Return the chunks of ``packets`` as an input holds them."""
    bodies = [packet[HEADER_SIZE:] for packet in packets]
    return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)


def frames(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + 2 <= len(data):
        length = int.from_bytes(data[position : position + 2], "big")
        yield data[position + 2 : position + 2 + length]
        position += 2 + length


def places(recording: Recording) -> list[int]:
    """Return the numbers of the lines at which a packet arrives."""
    return [number for number, line in enumerate(recording.lines) if line["call"] == "receive"]


def seeds(known: list[Recording]) -> Iterator[bytes]:
    """Yield every recorded packet in its place, with the two after it."""
    for index, recording in enumerate(known):
        for place in range(min(len(places(recording)), 256)):
            yield bytes([index, place]) + frame(recording.theirs[place : place + 3])


def feed(known: list[Recording], data: bytes) -> Replay | None:
    """Take one input; return what became of the association, or None if the input is too short."""
    if len(data) < 2:
        return None
    recording = known[data[0] % len(known)]
    at = places(recording)
    place = at[data[1] % len(at)]
    replay = Replay(recording).run(place)
    association = replay.association
    limits = association._settings
    now = recording.lines[place]["now"]
    for _, body in zip(range(MAX_PACKETS), frames(data[2:]), strict=False):
        tag = 0 if body[:1] == bytes([chunks.INIT]) else recording.head["tag"]
        association.receive(now, PacketWriter(limits.remote_port, limits.local_port, tag).write([body]))
        now += 0.01
        deadline = association.next_deadline()
        if deadline is not None and deadline <= now:
            association.handle_timeout(now)
        answers = 0
        while packets := association.datagrams(now):
            answers += len(packets)
            assert answers <= MAX_ANSWERS
            assert all(HEADER_SIZE < len(packet) <= limits.packet_size_ceiling for packet in packets)
            assert all(HEADER.unpack_from(packet)[:2] == (limits.local_port, limits.remote_port) for packet in packets)
        replay.drain()
        receiver = association._receiver
        if receiver is not None:
            held = receiver.reassembly.held + receiver.reassembly.unconsumed
            assert held <= 3 * limits.receive_window + limits.max_message
    return replay


def main() -> None:
    import atheris  # type: ignore[import-not-found,unused-ignore] # of the extra "fuzz"

    known = recordings()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(known)):
            (Path(folder) / f"{number:04}").write_bytes(seed)
        atheris.instrument_all()
        atheris.Setup([*sys.argv, "-max_len=8192", folder], lambda data: feed(known, data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
