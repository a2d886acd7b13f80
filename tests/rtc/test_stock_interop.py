"""Our peer with a stock aiortc connection, in both roles."""

from __future__ import annotations

import asyncio

import pytest

from tests.rtc.peers import RecordingChannel
from tests.rtc.stock import MixedPair, stock_on_loopback

pytestmark = pytest.mark.usefixtures("stock_on_loopback")
__all__ = ["stock_on_loopback"]

SIZES = [0, 1, 1159, 1160, 1161, 16384, 65535, 65536]


@pytest.mark.both_loops
@pytest.mark.parametrize("stock_calls", [True, False])
async def test_messages_of_all_sizes_go_both_ways(stock_calls: bool) -> None:
    async with MixedPair(stock_calls=stock_calls) as pair:
        ours = RecordingChannel(pair.ours.peer.open_channel("from us", "tcp.v1.mxrtc"))
        await ours.until_count(1)
        await pair.stock.until(lambda stock: any(c.label == "from us" for c in stock.channels))
        theirs = next(c for c in pair.stock.channels if c.label == "from us")
        assert theirs.protocol == "tcp.v1.mxrtc"
        for size in SIZES:
            ours.channel.send(b"x" * size)
            ours.channel.send("y" * size)
        await pair.stock.until(lambda stock: len(stock.messages) == 2 * len(SIZES))
        assert pair.stock.messages == [kind * size for size in SIZES for kind in (b"x", "y")]
        for size in SIZES:
            theirs.send(b"z" * size)
        await ours.until_count(1 + len(SIZES))
        assert ours.events[1:] == [b"z" * size for size in SIZES]


async def test_channel_of_the_other_side_is_offered() -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        assert (offered.channel.label, offered.channel.protocol) == ("first", "raw.mxrtc")
        offered.channel.send("welcome")
        await pair.stock.until(lambda stock: stock.messages == ["welcome"])


@pytest.mark.parametrize("stock_closes", [True, False])
async def test_close_flushes_and_reaches_the_other_side(stock_closes: bool) -> None:
    async with MixedPair(stock_calls=True) as pair:
        ours = await pair.ours.offered_channel()
        theirs = pair.first
        assert theirs is not None
        await pair.stock.until(lambda _: theirs.readyState == "open")
        for _ in range(60):
            if stock_closes:
                theirs.send(b"d" * 16384)
            else:
                ours.channel.send(b"d" * 16384)
        if stock_closes:
            theirs.close()
            await ours.until_closed()
            assert ours.received_bytes == 60 * 16384
        else:
            ours.channel.close()
            await pair.stock.until(lambda _: theirs.readyState == "closed")
            assert sum(map(len, pair.stock.messages)) == 60 * 16384
            await ours.until_closed()


@pytest.mark.parametrize("options", [{"ordered": False}, {"maxRetransmits": 0}, {"maxPacketLifeTime": 50}])
async def test_channel_that_may_lose_or_reorder_is_refused(options: dict[str, object]) -> None:
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        unreliable = pair.stock.open("udp", **options)
        await pair.stock.until(lambda _: unreliable.readyState == "closed")
        assert len(pair.ours.offered) == 1
        assert pair.ours.lost == []


async def test_channels_beyond_the_limit_are_refused_and_the_others_live() -> None:
    async with MixedPair(stock_calls=True, max_channels=3) as pair:
        await pair.ours.offered_channel()
        more = [pair.stock.open(f"c{number}") for number in range(3)]
        await pair.stock.until(lambda _: more[2].readyState == "closed")
        assert [c.channel.label for c in pair.ours.offered] == ["first", "c0", "c1"]
        pair.ours.offered[2].channel.send("still here")
        await pair.stock.until(lambda stock: stock.messages == ["still here"])


async def test_channels_opened_too_fast_are_refused_one_by_one() -> None:
    async with MixedPair(stock_calls=True, max_channels=4, opens_per_second=1) as pair:
        await pair.ours.offered_channel()
        for number in range(3):
            channel = pair.stock.open(f"short{number}")
            await pair.ours.offered_channel(number + 1)
            channel.close()
            await pair.stock.until(lambda _, channel=channel: channel.readyState == "closed")
        refused = pair.stock.open("one too many")
        await pair.stock.until(lambda _: refused.readyState == "closed")
        assert len(pair.ours.offered) == 4
        assert pair.ours.lost == []


async def test_end_of_the_other_side_is_noticed_at_once() -> None:
    async with MixedPair(stock_calls=False) as pair:
        await pair.stock.connection.close()
        assert await pair.ours.until_lost(2.0) == "the other side ended the association"


async def test_silence_of_the_other_side_ends_the_connection_in_bounded_time() -> None:
    async with MixedPair(stock_calls=False, consent_interval_s=0.1, consent_expiry_s=0.6) as pair:
        ours = RecordingChannel(pair.ours.peer.open_channel("x", ""))
        await ours.until_count(1)
        silent = pair.stock.connection.sctp.transport.transport._connection
        silent._query_consent_task.cancel()
        for protocol in silent._protocols:
            protocol.transport.close()  # as after kill -9: nobody says goodbye
        async with asyncio.timeout(3.0):
            assert await pair.ours.until_lost() == "the other side is gone: consent to send expired"
        await ours.until_closed()
        assert len(pair.ours.lost) == 1


async def test_answers_later_than_the_interval_keep_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with a second of delay, or one that our own data fills, is slow and not dead."""
    async with MixedPair(stock_calls=False, consent_interval_s=0.1, consent_expiry_s=1.2) as pair:
        ice = pair.ours.peer._ice
        # Only late answers may keep it alive: no data flows, and the other side's own questions do not count here.
        monkeypatch.setattr(ice, "check_incoming", lambda *args: None)
        loop = asyncio.get_running_loop()
        for protocol in ice._protocols:
            receive = protocol.datagram_received
            monkeypatch.setattr(
                protocol,
                "datagram_received",
                lambda data, addr, receive=receive: loop.call_later(0.7, receive, data, addr) and None,
            )
        await asyncio.sleep(2.0)  # longer than the expiry: time itself is what is tested
        assert pair.ours.lost == []
