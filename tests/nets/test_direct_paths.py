"""Which routers let packets pass directly, and what is left where they do not."""

from __future__ import annotations

import pytest

from tests.nets.bed import STUN, TURN_TCP, TURN_UDP, Bed, Note
from tests.nets.topology import Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

HOMES = (Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.FULL_CONE)
PAIRS = [(client, bridge) for client in HOMES for bridge in HOMES]


def names(value: object) -> str | None:
    return value.value if isinstance(value, Nat) else None


@pytest.mark.parametrize("client", [Nat.PORT_RESTRICTED, Nat.SYMMETRIC], ids=names)
async def test_row_02_advertised_ports_are_reached_directly(bed: Bed, note: Note, client: Nat) -> None:
    await bed.set_up(ice={"advertise": [bed.net.bridge_router.public], "port_range": [50000, 50019]})
    bed.bridge_nat(forward=("udp dport 50000-50019",))
    bed.net.client_router.rules(client)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("direct", seen.seconds)


@pytest.mark.parametrize(("client", "bridge"), PAIRS, ids=names)
async def test_row_03_routers_are_passed_directly_where_that_is_possible(
    bed: Bed, note: Note, client: Nat, bridge: Nat
) -> None:
    """One with another port for each destination is not reached where the other side's lets in only who it knows."""
    await bed.start_turn()
    await bed.set_up(TURN_UDP, TURN_TCP)
    bed.bridge_nat(bridge)
    bed.net.client_router.rules(client)
    seen = await bed.see("ping", "build", "-c", "1")
    strict = Nat.SYMMETRIC in {client, bridge} and Nat.FULL_CONE not in {client, bridge}
    assert seen.way == ("relayed" if strict else "direct")
    note(seen.way, seen.seconds)


async def test_row_03_a_stun_server_is_enough_for_usual_routers(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.way == "direct"
    note("direct", seen.seconds)
