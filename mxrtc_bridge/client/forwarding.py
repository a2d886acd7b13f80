"""``mxrtc connect``: local listeners, one warm peer connection, and a new one when it is lost.

The listeners stay open while a lost connection is made again; what was in flight is reset, because a local program
must never take a cut stream for a complete one. New local connections wait for the peer, for a bounded time. A service
to which the right has ended is listened for no more, and when that was the last one the command ends.

One file: which connection a local one takes, and when connections are made, moved and lost, is one decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable

from mxrtc_bridge.client.calls.connection import (
    Connection,
    Use,
    check_finished,
    check_kind,
    list_services_of,
    only_service,
    report_connected,
)
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.client.status_socket import serve_status
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.bot.recipes import usual_port
from mxrtc_bridge.core.bounds.backoff import LONGEST_ASKED_S, Backoff
from mxrtc_bridge.core.errors import HomeserverError, LocalError
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.stream.events import StreamFinished
from mxrtc_bridge.engine.client_channels import OpenedStream
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.sinks.listen import Listener
from mxrtc_bridge.sinks.sockets import SocketSink

log = logging.getLogger(__name__)

WAIT_FOR_PEER_S = 30.0
"""How long a local connection waits while the peer connection is being made again."""

TELL_FULL_EVERY_S = 60.0
"""How often it is said that a connection has as many streams as it carries."""

MAX_WAITING = 64
"""Local connections that may wait so; further ones are reset."""

MAX_DEFECTS = 10
"""Calls in a row that a defect of our own may end."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


def pause_s(failures: int) -> float:
    """Seconds to wait before calling again after so many failures in a row; drawn, so that not all call at once."""
    return Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S).pause_s(failures, random.random())  # noqa: S311 - spreads the load


async def wait_to_call_again(
    report: Report, error: ClientError, failures: int, pause: Callable[[int], float] = pause_s, asked_s: float = 0.0
) -> None:
    """Say that the connection is lost, and wait for the next call, or as long as the homeserver asks for."""
    report.say("lost", f"connection lost: {error}; calling again", reason=str(error), code=int(error.code))
    await asyncio.sleep(max(pause(failures), min(asked_s, LONGEST_ASKED_S)))


def _checked_defects(before: int, error: ClientError) -> int:
    """Count the calls in a row that a defect of our own has ended, with this one.

    Raises:
        ClientError: they are too many; calling again does not mend it.
    """
    defects = before + 1 if error.defect else 0
    if defects >= MAX_DEFECTS:
        why = f"{defects} calls in a row ended so, by a defect of this program: please report what it has shown above"
        raise ClientError(error.code, f"{error}; {why}")
    return defects


