"""Links with delay, loss, rate and jitter between network namespaces, in user space (root and iproute2 needed)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mxrtc_bridge.demo.processes import ManagedProcess

SOURCE = Path(__file__).with_name("wire.c")
ADDRESS_A, ADDRESS_B = "10.99.0.1", "10.99.0.2"


@dataclass(frozen=True, slots=True)
class Quality:
    """What one direction of a link is like."""

    delay_ms: float = 0.0
    """One way; a round trip takes twice as long."""
    loss_percent: float = 0.0
    rate_mbit: float = 0.0
    """0 for no limit."""
    jitter_ms: float = 0.0
    queue_bytes: int = 4 << 20
    """What may stand in front of the bottleneck."""
    seed: int = 1
    """Of the dice, for both directions; what is set later changes nothing."""
    largest_bytes: int = 1500
    """Larger IP packets are lost without a word."""
    late_percent: float = 0.0
    """Packets that those of the next 20 ms overtake."""
    twice_percent: float = 0.0
    """Packets that arrive twice."""

    def line(self) -> str:
        """What the program reads."""
        numbers = (
            self.delay_ms * 1000, self.loss_percent * 10_000, self.rate_mbit * 1000, self.jitter_ms * 1000,
            self.queue_bytes, self.largest_bytes, self.late_percent * 10_000, self.twice_percent * 10_000,
        )  # fmt: skip
        return " ".join(str(round(each)) for each in numbers)


class Wire:
    """A link between two network namespaces, each of which has it as ``wire0``; an asynchronous context manager."""

    def __init__(self, folder: Path, ends: tuple[str, str], quality: Quality) -> None:
        self._folder = folder
        self._ends = ends
        self._qualities = folder / f"wire-{ends[0]}.qualities"
        self._qualities.write_text(f"{quality.line()}\n{quality.line()}\n")
        argv = [folder / "wire", *ends, str(quality.seed), self._qualities]
        self._process = ManagedProcess(f"wire-{ends[0]}", argv, folder=folder)

    async def __aenter__(self) -> Self:
        program = self._folder / "wire"
        if not program.exists():
            compiler = shutil.which("cc") or "gcc"
            subprocess.run([compiler, "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True)
        self._process.start()
        await self._process.wait_for_line("ready", 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.terminate()

    async def change(self, there: Quality, back: Quality | None = None) -> None:
        """Give the link another quality from the first namespace to the second, and ``back``; what is on it arrives."""
        self._qualities.write_text(f"{there.line()}\n{(back or there).line()}\n")
        mark = self._process.mark()
        self._process.send_signal(signal.SIGHUP)
        await self._process.wait_for_line("read", 10, after=mark)

    def cut(self) -> None:
        """Cut the link, or join it again."""
        self._process.send_signal(signal.SIGUSR1)


class TwoHosts:
    """Two network namespaces and the wire between them; use it as an asynchronous context manager."""

    def __init__(self, folder: Path, quality: Quality) -> None:
        tag = f"{os.getpid()}-{id(self) & 0xFFFF:x}"
        self.names = (f"mxa-{tag}", f"mxb-{tag}")
        self.wire = Wire(folder, self.names, quality)

    async def __aenter__(self) -> Self:
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        await self.wire.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.wire.__aexit__()
        for name in self.names:
            await asyncio.to_thread(subprocess.run, ["ip", "netns", "delete", name], check=False)

    def on_a(self, *argv: str | Path) -> list[str]:
        """The command line that runs ``argv`` on the first host."""
        return ["ip", "netns", "exec", self.names[0], *map(str, argv)]

    def on_b(self, *argv: str | Path) -> list[str]:
        """The command line that runs ``argv`` on the second host."""
        return ["ip", "netns", "exec", self.names[1], *map(str, argv)]

    async def delivered_to_b(self) -> int:
        """Return how many bytes of IP packets the link has delivered to the second host until now."""
        text = await asyncio.to_thread(subprocess.check_output, self.on_b("cat", "/proc/net/dev"), text=True)
        counters = next(line for line in text.splitlines() if line.strip().startswith("wire0:"))
        return int(counters.split(":")[1].split()[0])

    async def set_mtu(self, mtu: int) -> None:
        """Let both hosts send no larger IP packets; those that may be are fragmented."""
        for host in (self.on_a, self.on_b):
            argv = host("ip", "link", "set", "wire0", "mtu", str(mtu))
            await asyncio.to_thread(subprocess.run, argv, check=True)

    def cut(self) -> None:
        """Cut the link, or join it again."""
        self.wire.cut()
