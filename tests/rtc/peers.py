"""Peers on loopback for the tests: recording listeners, and the two ways to join a pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.ice import Path
from mxrtc_bridge.core.webrtc.sdp import Description, DescriptionType, parse_description
from mxrtc_bridge.engine.ports import Channel
from mxrtc_bridge.rtc.aiortc_dtls import AiortcDtls
from mxrtc_bridge.rtc.certificates import DtlsCertificate, make_certificate
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from mxrtc_bridge.rtc.openssl_dtls import OpensslDtls
from mxrtc_bridge.rtc.peer import DataPeerConnection, MakeDtls
from mxrtc_bridge.rtc.settings import RtcSettings

LOOPBACK = RtcSettings(
    interfaces=("127.0.0.1",), gather_timeout_s=1.0, ice_timeout_s=8.0, dtls_timeout_s=8.0, sctp_timeout_s=5.0
)
ANYWHERE = AddressPolicy(private=True, loopback=True)


class RecordingChannel:
    """Listens to a channel; with ``consume`` it reports every payload as consumed at once."""

    def __init__(self, channel: Channel, *, consume: bool = True) -> None:
        self.channel = channel
        self.consume = consume
        self.events: list[object] = []
        self.received_bytes = 0
        self._changed = asyncio.Event()
        channel.set_listener(self)

    def channel_opened(self) -> None:
        self._note("opened")

    def text_received(self, text: str) -> None:
        self._note(text)
        if self.consume:
            self.channel.consumed(len(text.encode()))

    def binary_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._note(data)
        if self.consume:
            self.channel.consumed(len(data))

    def channel_closed(self) -> None:
        self._note("closed")

    def _note(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[RecordingChannel], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def until_count(self, count: int) -> list[object]:
        await self.until(lambda self: len(self.events) >= count)
        return self.events

    async def until_closed(self) -> None:
        await self.until(lambda self: "closed" in self.events)


class RecordingPeer:
    """Listens to a peer connection and attaches a recording listener to every offered channel."""

    def __init__(self, peer: DataPeerConnection, *, consume: bool = True) -> None:
        self.peer = peer
        self.consume = consume
        self.offered: list[RecordingChannel] = []
        self.lost: list[str] = []
        self.spaces = 0
        self._changed = asyncio.Event()
        peer.set_listener(self)

    def channel_offered(self, channel: Channel) -> None:
        self.offered.append(RecordingChannel(channel, consume=self.consume))
        self._changed.set()

    def send_space(self) -> None:
        self.spaces += 1
        self._changed.set()

    def connection_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[RecordingPeer], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def offered_channel(self, index: int = 0) -> RecordingChannel:
        await self.until(lambda self: len(self.offered) > index)
        return self.offered[index]

    async def until_lost(self, timeout_s: float = 10.0) -> str:
        await self.until(lambda self: bool(self.lost), timeout_s)
        return self.lost[0]


def make_peer(
    settings: RtcSettings = LOOPBACK,
    plan: ServerPlan | None = None,
    *,
    dtls: MakeDtls = AiortcDtls,
    certificate: DtlsCertificate | None = None,
    **changes: object,
) -> DataPeerConnection:
    """Make a peer as the bridge's are, or with another edge for DTLS."""
    settings = replace(settings, **changes)  # type: ignore[arg-type]
    return DataPeerConnection(settings, certificate or make_certificate(), plan or ServerPlan(), dtls)


def unconsumed(peer: DataPeerConnection) -> int:
    """Received bytes of ``peer`` that count against its receive window."""
    machine = peer._association._machine
    assert machine is not None
    assert machine._receiver is not None
    return machine._receiver.reassembly.unconsumed


def offer_of(sdp: str) -> Description:
    return parse_description(sdp, DescriptionType.OFFER, ANYWHERE)


def answer_of(sdp: str) -> Description:
    return parse_description(sdp, DescriptionType.ANSWER, ANYWHERE)


async def join(caller: DataPeerConnection, callee: DataPeerConnection) -> tuple[Path, Path]:
    """Exchange descriptions and connect both."""
    offer = await caller.create_offer()
    answer = await callee.create_answer(offer_of(offer))
    caller.apply_answer(answer_of(answer))
    first, second = await asyncio.gather(caller.connect(), callee.connect())
    return first, second


class Pair:
    """Two joined peers, a user's and the bridge's unless others are given; ``async with`` closes them."""

    def __init__(
        self,
        caller: DataPeerConnection | None = None,
        callee: DataPeerConnection | None = None,
        *,
        consume: bool = True,
    ) -> None:
        self.caller = RecordingPeer(caller or make_peer(dtls=OpensslDtls), consume=consume)
        self.callee = RecordingPeer(callee or make_peer(), consume=consume)
        self.paths: tuple[Path, Path] | None = None

    async def __aenter__(self) -> Pair:
        try:
            self.paths = await join(self.caller.peer, self.callee.peer)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.caller.peer.close()
        await self.callee.peer.close()

    async def open(self, label: str = "echo", protocol: str = "raw.mxrtc") -> tuple[RecordingChannel, RecordingChannel]:
        """Open a channel from the caller; return both ends."""
        index = len(self.callee.offered)
        ours = RecordingChannel(self.caller.peer.open_channel(label, protocol), consume=self.caller.consume)
        theirs = await self.callee.offered_channel(index)
        await ours.until(lambda channel: "opened" in channel.events)
        return ours, theirs
