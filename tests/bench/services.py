"""The services that the benchmark measures, in a process of their own: a source, a sink, an echo.

``python -m tests.bench.services`` prints one line ``NAME PORT`` each.
"""

from __future__ import annotations

import asyncio

import uvloop

BLOCK = bytes(1 << 18)


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a count in one line, then send so many bytes."""
    left = int(await reader.readline())
    while left > 0:
        writer.write(BLOCK[:left])
        left -= len(BLOCK)
        await writer.drain()


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end, then answer with the count."""
    total = 0
    while data := await reader.read(1 << 18):
        total += len(data)
    writer.write(b"%d\n" % total)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def main() -> None:
    for name, handler in {"source": source, "sink": sink, "echo": echo}.items():

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler=handler) -> None:  # type: ignore[no-untyped-def]
            try:
                await handler(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        print(name, server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
