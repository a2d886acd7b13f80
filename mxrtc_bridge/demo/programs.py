"""The commands that the demonstration shows: started as child processes, shown as they are typed, watched over.

Must never put a secret on a command line, where every user of the machine could read it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.text.installing import install_command
from mxrtc_bridge.demo.processes import ManagedProcess
from mxrtc_bridge.demo.story import DemoStep

COMMAND_TIMEOUT_S = 60.0
"""Seconds for a command that should end by itself; a call that gets no answer gives up after 40."""

_WATCH_INTERVAL_S = 0.5


class CommandError(LocalError):
    """A command of the demonstration did not do what it should."""


class Programs:
    """All child processes of one run but the homeserver.

    Args:
        folder: where their logs go.
        environment: variables that all of them get.
        stack: ends those that still run, in reverse order.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], stack: AsyncExitStack) -> None:
        self.environment = dict(environment)
        self._folder = folder
        self._stack = stack
        self._runs = 0
        self._lasting: list[ManagedProcess] = []
        self._vital: list[ManagedProcess] = []

    async def start(
        self, step: DemoStep, name: str, argv: Sequence[str | Path], *, vital: bool = True
    ) -> ManagedProcess:
        """Start a program that lasts; a ``vital`` one takes the demonstration with it when it ends."""
        process = ManagedProcess(name, argv, folder=self._folder, env=self.environment)
        self.see_logs(step, process)
        await self._stack.enter_async_context(process)
        self._lasting.append(process)
        if vital:
            self._vital.append(process)
        return process

    async def run(self, step: DemoStep, program: str, *arguments: str, stdin: bytes = b"") -> str:
        """Show and run a command to its end, and return its standard output.

        What ``mxrtc`` says is shown; what ``mxrtc-bridge`` says is for the caller to tell, because it is longer.

        Raises:
            CommandError: it ended with another exit code than 0, or is not installed.
            ProcessError: it did not end in time.
        """
        self._runs += 1
        step.command(shlex.join([program, *arguments]))
        process = ManagedProcess(
            f"{self._runs}-{program}-{arguments[0]}",
            [find_program(program), *arguments],
            folder=self._folder,
            env=self.environment,
            stdin=stdin,
        )
        self.see_logs(step, process)
        async with process:
            code = await process.wait(COMMAND_TIMEOUT_S)
        if code != 0:
            raise CommandError(f"{program} {arguments[0]} ended with exit code {code}")
        if program == "mxrtc":
            for line in process.lines("stderr") + process.lines("stdout"):
                step.output(line)
        return process.output("stdout").decode(errors="replace")

    def see_logs(self, step: DemoStep, *processes: ManagedProcess) -> None:
        """Name the logs that tell why a step failed: those of ``processes``, then those of what runs all the time."""
        for process in (*self._lasting, *processes):
            step.see(*(self._folder / f"{process.name}.{stream}" for stream in ("stderr", "stdout")))

    async def watch(self) -> None:
        """Wait until one of the vital programs ends.

        Raises:
            CommandError: one has ended; the text says which.
        """
        while True:
            for process in self._vital:
                if process.returncode is not None:
                    raise CommandError(f"{process.name} ended with exit code {process.returncode}")
            await asyncio.sleep(_WATCH_INTERVAL_S)

    def exports(self) -> str:
        """Return the shell command after which the commands of this run can be pasted."""
        values = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        # The one value that the shell must expand.
        return " ".join(["export", *values, f'PATH={shlex.quote(str(find_program("mxrtc").parent))}:"$PATH"'])


def find_program(name: str) -> Path:
    """Find a command of ours: beside the interpreter that runs the demonstration, else where a shell would.

    Raises:
        CommandError: it is in neither place.
    """
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which(name)
    if found is None:
        command = install_command("bridge", python=sys.executable)
        raise CommandError(f"there is no program {name}; install it with: {command}")
    return Path(found)
