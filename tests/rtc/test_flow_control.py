"""Both directions of flow control: the send mark, the receive window, and what memory they cost."""

from __future__ import annotations

import asyncio
import random

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.rtc.ice import IceConnection
from tests.rtc.peers import Pair, RecordingChannel, make_peer, unconsumed
from tests.rtc.stock import MixedPair, stock_on_loopback
from tests.waiting import until

__all__ = ["stock_on_loopback"]

KIB = 1024
MIB = 1024 * KIB


async def pump(pair: Pair, channel: RecordingChannel, total: int) -> int:
    """Send ``total`` bytes as the engine does: while there is space. Return the largest queue seen."""
    peer = pair.caller.peer
    sent = largest = 0
    while sent < total:
        while peer.can_send() and sent < total:
            channel.channel.send(bytes(16 * KIB))
            sent += 16 * KIB
        largest = max(largest, peer._association._queued())
        spaces = pair.caller.spaces
        if sent < total:
            await pair.caller.until(lambda recorder, spaces=spaces: recorder.spaces > spaces)
    return largest


@pytest.mark.both_loops
async def test_send_queue_stays_at_its_mark_and_space_is_announced() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        theirs.events = []
        largest = await pump(pair, ours, 4 * MIB)
        assert largest < 256 * KIB + 16 * KIB
        await theirs.until(lambda channel: channel.received_bytes == 4 * MIB)
        assert pair.caller.spaces > 10


async def test_space_is_announced_once_for_each_time_the_mark_was_reached() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        assert pair.caller.peer.can_send()
        for size in (64, 64, 64, 63):
            ours.channel.send(bytes(size * KIB))
        assert pair.caller.peer.can_send()
        ours.channel.send(bytes(KIB))
        assert not pair.caller.peer.can_send()
        await theirs.until(lambda channel: channel.received_bytes == 256 * KIB)
        await until(lambda: pair.caller.spaces == 1)
        ours.channel.send(b"small")
        await theirs.until(lambda channel: channel.received_bytes == 256 * KIB + 5)
        assert pair.caller.spaces == 1


