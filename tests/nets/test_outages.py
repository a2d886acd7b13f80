"""Lines that are cut, and machines and routers that are somewhere else, or new, afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ProcessError
from tests.e2e.files import MIB, digest, until_moved
from tests.e2e.world import payload
from tests.links import Quality
from tests.long import if_long
from tests.nets.bed import STUN, TURN_TCP, TURN_UDP, Bed, Note, Tunnel
from tests.nets.streams import longest_gap

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


async def cut_for(bed: Bed, seconds: float) -> None:
    """Cut the client's line for a while: that is what is tried, so it is waited for."""
    bed.net.line.cut()
    try:
        await asyncio.sleep(seconds)
    finally:
        bed.net.line.cut()


@asynccontextmanager
async def one_direction(
    bed: Bed, lost: str, seconds: float
) -> AsyncIterator[tuple[Tunnel, asyncio.StreamReader, asyncio.StreamWriter]]:
    """For the seconds of the context, or longer, one direction of the client's line loses everything.

    Gives a tunnel, and a stream of it to ``echo`` by which something was said meanwhile.
    """
    await bed.start_turn()
    await bed.set_up(STUN)
    tunnel = await bed.tunnel("echo")
    keys, typing = await bed.open(tunnel.ports["echo"])
    typing.write(b"before")
    assert await keys.readexactly(6) == b"before"
    fine, nothing = Quality(), Quality(loss_percent=100)
    ends_at = time.monotonic() + seconds
    await bed.line(*((nothing, fine) if lost == "to the client" else (fine, nothing)))
    try:
        typing.write(b"said in the dark")
        yield tunnel, keys, typing
        await asyncio.sleep(ends_at - time.monotonic())  # that is what is tried
    finally:
        await bed.line(fine)


HOWS = ("mobile", "new address", "router", "other ports")
"""From wifi to a mobile network, another address in the same one, or a router that has started again."""


def change_network(bed: Bed, how: str) -> None:
    if how == "mobile":
        bed.net.roam()
    elif how == "new address":
        bed.net.readdress("192.168.1.77")
    elif how == "router":
        bed.net.client_router.forget()
    else:
        bed.net.client_router.give_other_ports()


async def servers_for(bed: Bed, how: str) -> None:
    await bed.start_turn()
    if how == "other ports":
        await bed.set_up(STUN)  # with a relay the path may be one that goes on
    else:
        await bed.set_up(TURN_UDP, TURN_TCP)


@pytest.mark.parametrize("how", HOWS)
async def test_row_17_another_network_cuts_streams_and_new_ones_work_soon(bed: Bed, note: Note, how: str) -> None:
    await servers_for(bed, how)
    tunnel = await bed.tunnel("tick", "echo")
    ticks, writer = await bed.open(tunnel.ports["tick"])
    # By eight seconds the other side has said how it sees us.
    assert await longest_gap(ticks, 10 if how == "other ports" else 2) < 1
    began = time.monotonic()
    change_network(bed, how)
    new, cut_s = asyncio.create_task(bed.until_works(tunnel)), 0.0
    try:
        await longest_gap(ticks, 20)
    except ConnectionResetError:
        cut_s = time.monotonic() - began
        note(f"{how}: streams cut", cut_s)
    assert (cut_s > 0) is (how != "router"), "the same port is given again"
    assert cut_s < 12, "consent would expire after 30 s"
    note(f"{how}: new streams", await new)
    assert await bed.until_works(tunnel) < 2
    writer.close()


@pytest.mark.parametrize("how", HOWS)
async def test_row_17_a_file_that_is_sent_goes_on_in_another_network(
    bed: Bed, note: Note, tmp_path: Path, how: str
) -> None:
    await servers_for(bed, how)
    await bed.line(Quality(delay_ms=10, rate_mbit=4))  # ten seconds until the change
    file = tmp_path / f"to {how}"
    file.write_bytes(payload(8 * MIB))
    async with bed.mxrtc("alice", "--json", "send", file, "build/inbox") as process:
        await until_moved(process, 5 * MIB)
        mark, began = process.mark(), time.monotonic()
        change_network(bed, how)
        if how != "router":  # the same port is given again
            await process.wait_for_line('"kind": "connected"', 30, after=mark)
            note(f"{how}: `send` goes on", time.monotonic() - began)
        assert await process.wait(60) == 0, process.tail()
    assert digest(bed.inbox / file.name) == digest(file)


@pytest.mark.parametrize("seconds", [25, *if_long(5, 10)])
async def test_row_18_an_outage_cuts_no_stream(bed: Bed, note: Note, seconds: float) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    tunnel = await bed.tunnel("tick", "echo")
    ticks, writer = await bed.open(tunnel.ports["tick"])
    keys, typing = await bed.open(tunnel.ports["echo"])
    assert await longest_gap(ticks, 1) < 1
    typing.write(b"before")
    assert await keys.readexactly(6) == b"before"
    cut = asyncio.create_task(cut_for(bed, seconds))
    typing.write(b"said in the dark")
    gap = await longest_gap(ticks, seconds + 3)
    await cut
    assert await keys.readexactly(16) == b"said in the dark"
    assert seconds - 1 < gap < seconds + 2.5
    note(f"going on after {seconds} s of outage", gap - seconds)
    for each in (writer, typing):
        each.close()


@pytest.mark.long
@pytest.mark.parametrize("lost", ["to the client", "from the client"])
async def test_row_18_a_direction_that_is_lost_for_a_while_cuts_no_stream(bed: Bed, note: Note, lost: str) -> None:
    async with one_direction(bed, lost, 25) as (_, keys, typing):
        pass
    began = time.monotonic()
    assert await keys.readexactly(16) == b"said in the dark"
    note("going on after 25 s without one direction", time.monotonic() - began)
    assert time.monotonic() - began < 3
    typing.close()


@pytest.mark.long
@pytest.mark.parametrize("lost", ["to the client", "from the client"])
async def test_row_18_a_direction_that_is_lost_for_longer_cuts_streams_and_new_ones_work_soon(
    bed: Bed, note: Note, lost: str
) -> None:
    """Who hears nothing gives up after 30 seconds (RFC 7675); who hears the other side until then waits on for it, and
    learns that it is gone when the line is back."""
    async with one_direction(bed, lost, 40) as (tunnel, keys, typing):
        said = asyncio.create_task(keys.readexactly(16))
        await asyncio.wait([said], timeout=36)
        assert said.done() is (lost == "to the client")
    began = time.monotonic()
    await bed.until_works(tunnel)
    note(f"new streams after 40 s without the direction {lost}", time.monotonic() - began)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await said
    typing.close()


async def test_row_19_a_router_that_forgets_soon_keeps_an_idle_session(bed: Bed, note: Note) -> None:
    await bed.start_turn()
    await bed.set_up(STUN)
    bed.net.client_router.run(
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3 net.netfilter.nf_conntrack_udp_timeout_stream=3"
    )
    tunnel = await bed.tunnel("echo")
    mark = tunnel.process.mark()
    await asyncio.sleep(45)  # nobody says anything: that is what is tried
    waited = await bed.until_works(tunnel)
    with pytest.raises(ProcessError):
        await tunnel.process.wait_for_line("connection lost", 0, after=mark)
    note("a stream after 45 s without any", waited)
    assert waited < 1
