"""IPv4 and IPv6, one of them, both, and one that leads nowhere."""

from __future__ import annotations

import pytest

from tests.nets.bed import HOMESERVER, STUN, TURN_NAME, TURN_UDP, Bed, Note
from tests.nets.topology import NOWHERE

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

IPV6 = (f"2a0a:0::10 {HOMESERVER}", f"2a0a:1::10 {TURN_NAME}")
BOTH_VERSIONS = ("--listening-ip=2a0a:1::10", "--relay-ip=2a0a:1::10")


async def test_row_12_a_homeserver_whose_ipv6_leads_nowhere_is_asked_by_ipv4(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.with_ipv6(bed.net.client)
    bed.names(f"{NOWHERE}1 {HOMESERVER}")
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("direct", seen.seconds)


async def test_row_13_two_sides_with_ipv6_alone_are_connected(bed: Bed, note: Note) -> None:
    await bed.start_turn(*BOTH_VERSIONS)
    await bed.set_up(TURN_UDP)
    for host in (bed.net.client, bed.net.bridge):
        bed.net.with_ipv6(host, ipv4=host is bed.net.bridge)
    bed.names(*IPV6)
    seen = await bed.see("ping", "build", "-c", "1")
    assert (seen.way, "ipv6" in seen.said) == ("direct", True), seen
    note("direct by IPv6", seen.seconds)


async def test_row_13_a_client_with_ipv6_alone_reaches_a_bridge_with_ipv4_alone_by_a_relay_with_both(
    bed: Bed, note: Note
) -> None:
    await bed.start_turn(*BOTH_VERSIONS)
    await bed.set_up(TURN_UDP)
    bed.net.with_ipv6(bed.net.client, ipv4=False)
    bed.names(*IPV6)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("relayed from IPv6 to IPv4", seen.seconds)


async def test_row_13_private_ipv6_is_no_obstacle(bed: Bed, note: Note) -> None:
    """Unique local addresses on both sides, which lead to nobody else."""
    await bed.start_turn()
    await bed.set_up(STUN)
    for number, host in enumerate((bed.net.client, bed.net.bridge), 1):
        host.run(f"ip address add fd00:{number}::10/64 dev eth0\nip -6 route replace default via fd00:{number}::1")
    seen = await bed.see("ping", "build", "-c", "1")
    assert (seen.way, "ipv4" in seen.said) == ("direct", True), seen
    note("direct by IPv4 beside private IPv6", seen.seconds)
