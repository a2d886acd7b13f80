"""Two test hosts on one machine, joined by a link with delay, loss, rate and jitter (root and iproute2 needed)."""

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
    """What the link is like, the same in both directions."""

    delay_ms: float = 0.0
    """One way; a round trip takes twice as long."""
    loss_percent: float = 0.0
    rate_mbit: float = 0.0
    """0 for no limit."""
    jitter_ms: float = 0.0
    queue_bytes: int = 4 << 20
    """What may stand in front of the bottleneck."""
    seed: int = 1
    largest_bytes: int = 1500
    """Larger IP packets are lost without a word."""


class TwoHosts:
    """Two network namespaces and the wire between them; use it as an asynchronous context manager."""

    def __init__(self, folder: Path, quality: Quality) -> None:
        self._folder = folder
        self._quality = quality
        tag = f"{os.getpid()}-{id(self) & 0xFFFF:x}"
        self.names = (f"mxa-{tag}", f"mxb-{tag}")
        self._wire: ManagedProcess | None = None

    async def __aenter__(self) -> Self:
        program = self._folder / "wire"
        if not program.exists():
            compiler = shutil.which("cc") or "gcc"
            subprocess.run([compiler, "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True)
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        quality = self._quality
        self._wire = ManagedProcess(
            f"wire-{self.names[0]}",
            [
                program, *self.names, str(round(quality.delay_ms * 1000)), str(round(quality.loss_percent * 10_000)),
                str(round(quality.rate_mbit * 1000)), str(round(quality.jitter_ms * 1000)), str(quality.queue_bytes),
                str(quality.seed), str(quality.largest_bytes),
            ],
            folder=self._folder,
        )  # fmt: skip
        self._wire.start()
        await self._wire.wait_for_line("ready", 10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._wire is not None:
            await self._wire.terminate()
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
        assert self._wire is not None
        self._wire.send_signal(signal.SIGUSR1)
