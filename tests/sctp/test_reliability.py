"""Messages that may be given up: either they arrive whole, or not at all, and what follows them always does."""

from __future__ import annotations

import random

import pytest

from mxrtc_bridge.sctp.settings import SctpSettings
from tests.long import size
from tests.sctp.links import Path, established, pair
from tests.sctp.test_transfer import check_empty


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("limit", ["retransmissions", "lifetime"])
def test_given_up_messages_do_not_hold_up_others(interleaving: bool, ordered: bool, limit: str) -> None:
    """Under heavy loss a part is lost; the rest is whole and in order, and nothing is left behind on either side."""
    settings = SctpSettings(interleaving=interleaving, max_retransmissions=60, max_init_retransmissions=60)
    lost = 0
    for seed in range(size(15, 4)):
        rng = random.Random(seed)
        world = established(pair(seed, Path(loss=0.3, reorder=0.1, hold=0.05), settings))
        left = world.left.association
        sent = []
        for number in range(60):
            data = number.to_bytes(2, "big") * rng.choice([1, 400, 3000])
            sent.append(data)
            if limit == "lifetime":
                left.send(world.now, number % 2, 53, data, ordered=ordered, lifetime=0.05)
            else:
                left.send(world.now, number % 2, 53, data, ordered=ordered, max_retransmissions=0)
            world.flush()
            world.run(0.03)
        for stream in (0, 1, 2):
            left.send(world.now, stream, 53, b"end%d" % stream)
        world.flush()
        finished = {b"end0", b"end1", b"end2"}
        assert world.run(300, lambda: finished <= {event.data for event in world.right.messages}), f"seed {seed}"  # noqa: B023
        world.run(30)
        got = [event.data for event in world.right.messages if event.data not in finished]
        assert len(set(got)) == len(got)
        assert set(got) <= set(sent)
        if ordered:
            for stream in (0, 1):
                numbers = [int.from_bytes(data[:2], "big") for data in got]
                own = [number for number in numbers if number % 2 == stream]
                assert own == sorted(own)
        lost += 60 - len(got)
        check_empty(world.left)
        check_empty(world.right)
    assert lost > 20


def test_messages_are_reliable_when_the_other_side_cannot_skip() -> None:
    world = established(pair(1, Path(loss=0.3), SctpSettings(max_init_retransmissions=30)))
    world.left.association._sender.abandonment.allowed = False
    for number in range(20):
        world.left.association.send(world.now, 0, 53, bytes([number]) * 2000, max_retransmissions=0)
    world.flush()
    assert world.run(100, lambda: len(world.right.messages) == 20)
