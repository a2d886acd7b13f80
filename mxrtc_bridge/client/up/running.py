"""What ``mxrtc up`` runs: one forwarding for each line of its file, each tried again by itself for as long as it takes.

One for each account; the first command that calls, as a rule, so it holds the account and lends its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.forwarding import Forwarding
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.client.status_socket import serve_status
from mxrtc_bridge.client.up.connections_file import UpConnection, read_connections
from mxrtc_bridge.config.private_files import open_private_file, take_lock
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError, first_error

LOCK_NAME = "up.lock"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
STEADY_S = 60.0
"""A connection that was tried for longer than this begins with short pauses again."""


def pause_s(failures: int) -> float:
    """Seconds until what has failed so many times in a row is tried again; drawn, so that not all try at once."""
    return Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S).pause_s(failures, random.random())  # noqa: S311 - spreads the load


async def run(context: Context, path: Path) -> None:
    """Keep the connections of a file until the command is ended.

    Raises:
        ClientError: the file cannot be used, or the same runs already.
        HomeserverError: the homeserver does not accept the login any more.
    """
    login = context.state.load_login()
    connections = read_connections(path, login)
    with _alone(context.state):
        async with Calls(context, login) as calls:
            await Up(calls, context, connections, path).run()


class Up:
    """The connections.

    Args:
        calls: how peers are reached.
        context: what all commands share.
        connections: what to keep.
        path: of the file, as ``mxrtc status`` shows it.
        pause: seconds before another try, after so many failures in a row.
    """

    def __init__(
        self,
        calls: Calls,
        context: Context,
        connections: list[UpConnection],
        path: Path,
        *,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        self._calls = calls
        self._context = context
        self._connections = connections
        self._path = path
        self._pause = pause
        self._now: dict[UpConnection, dict[str, object]] = {}
        """What there is to say of each connection, while it is not tried."""
        self._forwardings: dict[UpConnection, Forwarding] = {}

    async def run(self) -> None:
        """Keep them.

        Raises:
            HomeserverError: the homeserver does not accept the login any more.
        """
        async with serve_status(self._context.state, self.status), asyncio.TaskGroup() as tasks:
            count, pid = len(self._connections), os.getpid()
            words = f"{count} connection{'s' * (count != 1)} of {self._path}, process {pid}"
            self._context.report.say("up", words, connections=count, file=str(self._path), pid=pid)
            for each in self._connections:
                tasks.create_task(self._keep(each), name="connection")

    def status(self) -> dict[str, object]:
        """Say what runs, for ``mxrtc status`` and ``down``."""
        rows = [
            forwarding.status() if (forwarding := self._forwardings.get(each)) is not None else self._now.get(each, {})
            for each in self._connections
        ]
        return {"pid": os.getpid(), "up": str(self._path), "connections": rows}

    async def _keep(self, wanted: UpConnection) -> None:
        failures, now = 0, asyncio.get_running_loop().time
        while True:
            began = now()
            error = await self._try(wanted)
            failures = 1 if now() - began > STEADY_S else failures + 1
            asked_s = error.wait_s if isinstance(error, HomeserverError) else 0.0
            pause = max(self._pause(failures), asked_s)
            short = f"{self._calls.login.name_of(wanted.name.peer)}/{wanted.name.service}"
            self._now[wanted] = {
                "pid": os.getpid(), "peer": short, "path": None, "packet_bytes": None, "listening": [],
                "streams": 0, "sent": 0, "received": 0, "problem": str(error),
            }  # fmt: skip
            self._context.report.say(
                "retry",
                f"{short}: {error}; trying again in {pause:.0f} s",
                name=short,
                reason=str(error),
                again_s=round(pause, 1),
            )
            await asyncio.sleep(pause)

    async def _try(self, wanted: UpConnection) -> MxrtcError:
        """Keep one connection until it fails for good; returns why.

        Raises:
            HomeserverError: the homeserver does not accept the login any more.
        """
        forwarding = Forwarding(
            self._calls, self._context.report, wanted.name, [wanted.forward], self._context.state, tells_status=False
        )
        self._forwardings[wanted] = forwarding
        try:
            await forwarding.run(reconnect=True)
        except BaseExceptionGroup as group:
            error = first_error(group)
            if not isinstance(error, MxrtcError) or group.split(MxrtcError)[1] is not None:
                raise
        else:
            error = ClientError(Exit.RETRY, "the connection has ended")
        finally:
            self._forwardings.pop(wanted, None)
        if isinstance(error, HomeserverError) and error.status == 401:
            raise error
        return error


@contextlib.contextmanager
def _alone(state: StateFolder) -> Iterator[None]:
    """Be the only one of this account.

    Raises:
        ClientError: there is another one, or the lock cannot be used.
    """
    where = state.path / LOCK_NAME
    with state.opened() as folder:
        try:
            lock = open_private_file(folder, LOCK_NAME, os.O_RDWR | os.O_CREAT, str(where))
        except LocalError as error:
            raise ClientError(Exit.LOCAL, str(error)) from error
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{where} cannot be used: {error.strerror}") from error
    try:
        if not take_lock(lock):
            raise ClientError(
                Exit.LOCAL, "mxrtc up runs already for this account; mxrtc status shows it, and mxrtc down ends it"
            )
        yield
    finally:
        os.close(lock)
