"""A process that receives files into a box until it is killed.

    python -m tests.sinks.files.receive.killed_writer BOX

Each file is a function of its number, so that whoever killed us knows what must be there. Prints a line when the box is
open.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mxrtc_bridge.core.files.messages import CHUNK_BYTES
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from tests.sinks.files.receive.senders import ROOMY, content, send

SIZES = [*([700] * 40), 200_000, 3 * CHUNK_BYTES + 1, *([30_000] * 20), 24 * CHUNK_BYTES]


def data_of(number: int) -> bytes:
    return content(SIZES[number], number)


def path_of(number: int) -> str:
    return f"d{number % 5}/file {number}.bin"


async def main(path: Path) -> None:
    box = DropBox(path, ROOMY)
    await box.open()
    print("open", flush=True)
    await asyncio.gather(*(send(box, path_of(number), data_of(number)) for number in range(len(SIZES))))
    await box.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
