"""Makes ``postgres.sql`` beside this one: the tables of commit d3f536d on PostgreSQL. See README.md.

Run with the Python and in the folder of a checkout of that commit, as ``PYTHONPATH=. python make_postgres.py FILE``.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from mxrtc_bridge.storage.stores import open_stores

from tests.storage import postgres


async def opened(url: str) -> None:
    async with open_stores(url):
        pass


programs = postgres.find_programs()
assert programs is not None
with postgres.running(programs) as url:
    asyncio.run(opened(url))
    command = ["pg_dump", "--inserts", "--no-owner", url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
# What a newer server or program of its own writes is left out: settings of the session, and words for its shell.
lines = (line for line in dump.splitlines() if not re.match(r"--|SET |SELECT pg_catalog|\\", line))
Path(sys.argv[1]).write_text(re.sub(r"\n{2,}", "\n", "\n".join(lines)).lstrip())
