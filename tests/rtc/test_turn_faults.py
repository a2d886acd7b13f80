"""What is said of a TURN server that gives no relayed address, or one that is of little use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import threading
from dataclasses import replace
from pathlib import Path as FilePath

import pytest
from aioice import stun

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from mxrtc_bridge.rtc.ice_servers import ServerPlan, TurnServer
from mxrtc_bridge.rtc.interfaces import default_addresses
from mxrtc_bridge.rtc.turn import outcome_of
from tests.certificates import make_certificate
from tests.rtc.peers import answer_of, make_peer, offer_of
from tests.rtc.test_gathering import names
from tests.rtc.test_turn import Coturn, attempt, coturn, far_away, outcome, running_coturn, silent

__all__ = ["coturn"]

pytestmark = pytest.mark.real

IPV4 = [str(address) for address in default_addresses() if address.version == 4]


async def test_refused_credentials_are_told_from_a_relay(coturn: Coturn) -> None:
    server = coturn.plan("tcp", "wrong").turn[0]
    assert await outcome(server) is ServerOutcome.CREDENTIALS
    assert await outcome(replace(server, credential="secret")) is ServerOutcome.OK


@pytest.mark.skipif(not IPV4, reason="needs an address besides loopback")
async def test_server_that_does_not_know_its_outer_address_is_told_from_one_that_does(tmp_path: FilePath) -> None:
    async with running_coturn(tmp_path, host=IPV4[0]) as coturn:
        assert await outcome(coturn.plan().turn[0]) is ServerOutcome.PRIVATE


async def test_relay_over_tls_behind_dead_servers_comes_with_the_default_policy(
    coturn: Coturn, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that lets nothing but TLS out: others are silent, and the certificate is of an authority of its own."""
    context = make_certificate(tmp_path / "turn.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "turn.pem"))
    with silent("udp") as udp, silent("tcp") as tcp:
        async with far_away(coturn.port, 0.0, context) as port:
            ways = [(udp, "udp", False), (tcp, "tcp", False), (port, "tcp", True)]
            plan = ServerPlan(turn=tuple(TurnServer("127.0.0.1", *way, "user", "secret") for way in ways))
            peer = make_peer(plan=plan, gather_timeout_s=5.0)
            start = asyncio.get_running_loop().time()
            description = offer_of(await peer.create_offer())
            assert [candidate.type for candidate in description.candidates] == ["host", "relay"]
            assert asyncio.get_running_loop().time() - start < 4.0
            await peer.close()


async def test_server_that_forbids_all_addresses_of_the_other_side_is_told_from_one_that_relays(
    tmp_path: FilePath,
) -> None:
    async with running_coturn(tmp_path, "--denied-peer-ip=127.0.0.1") as coturn:
        caller, callee = make_peer(plan=coturn.plan(), policy=IcePolicy.RELAY, ice_timeout_s=2.0), make_peer()
        offer = offer_of(await caller.create_offer())
        assert [each.outcome for each in caller.gathering_report().attempts] == [ServerOutcome.OK]
        caller.apply_answer(answer_of(await callee.create_answer(offer)))
        with pytest.raises(TransportError, match="no path"):
            await caller.connect()
        assert [each.outcome for each in caller.gathering_report().attempts] == [ServerOutcome.FORBIDS]
        await asyncio.gather(caller.close(), callee.close())


async def test_list_of_authorities_is_read_beside_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[threading.Thread] = []
    create = ssl.create_default_context

    def noted() -> ssl.SSLContext:
        read.append(threading.current_thread())
        return create()

    monkeypatch.setattr(ssl, "create_default_context", noted)
    with silent("tcp") as port:
        pass
    server = TurnServer("127.0.0.1", port, "tcp", True, "u", "p")
    assert await outcome(server) is ServerOutcome.REFUSED
    assert read
    assert threading.main_thread() not in read


async def test_certificate_of_another_name_is_not_trusted_whatever_address_the_name_has(
    coturn: Coturn, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_certificate(tmp_path / "turn.pem")  # of the address, not of the name
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "turn.pem"))
    async with far_away(coturn.port, 0.0, context) as port:
        names(monkeypatch, ("127.0.0.1", port))
        server = TurnServer("server.test", port, "tcp", True, "user", "secret")
        assert await outcome(server) is ServerOutcome.CERTIFICATE
        assert await outcome(replace(server, host="127.0.0.1")) is ServerOutcome.OK


async def test_certificate_that_is_not_trusted_is_told(tmp_path: FilePath) -> None:
    context = make_certificate(tmp_path / "nobody.pem")
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        assert await outcome(TurnServer("127.0.0.1", port, "tcp", True, "u", "p")) is ServerOutcome.CERTIFICATE


async def test_server_that_is_down_is_told_at_once_over_udp_as_well() -> None:
    with silent("udp") as port:
        pass
    server = TurnServer("127.0.0.1", port, "udp", False, "u", "p")
    async with asyncio.timeout(4.0):
        assert await outcome(server) is ServerOutcome.REFUSED


async def test_server_that_closes_the_connection_is_not_waited_for() -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        server = TurnServer("127.0.0.1", port, "tcp", False, "u", "p")
        async with asyncio.timeout(4.0):
            failed = await attempt(server)
        assert (failed.outcome, failed.detail[:24]) == (ServerOutcome.FAILED, "it closes the connection")


async def test_server_without_tls_where_it_is_named_with_it_is_told() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await reader.read()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        failed = await attempt(TurnServer("127.0.0.1", port, "tcp", True, "u", "p"))
    assert (failed.outcome, failed.detail[:22]) == (ServerOutcome.FAILED, "no TLS is spoken there")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (401, ServerOutcome.CREDENTIALS),
        (441, ServerOutcome.CREDENTIALS),
        (486, ServerOutcome.QUOTA),
        (508, ServerOutcome.QUOTA),
        (403, ServerOutcome.FAILED),
    ],
)
def test_error_of_a_server_has_a_meaning(code: int, expected: ServerOutcome) -> None:
    response = stun.Message(stun.Method.ALLOCATE, stun.Class.ERROR)
    response.attributes["ERROR-CODE"] = (code, "")
    assert outcome_of(stun.TransactionFailed(response)) is expected


def test_network_without_a_way_is_told_from_a_server_that_fails() -> None:
    assert outcome_of(OSError(errno.ENETUNREACH, "")) is ServerOutcome.UNREACHABLE
    assert outcome_of(ConnectionError("the response is missing LIFETIME")) is ServerOutcome.FAILED
