"""Our association and stock aiortc's understand each other, in both DTLS roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from mxrtc_bridge.sctp.channels import (
    ChannelClosed,
    ChannelClosing,
    ChannelEvent,
    ChannelMessage,
    ChannelOffered,
    DataChannels,
)
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.events import Ended, Established
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.links import association

SIZES = (0, 1, 3, 4, 1159, 1160, 1161, 16_384, 65_536, 262_144)


class FakeDtls:
    """What aiortc's SCTP needs of a DTLS transport: a role, and a way for packets."""

    state = "connected"

    def __init__(self, role: str, deliver: Callable[[bytes], None]) -> None:
        self._role = role
        self._deliver = deliver
        self.receiver: RTCSctpTransport | None = None

    def _register_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, data)


class Ours:
    """Drives our association on a real event loop."""

    def __init__(self, *, dtls_client: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.association = association(5, SctpSettings(max_remote_message=262_144))
        self.channels = DataChannels(self.association, dtls_client=dtls_client)
        self.events: list[ChannelEvent] = []
        self.echo = False
        self.dtls = FakeDtls("server" if dtls_client else "client", self.receive)
        self._to_them: asyncio.Queue[bytes] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self.feeder = asyncio.create_task(self._feed())

    @property
    def now(self) -> float:
        return self._loop.time()

    async def _feed(self) -> None:
        while True:
            packet = await self._to_them.get()
            if self.dtls.receiver is not None:
                await self.dtls.receiver._handle_data(packet)

    def receive(self, packet: bytes) -> None:
        self.association.receive(self.now, packet)
        self.flush()

    def flush(self) -> None:
        while (event := self.channels.poll_event()) is not None:
            if isinstance(event, ChannelMessage):
                self.channels.consumed(event.channel, event.size)
                if self.echo:
                    self.channels.send(self.now, event.channel, event.data)
            self.events.append(event)
        self._changed.set()
        while packets := self.association.datagrams(self.now):
            for packet in packets:
                self._to_them.put_nowait(packet)
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.association.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expired)

    def _expired(self) -> None:
        self.association.handle_timeout(self.now)
        self.flush()

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def stop(self) -> None:
        self.feeder.cancel()
        if self._timer is not None:
            self._timer.cancel()


@asynccontextmanager
async def connected(*, dtls_client: bool) -> AsyncIterator[tuple[Ours, RTCSctpTransport]]:
    ours = Ours(dtls_client=dtls_client)
    theirs = RTCSctpTransport(ours.dtls)  # type: ignore[arg-type]
    await theirs.start(RTCSctpCapabilities(maxMessageSize=262_144), 5000)
    ours.association.start(ours.now)
    ours.flush()
    await ours.until(lambda: bool(ours.of(Established)))
    try:
        yield ours, theirs
    finally:
        await theirs.stop()
        ours.stop()


@pytest.mark.parametrize("dtls_client", [True, False])
async def test_messages_of_every_size_and_kind_come_back_when_aiortc_echoes(dtls_client: bool) -> None:
    async with connected(dtls_client=dtls_client) as (ours, theirs):
        labels = []

        @theirs.on("datachannel")
        def offered(channel: RTCDataChannel) -> None:
            labels.append((channel.label, channel.protocol, channel.id))
            channel.on("message", channel.send)

        number = ours.channels.open(ours.now, OpenMessage("echo", "tcp"))
        messages: list[str | bytes] = []
        for size in SIZES:
            messages += [bytes(size), "x" * size]
        for message in messages:
            ours.channels.send(ours.now, number, message)
        ours.flush()
        await ours.until(lambda: len(ours.of(ChannelMessage)) == len(messages))
        assert [event.data for event in ours.of(ChannelMessage)] == messages
        assert labels == [("echo", "tcp", number)]
        assert number % 2 == (0 if dtls_client else 1)
        assert not ours.of(Ended)


