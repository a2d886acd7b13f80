"""TURN servers that send us to another one, rightly or not."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aioice import stun

from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.rtc.alternate_server import MAX_SERVERS, TRY_ALTERNATE, alternate_of
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.ice_servers import TurnServer
from tests.certificates import make_certificate
from tests.rtc.test_gathering import names
from tests.rtc.test_interfaces import free_range
from tests.rtc.test_lying_turn import ERROR, ERROR_CODE, Answer, Liar, allocated, message
from tests.rtc.test_turn import attempt, far_away, outcome, running_coturn

ALTERNATE_SERVER, ALTERNATE_DOMAIN = 0x8023, 0x8003
SERVER = TurnServer("turn.example.org", 3478, "udp", False, "user", "secret")
PUBLIC = ("198.41.0.4", 3478)


def refusal(named: Address | None, *, code: int = TRY_ALTERNATE, domain: bytes | None = None) -> stun.TransactionFailed:
    answer = stun.Message(stun.Method.ALLOCATE, stun.Class.ERROR)
    answer.attributes["ERROR-CODE"] = (code, "")
    if named is not None:
        answer.attributes["ALTERNATE-SERVER"] = named
    if domain is not None:
        answer.attributes["ALTERNATE-DOMAIN"] = domain
    return stun.TransactionFailed(stun.parse_message(bytes(answer)))


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([PUBLIC], ("198.41.0.5", 3478)),
        ([PUBLIC], ("198.41.0.4", 3479)),
        ([("10.0.0.1", 3478)], ("10.0.0.2", 3478)),
        ([("10.0.0.1", 3478)], ("198.41.0.4", 3478)),
        ([("127.0.0.1", 3478)], ("127.0.0.1", 3479)),
        ([("2001:503:ba3e::2:30", 3478)], ("2001:503:ba3e::2:31", 443)),
    ],
)
def test_alternate_is_asked_in_its_place(asked: list[Address], named: Address) -> None:
    assert alternate_of(refusal(named), SERVER, asked) == (SERVER, named)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([PUBLIC], None),
        ([PUBLIC], PUBLIC),
        ([PUBLIC, ("198.41.0.5", 3478)], PUBLIC),
        ([PUBLIC], ("198.41.0.4", 0)),
        ([PUBLIC], ("2001:503:ba3e::2:30", 3478)),
        # No server on the internet has us write to our own network, to our machine, to its cloud's secrets or to all.
        ([PUBLIC], ("10.0.0.1", 3478)),
        ([PUBLIC, ("198.41.0.5", 3478)], ("192.168.1.1", 80)),
        ([PUBLIC], ("127.0.0.1", 3478)),
        ([PUBLIC], ("169.254.169.254", 80)),
        ([PUBLIC], ("255.255.255.255", 3478)),
        ([PUBLIC], ("224.0.0.1", 3478)),
        ([PUBLIC], ("0.0.0.0", 3478)),
        ([("2001:503:ba3e::2:30", 3478)], ("::ffff:10.0.0.1", 3478)),
        ([("2001:503:ba3e::2:30", 3478)], ("fd00::1", 3478)),
        ([("2001:503:ba3e::2:30", 3478)], ("2001:503:ba3e:0::2:30", 3478)),
        ([("10.0.0.1", 3478)], ("127.0.0.1", 3478)),
        ([("10.0.0.1", 3478)], ("169.254.169.254", 80)),
        ([("198.41.0.4", 3478 + n) for n in range(MAX_SERVERS)], ("198.41.0.5", 3478)),
    ],
)
def test_alternate_that_may_not_be_asked_is_none(asked: list[Address], named: Address | None) -> None:
    assert alternate_of(refusal(named), SERVER, asked) is None


def test_another_error_names_none() -> None:
    assert alternate_of(refusal(("198.41.0.5", 3478), code=401), SERVER, [PUBLIC]) is None


@pytest.mark.parametrize(
    "domain", [b"other.example.org", b"xn--grer-zpa0g.example.org", b"a" * 63, b".".join([b"a"] * 128)]
)
def test_certificate_of_an_alternate_is_for_the_name_that_is_given(domain: bytes) -> None:
    server = replace(SERVER, transport="tcp", tls=True)
    found = alternate_of(refusal(("198.41.0.5", 3478), domain=domain), server, [PUBLIC])
    assert found == (replace(server, host=domain.decode()), ("198.41.0.5", 3478))


@pytest.mark.parametrize(
    "domain", [b"", b".", b"a..b", b"-a", b"a b", b"a\0b", b"a\n", b"\xff", b"a" * 64, b".".join([b"a"] * 129)]
)
def test_alternate_with_a_name_that_no_certificate_can_have_is_none(domain: bytes) -> None:
    error = refusal(("198.41.0.5", 3478), domain=domain)
    assert alternate_of(error, replace(SERVER, transport="tcp", tls=True), [PUBLIC]) is None
    assert alternate_of(error, SERVER, [PUBLIC]) == (SERVER, ("198.41.0.5", 3478)), "no name matters without TLS"


def naming(port: int, domain: bytes | None = None) -> Answer:
    """The answer of a server that names the one at ``port``."""
    address = (ALTERNATE_SERVER, struct.pack("!BBH4B", 0, 1, port, 127, 0, 0, 1))
    more = [] if domain is None else [(ALTERNATE_DOMAIN, domain)]
    error = (ERROR_CODE, bytes([0, 0, TRY_ALTERNATE // 100, TRY_ALTERNATE % 100]))
    return lambda request: message(ERROR, request, error, address, *more)


@contextlib.asynccontextmanager
async def chain(length: int, last: Answer | None) -> AsyncIterator[tuple[TurnServer, list[Liar]]]:
    """Servers of which each names the next one, and the last answers so, or names the first."""
    loop, first = asyncio.get_running_loop(), free_range(length)
    ports = range(first, first + length)
    liars = [Liar(naming(port)) for port in (*ports[1:], first)]
    if last is not None:
        liars[-1] = Liar(last)
    async with contextlib.AsyncExitStack() as stack:
        for port, liar in zip(ports, liars, strict=True):
            transport, _ = await loop.create_datagram_endpoint(lambda liar=liar: liar, local_addr=("127.0.0.1", port))
            stack.callback(transport.close)
        yield TurnServer("127.0.0.1", first, "udp", False, "user", "secret"), liars


@pytest.mark.parametrize("length", range(1, MAX_SERVERS + 1))
async def test_servers_are_followed_to_the_one_that_gives_a_relay(length: int) -> None:
    async with chain(length, lambda request: allocated(request, (600).to_bytes(4))) as (server, liars):
        assert await outcome(server) is ServerOutcome.OK
        assert all(liar.requests for liar in liars)


async def test_chain_without_an_end_is_left() -> None:
    async with chain(MAX_SERVERS + 2, None) as (server, liars):
        failed = await attempt(server)
        assert (failed.outcome, failed.detail) == (ServerOutcome.FAILED, "error 300")
        assert [liar.requests for liar in liars] == [1] * MAX_SERVERS + [0, 0]


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_servers_that_name_each_other_are_asked_once(length: int) -> None:
    async with chain(length, None) as (server, liars):
        failed = await attempt(server)
        assert (failed.outcome, failed.detail) == (ServerOutcome.FAILED, "error 300")
        assert [liar.requests for liar in liars] == [1] * length


async def test_alternate_that_is_not_there_is_told_as_that() -> None:
    async with chain(1, naming(free_range(2) + 1)) as (server, _):
        assert await outcome(server) is ServerOutcome.REFUSED


@pytest.mark.real
@pytest.mark.both_loops
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_coturn_that_names_another_is_followed(tmp_path: Path, transport: str) -> None:
    (tmp_path / "named").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        named = await stack.enter_async_context(running_coturn(tmp_path / "named"))
        option = f"--alternate-server=127.0.0.1:{named.port}"
        coturn = await stack.enter_async_context(running_coturn(tmp_path, option))
        assert await outcome(coturn.plan(transport).turn[0]) is ServerOutcome.OK


@pytest.mark.real
@pytest.mark.parametrize(
    ("its_name", "domain", "expected"),
    [
        ("server.test", None, ServerOutcome.OK),
        ("second.test", None, ServerOutcome.CERTIFICATE),
        ("second.test", b"second.test", ServerOutcome.OK),
        ("server.test", b"second.test", ServerOutcome.CERTIFICATE),
        ("server.test", b"\0", ServerOutcome.FAILED),
    ],
)
async def test_certificate_of_an_alternate_is_for_the_same_name_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, its_name: str, domain: bytes | None, expected: ServerOutcome
) -> None:
    files = [tmp_path / "first.pem", tmp_path / "its.pem"]
    first = make_certificate(files[0], addresses=(), names=("server.test",))
    its = make_certificate(files[1], addresses=(), names=(its_name,))
    (tmp_path / "both.pem").write_bytes(b"".join(file.read_bytes() for file in files))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
    async with running_coturn(tmp_path) as coturn, far_away(coturn.port, 0.0, its) as port:
        liar = Liar(naming(port, domain))
        loop = asyncio.get_running_loop()
        async with await loop.create_server(lambda: liar, "127.0.0.1", 0, ssl=first) as listening:
            its_port = listening.sockets[0].getsockname()[1]
            names(monkeypatch, ("127.0.0.1", its_port))
            assert await outcome(TurnServer("server.test", its_port, "tcp", True, "user", "secret")) is expected
