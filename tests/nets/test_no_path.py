"""Where no packet can pass, both sides say so in the same way, and name what is missing."""

from __future__ import annotations

import pytest

from mxrtc_bridge.client.calls.connection import NO_PACKETS
from tests.long import if_long
from tests.nets.bed import LIMITS, Bed, Note

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("gives_up_first", ["bridge", *if_long("client")])
async def test_row_01_without_servers_both_sides_say_the_same(bed: Bed, note: Note, gives_up_first: str) -> None:
    """As both wait for 25 seconds it is chance who gives up first: the bridge does so soon here."""
    await bed.set_up(limits={**LIMITS, "setup": "5s" if gives_up_first == "bridge" else "60s"})
    seen = await bed.see("ping", "build", "-c", "1")
    assert seen.code == 5
    assert seen.said.endswith(
        f"mxrtc: build: {NO_PACKETS}; the homeserver gives no TURN server (voip/turnServer), which would relay them.\n"
    )
    if gives_up_first == "client":
        note("the sentence after", seen.seconds)
