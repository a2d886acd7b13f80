"""The way to the homeserver is not what it was: portals, resolvers, routers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.certificates import make_certificate
from tests.e2e.test_proxies import HTML, page
from tests.long import if_long
from tests.nets.bed import ADDRESSES, HOMESERVER, STUN, Bed, Note
from tests.nets.streams import longest_gap
from tests.nets.topology import Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

PORTALS = {
    "a page": page("200 OK", HTML),
    "a redirection": page("302 Found", HTML, "Location: http://portal.example.test/"),
}


@asynccontextmanager
async def portal(bed: Bed, shown: bytes, context: ssl.SSLContext) -> AsyncIterator[Callable[[], int]]:
    """The client's router answers in everybody's place, and lets nothing else through; gives how often it has."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(shown)
        await writer.drain()
        writer.close()

    router = bed.net.client_router
    with router.inside():
        listening = socket.create_server((f"{router.behind.rpartition('.')[0]}.1", 443))
    async with await asyncio.start_server(answer, sock=listening, ssl=context):
        router.rules(Nat.PORT_RESTRICTED, drop=("ip protocol != icmp",), portal=True)
        yield lambda: asked
    router.rules(Nat.PORT_RESTRICTED)


@pytest.mark.parametrize("kind", ["a page", *if_long("a redirection", "a certificate of its own")])
async def test_row_29_a_running_tunnel_outlives_a_captive_portal(bed: Bed, note: Note, kind: str) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bed.folder / "servers.pem")
    if kind not in PORTALS:
        context = make_certificate(bed.folder / "portal.pem")
    tunnel = await bed.tunnel("echo")
    await bed.until_works(tunnel)
    assert bed.bridge is not None
    mark = tunnel.process.mark()
    await bed.bridge.terminate()
    await tunnel.process.wait_for_line("connection lost", 60, after=mark)
    async with portal(bed, PORTALS.get(kind, b""), context) as asked:
        words = {"a page": "a login in front of it", "a redirection": "it redirects"}.get(kind, "certificate")
        await tunnel.process.wait_for_line(words, 60, after=mark)
        assert asked() > 0 or kind not in PORTALS
        await bed.start_bridge()
        assert tunnel.process.returncode is None
    began = time.monotonic()
    await bed.until_works(tunnel)
    note("streams work after the login", time.monotonic() - began)


class Resolver(asyncio.DatagramProtocol):
    """Knows the servers by IPv4, and nobody else."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        labels, at = [], 12
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += size + 1
        question = data[12 : at + 5]
        known = ADDRESSES.get(".".join(labels)) if question[-4:-2] == b"\x00\x01" else None
        answer = b"\xc0\x0c\x00\x01\x00\x01" + (1).to_bytes(4) + b"\x00\x04" + socket.inet_aton(known) if known else b""
        counts = b"\x00\x01" + (b"\x00\x01" if answer else bytes(2)) + bytes(4)
        self._transport.sendto(data[:2] + b"\x81\x80" + counts + question + answer, address)


@pytest.mark.timeout(300)
async def test_row_30_a_resolver_that_is_away_is_waited_for_and_named(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.client.write_etc("hosts", "127.0.0.1 localhost\n")
    bed.net.client.write_etc("resolv.conf", f"nameserver {ADDRESSES[HOMESERVER]}\n")
    with bed.net.homeserver.inside():
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind((ADDRESSES[HOMESERVER], 53))
    listening.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Resolver, sock=listening)
    try:
        tunnel = await bed.tunnel("echo", "tick")
        ticks, writer = await bed.open(tunnel.ports["tick"])
        bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=("udp dport 53",))
        seen = await bed.see("ping", "build", "-c", "1")
        assert seen.code == 1
        assert "its name cannot be resolved" in seen.said, seen.said
        note("a new command: the sentence", seen.seconds)
        assert await longest_gap(ticks, 2) < 2
        writer.close()
        mark = tunnel.process.mark()
        assert bed.bridge is not None
        await bed.bridge.terminate()
        await tunnel.process.wait_for_line("connection lost", 60, after=mark)
        await bed.start_bridge()
        bed.net.client_router.rules(Nat.PORT_RESTRICTED)
        began = time.monotonic()
        await bed.until_works(tunnel)
        note("`mxrtc connect`: streams work after it is back", time.monotonic() - began)
    finally:
        transport.close()


async def test_row_20_calls_are_answered_soon_after_the_bridges_router_has_started_again(bed: Bed, note: Note) -> None:
    """It has forgotten the bridge's connections to the homeserver, and says so to nobody."""
    await bed.start_turn()
    await bed.set_up(STUN)
    tunnel = await bed.tunnel("tick")
    ticks, writer = await bed.open(tunnel.ports["tick"])
    bed.net.bridge_router.forget()
    began = time.monotonic()
    async with asyncio.timeout(30):
        while (seen := await bed.see("ping", "build", "-c", "1")).code:
            assert seen.code == 4, seen
    note("calls are answered again", time.monotonic() - began)
    assert await longest_gap(ticks, 1) < 10
    writer.close()
