"""Relayed paths over a real coturn on loopback, by UDP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from ssl import SSLContext
from types import SimpleNamespace

import pytest
import pytest_asyncio
from aioice import stun
from aioice.turn import TurnClientMixin

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.candidate import parse_candidate
from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy, PathKind
from mxrtc_bridge.core.webrtc.sdp import Description
from mxrtc_bridge.rtc.datagrams import GuardedStun
from mxrtc_bridge.rtc.gathering import STRAGGLER_S
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer, TurnServer
from mxrtc_bridge.rtc.turn import allocate
from tests.rtc.peers import ANYWHERE, Pair, answer_of, make_peer, offer_of
from tests.rtc.test_gathering import names
from tests.rtc.test_interfaces import free_range
from tests.waiting import until

TURNSERVER = shutil.which("turnserver") or "/usr/bin/turnserver"

RELAY_PORTS = range(61000, 61201)

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Coturn:
    port: int
    process: asyncio.subprocess.Process
    host: str = "127.0.0.1"

    def plan(self, transport: str = "udp", credential: str = "secret", *, stun: bool = False) -> ServerPlan:
        return ServerPlan(
            stun=(StunServer(self.host, self.port),) if stun else (),
            turn=(TurnServer(self.host, self.port, transport, False, "user", credential),),
        )

    def allocations(self) -> int:
        """How many relayed addresses it has given that have not ended: each has a socket."""
        ours = set()
        for descriptor in FilePath(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                ours.add(str(descriptor.readlink()))
        found = 0
        for line in FilePath("/proc/net/udp").read_text().splitlines()[1:]:
            fields = line.split()
            is_relay = int(fields[1].partition(":")[2], 16) in RELAY_PORTS
            found += is_relay and f"socket:[{fields[9]}]" in ours
        return found


@pytest_asyncio.fixture
async def coturn(tmp_path: FilePath) -> AsyncIterator[Coturn]:
    async with running_coturn(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def running_coturn(tmp_path: FilePath, *more: str, host: str = "127.0.0.1") -> AsyncIterator[Coturn]:
    """A server that is reached at ``host``, and relays from loopback."""
    port = free_range(1)
    options = [
        "-n",
        f"--listening-ip={host}",
        "--relay-ip=127.0.0.1",
        f"--listening-port={port}",
        "--lt-cred-mech",
        "--user=user:secret",
        "--realm=test",
        "--allow-loopback-peers",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        f"--min-port={RELAY_PORTS.start}",
        f"--max-port={RELAY_PORTS.stop - 1}",
        "--log-file=stdout",
        "--simple-log",
        f"--pidfile={tmp_path / 'pid'}",
        f"--db={tmp_path / 'db'}",
        *more,
    ]
    process = await asyncio.create_subprocess_exec(
        TURNSERVER, *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        await _listening(host, port)
        yield Coturn(port, process, host)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _listening(host: str, port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)


@pytest.mark.both_loops
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_relay_only_peer_is_reached_through_its_server(coturn: Coturn, transport: str) -> None:
    caller = make_peer(plan=coturn.plan(transport), policy=IcePolicy.RELAY)
    async with Pair(caller) as pair:
        assert pair.paths is not None
        assert (pair.paths[0].kind, pair.paths[0].local) == (PathKind.RELAYED, "relay")
        assert (pair.paths[1].kind, pair.paths[1].remote) == (PathKind.RELAYED, "relay")
        ours, theirs = await pair.open()
        for _ in range(50):
            ours.channel.send(bytes(16384))
            theirs.channel.send(bytes(16384))
        await theirs.until(lambda channel: channel.received_bytes == 50 * 16384)
        await ours.until(lambda channel: channel.received_bytes == 50 * 16384)


async def test_relay_policy_shows_no_local_address(coturn: Coturn) -> None:
    peer = make_peer(plan=coturn.plan(stun=True), policy=IcePolicy.RELAY)
    description = offer_of(await peer.create_offer())
    assert [candidate.type for candidate in description.candidates] == ["relay"]
    assert description.candidates[0].related_address == "0.0.0.0"
    await peer.close()


async def test_two_relay_only_peers_meet(coturn: Coturn) -> None:
    sides = [make_peer(plan=coturn.plan(), policy=IcePolicy.RELAY) for _ in range(2)]
    async with Pair(*sides) as pair:
        ours, theirs = await pair.open()
        ours.channel.send("over two relays")
        assert await theirs.until_count(2) == ["opened", "over two relays"]


async def test_direct_path_is_preferred_over_the_relay(coturn: Coturn) -> None:
    async with Pair(make_peer(plan=coturn.plan())) as pair:
        assert pair.paths is not None
        assert pair.paths[0].kind is PathKind.DIRECT


async def test_unreachable_first_server_does_not_keep_the_second_from_its_turn(coturn: Coturn) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        dead = TurnServer("127.0.0.1", silent.getsockname()[1], "udp", False, "user", "secret")
        plan = ServerPlan(turn=(dead, *coturn.plan("tcp").turn))
        peer = make_peer(plan=plan, policy=IcePolicy.RELAY, gather_timeout_s=3.0)
        assert "typ relay" in await peer.create_offer()
        await peer.close()


@contextlib.asynccontextmanager
async def far_away(port: int, delay_s: float, tls: SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP port that leads to ``port``, ``delay_s`` after somebody has connected; with ``tls`` by TLS."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(4096):
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_relay_over_a_slow_tcp_connection_is_waited_for_with_the_default_policy(coturn: Coturn) -> None:
    async with far_away(coturn.port, 2 * STRAGGLER_S) as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        peer = make_peer(plan=plan, gather_timeout_s=5.0)
        description = offer_of(await peer.create_offer())
        assert [candidate.type for candidate in description.candidates] == ["host", "relay"]
        await peer.close()


async def test_wrong_credential_costs_the_relay_and_not_the_call(coturn: Coturn) -> None:
    async with Pair(make_peer(plan=coturn.plan(credential="wrong"))) as pair:
        assert pair.paths is not None
        assert pair.paths[0].kind is PathKind.DIRECT


async def test_relay_that_comes_after_the_description_follows(coturn: Coturn) -> None:
    async with far_away(coturn.port, 0.6) as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        peer = make_peer(plan=plan, gather_timeout_s=0.2)
        description = offer_of(await peer.create_offer())
        assert [candidate.type for candidate in description.candidates] == ["host"]
        assert not description.end_of_candidates
        (line,) = await peer.late_candidates()
        assert line.candidate.startswith("candidate:")
        assert " typ relay " in line.candidate
        assert (line.mid, line.m_line_index) == (description.mid, 0)
        assert peer.gathering_is_over()
        assert await peer.late_candidates() == ()
        await peer.close()


async def test_late_relay_is_used_by_checks_that_are_under_way(coturn: Coturn) -> None:
    """The other side is told nothing: checks through the relay reach it all the same."""
    async with far_away(coturn.port, 0.8) as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        caller, callee = make_peer(plan=plan, gather_timeout_s=0.2), make_peer()
        offer = replace(offer_of(await caller.create_offer()), candidates=())
        caller.apply_answer(answer_of(await callee.create_answer(offer)))
        for protocol in caller._ice._protocols:  # the caller's own network lets no UDP out
            protocol.transport.close()
        paths = await asyncio.gather(caller.connect(), callee.connect())
        assert [(path.local, path.remote) for path in paths] == [("relay", "host"), ("host", "prflx")]
        await asyncio.gather(caller.close(), callee.close())


async def test_relay_is_waited_for_beyond_the_deadline_of_a_description_when_there_is_nothing_else(
    coturn: Coturn,
) -> None:
    async with far_away(coturn.port, 0.6) as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        peer = make_peer(plan=plan, policy=IcePolicy.RELAY, gather_timeout_s=0.2)
        assert "typ relay" in await peer.create_offer()
        await peer.close()


async def test_answer_does_not_wait_for_a_slow_relay_but_is_followed_by_it(coturn: Coturn) -> None:
    async with far_away(coturn.port, 0.6) as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        caller = make_peer()
        callee = make_peer(plan=plan, policy=IcePolicy.RELAY, gather_timeout_s=0.2)
        answer = answer_of(await callee.create_answer(offer_of(await caller.create_offer())))
        assert answer.candidates == ()
        caller.apply_answer(answer)
        connecting = asyncio.gather(caller.connect(), callee.connect())
        (line,) = await callee.late_candidates()
        candidate = parse_candidate(line.candidate, ANYWHERE)
        assert candidate is not None
        caller.add_candidates([candidate])
        assert [path.kind for path in await connecting] == [PathKind.RELAYED, PathKind.RELAYED]
        await asyncio.gather(caller.close(), callee.close())


async def test_answer_without_a_relay_in_the_end_fails_with_the_reason() -> None:
    with silent("tcp") as port:
        plan = ServerPlan(turn=(TurnServer("127.0.0.1", port, "tcp", False, "user", "secret"),))
        caller = make_peer()
        callee = make_peer(plan=plan, policy=IcePolicy.RELAY, gather_timeout_s=0.1, servers_timeout_s=0.4)
        await callee.create_answer(offer_of(await caller.create_offer()))
        with pytest.raises(TransportError, match=r"none of 1 TURN servers gave a relayed address \(timed out\)"):
            await callee.late_candidates()
        await asyncio.gather(caller.close(), callee.close())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_turn_server_is_reached_at_its_second_address_when_the_first_leads_nowhere(
    coturn: Coturn, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent(transport) as port:
        names(monkeypatch, ("127.0.0.1", port), ("127.0.0.1", coturn.port))
        plan = ServerPlan(turn=(TurnServer("server.test", 3478, transport, False, "user", "secret"),))
        peer = make_peer(plan=plan, policy=IcePolicy.RELAY, gather_timeout_s=3.0)
        assert "typ relay" in await peer.create_offer()
        await peer.close()


@contextlib.contextmanager
def silent(transport: str) -> Iterator[int]:
    """A port that takes what comes and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        if transport == "tcp":
            sock.listen()
        yield sock.getsockname()[1]


