"""A peer that answers the checks of a path as it likes: it knows our password, and we know its own."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aioice import stun

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATES, parse_candidate
from mxrtc_bridge.rtc.ice import MAX_ROLE_CONFLICTS, IceConnection
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from tests.counted_lines import lines
from tests.rtc.peers import ANYWHERE, LOOPBACK, make_peer, offer_of

pytestmark = pytest.mark.both_loops

PASSWORD = "p" * 24


class Contradictor(asyncio.DatagramProtocol):
    """Says of every check that it comes in the wrong role (RFC 8445 section 7.3.1.1).

    Attributes:
        checks: how many have come.
    """

    def __init__(self) -> None:
        self.checks = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.checks += 1
        assert self._transport is not None
        self._transport.sendto(conflict(stun.parse_message(data)), addr)


def conflict(request: stun.Message) -> bytes:
    answer = stun.Message(
        message_method=request.message_method,
        message_class=stun.Class.ERROR,
        transaction_id=request.transaction_id,
        attributes={"ERROR-CODE": (487, "Role Conflict")},
    )
    answer.add_message_integrity(PASSWORD.encode())
    return bytes(answer)


async def offer_with(port: int) -> str:
    """An offer whose only candidate is a port on loopback, with :data:`PASSWORD`."""
    peer = make_peer()
    lines = (await peer.create_offer()).splitlines()
    await peer.close()
    kept = [line for line in lines if not line.startswith(("a=candidate:", "a=ice-pwd:"))]
    candidate = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host"
    return "\r\n".join([*kept, f"a=ice-pwd:{PASSWORD}", candidate, ""])


async def test_a_check_that_is_always_in_the_wrong_role_fails_soon_and_leaves_no_task() -> None:
    """It was repeated at once, for ever, each time with one more task that repeats it."""
    loop = asyncio.get_running_loop()
    transport, contradictor = await loop.create_datagram_endpoint(Contradictor, local_addr=("127.0.0.1", 0))
    peer = make_peer(ice_timeout_s=1.0)
    await peer.create_answer(offer_of(await offer_with(transport.get_extra_info("sockname")[1])))
    before = len(asyncio.all_tasks())
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        with pytest.raises(TransportError, match="no path"):
            await peer.connect()
    finally:
        watching.cancel()
        await peer.close()
        transport.close()
    assert 1 < contradictor.checks <= MAX_ROLE_CONFLICTS + 1
    assert most <= before + 5


async def test_a_datagram_of_a_stranger_costs_the_same_however_many_candidates_there_are() -> None:
    """Each was compared with all of them: where a peer names many, a flood cost forty times as much."""
    connection = IceConnection(LOOPBACK, ServerPlan(), controlling=False)
    await connection.gather_candidates()
    ports = range(20_000, 20_000 + MAX_CANDIDATES)
    costs = []
    for port in ports:
        candidate = parse_candidate(f"candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host", ANYWHERE)
        assert candidate is not None
        connection.add_candidate(candidate)
        costs.append(lines(lambda: connection.run_received(bytes([22] * 50), 50, ("203.0.113.9", 5000)), "rtc"))
    assert connection.drops.stranger == MAX_CANDIDATES
    assert costs[-1] == costs[0]
    await connection.close()
