"""The process ends when it is told to, whatever hangs, and at once when it is told twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from mxrtc_bridge.bridge.runner import STOP_S, LastBound
from tests.bridge.homeserver import FakeHomeserver

PROGRAM = """
import os, sys, time
sync = os.fdatasync

def hangs(descriptor):
    while os.path.exists({flag!r}):
        time.sleep(0.02)
    sync(descriptor)

os.fdatasync = hangs
sys.argv = ["mxrtc-bridge", "run", "--config", {config!r}]
from mxrtc_bridge.cli.bridge.main import main
sys.exit(main())
"""


@dataclass
class Process:
    """A bridge as a process, whose audit hangs while there is a file of this name."""

    process: asyncio.subprocess.Process
    hangs: Path
    lines: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode())

    async def until(self, words: str) -> None:
        async with asyncio.timeout(30):
            while not any(words in line for line in self.lines):
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.02)

    async def ended(self, limit_s: float) -> tuple[int, float]:
        """Exit code, and how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(limit_s):
            code = await self.process.wait()
        return code, time.monotonic() - began


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Process]:
    async with FakeHomeserver(folder) as homeserver:
        config, flag = homeserver.config(), folder / "hangs"
        text = PROGRAM.format(flag=str(flag), config=str(config.path))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", text, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        made = Process(process, flag)
        reading = asyncio.create_task(made.read())
        try:
            await made.until("bridge ready")
            yield made
        finally:
            flag.unlink(missing_ok=True)
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading


async def test_stop_ends_in_order_and_soon(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(20)
        assert code == 0
        assert took_s < 5
        assert not any(" ! " in line for line in bridge.lines), bridge.lines
        assert sum("bridge ready" in line for line in bridge.lines) == 1


async def test_second_signal_ends_a_stop_that_hangs_at_once(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.hangs.touch()
        bridge.process.send_signal(signal.SIGINT)
        await bridge.until("stopping")
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(20)
        assert code == -signal.SIGTERM
        assert took_s < 2


async def test_stop_with_a_disk_that_hangs_under_the_audit_ends_within_its_bound(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.hangs.touch()
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(STOP_S + 4)
        assert code == 0
        assert took_s < 20
        text = "".join(bridge.lines)
        assert "the audit does not answer" in text
        assert "Traceback" not in text


def test_last_bound_ends_the_process_by_a_thread_of_its_own() -> None:
    codes, left = list[int](), threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    bound = LastBound(leave, limit_s=0.02)
    bound.begin()
    bound.begin()
    assert left.wait(5)
    assert codes == [1]


def test_last_bound_does_nothing_to_a_stop_that_ends_in_time() -> None:
    codes = list[int]()
    bound = LastBound(codes.append, limit_s=0.2)
    bound.begin()
    bound.end()
    time.sleep(0.3)
    assert codes == []
