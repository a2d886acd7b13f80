"""Services whose output is known, and looks at what comes of them and when."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a number, and give as many bytes, each time the same."""
    size = int(await reader.readline())
    writer.write(random.Random(size).randbytes(size))
    await writer.drain()


async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give a line each 0.2 seconds."""
    for number in range(1_000_000):
        writer.write(b"%d\n" % number)
        await writer.drain()
        await asyncio.sleep(0.2)


def sha256_of_source(size: int) -> str:
    """What has to come from the service ``source``."""
    return hashlib.sha256(random.Random(size).randbytes(size)).hexdigest()


class Fetching:
    """Bytes of the service ``source`` that come."""

    def __init__(self, reader: asyncio.StreamReader, size: int) -> None:
        self._reader = reader
        self._size = size
        self._hash = hashlib.sha256()
        self._count = 0

    async def until(self, count: int) -> float:
        """Read on until there are so many bytes; returns the longest time without one."""
        longest, last = 0.0, time.monotonic()
        while self._count < count:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionResetError(f"the stream has ended after {self._count} bytes")
            self._hash.update(data)
            self._count += len(data)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    async def end(self) -> float:
        """Read to the end, where all has to be right; returns the longest time without a byte."""
        longest = await self.until(self._size)
        assert await self._reader.read(1) == b""
        assert self._hash.hexdigest() == sha256_of_source(self._size)
        return longest


async def longest_gap(ticks: asyncio.StreamReader, seconds: float) -> float:
    """Read what ``tick`` gives for a while; returns the longest time without a line.

    Raises:
        OSError: the stream was cut, or has ended.
    """
    longest, last = 0.0, time.monotonic()
    end = last + seconds
    while last < end:
        if not await ticks.readline():
            raise ConnectionResetError("the stream has ended")
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest
