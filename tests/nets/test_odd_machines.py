"""Machines with many networks, and bridges that are let in by some ports only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.long import if_long
from tests.nets.bed import LIMITS, STUN, TURN_UDP, Bed, Note
from tests.nets.topology import Host, Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

PORTS = [50000, 50019]
FORWARDED = "udp dport 50000-50019"


@contextmanager
def strict_firewalls(*hosts: Host) -> Iterator[None]:
    """Machines that let in by UDP only who was written to."""
    for host in hosts:
        host.run(
            "nft add table inet strict\n"
            "nft add chain inet strict input '{ type filter hook input priority filter; }'\n"
            "nft add rule inet strict input meta l4proto udp ct state new drop"
        )
    try:
        yield
    finally:
        for host in hosts:
            host.run("nft delete table inet strict")


async def test_row_21_container_bridges_with_the_same_addresses_on_both_sides_are_no_obstacle(
    bed: Bed, note: Note
) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    with bed.net.container_bridges(bed.net.client, 3), bed.net.container_bridges(bed.net.bridge, 3):
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("direct", seen.seconds)


async def test_row_22_ten_container_bridges_do_not_hide_the_real_interface(bed: Bed, note: Note) -> None:
    """The bridge has a public address, which the client finds where it offers the right one of its own."""
    await bed.set_up()
    async with bed.public_bridge():
        with bed.net.container_bridges(bed.net.client, 10):
            bed.net.cable_client_anew()  # so that its interface is the last one
            seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("direct", seen.seconds)


@pytest.mark.long
async def test_row_23_the_same_private_network_on_both_sides_is_no_obstacle(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.client_lan("192.168.2.10")
    bed.net.client_router.rules(Nat.PORT_RESTRICTED)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("same private network: direct", seen.seconds)


@pytest.mark.long
async def test_row_23_a_vpn_that_takes_the_default_route_is_used(bed: Bed, note: Note) -> None:
    """The other interface has an address still, and leads nowhere."""
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.vpn()
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("VPN: direct", seen.seconds)


@pytest.mark.parametrize("routed", [True, *if_long(False)])
async def test_row_23_a_bridge_with_two_network_cards_is_reached_by_either(bed: Bed, note: Note, routed: bool) -> None:
    """No server shows the way to the second one, whose answers leave by the first where nothing says otherwise."""
    await bed.start_turn()
    await bed.set_up(*([] if routed else [STUN]))
    with bed.net.second_card_of_bridge(routed=routed):
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("two network cards: direct", seen.seconds)


@pytest.mark.parametrize("firewall", ["none", *if_long("the client's", "both")])
async def test_row_23_a_client_in_the_network_of_the_bridge_is_connected_directly(
    bed: Bed, note: Note, firewall: str
) -> None:
    """The bridge begins with no private address but those that it is told, so its firewall would let nobody in."""
    begins = firewall == "both"
    await bed.set_up(**({"ice": {"remote": {"allow": ["192.168.2.0/24"]}}} if begins else {}))
    hosts = {"none": [], "the client's": [bed.net.client], "both": [bed.net.client, bed.net.bridge]}[firewall]
    with bed.net.client_beside_bridge(), strict_firewalls(*hosts):
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("network of the bridge: direct", seen.seconds)


@pytest.mark.long
async def test_row_23_a_client_that_an_access_point_keeps_from_the_bridge_beside_it_is_relayed(
    bed: Bed, note: Note
) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP)
    with bed.net.client_beside_bridge(isolated=True):
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "relayed"
    note("isolated beside the bridge: relayed", seen.seconds)


async def test_row_24_a_firewall_that_lets_a_range_in_is_passed(bed: Bed, note: Note) -> None:
    await bed.set_up(ice={"port_range": PORTS})
    others = f'iifname "wan" ct state new udp dport != {PORTS[0]}-{PORTS[1]}'
    async with bed.public_bridge(drop=[others]):
        seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("firewall: direct", seen.seconds)


@pytest.mark.parametrize("advertised", [True, False])
async def test_row_24_a_container_whose_ports_are_mapped_is_reached_if_it_advertises_them(
    bed: Bed, note: Note, advertised: bool
) -> None:
    """It is in a private network, like a machine behind a 1:1 NAT."""
    ice = {"port_range": PORTS, "advertise": [bed.net.bridge_router.public]}
    await bed.set_up(ice=ice if advertised else {}, limits={**LIMITS, "setup": "30s" if advertised else "5s"})
    bed.bridge_nat(forward=[FORWARDED])
    seen = await bed.see("ping", "build", "-c", "1")
    if advertised:
        assert seen.way == "direct"
        note("container: direct", seen.seconds)
        return
    assert seen.code == 5, seen
    code, said = await bed.run_admin("check")
    assert code == 0, said
    assert "nobody outside" in said, said


async def test_row_25_a_range_that_is_used_up_is_told_as_that(bed: Bed, note: Note) -> None:
    await bed.set_up(ice={"port_range": [50000, 50000], "advertise": [bed.net.bridge_router.public]})
    bed.bridge_nat(forward=[FORWARDED])
    await bed.tunnel("echo")
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.code == 1
    assert "all UDP ports that it may use for calls are taken" in seen.said
    note("the sentence", seen.seconds)