async def outcome(server: TurnServer) -> ServerOutcome:
    return (await attempt(server)).outcome


async def attempt(server: TurnServer) -> ServerAttempt:
    peer = make_peer(plan=ServerPlan(turn=(server,)), servers_timeout_s=5.0)
    await peer.create_offer()
    await peer.late_candidates()
    (made,) = peer.gathering_report().attempts
    await peer.close()
    assert made.uri == server.uri
    return made


async def test_channel_is_bound_again_once_each_time_and_holds_nothing_back(
    coturn: Coturn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the wall clock says: by one that was ahead when the channel was bound it would never be due."""
    asked: list[int] = []
    bind = TurnClientMixin.channel_bind

    async def note(self: TurnClientMixin, number: int, address: tuple[str, int]) -> None:
        asked.append(number)
        await bind(self, number, address)

    monkeypatch.setattr(TurnClientMixin, "channel_bind", note)
    ahead = [1e6]
    monkeypatch.setattr("aioice.turn.time", SimpleNamespace(time=lambda: time.time() + ahead[0]))
    caller = make_peer(plan=coturn.plan(), policy=IcePolicy.RELAY, channel_refresh_s=0.2)
    async with Pair(caller) as pair:
        ours, theirs = await pair.open()
        ahead[0] = 0.0
        began, before, sent = asyncio.get_running_loop().time(), len(asked), 0
        async with asyncio.timeout(10):
            while len(asked) < before + 3:
                if caller.can_send():
                    ours.channel.send(bytes(16384))
                    sent += 16384
                await asyncio.sleep(0)
        await theirs.until(lambda channel: channel.received_bytes == sent)
        took = asyncio.get_running_loop().time() - began
    assert len(asked) - before <= 1 + took / 0.2


async def test_channel_that_could_not_be_bound_again_is_tried_soon_and_is_used_meanwhile(
    coturn: Coturn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Pair(make_peer(plan=coturn.plan(), policy=IcePolicy.RELAY, channel_refresh_s=0.1)) as pair:
        ours, theirs = await pair.open()
        failed: list[int] = []

        async def fail(_client: TurnClientMixin, number: int, _address: tuple[str, int]) -> None:
            failed.append(number)
            raise stun.TransactionTimeout

        monkeypatch.setattr(TurnClientMixin, "channel_bind", fail)
        async with asyncio.timeout(10):
            while len(failed) < 2:
                ours.channel.send("again")
                await theirs.until_count(len(theirs.events) + 1)


@pytest.mark.parametrize("policy", [IcePolicy.ALL, IcePolicy.RELAY])
async def test_relayed_address_that_the_path_does_not_use_is_given_back(tmp_path: FilePath, policy: IcePolicy) -> None:
    """A server gives each user so many; a session of days must not keep one that it has no use for."""
    async with running_coturn(tmp_path, "--user-quota=1") as coturn:
        (server,) = coturn.plan("tcp").turn
        settings = {"consent_interval_s": 0.1, "spare_relay_s": 0.8}
        async with Pair(make_peer(plan=coturn.plan("tcp"), policy=policy, **settings)) as pair:
            ours, theirs = await pair.open()
            until = asyncio.get_running_loop().time() + 2.0
            assert await outcome(server) is ServerOutcome.QUOTA
            if policy is IcePolicy.ALL:
                async with asyncio.timeout(5.0):
                    while await outcome(server) is not ServerOutcome.OK:
                        pass
            while policy is IcePolicy.RELAY and asyncio.get_running_loop().time() < until:
                assert await outcome(server) is ServerOutcome.QUOTA
            ours.channel.send("still here")
            assert await theirs.until_count(2) == ["opened", "still here"]
        assert pair.caller.lost == []


def _without_hosts(description: Description) -> Description:
    return replace(description, candidates=tuple(c for c in description.candidates if c.type == "relay"))


async def test_server_that_dies_ends_the_session_and_its_close_is_quick(coturn: Coturn) -> None:
    settings = {"consent_interval_s": 0.1, "consent_expiry_s": 0.8}
    caller = make_peer(plan=coturn.plan(), policy=IcePolicy.RELAY, **settings)
    pair = Pair(caller, make_peer(**settings))
    async with pair:
        await pair.open()
        coturn.process.send_signal(signal.SIGKILL)
        await coturn.process.wait()
        await pair.caller.until_lost(5.0)
        await pair.callee.until_lost(5.0)
        start = asyncio.get_running_loop().time()
        await pair.close()
        assert asyncio.get_running_loop().time() - start < 3.0


async def test_relayed_candidates_alone_are_enough_for_the_answer(coturn: Coturn) -> None:
    caller, callee = make_peer(plan=coturn.plan()), make_peer()
    offer = _without_hosts(offer_of(await caller.create_offer()))
    caller.apply_answer(answer_of(await callee.create_answer(offer)))
    await asyncio.gather(caller.connect(), callee.connect())
    await asyncio.gather(caller.close(), callee.close())


# What is left at the server


class Behind(asyncio.DatagramProtocol):
    """A UDP port before a server, which lets so many of its answers through and keeps the others for itself."""

    def __init__(self, server: int, answers: int) -> None:
        self._server = server
        self._answers = answers
        self.kept = 0
        self._client: tuple[str, int] | None = None

    async def open(self) -> int:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        address = ("127.0.0.1", self._server)
        self._back, _ = await loop.create_datagram_endpoint(lambda: Answers(self), remote_addr=address)
        return int(self._front.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._client = addr
        self._back.sendto(data)

    def answer(self, data: bytes) -> None:
        if self._answers:
            self._answers -= 1
            self._front.sendto(data, self._client)
        else:
            self.kept += 1

    def close(self) -> None:
        self._front.close()
        self._back.close()


class Answers(asyncio.DatagramProtocol):
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        self._behind.answer(data)


async def test_allocation_whose_answer_nobody_waits_for_any_more_is_given_back(coturn: Coturn) -> None:
    """The first answer is the challenge, the second one the allocation, which its server would keep for ten minutes."""
    before, owner = asyncio.all_tasks(), make_peer()
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(owner.close)
        behind = Behind(coturn.port, answers=1)
        server = coturn.plan().turn[0]
        address = ("127.0.0.1", await behind.open())
        closing.callback(behind.close)
        asking = asyncio.create_task(allocate(server, address, GuardedStun(owner._ice), channel_refresh_s=240))
        await until(lambda: behind.kept)
        assert coturn.allocations() == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not coturn.allocations())
    assert asyncio.all_tasks() == before


async def test_allocation_that_comes_with_the_end_of_the_question_is_given_back(coturn: Coturn) -> None:
    before, owner = asyncio.all_tasks(), make_peer()
    protocol = GuardedStun(owner._ice)
    address = ("127.0.0.1", coturn.port)
    asking = asyncio.create_task(allocate(coturn.plan().turn[0], address, protocol, channel_refresh_s=240))
    while not hasattr(protocol, "transport"):
        await asyncio.sleep(0)
    assert coturn.allocations() == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: not coturn.allocations())
    await owner.close()
    assert asyncio.all_tasks() == before


async def test_of_two_addresses_that_both_give_a_relay_one_is_given_back(
    coturn: Coturn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with every call where the server is farther away than the head start of its first address."""
    ports = []
    async with contextlib.AsyncExitStack() as closing:
        for answers in (1, 2):
            behind = Behind(coturn.port, answers)
            ports.append(await behind.open())
            closing.callback(behind.close)
        names(monkeypatch, *(("127.0.0.1", port) for port in ports))
        plan = ServerPlan(turn=(TurnServer("server.test", 3478, "udp", False, "user", "secret"),))
        peer = make_peer(plan=plan, gather_timeout_s=5.0)
        assert "typ relay" in await peer.create_offer()
        await until(lambda: coturn.allocations() == 1)
        await peer.close()
        await until(lambda: not coturn.allocations())
