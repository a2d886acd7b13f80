"""What a TURN server can do that lies, or whoever stands between: give no relay, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import cast

import pytest
from aioice import stun

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from mxrtc_bridge.rtc.datagrams import Drops, GuardedStun
from mxrtc_bridge.rtc.ice_servers import ServerPlan, TurnServer
from mxrtc_bridge.rtc.peer import DataPeerConnection
from mxrtc_bridge.rtc.turn import ALLOCATION_MISMATCH, STALE_NONCE, allocate
from tests.rtc.peers import make_peer, offer_of
from tests.rtc.test_hostile_ice import offer_with
from tests.waiting import turns, until

pytestmark = pytest.mark.both_loops

SUCCESS, ERROR = 0x100, 0x110
ERROR_CODE, LIFETIME, REALM, NONCE, RELAYED, MAPPED = 0x09, 0x0D, 0x14, 0x15, 0x16, 0x20
ALLOCATE = bytes([0, 3])

Answer = Callable[[bytes], bytes | None]
"""What the server says to a request; with None it closes the connection."""


def message(kind: int, request: bytes, *attributes: tuple[int, bytes]) -> bytes:
    """Return an answer to a request with these attributes, right or wrong."""
    body = b"".join(struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4) for name, value in attributes)
    return struct.pack("!HHI", int.from_bytes(request[:2]) | kind, len(body), stun.COOKIE) + request[8:20] + body


def allocated(request: bytes, lifetime: bytes) -> bytes:
    address = b"\0\1" + stun.xor_data(struct.pack("!H4B", 50_000, 203, 0, 113, 9), request[8:20])
    return message(SUCCESS, request, (LIFETIME, lifetime), (MAPPED, address), (RELAYED, address))


def signed(answer: bytes) -> bytes:
    """As a server does it that knows the password (RFC 8489 section 9.2.2)."""
    whole = stun.parse_message(answer)
    whole.add_message_integrity(hashlib.md5(b"user:r:secret").digest())
    return bytes(whole)


class NoReceiver:
    """Nobody who waits for what comes by a relay."""

    drops = Drops()

    def payload_received(self, data: bytes, address: tuple[str, int]) -> None:
        raise AssertionError


class Liar(asyncio.DatagramProtocol, asyncio.Protocol):
    """Answers every request alike, by UDP and by TCP.

    Attributes:
        requests: how many have come.
        senders: from where, by UDP.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests = 0
        self.senders = set[tuple[str, int]]()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.requests += 1
        self.senders.add(addr)
        if answer := self._answer(data):
            cast(asyncio.DatagramTransport, self._transport).sendto(answer, addr)

    def data_received(self, data: bytes) -> None:
        self.requests += 1
        if answer := self._answer(data):
            cast(asyncio.Transport, self._transport).write(answer)
        else:
            cast(asyncio.Transport, self._transport).close()


@contextlib.asynccontextmanager
async def lying(
    transport: str, answer: Answer, policy: IcePolicy = IcePolicy.ALL
) -> AsyncIterator[tuple[Liar, DataPeerConnection]]:
    """A server, and a peer that is about to ask it."""
    loop, liar = asyncio.get_running_loop(), Liar(answer)
    if transport == "udp":
        endpoint, _ = await loop.create_datagram_endpoint(lambda: liar, local_addr=("127.0.0.1", 0))
        port, close = endpoint.get_extra_info("sockname")[1], endpoint.close
    else:
        server = await loop.create_server(lambda: liar, "127.0.0.1", 0)
        port, close = server.sockets[0].getsockname()[1], server.close
    turn = TurnServer("127.0.0.1", port, transport, False, "user", "secret")
    times = {"gather_timeout_s": 0.3, "servers_timeout_s": 0.6, "ice_timeout_s": 1.0}
    peer = make_peer(plan=ServerPlan(turn=(turn,)), policy=policy, **times)
    try:
        yield liar, peer
    finally:
        await peer.close()
        close()


