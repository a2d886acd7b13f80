"""The test link has the quality that it is told to have: what is measured over it means something."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.links import ADDRESS_B, Quality, TwoHosts

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and TUN devices need root"),
]

PING = (sys.executable, "-m", "tests.links.udp_ping")


@asynccontextmanager
async def answering(folder: Path, quality: Quality) -> AsyncIterator[TwoHosts]:
    async with TwoHosts(folder, quality) as hosts:
        server = ManagedProcess("echo", hosts.on_b(*PING, "serve", ADDRESS_B), folder=folder)
        async with server:
            await server.wait_for_line("ready", 10)
            yield hosts


async def ping(hosts: TwoHosts, count: int) -> tuple[float, int]:
    """Returns the mean round trip in ms, and how many of ``count`` were lost."""
    process = await asyncio.create_subprocess_exec(
        *hosts.on_a(*PING, "ask", ADDRESS_B, str(count)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    found = re.search(r"mean ([\d.]+) lost (\d+)", out.decode())
    assert found is not None
    return float(found[1]), int(found[2])


async def flood(hosts: TwoHosts, count: int) -> list[int]:
    """Returns the numbers of ``count`` datagrams, sent 1 ms apart, in the order in which they come back."""
    process = await asyncio.create_subprocess_exec(
        *hosts.on_a(*PING, "flood", ADDRESS_B, str(count)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return [int(number) for number in out.split()]


async def test_link_delays_by_what_it_is_told(tmp_path: Path) -> None:
    async with answering(tmp_path, Quality(delay_ms=20)) as hosts:
        mean, lost = await ping(hosts, 20)
    assert 40 <= mean < 60
    assert lost == 0


async def test_link_loses_and_can_be_cut(tmp_path: Path) -> None:
    async with answering(tmp_path, Quality(loss_percent=20, seed=7)) as hosts:
        _, lost = await ping(hosts, 60)
        assert 8 < lost < 40, "36 percent of round trips"
        hosts.cut()
        assert (await ping(hosts, 3))[1] == 3
        hosts.cut()
        assert (await ping(hosts, 20))[1] < 20


async def test_link_counts_ip_packets_with_their_headers(tmp_path: Path) -> None:
    """That is what its rate is about, and what the bench takes for the share that is filled."""
    async with answering(tmp_path, Quality()) as hosts:
        await ping(hosts, 1)
        before = await hosts.delivered_to_b()
        await ping(hosts, 10)
        size = await hosts.delivered_to_b() - before
    assert 10 * (4 + 28) <= size < 20 * (4 + 28), "what the kernel says on its own is little"


async def test_link_becomes_another_while_it_is_used(tmp_path: Path) -> None:
    async with answering(tmp_path, Quality()) as hosts:
        assert (await ping(hosts, 10))[0] < 10
        await hosts.wire.change(Quality(delay_ms=30), Quality(delay_ms=10))
        mean, lost = await ping(hosts, 10)
        assert 40 <= mean < 60
        assert lost == 0
        await hosts.wire.change(Quality(), Quality(loss_percent=100))
        assert (await ping(hosts, 3))[1] == 3


async def test_link_has_packets_overtaken_and_repeats_them(tmp_path: Path) -> None:
    """All arrive: late ones after those that were sent behind them, and some twice."""
    async with answering(tmp_path, Quality(late_percent=30, twice_percent=30, seed=3)) as hosts:
        order = await flood(hosts, 100)
    assert set(order) == set(range(100))
    assert order != sorted(order)
    assert 110 < len(order) < 250, "of 30 percent there and 30 percent back"
