"""One end of a bare data channel, as a process: what the transport alone can do, without pipes and Matrix.

``channel offer|answer [--interface NAME] [--stock]`` prints its description as one line of JSON and reads the other
side's from standard input. The answerer then prints ``received BYTES in SECONDS`` for each bulk transfer and echoes
messages of one byte; the offerer reads commands: ``bulk SECONDS``, ``ping COUNT``, ``both COUNT`` (pings beside bulk),
``cpu``, ``end``. ``--stock`` takes aiortc's own RTCPeerConnection instead of ours, as a yardstick.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from typing import Any, Protocol

import uvloop

MESSAGE = bytes(16 * 1024)
START, STOP = b"S" * 2, b"E" * 2
"""Two bytes begin and end a bulk transfer; one byte is echoed; everything else is bulk."""


class Ends(Protocol):
    """Both kinds of peer connection, as far as this program needs them."""

    async def describe(self, remote: str | None) -> str: ...

    async def connect(self, answer: str | None) -> None: ...

    def send(self, data: bytes) -> None: ...

    async def room(self) -> None: ...


class Ours:
    """Our peer connection."""

    def __init__(self, interface: str | None, received: Any) -> None:
        self._interface = interface
        self._received = received
        self._space = asyncio.Event()
        self._open = asyncio.Event()
        self._channels: list[Any] = []

    async def describe(self, remote: str | None) -> str:
        from mxrtc_bridge.core.ids import UserId
        from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
        from mxrtc_bridge.core.webrtc.sdp import DescriptionType, parse_description
        from mxrtc_bridge.rtc.certificates import NoCertificates
        from mxrtc_bridge.rtc.factory import PeerFactory
        from mxrtc_bridge.rtc.settings import RtcSettings

        async def no_servers(_user: UserId) -> tuple[()]:
            return ()

        interfaces = (self._interface,) if self._interface else ()
        factory = PeerFactory(RtcSettings(interfaces=interfaces), NoCertificates(), no_servers)
        self._policy = AddressPolicy(private=True, loopback=True)
        self._parse, self._type = parse_description, DescriptionType
        self._peer = await factory.create(UserId("@bench:example.org"))
        self._peer.set_listener(self)
        if remote is None:
            return await self._peer.create_offer()
        return await self._peer.create_answer(parse_description(remote, DescriptionType.OFFER, self._policy))

    async def connect(self, answer: str | None) -> None:
        if answer is not None:
            self._peer.apply_answer(self._parse(answer, self._type.ANSWER, self._policy))
            self.channel_offered(self._peer.open_channel("bench", "bench"))
            # Pings have a channel of their own, as an interactive stream beside a bulk one has.
            self.channel_offered(self._peer.open_channel("pings", "bench"))
        await self._peer.connect()
        await self._open.wait()

    def send(self, data: bytes) -> None:
        self._channels[1 if len(data) == 1 and len(self._channels) > 1 else 0].send(data)

    async def room(self) -> None:
        while not self._peer.can_send():
            self._space.clear()
            await self._space.wait()

    def channel_offered(self, channel: Any) -> None:
        self._channels.append(channel)
        channel.set_listener(_Listener(self, channel))
        if len(self._channels) == 2:
            self._open.set()

    def send_space(self) -> None:
        self._space.set()

    def connection_lost(self, reason: str) -> None:
        """The other end has been told to end as well; whoever measures notices when it was too early."""


class _Listener:
    def __init__(self, ends: Ours, channel: Any) -> None:
        self._ends = ends
        self._channel = channel

    def channel_opened(self) -> None: ...

    def text_received(self, text: str) -> None: ...

    def binary_received(self, data: bytes) -> None:
        self._channel.consumed(len(data))
        self._ends._received(data)

    def channel_closed(self) -> None: ...


class Stock:
    """aiortc's own peer connection."""

    def __init__(self, _interface: str | None, received: Any) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self._received = received
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._open = asyncio.Event()
        self._low = asyncio.Event()
        self._channels: list[Any] = []

    def _attach(self, channel: Any) -> None:
        self._channels.append(channel)
        channel.bufferedAmountLowThreshold = 64 * 1024
        channel.on("message", self._received)
        channel.on("bufferedamountlow", self._low.set)
        if channel.readyState == "open":
            self._opened()
        else:
            channel.on("open", self._opened)

    def _opened(self) -> None:
        if len(self._channels) == 2 and all(channel.readyState == "open" for channel in self._channels):
            self._open.set()

    async def describe(self, remote: str | None) -> str:
        from aiortc import RTCSessionDescription

        if remote is None:
            self._attach(self._connection.createDataChannel("bench"))
            self._attach(self._connection.createDataChannel("pings"))
            await self._connection.setLocalDescription(await self._connection.createOffer())
        else:
            self._connection.on("datachannel", self._attach)
            await self._connection.setRemoteDescription(RTCSessionDescription(remote, "offer"))
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        return self._connection.localDescription.sdp

    async def connect(self, answer: str | None) -> None:
        from aiortc import RTCSessionDescription

        if answer is not None:
            await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await self._open.wait()

    def send(self, data: bytes) -> None:
        self._channels[1 if len(data) == 1 else 0].send(data)

    async def room(self) -> None:
        while self._channels[0].bufferedAmount > 256 * 1024:
            self._low.clear()
            await self._low.wait()


