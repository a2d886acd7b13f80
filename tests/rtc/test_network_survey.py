"""Each server is asked for itself, and packets are as large as the network lets them be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.network_survey import PACKET_SIZES, largest_packet, survey
from tests.rtc.test_gathering import StunResponder
from tests.rtc.test_turn import Coturn, coturn

__all__ = ["coturn"]

LOOPBACK = ("127.0.0.1",)


class NarrowResponder(StunResponder):
    """Stands behind a network that loses IP packets above a size."""

    def __init__(self, widest: int, loses: int = 0) -> None:
        super().__init__()
        self.widest = widest
        self.loses = loses
        """Of those that would come through, the first."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) + 28 > self.widest:
            return
        self.loses -= 1
        if self.loses < 0:
            super().datagram_received(data, addr)


@asynccontextmanager
async def stun_server(responder: StunResponder) -> AsyncIterator[StunServer]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: responder, local_addr=("127.0.0.1", 0)
    )
    try:
        yield StunServer("127.0.0.1", transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


@pytest.mark.parametrize(("widest", "seen"), [(9000, 1500), (1500, 1500), (1499, 1492), (1279, 1228), (575, None)])
@pytest.mark.linux
async def test_the_largest_packet_that_gets_through_is_found(widest: int, seen: int | None) -> None:
    async with stun_server(NarrowResponder(widest)) as server:
        assert await largest_packet(server, try_s=0.05) == seen


@pytest.mark.linux
async def test_a_size_whose_packets_got_lost_is_tried_again() -> None:
    async with stun_server(NarrowResponder(9000, loses=len(PACKET_SIZES))) as server:
        assert await largest_packet(server, try_s=0.05) == 1500


@pytest.mark.linux
async def test_servers_that_do_nothing_are_told_from_one_that_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with stun_server(StunResponder()) as server:
            dead = TurnServer("127.0.0.1", silent.getsockname()[1], "udp", False, "u", "p")
            plan = ServerPlan(stun=(server,), turn=(dead,), ignored=("stuns:x",))
            network = await survey(plan, LOOPBACK, timeout_s=0.3)
    assert [each.attempt.outcome for each in network.servers] == [ServerOutcome.OK, ServerOutcome.TIMED_OUT]
    assert [each.attempt.uri for each in network.servers] == [server.uri, dead.uri]
    assert (network.lets_udp_out, network.relays, network.packet_bytes) == (True, False, 1500)
    assert network.unusable == ("stuns:x",)


@pytest.mark.real
async def test_every_turn_server_is_asked_although_one_relays(coturn: Coturn) -> None:
    good, wrong = coturn.plan("udp").turn, coturn.plan("tcp", "wrong").turn
    network = await survey(ServerPlan(turn=(*good, *coturn.plan("tcp").turn, *wrong)), LOOPBACK)
    outcomes = [each.attempt.outcome for each in network.servers]
    assert outcomes == [ServerOutcome.OK, ServerOutcome.OK, ServerOutcome.CREDENTIALS]
    assert (network.relays, network.packet_bytes) == (True, 1500)