class Forwarding:
    """Forwards for one peer.

    Args:
        caller: makes connections.
        report: where to say what happens.
        name: the peer, and the service of those forwards that name none.
        forwards: where to listen.
        state: the state folder, for ``mxrtc status``.
        max_waiting: see :data:`MAX_WAITING`.
        wait_for_peer_s: see :data:`WAIT_FOR_PEER_S`.
        pause: seconds before another call, after so many failures in a row.
        port_for: the port for a service where none is given.
        tells_status: whether ``mxrtc status`` hears of it from here.
    """

    def __init__(
        self,
        caller: Calls,
        report: Report,
        name: PeerName,
        forwards: list[Forward],
        state: StateFolder,
        *,
        max_waiting: int = MAX_WAITING,
        wait_for_peer_s: float = WAIT_FOR_PEER_S,
        pause: Callable[[int], float] = pause_s,
        port_for: Callable[[ServiceName], int] = usual_port,
        tells_status: bool = True,
    ) -> None:
        self._tells_status = tells_status
        self._port_for = port_for
        self._wait_for_peer_s = wait_for_peer_s
        self._pause = pause
        self._max_waiting = max_waiting
        self._caller = caller
        self._report = report
        self._name = name
        self._short = caller.login.name_of(name.peer)
        self._default = name.service
        """The service of those forwards that name none, once it is known."""
        self._forwards = forwards
        self._state = state
        self._connection: Connection | None = None
        self._begun = False
        """Whether there was a connection."""
        self._streams: dict[Connection, set[asyncio.Future[StreamFinished]]] = {}
        """Those that are open, by what they go over."""
        self._available = asyncio.Event()
        self.waiting = 0
        """Local connections that wait for the peer."""
        self._made_wait, self._told_full_s = 0, float("-inf")
        self.listening: list[str] = []
        """The addresses that are listened on."""
        self._sent = 0
        self._received = 0

    async def run(self, *, reconnect: bool) -> None:
        """Connect, listen, forward.

        The ports are taken first, as that costs nobody anything; who connects to them meanwhile waits for the peer. One
        that is usual for a service is known only with the service.

        Raises:
            ClientError: the first connection failed, a port cannot be used, the right has ended, or the connection
                was lost and is not to be made again.
        """
        telling = serve_status(self._state, self.status) if self._tells_status else contextlib.nullcontext()
        async with asyncio.TaskGroup() as tasks, telling:
            listeners: dict[Listener, Forward] = {}
            failures, defects = 0, 0
            try:
                if all(forward.port is not None or self._named(forward) for forward in self._forwards):
                    await self._listen(listeners, tasks)
                while True:
                    asked_s = 0.0
                    try:
                        error = await self._keep(listeners, tasks)
                        failures = 0
                    except ClientError as failed:
                        if not self._begun:
                            raise
                        error = failed
                    except HomeserverError as failed:
                        # Away at the same time as the bridge, as after a power cut: calling again is the remedy.
                        if not self._begun or not failed.retryable:
                            raise
                        error, asked_s = ClientError(Exit.RETRY, str(failed)), failed.wait_s
                    if not reconnect or error.code in (Exit.DENIED, Exit.USAGE, Exit.LOCAL):
                        raise error
                    defects = _checked_defects(defects, error)
                    failures = max(failures + 1, defects)
                    await wait_to_call_again(self._report, error, failures, self._pause, asked_s)
            finally:
                self._use(None)
                for listener in listeners:
                    listener.close()

    async def _keep(self, listeners: dict[Listener, Forward], tasks: asyncio.TaskGroup) -> ClientError:
        """Call, and use the connection until it is lost; returns why.

        Raises:
            ClientError: the call did not get through, or the services are not for connections.
            HomeserverError: the homeserver refuses us, or is away.
        """
        async with contextlib.AsyncExitStack() as using:
            connection = await using.enter_async_context(self._caller.call(self._name.peer))
            report_connected(self._report, self._short, connection)
            if not self._begun:
                await self._begin(connection, listeners, tasks)
                self._begun = True
            self._use(connection)
            while await self._is_left(connection):
                connection = await self._move(connection, using, tasks)
            self._use(None)
        return connection.lost(self._short)

    @staticmethod
    async def _is_left(connection: Connection) -> bool:
        """Wait until a connection is lost, or until whoever lends it wants to end: then true."""
        if connection.links.lost.is_set():
            return False  # at once, before anybody uses it
        waited = [asyncio.ensure_future(each.wait()) for each in (connection.links.lost, connection.leaving)]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waited:
                each.cancel()
        return not connection.links.lost.is_set()

    async def _move(self, old: Connection, using: contextlib.AsyncExitStack, tasks: asyncio.TaskGroup) -> Connection:
        """Call anew while the old connection still serves, so that the command that lends it can end.

        What runs over the old one goes on there, and that is left after the last of it. Returns the old one once it is
        lost before there is another.
        """
        failures = 0
        while not old.links.lost.is_set():
            new = contextlib.AsyncExitStack()
            try:
                connection = await new.enter_async_context(self._caller.call(self._name.peer))
            except (ClientError, HomeserverError) as error:
                log.info("no connection in the place of a borrowed one yet: %s", error)
                failures += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause(failures)):
                        await old.links.lost.wait()
                continue
            tasks.create_task(self._drain(old, using.pop_all()), name="old connection")
            using.push_async_exit(new)
            report_connected(self._report, self._short, connection)
            self._use(connection)
            return connection
        return old

    async def _drain(self, old: Connection, using: contextlib.AsyncExitStack) -> None:
        """Leave a connection once nothing runs over it any more."""
        async with using:
            while running := [each for each in self._streams.get(old, ()) if not each.done()]:
                await asyncio.wait(running)

    async def _begin(
        self, connection: Connection, listeners: dict[Listener, Forward], tasks: asyncio.TaskGroup
    ) -> None:
        await self._check_services(connection)
        if not listeners:
            await self._listen(listeners, tasks)
        self._tell_listening(listeners)

    async def _check_services(self, connection: Connection) -> None:
        """Find the service of those forwards that name none, and refuse those of another kind before anybody uses them.

        Raises:
            ClientError: there is no such service, or a service is not for connections.
        """
        if self._default is None and any(forward.service is None for forward in self._forwards):
            self._default = await only_service(self._short, connection, Use.STREAM)
        else:
            await list_services_of(connection)
        for forward in self._forwards:
            check_kind(self._short, connection, self._service_of(forward))

    def _use(self, connection: Connection | None) -> None:
        if self._connection is not None:
            _, sent, received = self._connection.links.totals()
            self._sent += sent
            self._received += received
        self._connection = connection
        if connection is None:
            self._available.clear()
        else:
            self._available.set()

    async def _listen(self, listeners: dict[Listener, Forward], tasks: asyncio.TaskGroup) -> None:
        for forward in self._forwards:

            def accepted(sink: SocketSink, forward: Forward = forward) -> None:
                tasks.create_task(self._forward(sink, forward, listeners), name="forward")

            port = self._port_for(self._service_of(forward)) if forward.port is None else forward.port
            try:
                listener = await Listener.open_tcp(forward.host, port, accepted)
            except LocalError as error:
                remedy = " port with -L PORT" if forward.port is None else ""
                raise ClientError(Exit.LOCAL, f"{error}{remedy}") from error
            listeners[listener] = forward

    def _tell_listening(self, listeners: dict[Listener, Forward]) -> None:
        for listener, forward in listeners.items():
            where = f"[{forward.host}]" if ":" in forward.host else forward.host
            where += f":{listener.port}"
            self.listening.append(where)
            full_name = f"{self._short}/{self._service_of(forward)}"
            self._report.say(
                "listening", f"listening on {where} for {full_name}", address=where, port=listener.port, name=full_name
            )

    def _named(self, forward: Forward) -> ServiceName | None:
        return forward.service or self._default

    def _service_of(self, forward: Forward) -> ServiceName:
        service = self._named(forward)
        assert service is not None
        return service

    async def _forward(self, sink: SocketSink, forward: Forward, listeners: dict[Listener, Forward]) -> None:
        """One local connection, from accept to end.

        Raises:
            ClientError: the right to the service has ended, and there is no other.
        """
        opened = None
        try:
            opened = await self._open(sink, forward)
        finally:
            if opened is None:
                sink.reset()
        if opened is None:
            return
        connection, stream = opened
        running = self._streams.setdefault(connection, set())
        running.add(stream.finished)
        try:
            finished, service = await stream.finished, self._service_of(forward)
        finally:
            running.discard(stream.finished)
            if not running:
                self._streams.pop(connection, None)
        name, failed = f"{self._short}/{service}", None
        try:
            check_finished(name, finished, connection.why_over)
        except ClientError as error:
            failed = error
        self._tell_end(name, finished, "" if failed is None else str(failed))
        if failed is not None and failed.code is Exit.DENIED:
            for listener in [each for each, of in listeners.items() if self._service_of(of) == service]:
                listener.close()
                del listeners[listener]
            if not listeners:
                raise failed

    async def _open(self, sink: SocketSink, forward: Forward) -> tuple[Connection, OpenedStream] | None:
        if self._connection is not None and self._connection.links.lost.is_set():
            self._use(None)
        if self._connection is None:
            if self.waiting >= self._max_waiting:
                return None
            self.waiting += 1
            try:
                async with asyncio.timeout(self._wait_for_peer_s):
                    # More than once: a connection may be lost again before those who waited for it have their turn.
                    while self._connection is None:
                        await self._available.wait()
            except TimeoutError:
                return None
            finally:
                self.waiting -= 1
        connection, links = self._connection, self._connection.links
        opened = links.open_stream(self._service_of(forward), sink)
        if links.is_full:
            self._tell_full(links.max_streams)
        return connection, opened

    def _tell_full(self, most: int) -> None:
        """Say why a local connection hangs; not for each of them."""
        self._made_wait += 1
        now_s = elapsed_s()
        if now_s - self._told_full_s >= TELL_FULL_EVERY_S:
            self._told_full_s = now_s
            self._report.say(
                "full",
                f"{self._short}: a connection carries {most} local ones at a time, and has as many; "
                f"{self._made_wait} had to wait so far, until another one ends. Another mxrtc connect carries as many",
                most=most,
                waited=self._made_wait,
            )

    def _tell_end(self, name: str, finished: StreamFinished, why: str) -> None:
        fields = {
            "name": name,
            "outcome": finished.outcome.value,
            "code": finished.code,
            "sent": finished.sent,
            "received": finished.received,
        }
        self._report.say("stream", why, **fields)

    def status(self) -> dict[str, object]:
        """Say how it is at the moment, for ``mxrtc status``."""
        links = self._connection.links if self._connection is not None else None
        live = links.totals() if links is not None else (0, 0, 0)
        return {
            "pid": os.getpid(),
            "peer": self._short,
            "path": str(self._connection.path) if self._connection is not None else None,
            "packet_bytes": self._connection.packet_bytes if self._connection is not None else None,
            "listening": self.listening,
            "streams": live[0],
            "sent": self._sent + live[1],
            "received": self._received + live[2],
        }