class Program:
    """What both sides do with the channel."""

    def __init__(self) -> None:
        self.ends: Ends
        self._echo: asyncio.Event = asyncio.Event()
        self._offers = False
        self._sent = 0
        self._total = 0
        self._began = 0.0

    def received(self, data: bytes) -> None:
        if len(data) == 1:
            if self._offers:
                self._echo.set()
            else:
                self.ends.send(data)
        elif data == START:
            self._total, self._began = 0, time.perf_counter()
        elif data == STOP:
            print(f"received {self._total} in {time.perf_counter() - self._began:.3f}", flush=True)
        else:
            self._total += len(data)

    async def answer(self, lines: asyncio.StreamReader) -> None:
        print(json.dumps({"sdp": await self.ends.describe(json.loads(await lines.readline())["sdp"])}), flush=True)
        await self.ends.connect(None)
        while (command := (await lines.readline()).decode().split()) not in ([], ["end"]):
            if command == ["cpu"]:
                self._tell_cpu()

    async def offer(self, lines: asyncio.StreamReader) -> None:
        self._offers = True
        print(json.dumps({"sdp": await self.ends.describe(None)}), flush=True)
        await self.ends.connect(json.loads(await lines.readline())["sdp"])
        print("connected", flush=True)
        while (command := (await lines.readline()).decode().split()) not in ([], ["end"]):
            match command:
                case ["bulk", seconds]:
                    await self._bulk(float(seconds))
                case ["ping", count]:
                    await self._ping(int(count))
                case ["both", count]:
                    bulk = asyncio.create_task(self._bulk(3600.0))
                    await asyncio.sleep(1.0)
                    await self._ping(int(count))
                    bulk.cancel()
                    await asyncio.gather(bulk, return_exceptions=True)
                case ["cpu"]:
                    self._tell_cpu()

    async def _bulk(self, seconds: float) -> None:
        self.ends.send(START)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await self.ends.room()
            self.ends.send(MESSAGE)
            self._sent += len(MESSAGE)
        self.ends.send(STOP)
        print("sent", flush=True)

    async def _ping(self, count: int) -> None:
        times: list[float] = []
        sent, start = self._sent, time.perf_counter()
        for _ in range(count):
            self._echo.clear()
            began = time.perf_counter()
            self.ends.send(b"x")
            await self._echo.wait()
            times.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.003)
        bulk = (self._sent - sent) / (time.perf_counter() - start) / 1e6
        times.sort()
        median, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        print(f"ping median {median:.3f} p95 {p95:.3f} beside {bulk:.1f} MB/s", flush=True)

    def _tell_cpu(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(f"cpu {usage.ru_utime + usage.ru_stime:.3f} rss {usage.ru_maxrss}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["offer", "answer"])
    parser.add_argument("--interface")
    parser.add_argument("--stock", action="store_true")
    arguments = parser.parse_args()
    program = Program()
    program.ends = (Stock if arguments.stock else Ours)(arguments.interface, program.received)
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await (program.offer if arguments.role == "offer" else program.answer)(lines)


if __name__ == "__main__":
    uvloop.run(main())
