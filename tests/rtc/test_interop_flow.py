"""Other implementations as senders to an application of ours that stops reading, and reads again."""

from __future__ import annotations

import asyncio

import pytest

from tests.rtc.implementations import OtherPeer
from tests.rtc.interop_fixtures import node, other, start
from tests.rtc.peers import RecordingChannel, RecordingPeer, make_peer, unconsumed

__all__ = ["node", "other", "start"]

KIB = 1024
WINDOW = 1024 * KIB
TOTAL = 6 * WINDOW
MESSAGE = 16 * KIB
"""What is incomplete counts apart from the window."""
PROBES = 2
PROBE_PAUSE_S = 0.1
"""Packets after such a pause come from the timer of the sender."""
PROMPT_S = 0.3
"""Shorter than the pause before the next probe of any of them: going on must not wait for one."""
ROUNDS = 4
"""A busy machine may be late in some of them; who waits for a probe is late in all."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.parametrize("implementation", ["chromium", "libwebrtc", "firefox", "libdatachannel", "pion"]),
    pytest.mark.parametrize("it_offers", [True, False], ids=["it offers", "we offer"]),
]


class Arrivals:
    """Sees each batch of packets that reaches a peer, and the bytes it holds after it."""

    def __init__(self, ours: RecordingPeer) -> None:
        self._peer = ours.peer
        self.most_held = 0
        self._changed = asyncio.Event()
        ours.peer._dtls.attach(self._received)

    def _received(self, packets: list[bytes]) -> None:
        self._peer._association.packets_received(packets)
        if self._peer._association._machine is not None:
            self.most_held = max(self.most_held, unconsumed(self._peer))
        self._changed.set()

    async def window_closed(self) -> None:
        """Return when the window is full and the sender has probed it several times in vain."""
        loop = asyncio.get_running_loop()
        probes, held, last = 0, -1, loop.time()
        async with asyncio.timeout(30):
            while probes < PROBES:
                self._changed.clear()
                await self._changed.wait()
                now, before = loop.time(), held
                held = unconsumed(self._peer)
                if held != before or held <= WINDOW - 64 * KIB:
                    probes = 0
                elif now - last > PROBE_PAUSE_S:
                    probes += 1
                last = now


async def test_sender_waits_for_a_reader_that_stopped_and_goes_on_at_once(other: OtherPeer, it_offers: bool) -> None:
    ours = RecordingPeer(make_peer(receive_window=WINDOW), consume=False)
    try:
        if it_offers:
            await other.call(ours)
            channel = await ours.offered_channel()
        else:
            await other.be_called(ours)
            channel = RecordingChannel(ours.peer.open_channel("first", ""), consume=False)
        await other.until("open", label="first")
        arrivals = Arrivals(ours)
        other.tell(kind="flood", label="first", total=TOTAL, size=MESSAGE)
        took = []
        while len(took) < 2 or (min(took) >= PROMPT_S and len(took) < ROUNDS):
            await arrivals.window_closed()
            assert WINDOW - 64 * KIB < arrivals.most_held <= WINDOW + 2 * MESSAGE
            before = channel.received_bytes
            assert before < TOTAL
            began = asyncio.get_running_loop().time()
            consume_all(channel)
            await channel.until(lambda channel, before=before: channel.received_bytes >= before + WINDOW // 2, 10.0)
            took.append(asyncio.get_running_loop().time() - began)
        assert min(took) < PROMPT_S, took
        channel.consume = True
        consume_all(channel)
        await channel.until(lambda channel: channel.received_bytes == TOTAL, 20.0)
        await other.until("flooded", label="first")
        assert ours.lost == []
    finally:
        await ours.peer.close()


def consume_all(channel: RecordingChannel) -> None:
    """Give back what the channel holds: the application has read it."""
    for event in channel.events:
        if isinstance(event, bytes):
            channel.channel.consumed(len(event))
    channel.events.clear()
