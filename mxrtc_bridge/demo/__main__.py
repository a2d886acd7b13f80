"""``make demo``: see the bridge work with a real homeserver on this machine, then try it by hand.

Must never leave anything behind: whatever way it ends, children are ended and the folder is removed. Only when a step
failed, the logs that it names are kept, in a folder that the last line names.

Exit codes: 0 everything worked (and, without ``--once``, Ctrl-C ended it after that); 1 a step failed; 2 wrong usage;
130 interrupted before everything was checked.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import click
import uvloop
from rich.console import Console

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.demo.story import StepError, Story
from mxrtc_bridge.demo.synapse import find_synapse_python
from mxrtc_bridge.demo.tour import Tour

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

INTRODUCTION = """\
A Matrix user reaches a service behind a bridge: everything is real, and nothing leaves this machine.
"""


async def demonstrate(story: Story, *, once: bool) -> int:
    """Run from the empty folder to the removed one, until the checks are done, or until interrupted.

    Args:
        story: told what happens.
        once: whether to end after the checks.

    Returns:
        The exit code.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    story.text(INTRODUCTION)
    try:
        find_synapse_python()
    except LocalError as error:
        story.text(str(error), "bold red")
        return EXIT_FAILED
    checked = False
    try:
        # Short, because the path of a unix socket below it must fit into 107 bytes.
        with tempfile.TemporaryDirectory(prefix="mxrtc-demo-") as name:
            try:
                async with AsyncExitStack() as stack:
                    tour = Tour(Path(name), story, stack)
                    await tour.run()
                    checked = True
                    if not once:
                        await tour.stay_up()
            except StepError as error:
                story.failure(error, keep_logs(error))
                return EXIT_FAILED
    except asyncio.CancelledError:
        # Ended as asked: nobody outside of this task waits for its cancellation.
        story.text("\nended, and everything is removed" if checked else "\ninterrupted", "yellow")
        return EXIT_OK if checked else EXIT_INTERRUPTED
    return EXIT_OK


def keep_logs(error: StepError) -> dict[Path, Path]:
    """Copy the logs that a failure names to where the end of the run does not remove them.

    Returns:
        The copy of each log that has something in it.
    """
    logs = [log for log in error.logs if log.exists() and log.stat().st_size]
    if not logs:
        return {}
    kept = Path(tempfile.mkdtemp(prefix="mxrtc-demo-logs-"))
    return {log: Path(shutil.copy(log, kept / log.name)) for log in logs}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, envvar="ONCE", help="End after the checks, with exit code 0 or 1.")
def main(once: bool) -> None:
    """Start a homeserver, the bridge and a web server; reach the server as a Matrix user would; say what happened."""
    sys.exit(uvloop.run(demonstrate(Story(Console(highlight=False)), once=once)))


if __name__ == "__main__":
    main()
