"""A path that is cut for a while: what is open goes on when it is back, and a side that is gone is noticed.

Sockets of the loopback deliver at once, so the clock may go on by itself whenever nobody has anything to do.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from mxrtc_bridge.core.stream import silence
from mxrtc_bridge.rtc import consent, gathering
from mxrtc_bridge.rtc.association import PeerAssociation
from mxrtc_bridge.rtc.udp import UdpTransport
from tests import virtual_time
from tests.rtc.peers import Pair


def virtual_pair() -> Pair:
    with patch.dict(PeerAssociation.__init__.__kwdefaults__, clock=asyncio.get_running_loop().time):
        return Pair()


@contextmanager
def cut_line() -> Iterator[None]:
    with patch.object(UdpTransport, "_send", lambda _self, data, _size, _address: len(data)):
        yield


@pytest.mark.parametrize("before_s", [0.1, 1.3, 1.9])
def test_an_outage_of_25_s_cuts_nothing_and_what_was_said_meanwhile_comes_soon(before_s: float) -> None:
    """However long before it the last packet came, as long as somebody says something every other second."""

    async def story() -> None:
        async with virtual_pair() as pair:
            ours, theirs = await pair.open()
            await asyncio.sleep(before_s)
            with cut_line():
                ours.channel.send("said in the dark")
                await asyncio.sleep(silence.OUTAGE_S)
            back_at = asyncio.get_running_loop().time()
            await theirs.until(lambda it: "said in the dark" in it.events)
            assert asyncio.get_running_loop().time() - back_at <= silence.REPEAT_S
            await asyncio.sleep(silence.CONSENT_S)
            assert "closed" not in (*ours.events, *theirs.events)

    virtual_time.run(story())


def test_a_side_that_is_gone_is_noticed_when_consent_expires() -> None:
    async def story() -> None:
        async with virtual_pair() as pair:
            await pair.open()
            with cut_line():
                gone_at = asyncio.get_running_loop().time()
                assert "consent" in await pair.caller.until_lost(60)
                assert asyncio.get_running_loop().time() - gone_at <= silence.CONSENT_S

    virtual_time.run(story())


def test_who_is_in_another_network_now_does_not_wait_for_the_end_of_an_outage() -> None:
    async def story() -> None:
        async with virtual_pair() as pair:
            await pair.open()
            await asyncio.sleep(60)
            with cut_line(), patch.object(consent, "has_moved", return_value=True):
                left_at = asyncio.get_running_loop().time()
                assert await pair.caller.until_lost(60) == "this machine is in another network now"
                assert asyncio.get_running_loop().time() - left_at <= consent.SILENT_S + consent.LOOK_S

    virtual_time.run(story())


@pytest.mark.parametrize("whose", ["caller", "callee"])
def test_streams_go_on_where_a_nat_has_given_us_another_port(whose: str) -> None:
    """As if: the socket is replaced by another one, of which only the next question for consent tells."""

    async def story() -> None:
        sockets: list[socket.socket] = []
        bind = gathering.bind_udp

        def bound(*args: Any) -> socket.socket:
            sockets.append(bind(*args))
            return sockets[-1]

        async with AsyncExitStack() as stack:
            stack.enter_context(patch.object(gathering, "bind_udp", bound))
            pair = await stack.enter_async_context(virtual_pair())
            ours, theirs = await pair.open()
            moved = sockets[0 if whose == "caller" else 1]
            before = moved.getsockname()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.1", 0))
                other.setblocking(False)
                os.dup2(other.fileno(), moved.fileno())
            assert moved.getsockname() != before
            theirs.channel.send("there")
            ours.channel.send("back")
            await ours.until(lambda it: "there" in it.events, 10)
            await theirs.until(lambda it: "back" in it.events, 10)
            await asyncio.sleep(2 * silence.CONSENT_S)
            assert "closed" not in (*ours.events, *theirs.events)

    virtual_time.run(story())
