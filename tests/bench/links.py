"""One bulk channel over links of different quality, beside TCP over the same link in the same run (needs root)."""

from __future__ import annotations

import sys
from pathlib import Path

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.bench.transport import PROGRAM, Pair
from tests.links import ADDRESS_B, Quality, TwoHosts

SECONDS = 8.0

LINKS = {
    "50 ms": Quality(delay_ms=25),
    "50 ms, 0.1 % loss": Quality(delay_ms=25, loss_percent=0.1),
    "50 ms, 1 % loss": Quality(delay_ms=25, loss_percent=1),
    # A queue of two bandwidth-delay products: what a home router has at its best.
    "20 ms, 100 Mbit/s": Quality(delay_ms=10, rate_mbit=100, queue_bytes=500_000),
}


async def measure_links(folder: Path) -> dict[str, dict[str, float]]:
    """Measure all links; rates in MB/s, times in milliseconds."""
    results: dict[str, dict[str, float]] = {}
    for name, quality in LINKS.items():
        async with TwoHosts(folder, quality) as hosts:
            tcp = {control: await _tcp(hosts, control, folder) for control in ("bbr", "cubic")}
            channel = ["--interface", "wire0"]
            async with Pair(hosts.on_a(*PROGRAM, "offer", *channel), hosts.on_b(*PROGRAM, "answer", *channel)) as pair:
                idle_ms, _ = await pair.ping(20)
                rate = (await pair.bulk(SECONDS)).mb_s
                beside_ms, _ = await pair.ping(50, beside_bulk=True)
        row = {"channel_mb_s": rate, "tcp_bbr_mb_s": tcp["bbr"], "tcp_cubic_mb_s": tcp["cubic"]}
        row |= {"to_tcp_bbr": rate / tcp["bbr"], "ping_idle_ms": idle_ms, "ping_beside_bulk_ms": beside_ms}
        row["ping_added_ms"] = beside_ms - idle_ms
        if quality.rate_mbit:
            row["of_the_link"] = rate * 8 / quality.rate_mbit
        results[name] = row
    return results


async def _tcp(hosts: TwoHosts, control: str, folder: Path) -> float:
    program = (sys.executable, "-m", "tests.bench.tcp")
    receiver = ManagedProcess(f"tcp-receive-{control}", hosts.on_b(*program, "receive", ADDRESS_B), folder=folder)
    async with receiver:
        await receiver.wait_for_line("ready", 20)
        sender = ManagedProcess(
            f"tcp-send-{control}", hosts.on_a(*program, "send", ADDRESS_B, control, str(SECONDS)), folder=folder
        )
        async with sender:
            await sender.wait(SECONDS + 30)
        found = await receiver.wait_for_line(r"received (\d+) in ([\d.]+)", 60)
    return int(found[1]) / float(found[2]) / 1e6