@pytest.mark.parametrize("dtls_client", [True, False])
async def test_messages_of_every_size_and_kind_come_back_when_we_echo(dtls_client: bool) -> None:
    async with connected(dtls_client=dtls_client) as (ours, theirs):
        ours.echo = True
        got: list[str | bytes] = []
        channel = RTCDataChannel(theirs, RTCDataChannelParameters(label="back", protocol="p"))
        channel.on("message", got.append)
        opened = asyncio.Event()
        channel.on("open", opened.set)
        await asyncio.wait_for(opened.wait(), 10)
        messages: list[str | bytes] = []
        for size in SIZES:
            messages += [bytes(size), "y" * size]
        for message in messages:
            channel.send(message)
        await ours.until(lambda: len(ours.of(ChannelMessage)) == len(messages))
        async with asyncio.timeout(20):
            while len(got) < len(messages):
                await asyncio.sleep(0.01)
        assert got == messages
        assert [event.opened.label for event in ours.of(ChannelOffered)] == ["back"]


@pytest.mark.parametrize("dtls_client", [True, False])
async def test_channels_close_in_both_directions_when_either_side_closes(dtls_client: bool) -> None:
    """What was queued before the close still arrives, and the numbers are free afterwards."""
    async with connected(dtls_client=dtls_client) as (ours, theirs):
        received: list[int] = []
        closed: list[str] = []
        channels: dict[str, RTCDataChannel] = {}

        @theirs.on("datachannel")
        def offered(channel: RTCDataChannel) -> None:
            channels[channel.label] = channel
            channel.on("message", lambda message: received.append(len(message)))
            channel.on("close", lambda: closed.append(channel.label))

        numbers = [ours.channels.open(ours.now, OpenMessage(f"c{index}", "")) for index in range(200)]
        for number in numbers:
            ours.channels.send(ours.now, number, bytes(2000))
        for number in numbers[:100]:
            ours.channels.close(number)
        ours.flush()
        await ours.until(lambda: len(ours.of(ChannelClosed)) == 100)
        async with asyncio.timeout(20):
            while len(received) < 200:
                await asyncio.sleep(0.01)
        for number in range(100, 200):
            channels[f"c{number}"].close()
        await ours.until(lambda: len(ours.of(ChannelClosed)) == 200)
        assert len(ours.of(ChannelClosing)) == 100
        assert len(ours.channels) == 0
        async with asyncio.timeout(20):
            while len(closed) < 200:
                await asyncio.sleep(0.01)
        assert received == [2000] * 200
        again = ours.channels.open(ours.now, OpenMessage("again", ""))
        assert again not in numbers
        ours.channels.send(ours.now, again, b"once more")
        ours.flush()
        async with asyncio.timeout(20):
            while received[-1] != 9:
                await asyncio.sleep(0.01)


async def test_partial_reliability_and_unordered_channels_carry_everything_without_loss() -> None:
    async with connected(dtls_client=True) as (ours, theirs):
        got: list[bytes] = []
        kinds: list[tuple[bool, int | None, int | None]] = []

        @theirs.on("datachannel")
        def offered(channel: RTCDataChannel) -> None:
            kinds.append((channel.ordered, channel.maxPacketLifeTime, channel.maxRetransmits))
            channel.on("message", got.append)

        first = ours.channels.open(ours.now, OpenMessage("a", "", ordered=False, max_retransmissions=0))
        second = ours.channels.open(ours.now, OpenMessage("b", "", lifetime=0.5))
        for index in range(50):
            ours.channels.send(ours.now, first if index % 2 else second, bytes([index]) * 5000)
        ours.flush()
        async with asyncio.timeout(20):
            while len(got) < 50:
                await asyncio.sleep(0.01)
        assert sorted(got) == [bytes([index]) * 5000 for index in range(50)]
        assert kinds == [(False, None, 0), (True, 500, None)]


async def test_graceful_close_is_understood() -> None:
    async with connected(dtls_client=True) as (ours, _):
        ours.association.close(ours.now)
        ours.flush()
        await ours.until(lambda: bool(ours.of(Ended)))
        assert ours.of(Ended)[0].code == "closed"


async def test_abort_of_the_other_side_ends_the_association_and_its_channels() -> None:
    async with connected(dtls_client=False) as (ours, theirs):
        number = ours.channels.open(ours.now, OpenMessage("x", ""))
        ours.flush()
        await theirs.stop()
        await ours.until(lambda: bool(ours.of(Ended)))
        assert ours.of(Ended)[0].code == "aborted"
        assert ours.of(ChannelClosed) == [ChannelClosed(number)]
