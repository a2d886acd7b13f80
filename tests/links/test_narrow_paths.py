"""A path whose MTU is small, or gets smaller in a transfer, carries everything (RFC 9260 section 6.9, RFC 8899)."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.transport import PROGRAM, Pair
from tests.links import Quality, TwoHosts

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and TUN devices need root"),
]

LINK = Quality(delay_ms=5, rate_mbit=20)
CHANNEL = ("--interface", "wire0")


def pair_on(hosts: TwoHosts) -> Pair:
    return Pair(hosts.on_a(*PROGRAM, "offer", *CHANNEL), hosts.on_b(*PROGRAM, "answer", *CHANNEL))


@pytest.mark.parametrize("mtu", [1200, 1000, 576])
async def test_narrow_path_works_from_the_start(tmp_path: Path, mtu: int) -> None:
    async with TwoHosts(tmp_path, LINK) as hosts:
        await hosts.set_mtu(mtu)
        async with asyncio.timeout(20), pair_on(hosts) as pair:
            assert (await pair.bulk(1)).mb_s > 1.0, "of 2.5"


@pytest.mark.parametrize("largest", [1200, 1000, 600])
async def test_path_works_that_loses_what_is_large_without_a_word(tmp_path: Path, largest: int) -> None:
    """No router says so, and none fragments."""
    quality = replace(LINK, largest_bytes=largest)
    async with asyncio.timeout(30), TwoHosts(tmp_path, quality) as hosts, pair_on(hosts) as pair:
        assert (await pair.bulk(2)).mb_s > 1.0, "of 2.5"


@pytest.mark.parametrize("mtu", [1300, 1000, 576])
async def test_transfer_goes_on_when_the_path_gets_narrower(tmp_path: Path, mtu: int) -> None:
    async with TwoHosts(tmp_path, LINK) as hosts, pair_on(hosts) as pair:
        await pair.ping(20)
        async with asyncio.timeout(20):
            bulk = asyncio.create_task(pair.bulk(3))
            await asyncio.sleep(1)  # well into the transfer: packets have found their size
            await hosts.set_mtu(mtu)
            assert (await bulk).mb_s > 1.0, "of 2.5"


@pytest.mark.parametrize("largest", [1300, 1000, 600])
async def test_transfer_goes_on_when_the_path_loses_what_is_large_from_now_on(tmp_path: Path, largest: int) -> None:
    """Without a word, and fragments are not made by anybody: what was cut before goes in pieces."""
    async with TwoHosts(tmp_path, LINK) as hosts, pair_on(hosts) as pair:
        await pair.ping(20)
        async with asyncio.timeout(20):
            bulk = asyncio.create_task(pair.bulk(4))
            await asyncio.sleep(1)
            await hosts.wire.change(replace(LINK, largest_bytes=largest))
            assert (await bulk).mb_s > 1.0, "of 2.5"
