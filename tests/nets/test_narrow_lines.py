"""Lines that carry no large packets, from the start or from some moment on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.links import Quality
from tests.long import if_long
from tests.nets.bed import STUN, TURN_UDP, Bed, Note
from tests.nets.topology import Nat

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

MEGABYTE = 1_000_000
LINE = Quality(rate_mbit=20, delay_ms=5)


async def both_ways(bed: Bed) -> float:
    """Fetch a megabyte and give one, which both must be right; returns the longer time."""
    seen = [await bed.fetch(MEGABYTE), await bed.give(MEGABYTE)]
    assert [each.code for each in seen] == [0, 0], seen
    return max(each.seconds for each in seen)


@pytest.mark.parametrize("largest", [1400, 1280, 1232])
async def test_row_14_what_is_too_large_for_a_line_and_vanishes_is_sent_in_smaller_pieces(
    bed: Bed, note: Note, largest: int
) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.client_router.rules(Nat.PORT_RESTRICTED, clamp=largest - 40)
    await bed.line(Quality(largest_bytes=largest))
    note(f"a megabyte at {largest} bytes", await both_ways(bed))


async def test_row_14_a_relay_behind_such_a_line_is_used_as_well(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(TURN_UDP)
    bed.bridge_nat(Nat.SYMMETRIC)
    bed.net.client_router.rules(Nat.SYMMETRIC, clamp=1200)
    await bed.line(Quality(largest_bytes=1240))
    note("relayed at 1240 bytes", await both_ways(bed))


@pytest.mark.parametrize("mtu", [9000, 1420, 1280])
async def test_row_14_interfaces_of_any_size_are_used(bed: Bed, note: Note, mtu: int) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.lan_mtu(mtu)
    note(f"a megabyte with an interface of {mtu}", await both_ways(bed))


@pytest.mark.parametrize("mtu", [576, *if_long(1000, 1200)])
async def test_row_15_narrow_networks_carry_everything(bed: Bed, note: Note, mtu: int) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.lan_mtu(mtu)
    note(f"a megabyte at {mtu} bytes", await both_ways(bed))


@pytest.mark.parametrize(
    ("mtu", "silently"),
    [(1000, False), (1000, True), *if_long((1300, False), (576, False), (1300, True), (600, True))],
)
async def test_row_16_a_transfer_goes_on_when_the_line_gets_narrower(
    bed: Bed, note: Note, mtu: int, silently: bool
) -> None:
    """Where the routers divide packets that are too large, and where these vanish."""
    await bed.start_turn()
    await bed.set_up(STUN)
    await bed.line(LINE)
    tunnel = await bed.tunnel("source")
    async with bed.fetching(tunnel, 6 * MEGABYTE) as fetching:
        await fetching.until(2 * MEGABYTE)
        if silently:
            await bed.line(replace(LINE, largest_bytes=mtu))
        else:
            bed.net.line_mtu(mtu)
        gap = await fetching.end()
    note("silently: a pause of" if silently else "told: a pause of", gap)
    assert gap < 10
