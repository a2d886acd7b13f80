"""Gathering: what is offered, what a dead server costs, and what happens when there is nothing to offer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import cast
from unittest.mock import ANY

import pytest
import pytest_asyncio
from aioice import stun

from mxrtc_bridge.core.errors import ConfigError, Lack, ResourceError, TransportError
from mxrtc_bridge.core.webrtc.candidate import Candidate
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport, ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy, parse_advertised
from mxrtc_bridge.rtc.gathering import STRAGGLER_S
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.settings import RtcSettings
from tests.rtc.peers import make_peer, offer_of
from tests.rtc.test_interfaces import free_range
from tests.waiting import until


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A UDP port that takes everything and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class StunResponder(asyncio.DatagramProtocol):
    """Says that every asker has the address 203.0.113.7 and its own port."""

    transport: asyncio.DatagramTransport

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = stun.parse_message(data)
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.7", addr[1])
        asyncio.get_running_loop().call_later(self.delay_s, self.transport.sendto, bytes(response), addr)


@pytest_asyncio.fixture
async def stun_server() -> AsyncIterator[int]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(StunResponder, local_addr=("127.0.0.1", 0))
    yield transport.get_extra_info("sockname")[1]
    transport.close()


@pytest_asyncio.fixture
async def slow_stun_server() -> AsyncIterator[int]:
    """Further away than the moment for which the rest is waited for when nothing is missing."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: StunResponder(2 * STRAGGLER_S), local_addr=("127.0.0.1", 0)
    )
    yield transport.get_extra_info("sockname")[1]
    transport.close()


async def offered(plan: ServerPlan | None = None, **changes: object) -> tuple[tuple[Candidate, ...], float]:
    """Candidates of an offer, and the seconds it took."""
    peer = make_peer(plan=plan, **changes)
    start = asyncio.get_running_loop().time()
    try:
        description = offer_of(await peer.create_offer())
    finally:
        await peer.close()
    return description.candidates, asyncio.get_running_loop().time() - start


def shapes(candidates: tuple[Candidate, ...]) -> list[tuple[str, str]]:
    return [(candidate.type, str(candidate.address)) for candidate in candidates]


async def test_host_candidates_only_without_servers() -> None:
    candidates, seconds = await offered()
    assert shapes(candidates) == [("host", "127.0.0.1")]
    assert seconds < 0.5


async def test_reflexive_candidate_hides_the_address_behind_it(stun_server: int) -> None:
    candidates, seconds = await offered(ServerPlan(stun=(StunServer("127.0.0.1", stun_server),)))
    assert shapes(candidates) == [("host", "127.0.0.1"), ("srflx", "203.0.113.7")]
    assert (candidates[1].related_address, candidates[1].port) == ("0.0.0.0", candidates[0].port)
    assert candidates[0].priority > candidates[1].priority
    assert seconds < 0.5


async def test_slow_stun_server_is_waited_for_beside_host_candidates(slow_stun_server: int) -> None:
    plan = ServerPlan(stun=(StunServer("127.0.0.1", slow_stun_server),))
    candidates, _ = await offered(plan, gather_timeout_s=5.0)
    assert shapes(candidates) == [("host", "127.0.0.1"), ("srflx", "203.0.113.7")]