@pytest.mark.parametrize(("mismatches", "relayed", "asked"), [(1, True, 2), (2, True, 3), (100, False, 3)])
async def test_allocation_is_asked_for_from_another_port_where_the_server_knows_one(
    mismatches: int, relayed: bool, asked: int
) -> None:
    answers = iter([ALLOCATION_MISMATCH] * mismatches)

    def answer(request: bytes) -> bytes:
        code = next(answers, 0) if request[:2] == ALLOCATE else 0
        if code:
            return message(ERROR, request, (ERROR_CODE, bytes([0, 0, code // 100, code % 100])))
        return allocated(request, (600).to_bytes(4))

    async with lying("udp", answer) as (liar, peer):
        assert ("typ relay" in await peer.create_offer()) == relayed
        assert (liar.requests, len(liar.senders)) == (asked, asked)


@pytest.mark.parametrize(("stale", "relayed"), [(1, True), (2, True), (100, False)])
async def test_nonce_that_is_stale_again_is_replaced_again(stale: int, relayed: bool) -> None:
    """As where the answer to a packet comes behind that to the repeated one, each with a nonce of its own."""
    codes = iter([401, *[STALE_NONCE] * stale])
    nonces = []

    def answer(request: bytes) -> bytes | None:
        code = next(codes, 0) if request[:2] == ALLOCATE else 0
        if code:
            nonces.append(b"n%d" % len(nonces))
            error = (ERROR_CODE, bytes([0, 0, code // 100, code % 100]))
            return message(ERROR, request, error, (REALM, b"r"), (NONCE, nonces[-1]))
        return signed(allocated(request, (600).to_bytes(4)))

    async with lying("udp", answer) as (_, peer):
        assert ("typ relay" in await peer.create_offer()) == relayed
    assert len(nonces) == (1 + stale if relayed else 4)


@pytest.fixture
def errors() -> Iterator[list[object]]:
    """What was raised where nobody could take it: each would be a traceback in the log."""
    found: list[object] = []
    yield found
    assert found == []


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_answer_that_cannot_be_read_is_dropped_without_a_traceback(transport: str, errors: list[object]) -> None:
    """A lifetime of two bytes; whoever guesses a port could fill the log with such datagrams."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with lying(transport, lambda request: 3 * message(SUCCESS, request, (LIFETIME, b"\0\1"))) as (liar, peer):
        assert "typ host" in await peer.create_offer()
        assert liar.requests


async def test_nonce_that_fits_into_no_request_costs_the_relay_and_not_the_call() -> None:
    error = (0x09, b"\0\0\4\1")

    def answer(request: bytes) -> bytes:
        return message(ERROR, request, error, (REALM, b"r"), (NONCE, bytes(65_500)))

    async with lying("tcp", answer) as (_, peer):
        assert "typ host" in await peer.create_offer()
        (attempt,) = peer.gathering_report().attempts
        assert (attempt.outcome, attempt.detail) == (ServerOutcome.FAILED, "its answer makes no sense")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_relay_without_a_lifetime_is_not_asked_to_be_kept_without_a_pause(transport: str) -> None:
    async with lying(transport, lambda request: allocated(request, bytes(4))) as (liar, peer):
        assert "typ relay" in await peer.create_offer()
        for _ in range(20):
            await turns(10)
        assert liar.requests == 1


async def test_server_that_closes_the_connection_of_a_relay_leaves_no_traceback(errors: list[object]) -> None:
    """It closes when a channel is asked for, and that is asked for again, as no answer has come."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def answer(request: bytes) -> bytes | None:
        is_allocation = int.from_bytes(request[:2]) == stun.Method.ALLOCATE
        return allocated(request, (600).to_bytes(4)) if is_allocation else None

    async with lying("tcp", answer, IcePolicy.RELAY) as (liar, peer):
        assert "typ relay" in await peer.create_answer(offer_of(await offer_with(9999)))
        with pytest.raises(TransportError, match="no path"):
            await peer.connect()
        assert liar.requests == 2


async def test_server_that_closes_a_connection_while_nobody_waits_any_more_leaves_no_traceback(
    errors: list[object],
) -> None:
    """As at the end of the time to gather; the end of the wait is tried at each turn of the loop."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    liar = Liar(lambda _: None)
    server = await loop.create_server(lambda: liar, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    relay = TurnServer(*address, "tcp", False, "user", "secret")
    before = liar.requests
    for cut in range(1, 40):
        asking = asyncio.create_task(allocate(relay, address, GuardedStun(NoReceiver()), channel_refresh_s=300))
        await turns(cut)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        del asking
        gc.collect()
        await turns(1)
    assert liar.requests > before
    server.close()


@pytest.mark.alone
@pytest.mark.parametrize("smallest", [b"\x40\0\0\0", b"\1\1\0\0" + bytes(16)], ids=["channel data", "answer"])
async def test_flood_of_small_messages_on_a_connection_keeps_nobody_waiting(smallest: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with lying("tcp", lambda _: smallest * (4 * 1024 * 1024 // len(smallest))) as (liar, peer):
        offering = asyncio.create_task(peer.create_offer())
        await until(lambda: liar.requests)
        longest, at = 0.0, loop.time()
        while not offering.done():
            await turns(1)
            longest, at = max(longest, loop.time() - at), loop.time()
        assert "typ host" in await offering
        assert longest < 0.1
