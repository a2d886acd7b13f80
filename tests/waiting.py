"""Waiting for what happens at a time of its own: until something is so, and not for a while that should do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def turns(count: int = 30) -> None:
    """Let everybody go on who can, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return when a condition holds; a test that waits in vain fails by ``TimeoutError``."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
