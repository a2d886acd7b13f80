"""Lines that lose, repeat, delay and overtake."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from tests.links import Quality
from tests.nets.bed import OTHERS, STUN, Bed, Note, Seen

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

LINES = {
    "5 % loss": Quality(delay_ms=25, loss_percent=5),
    "overtaking": Quality(delay_ms=10, late_percent=20),
    "30 % twice": Quality(delay_ms=10, twice_percent=30),
    "100 ms jitter": Quality(delay_ms=10, jitter_ms=100),
    "1 Mbit/s": Quality(delay_ms=25, rate_mbit=1),
}


@pytest.mark.parametrize("name", LINES)
async def test_row_26_every_byte_is_right_on_a_bad_line(bed: Bed, note: Note, name: str) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    await bed.line(LINES[name])
    seen = [await bed.fetch(200_000), await bed.give(200_000)]
    assert [each.code for each in seen] == [0, 0], seen
    note(f"200 KB, {name}", max(each.seconds for each in seen))


@pytest.mark.timeout(1500)
async def test_row_27_commands_connect_on_a_line_that_loses_a_fifth(bed: Bed, note: Note) -> None:
    """Three people call twenty times each: what one of them loses takes the others no time."""
    await bed.start_turn()
    await bed.set_up(STUN)
    for name in OTHERS:
        await bed.add_user(name)
    await bed.line(Quality(delay_ms=25, loss_percent=20))

    async def call(name: str) -> list[Seen]:
        return [await bed.see("ping", "build", "-c", "1", user=name) for _ in range(20)]

    calls = [each for its in await asyncio.gather(*map(call, OTHERS)) for each in its]
    failed = [each for each in calls if each.code]
    told = "\n".join(f"{each.code} after {each.seconds:.1f} s: {each.said}" for each in failed)
    assert len(failed) <= 1, told
    assert {each.code for each in failed} <= {1, 4, 5}, f"what may be tried again\n{told}"
    times = [each.seconds for each in calls if each.code == 0]
    note("connected, median", statistics.median(times))
    note("connected, longest", max(times))


async def test_row_28_keystrokes_pass_beside_a_transfer_that_fills_the_line(bed: Bed, note: Note) -> None:
    """The queue before the line is long enough for eight seconds."""
    await bed.start_turn()
    await bed.set_up(STUN)
    await bed.line(Quality(delay_ms=25, rate_mbit=1, queue_bytes=1_000_000))
    tunnel = await bed.tunnel("echo", "source")
    keys, typing = await bed.open(tunnel.ports["echo"])
    times = []
    async with bed.fetching(tunnel, 1_000_000) as fetching:
        await fetching.until(100_000)
        began = time.monotonic()
        rest = asyncio.create_task(fetching.end())
        while not rest.done():
            pressed = time.monotonic()
            typing.write(b"k")
            await keys.readexactly(1)
            times.append(time.monotonic() - pressed)
            await asyncio.sleep(0.1)  # as fast as somebody types
        await rest
        assert 900_000 * 8 / (time.monotonic() - began) > 700_000, "of a megabit a second"
    assert len(times) > 10
    median = statistics.median(times)
    note("a keystroke", median)
    assert median < 0.5
    typing.close()
