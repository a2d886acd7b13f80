"""An implementation that never uses the number of a channel again, in a session that lasts."""

from __future__ import annotations

import pytest

from tests.long import LONG
from tests.rtc.implementations import OtherPeer
from tests.rtc.interop_fixtures import node, other, start
from tests.rtc.lossy import LossyPath
from tests.rtc.peers import RecordingPeer, make_peer
from tests.rtc.test_interop import join

__all__ = ["node", "other", "start"]

BATCH = 100
LIMIT_S = 150 if LONG else 20

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600 if LONG else 60),
    pytest.mark.parametrize("implementation", ["pion"]),
    pytest.mark.parametrize("it_offers", [True, False], ids=["it offers", "we offer"]),
]


@pytest.mark.parametrize("loss", [0, 0.01, 0.05] if LONG else [0, 0.01])
async def test_three_thousand_channels_of_a_session_have_a_number_each(
    other: OtherPeer, it_offers: bool, loss: float
) -> None:
    """Where fewer streams are agreed on than RFC 8831 section 6.2 asks for, the first beyond them leads nowhere."""
    ours = RecordingPeer(make_peer(opens_per_second=1_000_000))
    try:
        await join(other, ours, it_offers)
        LossyPath(ours, loss)
        ours.offered.clear()
        numbers: list[int] = []
        for turn in range(30):
            labels = [f"{turn} {n}" for n in range(BATCH)]
            for label in labels:
                other.tell(kind="open", label=label, protocol="x")
            await ours.until(lambda recorder: len(recorder.offered) == BATCH, LIMIT_S)
            assert {channel.channel.label for channel in ours.offered} == set(labels)
            for channel in ours.offered:
                numbers.append(channel.channel.number)  # type: ignore[attr-defined]
                channel.channel.send(channel.channel.label)
            for channel in ours.offered:
                await channel.until(lambda channel: len(channel.events) >= 2, LIMIT_S)
                other.tell(kind="close", label=channel.channel.label)
            for channel in ours.offered:
                await channel.until(lambda channel: "closed" in channel.events, LIMIT_S)
                await other.until("closed", timeout_s=LIMIT_S, label=channel.channel.label)
                assert channel.events == ["opened", channel.channel.label, "closed"]
            ours.offered.clear()
            other.seen.clear()
        first = 3 if it_offers else 0
        assert sorted(numbers) == list(range(first, first + 6000, 2))
        assert ours.lost == []
    finally:
        await ours.peer.close()
