"""A plain TCP relay in the same language and loop: what a pipe costs when nothing is encrypted, checked or signalled.

Run as a process of its own: ``python -m tests.bench.relay TARGET_PORT``; says on which port it listens.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

CHUNK = 65536


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def main(target: int) -> None:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        try:
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        except ConnectionError:
            pass
        finally:
            writer.close()
            far_writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
