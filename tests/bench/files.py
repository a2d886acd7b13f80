"""Files: one large file beside the plain pipe and scp, ten thousand small ones beside tar, and what memory it takes.

Everything in one run on one machine, over loopback and through a real Synapse: compare within the run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.bench.pipe import MB, cpu_seconds, upload
from tests.e2e.test_ssh import Ssh, run
from tests.e2e.world import World

LARGE_MB = int(os.environ.get("BENCH_FILE_MB", "512"))
SMALL_COUNT = int(os.environ.get("BENCH_FILE_COUNT", "10000"))
SMALL_SIZE = 1024
SAMPLE_S = 0.2


def resident_kib(pid: int) -> int:
    """Resident memory of a process; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


class _Peak:
    """Watches how far the memory of processes grows beyond what it is a second after the start."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self.growth_mib: dict[str, float] = {}

    async def watch(self) -> None:
        await asyncio.sleep(1.0)
        first = {name: resident_kib(pid) for name, pid in self._pids.items()}
        while True:
            for name, pid in self._pids.items():
                grown = (resident_kib(pid) - first[name]) / 1024
                self.growth_mib[name] = max(grown, self.growth_mib.get(name, 0.0))
            await asyncio.sleep(SAMPLE_S)


async def measure_files(folder: Path) -> dict[str, object]:
    """Measure transfers; rates in MB/s, memory in MiB."""
    async with AsyncExitStack() as stack:
        return await _measure(stack, folder)


async def _measure(stack: AsyncExitStack, folder: Path) -> dict[str, object]:
    world = await World.start(folder, stack)
    ssh = Ssh(folder, world)
    await ssh.start(stack)
    await world.serve("sink", _count)
    box = folder / "box"
    box.mkdir(mode=0o700)
    world.services["box"] = {"files": {"dir": str(box), "direction": "both"}}
    world.grant("alice", "build")
    await world.add_user("alice")
    bridge = await world.start_bridge()

    large, small = folder / "large.bin", folder / "small"
    with large.open("wb") as file:
        for _ in range(LARGE_MB):
            file.write(os.urandom(MB))
    small.mkdir()
    for number in range(SMALL_COUNT):
        (small / f"{number:05}.bin").write_bytes(os.urandom(SMALL_SIZE))

    _, port = await world.connect("alice", "build", "-L", "0=sink")
    pipe = await upload(port, LARGE_MB * MB)
    before = cpu_seconds(bridge)
    sent = await _transfer(world, bridge, "send", large, "build/box")
    cpu = cpu_seconds(bridge) - before
    scp = await _timed(lambda: _scp(ssh, large, folder / "scp.bin"))
    fetched = await _transfer(world, bridge, "get", "build/box:large.bin", "-o", folder / "fetched")
    small_sent = await _timed(lambda: _mxrtc(world, "send", small, "build/box"))
    tar = await _timed(lambda: _tar(small, folder / "untarred"))
    rates = {
        "pipe_up": pipe / MB,
        "send": LARGE_MB / sent.took_s,
        "get": LARGE_MB / fetched.took_s,
        "scp": LARGE_MB / scp,
    }
    return {
        "large_mb": LARGE_MB,
        "rate_mb_s": rates,
        "started_s": sent.started_s,
        "send_to_pipe": rates["send"] / rates["pipe_up"],
        "get_to_pipe": rates["get"] / rates["pipe_up"],
        "send_to_scp": rates["send"] / rates["scp"],
        "bridge_cpu_s_per_gb": cpu * 1000 / LARGE_MB,
        "memory_growth_mib": sent.growth_mib,
        "small_files": SMALL_COUNT,
        "small_files_per_s": {"send": SMALL_COUNT / small_sent, "tar_over_tcp": SMALL_COUNT / tar},
    }


async def _count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    total = 0
    while data := await reader.read(1 << 18):
        total += len(data)
    writer.write(b"%d\n" % total)


async def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    done = work()
    assert asyncio.iscoroutine(done)
    await done
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class _Moved:
    started_s: float
    """From the start of the command to the connection: the program, the homeserver, the call."""
    took_s: float
    """From there to the end of the command: everything is safe, and told."""
    growth_mib: dict[str, float]


async def _transfer(world: World, bridge: ManagedProcess, *args: str | Path) -> _Moved:
    began = time.perf_counter()
    async with world.mxrtc("alice", "--json", *args) as process:
        await process.wait_for_line('"kind": "connected"', 30)
        connected = time.perf_counter()
        peak = _Peak(bridge=bridge.pid, client=process.pid)
        watching = asyncio.create_task(peak.watch())
        code = await process.wait(600)
        ended = time.perf_counter()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if code:
            raise RuntimeError(process.tail())
    return _Moved(connected - began, ended - connected, peak.growth_mib)


async def _mxrtc(world: World, *args: str | Path) -> None:
    code, _, err = await world.run_mxrtc("alice", *args, timeout_s=600)
    if code:
        raise RuntimeError(err)


async def _scp(ssh: Ssh, source: Path, target: Path) -> None:
    """Without the bridge: straight to the ssh server on loopback."""
    port = ssh.world.services["ssh"]["target"].rpartition(":")[2]
    options = [*ssh.options()[:2], *ssh.options()[4:]]  # without the proxy command
    code, _, err = await run("scp", "-P", port, *options, source, f"127.0.0.1:{target}")
    if code:
        raise RuntimeError(err.decode())


async def _tar(source: Path, target: Path) -> None:
    """``tar`` into a TCP connection, and out of it into a directory."""
    target.mkdir()
    done = asyncio.get_running_loop().create_future()

    async def unpack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = await asyncio.create_subprocess_exec("tar", "xf", "-", "-C", target, stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        while data := await reader.read(1 << 18):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.close()
        done.set_result(await process.wait())
        writer.close()

    server = await asyncio.start_server(unpack, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        bash = shutil.which("bash") or "/bin/bash"
        command = f'tar cf - -C "$1" . > /dev/tcp/127.0.0.1/{port}'
        process = await asyncio.create_subprocess_exec(bash, "-c", command, "bash", source)
        if await process.wait() or await done:
            raise RuntimeError("tar failed")
