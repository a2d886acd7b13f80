"""Running commands tell ``mxrtc status`` about themselves over a socket in the state folder.

The folder is the user's alone (mode 0700), and what is told is one JSON object; nothing can be asked or changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.system import WINDOWS

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 1024
MAX_SOCKETS = 256
ANSWER_TIMEOUT_S = 2.0


@contextlib.asynccontextmanager
async def serve_status(state: StateFolder, status: Callable[[], dict[str, object]]) -> AsyncIterator[None]:
    """Answer with ``status()`` while the context lasts; where that is not possible, do without."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(status()).encode())
            await writer.drain()
        writer.close()

    if sys.platform == "win32" or WINDOWS:
        yield
        return
    try:
        path = state.run_folder() / f"{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(answer, path)
    except (ClientError, OSError) as error:
        # The folder's name may be too long for a socket; no reason not to connect.
        log.warning("mxrtc status will not show this command: %s", error)
        yield
        return
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def running_commands(state: StateFolder) -> list[dict[str, object]]:
    """Ask all running commands; sockets of dead ones are removed. Without unix sockets nobody can be asked."""
    if WINDOWS:
        return []
    try:
        sockets = sorted(state.run_folder().glob("*.sock"))[:MAX_SOCKETS]
    except ClientError as error:
        log.info("no command can be asked: %s", error)  # nor has one been able to make its socket there
        return []
    answers = await asyncio.gather(*(_ask(path) for path in sockets))
    return [answer for answer in answers if answer is not None]


async def _ask(path: Path) -> dict[str, object] | None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            if sys.platform == "win32":
                return None
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                answer = json.loads(await reader.read(MAX_ANSWER_BYTES))
            finally:
                writer.close()
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a name in our own state folder
        return None
    except (OSError, ValueError, TimeoutError):
        return None
    return answer if isinstance(answer, dict) else None
