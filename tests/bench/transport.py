"""Run two ends of a channel (:mod:`tests.bench.channel`, or another program with the same words) and measure."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mxrtc_bridge.demo.processes import guarded_command

PROGRAM = (sys.executable, "-m", "tests.bench.channel")
LIBDATACHANNEL = ("node", str(Path(__file__).with_name("libdatachannel.mjs")))

ENDS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "ours": ((*PROGRAM, "offer", "--interface", "lo"), (*PROGRAM, "answer", "--interface", "lo")),
    "stock aiortc": ((*PROGRAM, "offer", "--stock"), (*PROGRAM, "answer", "--stock")),
    "libdatachannel": ((*LIBDATACHANNEL, "offer"), (*LIBDATACHANNEL, "answer")),
}
COMPILED = Path(__file__).parents[2] / "build" / "compiled"
if (COMPILED / "mxrtc_bridge").exists():
    # `make compiled` was there.
    inside = ("env", "-C", str(COMPILED), *PROGRAM)
    ENDS["ours, compiled"] = ((*inside, "offer", "--interface", "lo"), (*inside, "answer", "--interface", "lo"))
SECONDS = 6.0
ROUNDS = 3
"""The machine may be busy with other things: all take turns, and each counts by its best round."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """One bulk transfer."""

    size: int
    seconds: float
    cpu_s_per_gb: tuple[float, float]
    """Of the sender and of the receiver."""

    @property
    def mb_s(self) -> float:
        return self.size / self.seconds / 1e6


class End:
    """One end: a child process that is told what to do line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, argv: Sequence[str]) -> Self:
        return cls(
            await asyncio.create_subprocess_exec(
                *guarded_command(argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 20,
            )
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def hear(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """Wait for a line that matches."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while line := (await self._process.stdout.readline()).decode():
                if found := re.search(pattern, line):
                    return found
        raise RuntimeError(f"an end of the channel has ended before it said {pattern!r}")

    async def cpu(self) -> float:
        self.tell("cpu")
        return float((await self.hear(r"cpu ([\d.]+)"))[1])

    async def stop(self) -> None:
        self.tell("end")
        try:
            async with asyncio.timeout(3):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Pair:
    """Two ends, connected; use it as an asynchronous context manager.

    Args:
        offerer: command line of the sending end.
        answerer: command line of the receiving end.
    """

    def __init__(self, offerer: Sequence[str], answerer: Sequence[str]) -> None:
        self._commands = (offerer, answerer)
        self.beside_mb_s = 0.0
        """What was sent as bulk during the last exchanges."""

    async def __aenter__(self) -> Self:
        self.sender = await End.start(self._commands[0])
        self.receiver = await End.start(self._commands[1])
        self.receiver.tell((await self.sender.hear(r"^\{.*\}$")).string.strip())
        self.sender.tell((await self.receiver.hear(r"^\{.*\}$")).string.strip())
        await self.sender.hear("connected")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.gather(self.sender.stop(), self.receiver.stop())

    async def bulk(self, seconds: float) -> Bulk:
        """Send for so long; the rate is what arrived."""
        before = (await self.sender.cpu(), await self.receiver.cpu())
        self.sender.tell(f"bulk {seconds}")
        found = await self.receiver.hear(r"received (\d+) in ([\d.]+)", seconds + 60)
        after = (await self.sender.cpu(), await self.receiver.cpu())
        size = int(found[1])
        costs = (after[0] - before[0]) / size * 1e9, (after[1] - before[1]) / size * 1e9
        return Bulk(size, float(found[2]), costs)

    async def ping(self, count: int, *, beside_bulk: bool = False) -> tuple[float, float]:
        """Exchange one byte so many times; median and 95th percentile, in milliseconds."""
        self.sender.tell(f"{'both' if beside_bulk else 'ping'} {count}")
        found = await self.sender.hear(r"ping median ([\d.]+) p95 ([\d.]+) beside ([\d.]+) MB/s", 120)
        self.beside_mb_s = float(found[3])
        return float(found[1]), float(found[2])


async def measure_transport(_folder: Path) -> dict[str, object]:
    """One channel on loopback, two processes: ours, stock aiortc and libdatachannel in turns."""
    best: dict[str, Bulk] = {}
    pings: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for name, (offerer, answerer) in ENDS.items():
            async with Pair(offerer, answerer) as pair:
                bulk = await pair.bulk(SECONDS)
                if name not in best or bulk.mb_s > best[name].mb_s:
                    best[name] = bulk
                idle, beside = await pair.ping(200), await pair.ping(200, beside_bulk=True)
                row = {"idle_ms": idle[0], "idle_p95_ms": idle[1], "beside_bulk_ms": beside[0]}
                row["beside_bulk_p95_ms"] = beside[1]
                row["beside_to_idle"] = beside[0] / idle[0]
                row["bulk_mb_s"] = pair.beside_mb_s
                if name not in pings or row["beside_bulk_ms"] < pings[name]["beside_bulk_ms"]:
                    pings[name] = row
    rates = {name: bulk.mb_s for name, bulk in best.items()}
    compiled = {"compiled_to_plain": rates["ours, compiled"] / rates["ours"]} if "ours, compiled" in rates else {}
    return {
        "mb_s": rates,
        "ours_to_stock": rates["ours"] / rates["stock aiortc"],
        "ours_to_libdatachannel": rates["ours"] / rates["libdatachannel"],
        **compiled,
        "cpu_s_per_gb": {
            name: {"sender": bulk.cpu_s_per_gb[0], "receiver": bulk.cpu_s_per_gb[1]} for name, bulk in best.items()
        },
        "ping": pings,
    }
