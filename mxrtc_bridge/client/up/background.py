"""``mxrtc up --bg`` and ``mxrtc down``: a process that nobody waits for, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.config.private_files import open_private_file
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.system import WINDOWS

LOG_NAME = "up.log"
STARTS_S = 20.0
"""How long it may take until it says that it runs."""
ENDS_S = 10.0
LOOK_AGAIN_S = 0.05
MAX_TOLD_BYTES = 4096
IN_ITS_OWN_WINDOW = "leave 'mxrtc up' running in a window of its own"
_PROGRAM = "from mxrtc_bridge.cli.client.entry import main; main()"


async def start(context: Context, argv: Sequence[str]) -> None:
    """Run ``mxrtc`` in the background; returns once it says that it runs.

    Args:
        context: what all commands share.
        argv: its arguments.

    Raises:
        ClientError: it has ended at once, with its reason and exit code, or does not say anything; or nobody could ask
            it here whether it runs.
    """
    if WINDOWS:
        raise ClientError(Exit.USAGE, f"--bg is not there on Windows; {IN_ITS_OWN_WINDOW}")
    state, report = context.state, context.report
    log = _open_log(state)
    try:
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - ourselves; takes a moment, and nothing else runs
            [sys.executable, "-c", _PROGRAM, *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    where = state.path / LOG_NAME
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STARTS_S):
            while process.poll() is None:
                if any(each.get("pid") == process.pid for each in await running_commands(state)):
                    words = f"runs in the background (process {process.pid}); what it says is in {where}"
                    report.say("background", words, pid=process.pid, log=str(where))
                    process.returncode = 0  # it is nobody's child from now on
                    return
                await asyncio.sleep(LOOK_AGAIN_S)
    if process.returncode is None:
        process.terminate()
        raise ClientError(Exit.LOCAL, f"it did not start within {STARTS_S:g} s; {where} may say why")
    code = Exit(process.returncode) if process.returncode in set(Exit) else Exit.LOCAL
    said = where.read_bytes()[-MAX_TOLD_BYTES:].decode(errors="replace").strip()
    raise ClientError(code, said.removeprefix("mxrtc: ") or f"it ended at once, with {process.returncode}")


async def down(context: Context) -> None:
    """End what ``mxrtc up`` runs for this account; others who use its connections keep them until they are done.

    Raises:
        ClientError: it does not end, or cannot be told to here.
    """
    if WINDOWS:
        raise ClientError(Exit.USAGE, "mxrtc down is not there on Windows; press Ctrl-C in the window of mxrtc up")
    state, report = context.state, context.report
    found = [each["pid"] for each in await running_commands(state) if "up" in each]
    pids = [pid for pid in found if isinstance(pid, int) and pid > 1]
    if not pids:
        report.say("down", "mxrtc up does not run for this account", pid=None)
        return
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    try:
        async with asyncio.timeout(ENDS_S):
            while any("up" in each for each in await running_commands(state)):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        raise ClientError(Exit.LOCAL, f"process {pids[0]} did not end within {ENDS_S:g} s") from None
    report.say("down", f"ended (process {pids[0]})", pid=pids[0])


def _open_log(state: StateFolder) -> int:
    """Open the file for what it says, empty.

    Raises:
        ClientError: it is not ours alone, or cannot be used.
    """
    where = state.path / LOG_NAME
    with state.opened() as folder:
        try:
            descriptor = open_private_file(folder, LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, str(where))
            os.ftruncate(descriptor, 0)
        except LocalError as error:
            raise ClientError(Exit.LOCAL, str(error)) from error
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{where} cannot be used: {error.strerror}") from error
    return descriptor