async def test_queue_without_end_ends_the_connection() -> None:
    async with Pair() as pair:
        ours, _ = await pair.open()
        for _ in range(8 * MIB // (64 * KIB) + 1):
            ours.channel.send(bytes(64 * KIB))
        assert await pair.caller.until_lost() == "the send queue overflowed"


async def test_sender_stops_when_nothing_is_consumed_and_goes_on_when_it_is() -> None:
    async with Pair(make_peer(), make_peer(receive_window=MIB), consume=False) as pair:
        ours, theirs = await pair.open()
        pumping = asyncio.create_task(pump(pair, ours, 4 * MIB))
        await theirs.until(lambda channel: channel.received_bytes > MIB - 64 * KIB)
        await asyncio.sleep(0.5)
        stalled = theirs.received_bytes
        # One window, what was in flight when it closed, and a few probes.
        assert stalled <= MIB + 32 * KIB
        assert not pumping.done()
        reported = 0
        while theirs.received_bytes < 4 * MIB:
            news = theirs.received_bytes - reported
            theirs.channel.consumed(news)
            reported += news
            if theirs.received_bytes - reported < 512 * KIB:
                await theirs.until(lambda channel, seen=reported: channel.received_bytes > seen)
        await pumping
        assert unconsumed(pair.callee.peer) <= MIB


async def test_window_of_one_stalled_channel_does_not_leak_when_it_is_closed() -> None:
    async with Pair(consume=False) as pair:
        ours, theirs = await pair.open()
        ours.channel.send(bytes(64 * KIB))
        await theirs.until(lambda channel: channel.received_bytes == 64 * KIB)
        assert unconsumed(pair.callee.peer) == 64 * KIB
        ours.channel.close()
        await theirs.until_closed()
        assert unconsumed(pair.callee.peer) == 0


async def test_consuming_more_than_was_received_opens_nothing() -> None:
    async with Pair(consume=False) as pair:
        ours, theirs = await pair.open()
        ours.channel.send(bytes(10))
        await theirs.until_count(2)
        theirs.channel.consumed(10**9)
        assert unconsumed(pair.callee.peer) == 0


async def test_text_holds_the_window_by_its_bytes_until_it_is_consumed() -> None:
    async with Pair(consume=False) as pair:
        ours, theirs = await pair.open()
        ours.channel.send("ü" * 100)
        ours.channel.send("")
        await theirs.until_count(3)
        assert unconsumed(pair.callee.peer) == 200
        theirs.channel.consumed(200)
        assert unconsumed(pair.callee.peer) == 0


@pytest.mark.usefixtures("stock_on_loopback")
async def test_sender_that_ignores_the_window_is_held_within_the_limits() -> None:
    """Stock aiortc never looks at the window: what it sends beyond is neither kept nor acknowledged."""
    async with MixedPair(stock_calls=True, receive_window=256 * KIB) as pair:
        pair.ours.consume = False
        offered = await pair.ours.offered_channel()
        offered.consume = False
        for _ in range(200):
            pair.stock.channels[0].send(bytes(16 * KIB))
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert offered.received_bytes <= 512 * KIB + 16 * KIB
        assert pair.ours.lost == []
        offered.consume = True
        offered.channel.consumed(offered.received_bytes)
        await offered.until(lambda channel: channel.received_bytes == 200 * 16 * KIB, 30.0)


async def test_smaller_limit_of_the_other_side_holds() -> None:
    async with Pair(make_peer(), make_peer(max_message=16 * KIB)) as pair:
        ours, theirs = await pair.open()
        with pytest.raises(StateError, match="16385 bytes is larger than the limit of 16384"):
            ours.channel.send(bytes(16 * KIB + 1))
        ours.channel.send(bytes(16 * KIB))
        await theirs.until(lambda channel: channel.received_bytes == 16 * KIB)


async def test_loss_and_reordering_do_not_break_the_stream() -> None:
    """The wire drops and swaps datagrams; every byte still arrives, in order."""
    chance = random.Random(3)
    async with Pair() as pair:
        ours, theirs = await pair.open()
        lost = [_make_lossy(peer._ice, chance) for peer in (pair.caller.peer, pair.callee.peer)]
        sent = [bytes([number % 251]) * chance.choice([1, 1160, 5000, 16384]) for number in range(150)]
        for message in sent:
            ours.channel.send(message)
        await theirs.until_count(1 + len(sent))
        assert theirs.events == ["opened", *sent]
        ours.channel.close()
        await theirs.until_closed()
        await ours.until_closed()
        assert lost[0][0] > 3


async def test_path_that_comes_back_after_an_outage_is_used_again() -> None:
    """Everything in flight is lost: only the retransmission timer can know, and it must not back off for ever."""
    async with Pair() as pair:
        ours, theirs = await pair.open()
        ice = pair.caller.peer._ice
        send = ice.send_run
        ice.send_run = lambda data, size: None  # type: ignore[method-assign]
        ours.channel.send(bytes(5000))
        ours.channel.send("after it")
        await asyncio.sleep(0.7)  # an outage takes its time
        ice.send_run = send  # type: ignore[method-assign]
        assert await theirs.until_count(3) == ["opened", bytes(5000), "after it"]


async def test_window_does_not_fill_a_deep_buffer() -> None:
    """A slow link with a buffer of megabytes and no loss: the queue in it must stay short, or keystrokes wait."""
    rate = 1.5 * MIB
    async with Pair() as pair:
        ours, theirs = await pair.open()
        theirs.events = []
        ice = pair.caller.peer._ice
        loop = asyncio.get_running_loop()
        send = ice.send_run
        free_at = 0.0

        def slow_link(data: bytes, size: int) -> None:
            nonlocal free_at
            for start in range(0, len(data), size):
                datagram = data[start : start + size]
                free_at = max(free_at, loop.time()) + len(datagram) / rate
                loop.call_at(free_at, send, datagram, len(datagram))

        ice.send_run = slow_link  # type: ignore[method-assign]
        await pump(pair, ours, 3 * MIB)
        queue_s = free_at - loop.time()
        assert queue_s < 0.25
        await theirs.until(lambda channel: channel.received_bytes == 3 * MIB)
        ice.send_run = send  # type: ignore[method-assign]


def _make_lossy(ice: IceConnection, chance: random.Random) -> list[int]:
    send = ice.send_run
    held: list[bytes] = []
    lost = [0]

    def lossy(data: bytes, size: int) -> None:
        for start in range(0, len(data), size):
            datagram = data[start : start + size]
            draw = chance.random()
            if draw < 0.02:
                lost[0] += 1
            elif draw < 0.06 and not held:
                held.append(datagram)
            else:
                send(datagram, len(datagram))
                while held:
                    late = held.pop()
                    send(late, len(late))

    ice.send_run = lossy  # type: ignore[method-assign]
    return lost


async def test_what_a_closed_channel_leaves_in_our_memory_holds_the_window_until_it_is_consumed() -> None:
    """Else whoever opens, fills and closes channels fills any memory, a window at a time."""
    async with Pair(consume=False) as pair:
        ours, theirs = await pair.open()

        def closed() -> None:
            theirs.channel.keep(theirs.received_bytes - 1000)
            RecordingChannel.channel_closed(theirs)

        theirs.channel_closed = closed  # type: ignore[method-assign]
        ours.channel.send(bytes(60_000))
        await theirs.until(lambda channel: channel.received_bytes == 60_000)
        ours.channel.close()
        await theirs.until_closed()
        assert unconsumed(pair.callee.peer) == 59_000
        theirs.channel.consumed(50_000)
        assert unconsumed(pair.callee.peer) == 9_000
        theirs.channel.consumed(50_000)
        assert unconsumed(pair.callee.peer) == 0
