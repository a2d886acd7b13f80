"""A stock aiortc peer on loopback: the independent other side, and the hostile one."""

from __future__ import annotations

import asyncio
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from tests.rtc.peers import RecordingPeer, answer_of, make_peer, offer_of


@pytest.fixture
def stock_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock peers never use loopback by themselves."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


class StockPeer:
    """An ``RTCPeerConnection`` that records."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channels: list[RTCDataChannel] = []
        self.messages: list[Any] = []
        self._changed = asyncio.Event()
        self.connection.on("datachannel", self._offered)

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        channel = self.connection.createDataChannel(label, **options)
        self._watch(channel)
        return channel

    def _offered(self, channel: RTCDataChannel) -> None:
        self._watch(channel)

    def _watch(self, channel: RTCDataChannel) -> None:
        self.channels.append(channel)
        channel.on("message", self._received)
        channel.on("open", self._changed.set)
        channel.on("close", self._changed.set)
        self._changed.set()

    def _received(self, message: Any) -> None:
        self.messages.append(message)
        self._changed.set()

    async def until(self, condition: Any, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    @property
    def sctp(self) -> Any:
        return self.connection.sctp

    def hear_nothing(self) -> None:
        """Ignore every SCTP packet from now on."""

        async def ignore(data: bytes) -> None:
            """Do nothing."""

        self.sctp._handle_data = ignore

    async def send_packet(self, packet: bytes) -> None:
        """Send a raw SCTP packet inside DTLS, as only a hostile or broken peer does."""
        await self.sctp.transport._send_data(packet)


class MixedPair:
    """One of our peers and a stock one, joined; ``stock_calls`` says who offers."""

    def __init__(self, *, stock_calls: bool, **settings: Any) -> None:
        self.ours = RecordingPeer(make_peer(**settings))
        self.stock = StockPeer()
        self._stock_calls = stock_calls
        self.first: RTCDataChannel | None = None

    async def __aenter__(self) -> MixedPair:
        try:
            await (self._stock_offers() if self._stock_calls else self._we_offer())
        except BaseException:
            await self.close()
            raise
        return self

    async def _stock_offers(self) -> None:
        pc = self.stock.connection
        self.first = self.stock.open("first", protocol="raw.mxrtc")  # without a channel there is no data section
        await pc.setLocalDescription(await pc.createOffer())
        answer = await self.ours.peer.create_answer(offer_of(pc.localDescription.sdp))
        await pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
        await self.ours.peer.connect()
        await self.stock.until(lambda _: self.first is not None and self.first.readyState != "connecting")

    async def _we_offer(self) -> None:
        pc = self.stock.connection
        offer = await self.ours.peer.create_offer()
        await pc.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        self.ours.peer.apply_answer(answer_of(pc.localDescription.sdp))
        await self.ours.peer.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.ours.peer.close()
        await self.stock.connection.close()
