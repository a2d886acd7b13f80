"""An association does not work for long without letting others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from mxrtc_bridge.engine.ports import Channel
from mxrtc_bridge.rtc.association import TELL_FOR_S, PeerAssociation
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.settings import RtcSettings
from tests.rtc.peers import RecordingChannel

MESSAGES = 400
LISTENING_S = 0.001


class Wire:
    """A transport without a network; what it carries can be held back and then arrives together."""

    def __init__(self) -> None:
        self.other: Wire
        self.held: list[bytes] | None = None
        self.receive: Callable[[list[bytes]], None]
        self._waiting: list[bytes] = []
        self._attached = False

    def packet_sizes(self) -> tuple[int, int]:
        return 1172, 1172

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

    def channel_offered(self, channel: Channel) -> None:
        self.offered.append(channel)
        self.changed.set()

    def send_space(self) -> None: ...

    def connection_lost(self, reason: str) -> None: ...


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


async def test_what_arrived_together_is_told_in_many_turns() -> None:
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
        while len(b"".join(wire.held)) < MESSAGES * 20:
            await asyncio.sleep(0)

    def turn() -> None:
        slow.turns += 1
        loop.call_soon(turn)

    turn()
    wire.other.arrive(wire.held)
    wire.held = None
    await slow.until(lambda self: self.received_bytes == 2 * MESSAGES)
    assert [each for each in slow.events if isinstance(each, bytes)] == [n.to_bytes(2, "big") for n in range(MESSAGES)]
    # Twice in a turn, before and after it sends; the last one of each may go over it. A timer may be due as well.
    most = 4 * (int(TELL_FOR_S / LISTENING_S) + 2)
    assert max(slow.in_turn.count(each) for each in set(slow.in_turn)) <= most
    await sender.stop()
    await receiver.stop()
