"""What ends a path before consent expires, and what does not: signs that mean nothing while the other side is heard.

In virtual time over sockets of the loopback, as in ``test_outage.py``; the STUN server is the NAT as well, as it says
which address our sockets have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from math import inf
from typing import Any, cast
from unittest.mock import AsyncMock, patch

import pytest
from aioice import stun

from mxrtc_bridge.core.stream import silence
from mxrtc_bridge.rtc import consent, gathering
from mxrtc_bridge.rtc.association import PeerAssociation
from mxrtc_bridge.rtc.consent import LOOK_S, REFUSED_S, REOPENED_S, SILENT_S, PathEnd
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer
from mxrtc_bridge.rtc.peer import DataPeerConnection
from mxrtc_bridge.rtc.udp import UdpTransport
from tests import virtual_time
from tests.rtc.peers import LOOPBACK, Pair, make_peer

Send = Callable[[UdpTransport, bytes, int, Address], int]


class Nat(asyncio.DatagramProtocol):
    """A STUN server; ``moved`` is added to the port that it has seen."""

    def __init__(self) -> None:
        self.moved = 0
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.asked += 1
        answer = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=stun.parse_message(data).transaction_id,
        )
        answer.attributes["XOR-MAPPED-ADDRESS"] = (addr[0], addr[1] + self.moved)
        self.transport.sendto(bytes(answer), addr)

    @property
    def address(self) -> Address:
        return cast(Address, self.transport.get_extra_info("sockname"))


@contextmanager
def line(open_to: Callable[[Address], bool]) -> Iterator[None]:
    """Have only what goes to certain addresses arrive."""
    send: Send = UdpTransport._send

    def sent(transport: UdpTransport, data: bytes, size: int, address: Address) -> int:
        return send(transport, data, size, address) if open_to(address) else len(data)

    with patch.object(UdpTransport, "_send", sent):
        yield


async def story_with_nat(
    story: Callable[[Pair, Nat], Coroutine[Any, Any, None]], moved_from_the_start: int = 0, **changes: float
) -> None:
    loop = asyncio.get_running_loop()
    transport, nat = await loop.create_datagram_endpoint(Nat, local_addr=("127.0.0.1", 0))
    nat.moved = moved_from_the_start
    plan = ServerPlan(stun=(StunServer(*nat.address),))
    with patch.dict(PeerAssociation.__init__.__kwdefaults__, clock=loop.time):
        pair = Pair(make_peer(plan=plan, **changes), make_peer())
    try:
        async with AsyncExitStack() as stack:
            # A resolver works in a thread, which knows nothing of virtual time.
            stack.enter_context(patch.object(gathering, "resolve", AsyncMock(return_value=[nat.address])))
            await stack.enter_async_context(pair)
            ours, theirs = await pair.open()
            # By then the other side has said how it sees us.
            await asyncio.sleep(1.3 * changes.get("consent_interval_s", LOOPBACK.consent_interval_s))
            await story(pair, nat)
            if not pair.caller.lost:
                ours.channel.send("still here")
                await theirs.until(lambda it: "still here" in it.events)
    finally:
        transport.close()


def kill(peer: DataPeerConnection) -> None:
    """Close its sockets without a word, as the system does for a program that dies."""
    for protocol in peer._ice._protocols:
        protocol.transport.close()


@pytest.mark.linux
def test_program_that_has_died_is_noticed_within_seconds_of_its_last_packet() -> None:
    async def story(pair: Pair, _nat: Nat) -> None:
        kill(pair.callee.peer)
        died_at = asyncio.get_running_loop().time()
        assert await pair.caller.until_lost(60) == PathEnd.NOBODY.value
        assert asyncio.get_running_loop().time() - died_at <= SILENT_S + REFUSED_S + 0.1

    virtual_time.run(story_with_nat(story))


@pytest.mark.parametrize("also_the_other", [False, True])
def test_machine_that_has_slept_asks_at_once_whether_the_other_side_has_waited(also_the_other: bool) -> None:
    """The clock of the loop stands still meanwhile, so that nothing but this tells."""
    slept_s = 0.0

    async def story(pair: Pair, _nat: Nat) -> None:
        nonlocal slept_s
        await asyncio.sleep(silence.OUTAGE_S)
        if not also_the_other:
            kill(pair.callee.peer)
        with line(lambda _: also_the_other):
            woken_at = asyncio.get_running_loop().time()
            slept_s += silence.CONSENT_S
            if also_the_other:
                await asyncio.sleep(silence.CONSENT_S)
                assert pair.caller.lost == []
            else:
                assert await pair.caller.until_lost(60) == PathEnd.SLEPT.value
                ask_s = 1.2 * LOOPBACK.consent_interval_s  # the longest that its timer has left
                assert asyncio.get_running_loop().time() - woken_at <= ask_s + REOPENED_S + 0.1

    with patch.object(consent, "asleep_s", lambda: slept_s):
        virtual_time.run(story_with_nat(story))


def test_who_says_falsely_that_nobody_has_the_port_ends_nothing() -> None:
    """A stranger can send such a message, as often as it wants; and a router does that is just starting again."""

    async def story(pair: Pair, _nat: Nat) -> None:
        remote = pair.caller.peer._ice.nominated_pairs()[0].remote_addr
        for _ in range(100):
            pair.caller.peer._ice.port_refused(remote)
            await asyncio.sleep(1)
        assert pair.caller.lost == []

    virtual_time.run(story_with_nat(story))


def test_port_of_somebody_else_that_nobody_has_ends_nothing() -> None:
    async def story(pair: Pair, _nat: Nat) -> None:
        with line(lambda _: False):
            pair.caller.peer._ice.port_refused(("127.0.0.1", 9))
            await asyncio.sleep(silence.OUTAGE_S)
            assert pair.caller.lost == []

    virtual_time.run(story_with_nat(story))


def test_nat_that_has_started_again_in_front_of_a_closed_one_is_noticed_within_seconds() -> None:
    async def story(pair: Pair, nat: Nat) -> None:
        nat.moved = 1
        with line(lambda address: address == nat.address):
            gone_at = asyncio.get_running_loop().time()
            assert await pair.caller.until_lost(60) == PathEnd.MAPPED_ANEW.value
            assert asyncio.get_running_loop().time() - gone_at <= SILENT_S + LOOK_S + REOPENED_S

    virtual_time.run(story_with_nat(story))


@pytest.mark.parametrize("opens_after_s", [0.0, 2.0])
def test_path_that_our_new_address_opens_again_goes_on(opens_after_s: float) -> None:
    """Our question of that moment is the first packet that the other side gets, or one of its repetitions."""

    async def story(pair: Pair, nat: Nat) -> None:
        theirs = pair.caller.peer._ice.nominated_pairs()[0].remote_addr
        nat.moved, asked, opens_at, is_open = 1, nat.asked, inf, False

        def passes(address: Address) -> bool:
            nonlocal is_open
            is_open = is_open or (address == theirs and asyncio.get_running_loop().time() >= opens_at)
            return address == nat.address or is_open

        with line(passes):
            while nat.asked == asked:
                await asyncio.sleep(0.1)
            opens_at = asyncio.get_running_loop().time() + opens_after_s
            await asyncio.sleep(2 * silence.CONSENT_S)
        assert pair.caller.lost == []

    virtual_time.run(story_with_nat(story, consent_interval_s=25.0))


@pytest.mark.parametrize(
    ("moved_from_the_start", "moved_then"),
    [(0, 0), (1, 2)],
    ids=["the NAT shows us as before", "it shows us to everybody by another address"],
)
def test_outage_of_the_other_side_is_waited_for(moved_from_the_start: int, moved_then: int) -> None:
    async def story(pair: Pair, nat: Nat) -> None:
        nat.moved = moved_then
        asked = nat.asked
        with line(lambda address: address == nat.address):
            await asyncio.sleep(silence.OUTAGE_S)
        assert (nat.asked > asked) == (not moved_then), "what says nothing about the path is not asked"
        await asyncio.sleep(silence.CONSENT_S)
        assert pair.caller.lost == []

    virtual_time.run(story_with_nat(story, moved_from_the_start))


def test_outage_in_which_the_stun_server_is_away_as_well_is_waited_for() -> None:
    async def story(pair: Pair, nat: Nat) -> None:
        nat.moved = 1
        with line(lambda _: False):
            await asyncio.sleep(silence.OUTAGE_S)
        await asyncio.sleep(silence.CONSENT_S)
        assert pair.caller.lost == []

    virtual_time.run(story_with_nat(story))
