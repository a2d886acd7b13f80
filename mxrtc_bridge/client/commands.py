"""The commands of ``mxrtc`` that call, without the command line: each ends when it is done, or raises ClientError."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mxrtc_bridge.client.calls.connection import (
    Connection,
    Use,
    check_finished,
    list_services_of,
    only_service,
    report_connected,
)
from mxrtc_bridge.client.exit_codes import NO_SERVICE, ClientError, Exit
from mxrtc_bridge.client.forwarding import Forwarding
from mxrtc_bridge.client.known_services import load_known, save_known
from mxrtc_bridge.client.options import DEFAULT_BIND, Context, Forward, peer_name
from mxrtc_bridge.client.service_table import service_lines
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.core.bot.recipes import first_line, lines_for_kind
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceState
from mxrtc_bridge.sinks.stdio import StdioSink

PING_TIMEOUT_S = 5.0


async def list_services(context: Context, peer: str | None) -> None:
    """Ask the bridge which services this user may use."""
    login, report = context.state.load_login(), context.report
    asked = UserId(f"@{login.bot}:{login.server}") if peer is None else peer_name(login, peer).peer
    async with Calls(context, login) as caller, caller.call(asked) as connection:
        found = await list_services_of(connection, states=True)
        _keep_for_completion(context, login.user_id, found, connection, all_peers=peer is None)
        wanted = found if peer is None else {asked: found.get(asked, ())}
        rows, objects = [], []
        for each, services in sorted(wanted.items()):
            for service in services:
                peers_name = login.name_of(each)
                name = f"{peers_name}/{service}"
                until = _time(connection.links.expiries.get((each, service)))
                kind = connection.links.kinds.get((each, service))
                state = connection.links.states.get((each, service), ServiceState.UNKNOWN)
                fields = {"name": name, "peer": each, "service": service, "type": None, "until": until, "command": None}
                if kind is not None:
                    fields |= {"type": kind.value, "command": first_line(peers_name, service, kind)}
                fields["state"] = None if state is ServiceState.UNKNOWN else state.value
                objects.append(fields)
                rows.append((name, fields["type"], fields["state"], until and f"until {until}", fields["command"]))
        for line, fields in zip(service_lines(rows, aligned=sys.stdout.isatty()), objects, strict=True):
            report.data("service", line, **fields)
        if not any(wanted.values()):
            report.say("nothing", "there is nothing that you may use")


async def how(context: Context, peer: str) -> None:
    """Say what to type for one service, or for each that this user may use at a peer."""
    login, report = context.state.load_login(), context.report
    name = peer_name(login, peer)
    async with Calls(context, login) as caller, caller.call(name.peer) as connection:
        short = login.name_of(name.peer)
        found = await list_services_of(connection)
        _keep_for_completion(context, login.user_id, found, connection)
        usable = found.get(name.peer, ())
        wanted = [each for each in usable if name.service in (None, each)]
        if not wanted:
            raise ClientError(Exit.DENIED, f"{peer}: {NO_SERVICE}; mxrtc ls lists what there is for you")
        for service in wanted:
            full_name, kind = f"{short}/{service}", connection.links.kinds.get((name.peer, service))
            if kind is None:
                raise ClientError(
                    Exit.RETRY, f"the bridge does not say what {full_name} is for; its admin can update it"
                )
            lines = lines_for_kind(short, service, kind)
            report.data("how", "\n".join(lines), name=full_name, type=kind.value, lines=lines)


async def connect(context: Context, peer: str, forwards: list[Forward], *, reconnect: bool) -> None:
    """Listen and forward until Ctrl-C, or until the right has ended."""
    login = context.state.load_login()
    name = peer_name(login, peer)
    forwards = forwards or [Forward(DEFAULT_BIND, None, None)]
    for forward in forwards:
        if forward.service is not None and name.service not in (None, forward.service):
            raise ClientError(
                Exit.USAGE, f"-L names the service {forward.service}, but the peer was given as {peer}; name only one"
            )
    async with Calls(context, login) as caller:
        await Forwarding(caller, context.report, name, forwards, context.state).run(reconnect=reconnect)


async def nc(context: Context, peer: str) -> None:
    """Join standard input and output to one service."""
    login, report = context.state.load_login(), context.report
    name = peer_name(login, peer)
    async with Calls(context, login) as caller, caller.call(name.peer) as connection:
        service = name.service or await only_service(login.name_of(name.peer), connection, Use.STREAM)
        full_name = f"{login.name_of(name.peer)}/{service}"
        local = StdioSink(holds_output=True)
        stream = connection.links.open_stream(service, local)
        accepted = asyncio.ensure_future(stream.accepted.wait())
        try:
            waited: list[asyncio.Future[Any]] = [accepted, stream.finished]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if stream.accepted.is_set():
                report_connected(report, full_name, connection)
            finished = await stream.finished
        finally:
            accepted.cancel()
            stream.reset("closed", "ended here")
        try:
            check_finished(full_name, finished, connection.why_over)
        except ClientError as error:
            # Before the output ends, and before we hang up: ssh ends us, and whoever it is that reads, by that end.
            report.error(str(error), code=int(error.code))
            error.told = True
            await report.taken()
            raise
        finally:
            local.end_output()
        report.say(
            "closed",
            f"{full_name} closed: {finished.sent} bytes sent, {finished.received} received",
            name=full_name,
            outcome=finished.outcome.value,
            sent=finished.sent,
            received=finished.received,
        )


async def ping(context: Context, peer: str, count: int, interval_s: float) -> None:
    """Measure round trips over the data channel."""
    login, report = context.state.load_login(), context.report
    name = peer_name(login, peer)
    async with Calls(context, login) as caller, caller.call(name.peer) as connection:
        short = login.name_of(name.peer)
        report_connected(report, short, connection)
        trips: list[float] = []
        for number in range(1, count + 1):
            if number > 1:
                await asyncio.sleep(interval_s)
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    trip_ms = await connection.links.ping() * 1000
            except TimeoutError:
                report.data("timeout", f"{short}: no answer to {number} within {PING_TIMEOUT_S:g} s", number=number)
            else:
                trips.append(trip_ms)
                report.data(
                    "pong", f"{short}: {number} of {count}, {trip_ms:.1f} ms", number=number, ms=round(trip_ms, 3)
                )
        if not trips:
            raise ClientError(Exit.OFFLINE, f"no answer of {short} to any of {count} pings")
        report.data(
            "summary",
            f"{short}: {len(trips)} of {count} answered, median {statistics.median(trips):.1f} ms"
            + (f"; {connection.narrow_words}" if connection.narrow_words else ""),
            sent=count,
            answered=len(trips),
            median_ms=round(statistics.median(trips), 3),
            path=str(connection.path),
            packet_bytes=connection.packet_bytes,
        )


def _keep_for_completion(
    context: Context,
    user: UserId,
    found: Mapping[UserId, tuple[ServiceName, ...]],
    connection: Connection,
    *,
    all_peers: bool = False,
) -> None:
    known = load_known(context.state, user)
    known.see_services(found, connection.links.kinds, all_peers=all_peers)
    save_known(context.state, user, known)


def _time(at_ms: int | None) -> str | None:
    """A time for people and programs; None stays None, and so does one that no calendar has."""
    if at_ms is None:
        return None
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar has"
