"""Relayed paths, on networks that let little out, over servers that do not all work."""

from __future__ import annotations

import socket
import time

import pytest

from mxrtc_bridge.client.calls.connection import NO_PACKETS
from tests.links import Quality
from tests.long import if_long
from tests.nets.bed import ADDRESSES, STUN, TURN_NAME, TURN_TCP, TURN_UDP, TURNS, Bed, Note
from tests.nets.streams import longest_gap
from tests.nets.topology import NOWHERE, SECOND_TURN, Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

NO_UDP = ("meta l4proto udp",)
ONLY_443 = (*NO_UDP, 'oifname "wan" tcp dport != 443', 'iifname "wan" tcp sport != 443')
SET_UP_LIMIT_S = 3.0


def far(delay_ms: float, loss_percent: float = 0.0) -> Quality:
    """A line with this round trip."""
    return Quality(delay_ms=delay_ms / 2, loss_percent=loss_percent)


async def test_row_04_without_udp_a_relay_by_tcp_is_found(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP, TURN_TCP)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=NO_UDP)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("relayed", seen.seconds)
    relay_only = await bed.see("--relay-only", "ping", "build", "-c", "1")
    assert relay_only.way == "relayed"
    note("with `--relay-only`", relay_only.seconds)


async def test_row_05_where_only_https_gets_out_a_relay_by_tls_is_found(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP, TURN_TCP, TURNS)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=ONLY_443)
    seen = await bed.see("ping", "build", "-c", "1")
    assert (seen.way, seen.set_up_s < SET_UP_LIMIT_S) == ("relayed", True), seen
    note("relayed", seen.seconds)
    fetched = await bed.fetch(1_000_000)
    assert fetched.way == "relayed"
    note("a megabyte fetched", fetched.seconds)


@pytest.mark.parametrize(("uri", "delay_ms"), [(TURN_UDP, 300), *if_long((STUN, 320), (STUN, 600))])
async def test_row_06_servers_behind_a_slow_line_are_heard(bed: Bed, note: Note, uri: str, delay_ms: int) -> None:
    await bed.start_turn()
    await bed.set_up(uri)
    await bed.line(far(delay_ms))
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note(f"{uri.partition(':')[0].upper()}, {delay_ms} ms", seen.seconds)


@pytest.mark.parametrize(("delay_ms", "loss_percent", "times"), [(300, 0, 1), (150, 5, 3), (600, 0, 1)])
async def test_row_07_a_relay_by_tls_behind_a_slow_line_is_waited_for(
    bed: Bed, note: Note, delay_ms: float, loss_percent: float, times: int
) -> None:
    await bed.start_turn()
    await bed.set_up(TURNS)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=NO_UDP)
    await bed.line(far(delay_ms, loss_percent))
    for _ in range(times):
        seen = await bed.see("ping", "build", "-c", "1")
        assert seen.way == "relayed"
        note(f"{delay_ms} ms" + f" with {loss_percent} % loss" * bool(loss_percent), seen.seconds)


@pytest.mark.parametrize(
    ("fault", "to_admin"),
    [
        ("refused", "cannot be connected to"),
        ("credentials refused", "refuses the user name and password"),
        ("full", "is full"),
    ],
)
async def test_row_08_the_fault_of_a_server_that_gives_no_relay_is_named(
    bed: Bed, note: Note, fault: str, to_admin: str
) -> None:
    """To the user, and to the admin by ``check``."""
    await bed.set_up(TURN_UDP)
    if fault == "credentials refused":
        await bed.start_turn(secret="of another homeserver")
    if fault == "full":
        await bed.start_turn("--total-quota=1")
        await bed.tunnel("echo", options=["--relay-only"])
    bed.bridge_nat(Nat.SYMMETRIC)
    bed.net.client_router.rules(Nat.SYMMETRIC)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.code == 5
    assert seen.said.endswith(f"mxrtc: build: {NO_PACKETS}; no TURN server relays them ({fault}: {TURN_UDP}).\n")
    code, said = await bed.run_admin("check")
    assert (code, f"FAIL  no TURN server gives a relayed address: {TURN_UDP} {to_admin}" in said) == (1, True), said
    note("the sentence", seen.seconds)


@pytest.mark.timeout(400)
async def test_row_09_a_relay_is_kept_and_after_a_crash_there_is_another(bed: Bed, note: Note) -> None:
    """An allocation ends after 60 seconds unless it is refreshed."""
    turn = await bed.start_turn("--max-allocate-lifetime=60")
    await bed.set_up(TURN_UDP)
    bed.bridge_nat(Nat.SYMMETRIC)
    bed.net.client_router.rules(Nat.SYMMETRIC)
    tunnel = await bed.tunnel("tick", "echo")
    ticks, writer = await bed.open(tunnel.ports["tick"])
    assert await longest_gap(ticks, 150) < 2
    turn.kill()
    await bed.start_turn()
    began = time.monotonic()
    with pytest.raises(OSError, match="reset"):
        await longest_gap(ticks, 120)
    note("streams cut", time.monotonic() - began)
    await bed.until_works(tunnel)
    note("new ones work", time.monotonic() - began)
    writer.close()


async def test_row_10_a_server_that_takes_connections_and_is_silent_keeps_nobody(bed: Bed, note: Note) -> None:
    with bed.net.turn.inside():
        silent = socket.create_server((ADDRESSES[TURN_NAME], 3479))
    with silent:
        await bed.start_turn()
        await bed.set_up(f"turn:{TURN_NAME}:3479?transport=tcp", TURN_TCP)
        bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=NO_UDP)
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("relayed", seen.seconds)


@pytest.mark.parametrize("options", [[], *if_long(["--relay-only"])])
async def test_row_11_a_relay_whose_ipv6_leads_nowhere_is_used_by_ipv4(
    bed: Bed, note: Note, options: list[str]
) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_TCP)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=NO_UDP)
    bed.net.with_ipv6(bed.net.client)
    bed.names(f"{NOWHERE}1 {TURN_NAME}")
    seen = await bed.see(*options, "ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("relayed", seen.seconds)


@pytest.mark.parametrize("uri", [TURN_UDP, TURN_TCP, TURNS])
async def test_row_31_a_server_that_names_another_is_followed(bed: Bed, note: Note, uri: str) -> None:
    """300 Try Alternate (RFC 8489 section 10)."""
    port = 443 if uri == TURNS else 3478
    await bed.start_turn(f"--{'tls-' * (uri == TURNS)}alternate-server={SECOND_TURN}:{port}")
    await bed.start_turn(address=SECOND_TURN)
    await bed.set_up(uri)
    bed.bridge_nat(Nat.SYMMETRIC)
    bed.net.client_router.rules(Nat.SYMMETRIC)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("relayed", seen.seconds)


async def test_row_31_servers_that_name_each_other_are_told(bed: Bed, note: Note) -> None:
    await bed.start_turn(f"--alternate-server={SECOND_TURN}:3478")
    await bed.start_turn(f"--alternate-server={ADDRESSES[TURN_NAME]}:3478", address=SECOND_TURN)
    await bed.set_up(TURN_UDP)
    bed.bridge_nat(Nat.SYMMETRIC)
    bed.net.client_router.rules(Nat.SYMMETRIC)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.code == 5
    assert f"{NO_PACKETS}; no TURN server relays them (error 300: {TURN_UDP})" in seen.said
    note("the sentence", seen.seconds)
