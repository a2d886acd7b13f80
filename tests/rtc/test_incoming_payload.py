"""Payload is taken from checked addresses alone, waits within bounds, and comes in the order of its arrival."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.rtc.datagrams import Address, Drops
from mxrtc_bridge.rtc.incoming_payload import (
    EARLY_QUEUE,
    MAX_CHECKED_ADDRESSES,
    MAX_HELD_DATAGRAMS,
    RELAYED_QUEUE,
    IncomingPayload,
)

FRIEND, OTHER, STRANGER = ("192.0.2.1", 1), ("192.0.2.2", 2), ("203.0.113.9", 9)


class Sink:
    """Notes each run, and None for the end of a batch."""

    def __init__(self) -> None:
        self.got: list[bytes | None] = []

    def run_received(self, data: bytes, size: int) -> None:
        self.got += [data[start : start + size] for start in range(0, len(data), size)]

    def runs_ended(self) -> None:
        self.got.append(None)


class World:
    def __init__(self, *being_checked: Address) -> None:
        self.queue: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self.drops = Drops()
        self.payload = IncomingPayload(self.queue, self.drops, lambda address: address in being_checked)

    def queued(self) -> list[bytes | None]:
        return [item and item[0] for item in (self.queue.get_nowait() for _ in range(self.queue.qsize()))]


async def test_what_a_stranger_sends_is_dropped_before_and_after_a_sink_is_there() -> None:
    world, sink = World(), Sink()
    world.payload.trust(FRIEND)
    world.payload.run_received(b"aabb", 2, STRANGER)
    world.payload.attach(sink)
    world.payload.run_received(b"aabb", 2, STRANGER)
    world.payload.one_received(b"c", STRANGER)
    assert (world.queued(), sink.got, world.drops.stranger) == ([], [None], 5)


async def test_what_comes_before_its_check_ends_waits_for_that_and_for_no_other() -> None:
    world = World(OTHER)
    world.payload.expect(FRIEND)
    world.payload.run_received(b"aab", 2, FRIEND)
    world.payload.one_received(b"c", OTHER)
    assert (world.payload.held, world.queued()) == (3, [])
    world.payload.trust(FRIEND)
    assert (world.payload.held, world.queued()) == (1, [b"aa", b"b"])
    world.payload.trust(OTHER)
    assert (world.payload.held, world.queued(), world.drops.total()) == (0, [b"c"], 0)


async def test_of_what_waits_for_a_check_the_newest_is_kept() -> None:
    world = World()
    world.payload.expect(FRIEND)
    sent = [number.to_bytes(2, "big") for number in range(MAX_HELD_DATAGRAMS + 5)]
    world.payload.run_received(b"".join(sent), 2, FRIEND)
    world.payload.trust(FRIEND)
    assert world.queued() == sent[5:]


async def test_what_a_handshake_has_not_read_is_bounded() -> None:
    world = World()
    world.payload.trust(FRIEND)
    for _ in range(EARLY_QUEUE + 3):
        world.payload.one_received(b"x", FRIEND)
    assert (len(world.queued()), world.drops.overflow) == (EARLY_QUEUE, 3)


async def test_a_sink_gets_what_was_queued_first_and_the_end_stays_known() -> None:
    world, sink = World(), Sink()
    world.payload.trust(FRIEND)
    world.payload.expect(OTHER)
    world.payload.run_received(b"ab", 1, FRIEND)
    world.payload.run_received(b"held", 4, OTHER)
    world.queue.put_nowait(None)
    world.payload.attach(sink)
    world.payload.run_received(b"ccd", 2, FRIEND)
    world.payload.runs_ended()
    assert sink.got == [b"a", b"b", None, b"cc", b"d", None]
    assert (world.payload.held, world.queued()) == (0, [None])


async def test_relayed_datagrams_of_one_turn_are_one_batch_within_a_bound() -> None:
    world, sink = World(), Sink()
    world.payload.trust(FRIEND)
    world.payload.attach(sink)
    for _ in range(RELAYED_QUEUE + 2):
        world.payload.one_received(b"x", FRIEND)
    assert sink.got == [None]
    await asyncio.sleep(0)
    assert sink.got == [None, *[b"x"] * RELAYED_QUEUE, None]
    assert world.drops.overflow == 2
    world.payload.one_received(b"y", FRIEND)
    world.payload.detach()
    await asyncio.sleep(0)
    assert b"y" not in sink.got


async def test_places_for_addresses_are_limited_and_who_has_one_keeps_it() -> None:
    world = World()
    for port in range(MAX_CHECKED_ADDRESSES):
        assert world.payload.may_trust(("192.0.2.1", port))
        world.payload.trust(("192.0.2.1", port))
    assert world.payload.may_trust(FRIEND)
    assert not world.payload.may_trust(OTHER)
