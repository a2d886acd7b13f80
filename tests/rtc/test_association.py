"""An association does not work for long without letting others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest_asyncio

from mxrtc_bridge.engine.ports import Channel
from mxrtc_bridge.rtc.association import TELL_FOR_S, PeerAssociation
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.settings import RtcSettings
from tests.rtc.peers import RecordingChannel

MESSAGES = 400
CHUNK = 24
"""Bytes of an I-DATA chunk with one of them (RFC 8260 section 2.1): with fewer the last would come later, by itself."""
LISTENING_S = 0.001


class Wire:
    """A transport without a network; what it carries can be held back and then arrives together."""

    def __init__(self) -> None:
        self.other: Wire
        self.held: list[bytes] | None = None
        self.receive: Callable[[list[bytes]], None]
        self._waiting: list[bytes] = []
        self._attached = False

    first_wait_s = timeout_s = 1.0

    def packet_sizes(self) -> tuple[int, int, int]:
        return 1172, 1172, 1172

    def attach(self, receive: Callable[[list[bytes]], None]) -> None:
        self.receive, self._attached = receive, True
        self.arrive(self._waiting)

    def send_packets(self, packets: list[bytes]) -> None:
        if self.held is None:
            asyncio.get_running_loop().call_soon(self.other.arrive, packets)
        else:
            self.held += packets

    def arrive(self, packets: list[bytes]) -> None:
        if not self._attached:
            self._waiting += packets
        elif packets:
            self.receive(packets)


class Listener:
    """Takes what is offered."""

    def __init__(self) -> None:
        self.offered: list[Channel] = []
        self.changed = asyncio.Event()
        self.lost: list[str] = []

    def channel_offered(self, channel: Channel) -> None:
        self.offered.append(channel)
        self.changed.set()

    def send_space(self) -> None: ...

    def connection_lost(self, reason: str) -> None:
        self.lost.append(reason)


async def joined(clock: Callable[[], float]) -> tuple[PeerAssociation, PeerAssociation, Wire, Listener]:
    one, other = Wire(), Wire()
    one.other, other.other = other, one
    listener = Listener()
    sender = PeerAssociation(cast(DtlsTransport, one), RtcSettings(), Listener())
    receiver = PeerAssociation(cast(DtlsTransport, other), RtcSettings(), listener, clock=clock)
    async with asyncio.TaskGroup() as group:
        for each, client in ((sender, True), (receiver, False)):
            group.create_task(each.establish(dtls_client=client, port=5000, max_message_size=0, timeout_s=10))
    return sender, receiver, one, listener


class SlowChannel(RecordingChannel):
    """Each message takes a millisecond of a clock that stands still otherwise."""

    now = 100.0
    turns = 0

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.in_turn: list[int] = []

    def binary_received(self, data: bytes) -> None:
        type(self).now += LISTENING_S
        self.in_turn.append(self.turns)
        super().binary_received(data)


class Arrival:
    """Many messages that arrive together, for a slow listener, while the turns of the loop are counted."""

    def __init__(
        self, sender: PeerAssociation, receiver: PeerAssociation, listener: Listener, slow: SlowChannel
    ) -> None:
        self.sender, self.receiver, self.listener, self.slow = sender, receiver, listener, slow

    def is_whole(self) -> bool:
        return [each for each in self.slow.events if isinstance(each, bytes)] == [
            number.to_bytes(2, "big") for number in range(MESSAGES)
        ]

    def most_in_turn(self) -> int:
        return max(self.slow.in_turn.count(each) for each in set(self.slow.in_turn))


@pytest_asyncio.fixture
async def arrival() -> AsyncIterator[Arrival]:
    sender, receiver, wire, listener = await joined(lambda: SlowChannel.now)
    channel = sender.open_channel("label", "protocol")
    await asyncio.wait_for(listener.changed.wait(), 10)
    slow = SlowChannel(listener.offered[0])
    wire.held = []
    for number in range(MESSAGES):
        channel.send(number.to_bytes(2, "big"))
    loop = asyncio.get_running_loop()
    # All of it is in a packet or two.
    async with asyncio.timeout(10):
        while len(b"".join(wire.held)) < MESSAGES * CHUNK:
            await asyncio.sleep(0)

    def turn() -> None:
        slow.turns += 1
        loop.call_soon(turn)

    turn()
    wire.other.arrive(wire.held)
    wire.held = None
    yield Arrival(sender, receiver, listener, slow)
    await sender.stop()
    await receiver.stop()


async def test_what_arrived_together_is_told_in_many_turns(arrival: Arrival) -> None:
    await arrival.slow.until(lambda self: self.received_bytes == 2 * MESSAGES)
    assert arrival.is_whole()
    # Twice in a turn, before and after it sends; the last one of each may go over it. A timer may be due as well.
    assert arrival.most_in_turn() <= 4 * (int(TELL_FOR_S / LISTENING_S) + 2)


async def test_what_arrived_before_the_transport_ended_is_told_in_turns_and_then_the_end(arrival: Arrival) -> None:
    """The other side has sent its last and closed; what it knows to have arrived must not be lost by that."""
    assert not arrival.is_whole()
    arrival.receiver.abort("gone")
    arrival.listener.offered[0].send(b"late")
    await arrival.slow.until_closed()
    assert arrival.is_whole()
    assert arrival.listener.lost == ["gone"]
    assert arrival.most_in_turn() <= 4 * (int(TELL_FOR_S / LISTENING_S) + 2)
