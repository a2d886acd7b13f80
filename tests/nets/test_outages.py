"""Lines that are cut, and machines and routers that are somewhere else, or new, afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest

from mxrtc_bridge.demo.processes import ProcessError
from tests.long import if_long
from tests.nets.bed import STUN, TURN_TCP, TURN_UDP, Bed, Note
from tests.nets.streams import longest_gap

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


async def cut_for(bed: Bed, seconds: float) -> None:
    """Cut the client's line for a while: that is what is tried, so it is waited for."""
    bed.net.line.cut()
    try:
        await asyncio.sleep(seconds)
    finally:
        bed.net.line.cut()


@pytest.mark.parametrize("how", ["mobile", "new address", "router", "other ports"])
async def test_row_17_another_network_cuts_streams_and_new_ones_work_soon(bed: Bed, note: Note, how: str) -> None:
    """From wifi to a mobile network, another address in the same one, or a router that has started again."""
    await bed.start_turn()
    if how == "other ports":
        await bed.set_up(STUN)  # with a relay the path may be one that goes on
    else:
        await bed.set_up(TURN_UDP, TURN_TCP)
    tunnel = await bed.tunnel("tick", "echo")
    ticks, writer = await bed.open(tunnel.ports["tick"])
    assert await longest_gap(ticks, 2) < 1
    began = time.monotonic()
    if how == "mobile":
        bed.net.roam()
    elif how == "new address":
        bed.net.readdress("192.168.1.77")
    elif how == "router":
        bed.net.client_router.forget()
    else:
        await longest_gap(ticks, 8)  # by then the other side has said how it sees us
        bed.net.client_router.give_other_ports()
        began = time.monotonic()
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
