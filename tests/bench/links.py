"""One bulk channel over links of different quality, beside TCP over the same link in the same run (needs root).

The rate of a test link counts IP packets, headers included. So besides the payload that arrives there is how much of
the link was filled: the bytes of all packets that it delivered. Of a packet of 1,500 bytes a data channel carries
1,400 as payload (IP 20, UDP 8, DTLS 37, SCTP 12, I-DATA 20, three lost to alignment), TCP with timestamps 1,448.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Share:
    """What became of a transfer over a link."""

    mb_s: float
    """Payload."""
    filled: float
    """Bytes of packets that the link delivered, as a share of what it could; 0 for a link without a rate."""


async def measure_links(folder: Path) -> dict[str, dict[str, float]]:
    """Measure all links; rates in MB/s, times in milliseconds."""
    results: dict[str, dict[str, float]] = {}
    for name, quality in LINKS.items():
        async with TwoHosts(folder, quality) as hosts:
            tcp = {control: await _tcp(hosts, quality, control, folder) for control in ("bbr", "cubic")}
            channel = ["--interface", "wire0"]
            async with Pair(hosts.on_a(*PROGRAM, "offer", *channel), hosts.on_b(*PROGRAM, "answer", *channel)) as pair:
                idle_ms, _ = await pair.ping(20)
                before = await hosts.delivered_to_b()
                bulk = await pair.bulk(SECONDS)
                ours = _share(quality, await hosts.delivered_to_b() - before, bulk.size, bulk.seconds)
                beside_ms, beside_p95_ms = await pair.ping(100, beside_bulk=True)
        row = {"channel_mb_s": ours.mb_s, "tcp_bbr_mb_s": tcp["bbr"].mb_s, "tcp_cubic_mb_s": tcp["cubic"].mb_s}
        row |= {"to_tcp_bbr": ours.mb_s / tcp["bbr"].mb_s, "ping_idle_ms": idle_ms, "ping_beside_bulk_ms": beside_ms}
        row |= {"ping_added_ms": beside_ms - idle_ms, "ping_added_p95_ms": beside_p95_ms - idle_ms}
        if quality.rate_mbit:
            for flow, share in {"": ours, "tcp_bbr_": tcp["bbr"], "tcp_cubic_": tcp["cubic"]}.items():
                row[f"{flow}filled"] = share.filled
                row[f"{flow}payload_of_the_link"] = share.mb_s * 8 / quality.rate_mbit
        results[name] = row
    return results


def _share(quality: Quality, delivered: int, size: int, seconds: float) -> Share:
    filled = delivered * 8 / seconds / (quality.rate_mbit * 1e6) if quality.rate_mbit else 0.0
    return Share(size / seconds / 1e6, filled)


async def _tcp(hosts: TwoHosts, quality: Quality, control: str, folder: Path) -> Share:
    program = (sys.executable, "-m", "tests.bench.tcp")
    receiver = ManagedProcess(f"tcp-receive-{control}", hosts.on_b(*program, "receive", ADDRESS_B), folder=folder)
    async with receiver:
        await receiver.wait_for_line("ready", 20)
        before = await hosts.delivered_to_b()
        sender = ManagedProcess(
            f"tcp-send-{control}", hosts.on_a(*program, "send", ADDRESS_B, control, str(SECONDS)), folder=folder
        )
        async with sender:
            await sender.wait(SECONDS + 30)
        found = await receiver.wait_for_line(r"received (\d+) in ([\d.]+)", 60)
        return _share(quality, await hosts.delivered_to_b() - before, int(found[1]), float(found[2]))
