"""The whole pipe: TCP client, ``mxrtc connect``, bridge, TCP service, signalled through a real Synapse.

Beside it, in the same run, a plain TCP relay to the same services, and libdatachannel's bare channel.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.bench.transport import ENDS, SECONDS, Pair
from tests.e2e.world import World

MB = 1_000_000
BULK_BYTES = int(os.environ.get("BENCH_MB", "192")) * MB
EXCHANGES = 300
STREAMS = 150
"""Opened and closed one after the other; fewer than may be opened at once."""


async def download(port: int, size: int) -> float:
    """Fetch ``size`` bytes from the source; returns bytes a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    began = time.perf_counter()
    writer.write(b"%d\n" % size)
    received = 0
    while received < size:
        data = await reader.read(1 << 18)
        if not data:
            raise RuntimeError(f"the source ended after {received} of {size} bytes")
        received += len(data)
    took = time.perf_counter() - began
    writer.close()
    return size / took


async def upload(port: int, size: int) -> float:
    """Send ``size`` bytes to the sink and wait for its count; returns bytes a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    block = bytes(1 << 18)
    began = time.perf_counter()
    for start in range(0, size, len(block)):
        writer.write(block[: size - start])
        await writer.drain()
    writer.write_eof()
    count = int(await reader.readline())
    took = time.perf_counter() - began
    writer.close()
    if count != size:
        raise RuntimeError(f"the sink counted {count} of {size} bytes")
    return size / took


async def exchanges(port: int, count: int) -> list[float]:
    """One byte there and back, again and again; returns the times in milliseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)
    writer.close()
    return times


async def openings(port: int, count: int) -> float:
    """Open a stream, one byte there and back, and end it in order on both sides, again and again; returns seconds."""
    began = time.perf_counter()
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.readexactly(1)
        writer.write_eof()
        if await reader.read():
            raise RuntimeError("the echo said more than it was told")
        writer.close()
    return time.perf_counter() - began


async def beside_bulk(port: int, bulk_port: int) -> list[float]:
    """Exchanges while a bulk stream of the same session is running all the time."""
    stop = asyncio.Event()

    async def bulk() -> None:
        while not stop.is_set():
            await download(bulk_port, 16 * MB)

    task = asyncio.create_task(bulk())
    await asyncio.sleep(0.5)
    try:
        return await exchanges(port, EXCHANGES)
    finally:
        stop.set()
        await task


def cpu_seconds(process: ManagedProcess) -> float:
    return cpu_seconds_of(process.pid)


def cpu_seconds_of(pid: int | None) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"median_ms": statistics.median(times), "p95_ms": ordered[int(len(ordered) * 0.95)], "max_ms": ordered[-1]}


async def measure_pipe(folder: Path) -> dict[str, object]:
    """Measure set-up, throughput, cost and latency of a pipe."""
    async with AsyncExitStack() as stack:
        return await _measure(stack, folder)


async def _measure(stack: AsyncExitStack, folder: Path) -> dict[str, object]:
    services = ManagedProcess("services", [sys.executable, "-m", "tests.bench.services"], folder=folder)
    await stack.enter_async_context(services)
    ports = {name: int((await services.wait_for_line(rf"^{name} (\d+)"))[1]) for name in ("source", "sink", "echo")}
    relays: dict[str, int] = {}
    for name, port in ports.items():
        relay = ManagedProcess(f"relay-{name}", [sys.executable, "-m", "tests.bench.relay", str(port)], folder=folder)
        await stack.enter_async_context(relay)
        relays[name] = int((await relay.wait_for_line(r"listening on 127\.0\.0\.1:(\d+)"))[1])

    world = await World.start(folder, stack)
    world.services |= {name: {"target": f"tcp:127.0.0.1:{port}"} for name, port in ports.items()}
    world.grant("alice", "build")
    await world.add_user("alice")
    bridge = await world.start_bridge()

    setups: list[float] = []
    for _ in range(8):
        code, out, err = await world.run_mxrtc("alice", "--json", "ping", "build", "-c", "1")
        if code:
            raise RuntimeError(err)
        setups += [o["setup_ms"] for o in map(json.loads, out.splitlines()) if o["kind"] == "connected"]

    process, _ = await world.connect("alice", "build", *(part for n in ports for part in ("-L", f"0={n}")))
    await process.wait_for_line("listening on .*=.*|echo", 10)
    await asyncio.sleep(0.5)
    listening = [line for line in process.lines() if "listening on" in line]
    pipes = {name: int(line.split("127.0.0.1:")[1].split()[0]) for name, line in zip(ports, listening, strict=True)}

    results: dict[str, object] = {"bulk_mb": BULK_BYTES / MB, "cores": os.cpu_count()}
    results["setup_ms"] = {"median": statistics.median(setups), "min": min(setups), "max": max(setups)}
    processes = {"bridge": bridge, "client": process, "services": services}
    before = {name: cpu_seconds(each) for name, each in processes.items()}
    took = await openings(pipes["echo"], STREAMS)
    cost = {f"{name}_cpu_ms": 1000 * (cpu_seconds(each) - before[name]) / STREAMS for name, each in processes.items()}
    results["streams"] = {"opened_and_closed_per_s": STREAMS / took} | cost
    before = {name: cpu_seconds(each) for name, each in processes.items()}
    rates = {
        "pipe_down": await download(pipes["source"], BULK_BYTES),
        "pipe_up": await upload(pipes["sink"], BULK_BYTES),
    }
    spent = {name: cpu_seconds(each) - before[name] for name, each in processes.items()}
    rates |= {
        "relay_down": await download(relays["source"], BULK_BYTES),
        "relay_up": await upload(relays["sink"], BULK_BYTES),
    }
    async with Pair(*ENDS["libdatachannel"]) as pair:
        bare = (await pair.bulk(SECONDS)).mb_s
    results["rate_mb_s"] = {name: rate / MB for name, rate in rates.items()} | {"libdatachannel_bare": bare}
    for other, down, up in (
        ("relay", rates["relay_down"], rates["relay_up"]),
        ("libdatachannel", bare * MB, bare * MB),
    ):
        results[f"pipe_to_{other}"] = {"down": rates["pipe_down"] / down, "up": rates["pipe_up"] / up}
    results["cpu_s_per_gb"] = {name: seconds / (2 * BULK_BYTES / 1e9) for name, seconds in spent.items()}
    results["exchange"] = {
        "relay": summary(await exchanges(relays["echo"], EXCHANGES)),
        "pipe": summary(await exchanges(pipes["echo"], EXCHANGES)),
        "pipe_beside_bulk": summary(await beside_bulk(pipes["echo"], pipes["source"])),
    }
    return results
