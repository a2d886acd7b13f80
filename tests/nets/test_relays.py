"""Relayed paths, on networks that let little out, over servers that do not all work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.nets.bed import TURN_TCP, TURN_UDP, TURNS, Bed
from tests.nets.topology import Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

Note = Callable[[str, float], None]

ONLY_443 = ("meta l4proto udp", 'oifname "wan" tcp dport != 443', 'iifname "wan" tcp sport != 443')


async def test_row_04_without_udp_a_relay_by_tcp_is_found(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP, TURN_TCP)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=("meta l4proto udp",))
    seen = await bed.see("ping", "build", "-c", "1")
    assert (seen.way, seen.set_up_s < 3) == ("relayed", True), seen
    note("relayed after", seen.seconds)
    relay_only = await bed.see("--relay-only", "ping", "build", "-c", "1")
    assert relay_only.way == "relayed"
    note("with `--relay-only`", relay_only.seconds)


async def test_row_05_where_only_https_gets_out_a_relay_by_tls_is_found(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP, TURN_TCP, TURNS)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, drop=ONLY_443)
    seen = await bed.see("ping", "build", "-c", "1")
    assert (seen.way, seen.set_up_s < 3) == ("relayed", True), seen
    note("relayed after", seen.seconds)
