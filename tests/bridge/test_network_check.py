"""What a check says of the network: who can connect, and what each TURN server does."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace

import pytest

from mxrtc_bridge.bridge.network_check import STRICT, check_network, judge_reach, judge_servers
from mxrtc_bridge.config.config import IceSettings
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.ice import IcePolicy, parse_advertised
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.core.webrtc.network import Network, ServerSeen
from mxrtc_bridge.rtc.ice_servers import ServerPlan, StunServer

ICE = IceSettings(
    use_homeserver_servers=True,
    servers=(),
    policy=IcePolicy.ALL,
    interfaces=(),
    advertise=(),
    port_range=None,
    remote=AddressPolicy(),
)
UDP, TLS = "turn:server.test:3478?transport=udp", "turns:server.test:443?transport=tcp"
PRIVATE, SHARED, PUBLIC, LOCAL6, PUBLIC6 = "192.168.2.10", "100.64.0.7", "5.5.2.2", "fd00::10", "2a00:1450::1"


def reach(*addresses: str, advertise: str = "", stun: bool = False) -> Finding:
    ice = replace(ICE, advertise=(parse_advertised(advertise),) if advertise else ())
    plan = ServerPlan(stun=(StunServer("server.test", 3478),) if stun else ())
    return judge_reach(ice, [ipaddress.ip_address(each) for each in addresses], plan)


@pytest.mark.parametrize(
    ("addresses", "advertise", "stun", "words"),
    [
        ((PRIVATE,), "", False, "nobody outside of that network can connect"),
        ((SHARED, LOCAL6), "", False, "nobody outside of that network can connect"),
        ((PRIVATE,), "", True, f"some users outside can connect, and {STRICT}"),
        ((PRIVATE, PUBLIC6), "", False, "users without IPv6 cannot connect"),
        ((PRIVATE,), "203.0.113.7", False, f"there is no TURN server, so {STRICT}"),
        ((PRIVATE, PUBLIC), "", False, f"there is no TURN server, so {STRICT}"),
    ],
)
def test_without_turn_it_is_said_who_cannot_connect(
    addresses: tuple[str, ...], advertise: str, stun: bool, words: str
) -> None:
    finding = reach(*addresses, advertise=advertise, stun=stun)
    assert (finding.level, finding.what.endswith(words)) == (Level.WARN, True)
    assert ("ice.advertise" in finding.fix) is (advertise == "" and PUBLIC not in addresses)


def test_a_bridge_that_may_use_relays_only_and_has_none_is_of_no_use() -> None:
    finding = judge_reach(replace(ICE, policy=IcePolicy.RELAY), [ipaddress.ip_address(PUBLIC)], ServerPlan())
    assert (finding.level, "nobody can connect" in finding.what) == (Level.FAIL, True)


def seen(**outcomes: ServerOutcome) -> list[tuple[Level, str]]:
    uris = {"udp": UDP, "tls": TLS}
    servers = tuple(ServerSeen(ServerAttempt(uris[each], outcome), 0.1) for each, outcome in outcomes.items())
    return [(finding.level, finding.what) for finding in judge_servers(Network(servers))]


def test_each_turn_server_that_fails_is_named_although_another_relays() -> None:
    assert seen(udp=ServerOutcome.OK, tls=ServerOutcome.CERTIFICATE) == [
        (Level.OK, "TURN gives a relayed address (1 of 2 URIs)"),
        (Level.WARN, f"{TLS} has a certificate that this machine does not trust"),
    ]
    assert seen(udp=ServerOutcome.OK, tls=ServerOutcome.OK) == [
        (Level.OK, "TURN gives a relayed address (2 of 2 URIs)"),
    ]


def test_a_bridge_that_can_send_no_udp_is_found() -> None:
    levels = [level for level, _ in seen(udp=ServerOutcome.TIMED_OUT, tls=ServerOutcome.OK)]
    assert levels == [Level.OK, Level.WARN, Level.WARN]
    assert "all are relayed by TCP" in seen(udp=ServerOutcome.TIMED_OUT, tls=ServerOutcome.OK)[-1][1]


def test_where_nothing_relays_it_is_said_of_each_why() -> None:
    ((level, what),) = seen(udp=ServerOutcome.CREDENTIALS, tls=ServerOutcome.REFUSED)
    assert level is Level.FAIL
    assert f"{UDP} refuses the user name and password" in what
    assert f"{TLS} cannot be connected to" in what


class Homeserver:
    """Gives TURN servers and its time."""

    def __init__(self, *urls: str, clock_offset_s: float | None = 0.0, error: str = "") -> None:
        self._servers = (IceServer(urls, "user", "secret"),) if urls else ()
        self._error = error
        self.clock_offset_s = clock_offset_s

    async def turn_server(self) -> tuple[IceServer, ...]:
        if self._error:
            raise HomeserverError(self._error)
        return self._servers


async def found(homeserver: Homeserver, **changes: object) -> list[tuple[Level, str]]:
    ice = replace(ICE, interfaces=("lo",), **changes)  # type: ignore[arg-type]
    findings = check_network(ice, homeserver, timeout_s=0.3)  # type: ignore[arg-type]
    return [(finding.level, finding.what) async for finding in findings]


async def test_servers_of_the_homeserver_are_asked() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        uri = f"turn:127.0.0.1:{silent.getsockname()[1]}?transport=udp"
        ((level, what), unusable) = await found(Homeserver(uri, "stuns:server.test"))
    assert (level, what) == (
        Level.FAIL,
        f"no TURN server gives a relayed address that others can reach: {uri} does not answer",
    )
    assert unusable == (Level.WARN, "stuns:server.test cannot be used")


async def test_a_homeserver_without_turn_leaves_the_addresses_of_this_machine() -> None:
    ((level, what),) = await found(Homeserver())
    assert (level, what.endswith("nobody outside of that network can connect")) == (Level.WARN, True)


async def test_own_servers_are_used_in_place_of_those_of_the_homeserver() -> None:
    ((_, what),) = await found(Homeserver("turn:server.invalid"), use_homeserver_servers=False)
    assert "there is no TURN server" in what


async def test_a_homeserver_that_does_not_say_its_servers_is_named() -> None:
    ((level, what),) = await found(Homeserver(error="it is away"))
    assert (level, what) == (Level.WARN, "the homeserver gives no TURN servers: it is away")


@pytest.mark.parametrize(("offset_s", "words"), [(90.0, "90 s behind"), (-90.0, "90 s ahead of"), (30.0, None)])
async def test_a_clock_that_is_apart_is_found(offset_s: float, words: str | None) -> None:
    whats = [what for _, what in await found(Homeserver(clock_offset_s=offset_s)) if "clock" in what]
    assert whats == ([] if words is None else [f"this clock is {words} the homeserver's: calls are refused as too old"])


async def test_an_interface_that_is_not_there_is_found() -> None:
    ice = replace(ICE, interfaces=("wg7",))
    findings = [finding async for finding in check_network(ice, Homeserver())]  # type: ignore[arg-type]
    assert [(finding.level, finding.fix) for finding in findings] == [
        (Level.FAIL, "correct ice.interfaces, or bring the interface up")
    ]