async def test_stun_server_is_asked_again_at_a_steady_pace() -> None:
    """On a bad line what counts is how many questions there are until the description is waited for no longer."""

    class Deaf(StunResponder):
        heard = 0

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            Deaf.heard += 1
            if Deaf.heard > 20:
                super().datagram_received(data, addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Deaf, local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        candidates, seconds = await offered(ServerPlan(stun=(StunServer("127.0.0.1", port),)), check_again_s=0.01)
    finally:
        transport.close()
    assert ("srflx", "203.0.113.7") in shapes(candidates)
    assert seconds < 0.9, "with the pauses of STUN alone it would be the deadline"


async def named_later(plan: ServerPlan, when: asyncio.Event) -> ServerPlan:
    await when.wait()
    return plan


async def test_servers_that_the_homeserver_names_after_the_description_are_asked_then(stun_server: int) -> None:
    named = asyncio.Event()
    plan = ServerPlan(stun=(StunServer("127.0.0.1", stun_server),))
    later = asyncio.create_task(named_later(plan, named))
    peer = make_peer(plan=ServerPlan(later=later), gather_timeout_s=0.2)
    try:
        description = offer_of(await peer.create_offer())
        assert shapes(description.candidates) == [("host", "127.0.0.1")]
        assert not description.end_of_candidates
        late = asyncio.create_task(peer.late_candidates())
        named.set()
        assert [line.candidate.split()[4:8] for line in await late] == [["203.0.113.7", ANY, "typ", "srflx"]]
        assert await peer.late_candidates() == ()
        assert peer.gathering_report().attempts == (ServerAttempt(f"stun:127.0.0.1:{stun_server}", ServerOutcome.OK),)
    finally:
        await peer.close()


async def test_nobody_waits_any_more_for_servers_of_a_connection_that_was_closed() -> None:
    for gathers in (True, False):
        later = asyncio.create_task(named_later(ServerPlan(), asyncio.Event()))
        peer = make_peer(plan=ServerPlan(later=later), gather_timeout_s=0.01)
        if gathers:
            await peer.create_offer()
        await peer.close()
        await asyncio.wait([later], timeout=1)
        assert later.cancelled()


async def test_dead_stun_server_costs_the_deadline_and_no_more(silent_server: int) -> None:
    plan = ServerPlan(stun=(StunServer("127.0.0.1", silent_server),))
    candidates, seconds = await offered(plan, gather_timeout_s=0.4)
    assert shapes(candidates) == [("host", "127.0.0.1")]
    assert 0.3 < seconds < 0.8


async def test_dead_server_beside_a_living_one_costs_a_moment(silent_server: int, stun_server: int) -> None:
    plan = ServerPlan(stun=(StunServer("127.0.0.1", silent_server), StunServer("127.0.0.1", stun_server)))
    candidates, seconds = await offered(plan, gather_timeout_s=5.0)
    assert ("srflx", "203.0.113.7") in shapes(candidates)
    assert seconds < 1.0


async def test_server_names_that_do_not_resolve_cost_nothing_but_time() -> None:
    plan = ServerPlan(
        stun=(StunServer("does-not-exist.invalid", 3478),),
        turn=(TurnServer("does-not-exist.invalid", 3478, "udp", False, "u", "p"),),
    )
    candidates, seconds = await offered(plan, gather_timeout_s=1.0)
    assert shapes(candidates) == [("host", "127.0.0.1")]
    assert seconds < 1.5


async def test_dead_turn_servers_of_all_kinds_cost_the_deadline(silent_server: int) -> None:
    plan = ServerPlan(
        turn=(
            TurnServer("127.0.0.1", silent_server, "udp", False, "u", "p"),
            TurnServer("127.0.0.1", 9, "tcp", False, "u", "p"),
            TurnServer("127.0.0.1", 9, "tcp", True, "u", "p"),
        )
    )
    candidates, seconds = await offered(plan, gather_timeout_s=0.5)
    assert shapes(candidates) == [("host", "127.0.0.1")]
    assert seconds < 1.0


async def test_dead_turn_server_makes_a_call_with_a_direct_path_no_more_than_two_seconds_slower(
    silent_server: int,
) -> None:
    """With the settings as they are: each side waits for it, one after the other."""
    plan = ServerPlan(turn=(TurnServer("127.0.0.1", silent_server, "udp", False, "u", "p"),))
    settings = RtcSettings(interfaces=("127.0.0.1",))
    caller, callee = make_peer(settings, plan), make_peer(settings, plan)
    start = asyncio.get_running_loop().time()
    try:
        await callee.create_answer(offer_of(await caller.create_offer()))
    finally:
        await caller.close()
        await callee.close()
    assert asyncio.get_running_loop().time() - start < 3.0


async def test_advertised_address_is_shown_instead_of_the_local_one() -> None:
    candidates, _ = await offered(advertise=(parse_advertised("198.51.100.4"),))
    assert shapes(candidates) == [("host", "198.51.100.4")]


async def test_ports_come_from_the_range() -> None:
    first = free_range(2)
    candidates, _ = await offered(port_range=(first, first + 1))
    assert candidates[0].port in (first, first + 1)


async def test_exhausted_range_is_told_with_the_remedy() -> None:
    first = free_range(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", first))
        with pytest.raises(ResourceError) as caught:
            await offered(port_range=(first, first))
    assert caught.value.lack is Lack.PORTS
    assert str(caught.value) == (
        f"no free UDP port within {first}-{first}; every call takes one port per address: widen port_range"
    )


async def test_a_process_without_files_left_does_not_blame_its_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_files(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mxrtc_bridge.rtc.gathering.bind_udp", no_files)
    first = free_range(1)
    with pytest.raises(ResourceError, match="no UDP socket could be opened: Too many open files") as caught:
        await offered(port_range=(first, first))
    assert caught.value.lack is Lack.FILES


async def test_interface_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"no network interface matches \(wg7\); this machine has: .*lo"):
        await offered(interfaces=("wg7",))


async def test_relay_policy_without_a_server_is_told() -> None:
    with pytest.raises(ResourceError, match="no usable TURN server is configured"):
        await offered(policy=IcePolicy.RELAY)


async def test_relay_policy_with_a_dead_server_is_told(silent_server: int) -> None:
    plan = ServerPlan(turn=(TurnServer("127.0.0.1", silent_server, "udp", False, "u", "p"),))
    with pytest.raises(ResourceError, match=r"none of 1 TURN servers gave a relayed address \(timed out\)"):
        await offered(plan, policy=IcePolicy.RELAY, gather_timeout_s=0.2, servers_timeout_s=0.4)


async def test_servers_that_fail_are_a_line_for_each_way_to_them_and_not_for_each_of_their_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else a few calls a minute filled the log, where servers are down."""
    caplog.set_level(logging.INFO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        down = [TurnServer("127.0.0.1", port, "tcp", tls, f"u{n}", "p") for n in range(4) for tls in (False, True)]
        peer = make_peer(plan=ServerPlan(turn=tuple(down)))
        await peer.create_offer()
        await peer.close()
    assert caplog.text.count("gave no relayed address") == 2


async def test_close_while_gathering_leaves_nothing_behind(silent_server: int) -> None:
    before = asyncio.all_tasks()
    peer = make_peer(plan=ServerPlan(stun=(StunServer("127.0.0.1", silent_server),)), gather_timeout_s=0.5)
    offering = asyncio.create_task(peer.create_offer())
    await until(lambda: peer._ice._protocols)
    await peer.close()
    with pytest.raises(TransportError, match="closed while candidates were gathered"):
        await offering
    assert peer._ice._protocols == []
    assert asyncio.all_tasks() == before


async def test_cancelled_gathering_leaves_nothing_behind(silent_server: int) -> None:
    before = asyncio.all_tasks()
    peer = make_peer(plan=ServerPlan(stun=(StunServer("127.0.0.1", silent_server),)))
    offering = asyncio.create_task(peer.create_offer())
    await until(lambda: peer._ice._protocols)
    offering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await offering
    await peer.close()
    assert asyncio.all_tasks() == before


# Addresses of a server


def names(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """``server.test`` has these addresses, each with a port of its own."""
    infos = [(socket.AF_INET6 if ":" in host else socket.AF_INET, 2, 17, "", (host, port)) for host, port in addresses]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: infos if host == "server.test" else real(host, *rest, **more)
    )


def unknown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """``name`` does not resolve, which is known at once."""
    real = socket.getaddrinfo

    def look_up(host: str, *rest: object) -> object:
        if host == name:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(host, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


async def test_stun_server_is_asked_at_its_second_address_when_the_first_is_silent(
    silent_server: int, stun_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ("127.0.0.1", silent_server), ("127.0.0.1", stun_server))
    candidates, seconds = await offered(ServerPlan(stun=(StunServer("server.test", 3478),)), gather_timeout_s=5.0)
    assert ("srflx", "203.0.113.7") in shapes(candidates)
    assert seconds < 2.0


async def test_a_defect_with_one_server_leaves_no_question_to_another_behind(silent_server: int) -> None:
    """Its answer would give a relay to a connection that is closed, which nobody would ever give back."""
    odd = StunServer(cast(str, object()), 3478)
    turn = TurnServer("127.0.0.1", silent_server, "udp", False, "u", "p")
    peer = make_peer(plan=ServerPlan(stun=(odd,), turn=(turn,)))
    try:
        with pytest.raises(ExceptionGroup):
            await peer.create_offer()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        await peer.close()


# The report


async def report_of(plan: ServerPlan, **changes: object) -> GatheringReport:
    peer = make_peer(plan=plan, **changes)
    try:
        with contextlib.suppress(ResourceError):
            await peer.create_offer()
        await peer.late_candidates()
        return peer.gathering_report()
    finally:
        await peer.close()


async def test_report_names_every_server_and_what_came_of_it(
    silent_server: int, stun_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown(monkeypatch, "unknown.test")
    plan = ServerPlan(
        stun=(StunServer("127.0.0.1", stun_server), StunServer("::1", 3478)),
        turn=(
            TurnServer("127.0.0.1", silent_server, "udp", False, "u", "secret-word"),
            TurnServer("unknown.test", 3478, "udp", False, "u", "secret-word"),
            TurnServer("127.0.0.1", 9, "tcp", False, "u", "secret-word"),
        ),
        ignored=("stuns:turn.example",),
    )
    report = await report_of(plan, gather_timeout_s=0.3, servers_timeout_s=1.5)
    assert report == GatheringReport(
        attempts=(
            ServerAttempt(f"stun:127.0.0.1:{stun_server}", ServerOutcome.OK),
            ServerAttempt("stun:[::1]:3478", ServerOutcome.UNREACHABLE),
            ServerAttempt(f"turn:127.0.0.1:{silent_server}?transport=udp", ServerOutcome.TIMED_OUT),
            ServerAttempt("turn:unknown.test:3478?transport=udp", ServerOutcome.NAME_UNKNOWN),
            ServerAttempt("turn:127.0.0.1:9?transport=tcp", ServerOutcome.REFUSED),
        ),
        kinds=("host", "srflx"),
        unusable=("stuns:turn.example",),
    )
    assert "secret" not in repr(report)
