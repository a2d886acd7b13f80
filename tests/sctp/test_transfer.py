"""Everything arrives once and in order, whatever the path does to packets; the story of each seed is repeatable."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import ResetDone, StreamReset
from mxrtc_bridge.sctp.settings import KIB, SctpSettings
from tests.long import examples
from tests.sctp.draws import Draws
from tests.sctp.links import End, Path, World, established, pair
from tests.sctp.newreno import NewReno

SEEDS = int(os.environ.get("MXRTC_LONG", "0")) or examples(240)
SIZES = (1, 2, 3, 4, 100, 1140, 1144, 1145, 1148, 1152, 1156, 1157, 2300, 16 * KIB, 64 * KIB)


def random_path(rng: random.Random) -> Path:
    return Path(
        delay=rng.choice([0.0, 0.001, 0.01, 0.05, 0.2]),
        loss=rng.choice([0.0, 0.0, 0.001, 0.01, 0.05, 0.2]),
        burst=rng.choice([0.0, 0.0, 0.01]),
        reorder=rng.choice([0.0, 0.0, 0.01, 0.3]),
        hold=rng.choice([0.0005, 0.02, 0.1]),
        duplicate=rng.choice([0.0, 0.0, 0.02, 0.2]),
        rate=rng.choice([0.0, 200_000.0, 5_000_000.0]),
        queue=rng.choice([8_000, 60_000, 500_000]),
    )


def random_settings(rng: random.Random) -> SctpSettings:
    return SctpSettings(
        interleaving=rng.random() < 0.7,
        zero_checksum=rng.random() < 0.5,
        receive_window=rng.choice([200_000, 1 << 20]),
        packet_size_ceiling=rng.choice([1172, 1172, 1400]),
        max_retransmissions=30,
        max_init_retransmissions=30,
    )


class Traffic:
    """Queues messages on some streams of one end and checks what the other end receives."""

    def __init__(self, world: World, sender: End, receiver: End, rng: random.Random) -> None:
        self._world = world
        self._sender = sender
        self._expected: dict[int, list[tuple[int, bytes]]] = {}
        self._unordered: dict[int, list[tuple[int, bytes]]] = {}
        self.left = 0
        receiver.on_message = self._received
        streams = [(number, rng.random() < 0.75) for number in rng.sample(range(64), rng.randrange(1, 6))]
        budget = rng.choice([2_000, 60_000, 400_000])
        while budget > 0:
            number, ordered = rng.choice(streams)
            size = rng.choice(SIZES)
            budget -= size + 200
            data = rng.randbytes(4) * (size // 4 + 1)
            message = (rng.choice([50, 51, 53]), data[:size])
            sender.association.send(world.now, number, *message, ordered=ordered)
            (self._expected if ordered else self._unordered).setdefault(number, []).append(message)
            self.left += 1

    def _received(self, event: object) -> None:
        stream, ppid, data = event  # type: ignore[misc]
        if stream in self._expected:
            assert self._expected[stream].pop(0) == (ppid, data)
        else:
            self._unordered[stream].remove((ppid, data))
        self.left -= 1


def check_empty(end: End) -> None:
    """Nothing is left behind when all is done."""
    association = end.association
    flight = association._sender.flight
    assert association.buffered() == 0
    assert (flight.inflight, flight.unacked_payload, flight.pending_payload, len(flight.outstanding)) == (0, 0, 0, 0)
    assert not any(packet.pending for packet in flight.packets)
    receiver = association._receiver
    assert receiver is not None
    assert (receiver.reassembly.held, receiver.reassembly.fragments, receiver.reassembly.unconsumed) == (0, 0, 0)
    assert receiver.unread_messages == 0


@pytest.mark.parametrize("block", range(8))
def test_messages_arrive_once_and_in_order_on_any_path(block: int) -> None:
    """Loss, bursts, reordering, duplication and full queues change when messages arrive, and nothing else."""
    for seed in range(block, SEEDS, 8):
        rng = random.Random(seed)
        there, back = random_path(rng), random_path(rng)
        settings = random_settings(rng)
        other = replace(settings, interleaving=rng.random() < 0.7, receive_window=rng.choice([200_000, 1 << 20]))
        world = pair(seed, there, settings, other, control_for(seed))
        world.back.path = back
        try:
            established(world)
            traffics = [
                Traffic(world, world.left, world.right, rng),
                Traffic(world, world.right, world.left, rng),
            ]
            world.flush()
            assert world.run(900.0, lambda traffics=traffics: not any(traffic.left for traffic in traffics)), "stalled"
            world.left.association.close(world.now)
            assert world.run(300.0, world.all_ended)
            check_empty(world.left)
            check_empty(world.right)
        except BaseException as error:
            error.add_note(f"seed {seed}: {there} {back} {settings} {other}")
            raise


def control_for(seed: int) -> Callable[[SctpSettings], CongestionControl]:
    def make(settings: SctpSettings) -> CongestionControl:
        return Bbr(settings.packet_size - 12, Draws(seed).fraction) if seed % 3 else NewReno(settings.packet_size - 12)

    return make


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_reset_comes_after_all_messages_and_the_number_can_be_used_again(interleaving: bool, loss: float) -> None:
    """A stream that is reset delivers everything first, and begins again with its first message."""
    settings = SctpSettings(interleaving=interleaving, max_retransmissions=30, max_init_retransmissions=30)
    for seed in range(10):
        world = established(pair(seed, Path(loss=loss), settings))
        left, right = world.left, world.right
        for turn in range(3):
            for number in range(5):
                left.association.send(world.now, 7, 53, bytes([turn, number]) * 3000)
            left.association.reset(7)
            world.flush()
            count = turn + 1
            assert world.run(300.0, lambda: len(left.of(ResetDone)) == count), f"seed {seed}"  # noqa: B023
            kinds = [event for event in right.events if not hasattr(event, "accepted")][-6:]
            assert [type(event).__name__ for event in kinds] == ["MessageReceived"] * 5 + ["StreamReset"]
            assert [event.data[:2] for event in right.messages[-5:]] == [bytes([turn, n]) for n in range(5)]
        assert left.of(ResetDone) == [ResetDone(7, accepted=True)] * 3
        assert right.of(StreamReset) == [StreamReset(7)] * 3


def test_everything_goes_on_soon_after_an_outage() -> None:
    """What was said and reset while the path was cut is repeated often enough."""
    settings = SctpSettings(backoff_max=2.0, max_retransmissions=30)
    world = established(pair(3, settings=settings))
    world.left.association.send(world.now, 7, 53, b"before")
    world.flush()
    assert world.run(5, lambda: len(world.right.messages) == 1)
    world.tap = lambda end, packet: None
    world.left.association.reset(7)
    world.right.association.send(world.now, 8, 53, b"meanwhile")
    world.flush()
    world.run(25)
    world.tap = None
    assert world.run(2.1, lambda: bool(world.left.of(ResetDone)) and len(world.left.messages) == 1)
    assert world.left.ended is world.right.ended is None
