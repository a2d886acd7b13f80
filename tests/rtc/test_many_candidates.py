"""Hosts that lead nowhere, however many, take no place from what is of another kind, which comes behind them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from mxrtc_bridge.core.webrtc.candidate import Candidate
from mxrtc_bridge.core.webrtc.sdp import Description
from mxrtc_bridge.rtc import gathering
from mxrtc_bridge.rtc.interfaces import MAX_HOST_SOCKETS
from mxrtc_bridge.rtc.peer import DataPeerConnection
from tests.rtc.peers import answer_of, make_peer, offer_of
from tests.rtc.test_turn import Coturn, coturn

__all__ = ["coturn"]

DEAD = 63
"""With a live one as many as are taken. Addresses of containers, tunnels and networks of yesterday."""


@contextlib.contextmanager
def dead_hosts(description: Description, kind: str) -> Iterator[Description]:
    """Put hosts that take what comes and say nothing before the candidates of a description, which are of ``kind``."""
    with contextlib.ExitStack() as stack:
        dead: list[Candidate] = []
        for _ in range(DEAD):
            silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            silent.bind(("127.0.0.1", 0))
            dead.append(replace(description.candidates[0], port=silent.getsockname()[1]))
        live = [replace(each, type=kind, priority=1) for each in description.candidates]
        yield replace(description, candidates=(*dead, *live))


@pytest.fixture
def many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has as many addresses as are offered, of which any reaches the other side."""
    addresses = [("lo", ip_address(f"127.0.0.{number}")) for number in range(1, MAX_HOST_SOCKETS + 1)]
    monkeypatch.setattr(gathering, "local_addresses", lambda: addresses)


async def meet(caller: DataPeerConnection, callee: DataPeerConnection) -> None:
    try:
        await asyncio.gather(caller.connect(), callee.connect())
    finally:
        await asyncio.gather(caller.close(), callee.close())


@pytest.mark.parametrize("kind", ["srflx", "relay"])
async def test_what_leads_from_outside_is_tried_behind_many_hosts(many_addresses: None, kind: str) -> None:
    """Only the side that calls can begin: the other one is told no address."""
    caller, callee = make_peer(interfaces=("lo",)), make_peer()
    offer = offer_of(await caller.create_offer())
    answer = answer_of(await callee.create_answer(replace(offer, candidates=())))
    with dead_hosts(answer, kind) as described:
        caller.apply_answer(described)
        await meet(caller, callee)


@pytest.mark.real
async def test_own_relay_is_tried_behind_many_hosts(many_addresses: None, coturn: Coturn) -> None:
    caller = make_peer()
    callee = make_peer(interfaces=("lo",), plan=coturn.plan())
    with dead_hosts(offer_of(await caller.create_offer()), "relay") as offer:
        answer = answer_of(await callee.create_answer(offer))
        for protocol in callee._ice._protocols:
            if protocol.local_candidate.type == "host":  # whose network lets no UDP out
                protocol.transport.close()
        caller.apply_answer(replace(answer, candidates=()))
        await meet(caller, callee)
