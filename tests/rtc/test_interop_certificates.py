"""Other implementations with certificates and cipher suites that ours does not choose by itself."""

from __future__ import annotations

import pytest

from tests.rtc.interop_fixtures import Start, node, ours, start
from tests.rtc.peers import RecordingPeer
from tests.rtc.test_interop import join

__all__ = ["node", "ours", "start"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.parametrize("it_offers", [True, False], ids=["it offers", "we offer"]),
]


@pytest.mark.parametrize("argument", ["-rsa", "-aes256"])
async def test_peer_is_met_with_the_certificate_and_the_cipher_suite_that_it_has(
    start: Start, ours: RecordingPeer, it_offers: bool, argument: str
) -> None:
    async with start("pion", argument) as other:
        channel = await join(other, ours, it_offers)
        channel.channel.send("hello")
        assert await channel.until_count(2) == ["opened", "hello"]
