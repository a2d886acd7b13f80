"""Channels that other implementations take for agreed on (``negotiated: true``), which ours knows nothing of."""

from __future__ import annotations

import pytest

from tests.rtc.implementations import ALL, OtherPeer
from tests.rtc.interop_fixtures import node, other, ours, start
from tests.rtc.peers import RecordingPeer
from tests.rtc.test_interop import KIB, join

__all__ = ["node", "other", "ours", "start"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.parametrize("implementation", ALL),
    pytest.mark.parametrize("it_offers", [True, False], ids=["it offers", "we offer"]),
]


@pytest.mark.parametrize("it_closes", [True, False])
async def test_channel_that_only_it_knows_of_is_closed_when_it_is_used_or_closed(
    other: OtherPeer, ours: RecordingPeer, it_offers: bool, it_closes: bool
) -> None:
    first = await join(other, ours, it_offers)
    for number in (100, 1022):
        label = f"agreed {number}"
        other.tell(kind="open", label=label, protocol="x", id=number)
        await other.until("open", label=label)
        if it_closes:
            other.tell(kind="close", label=label)
        else:
            other.tell(kind="flood", label=label, total=KIB, size=KIB)
        await other.until("closed", label=label)
    first.channel.send("still here")
    await first.until(lambda channel: channel.events[-1] == "still here")
    assert ours.lost == []
