"""The addresses of a name, also where nobody answers for one of the two families.

Some routers lose every question for IPv6 addresses (AAAA). The system's resolver, asked for both families, says nothing
of the IPv4 address that it has had at once until it has given up the other, 15 seconds later. So whoever waits for it
asks for each family by itself (RFC 8305 section 3). Not at once: the answer for both is in the order that suits this
machine (RFC 6724), and costs the least.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from mxrtc_bridge.engine.outside import in_one_thread

ALONE_AFTER_S = 0.25

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""An entry of the answer of :func:`socket.getaddrinfo`."""


async def look_up(
    host: str,
    port: int,
    kind: socket.SocketKind,
    *,
    protocol: int = 0,
    flags: int = 0,
    alone_after_s: float = ALONE_AFTER_S,
) -> list[AddressInfo]:
    """Return the addresses of a name, or those of one family where the other is not answered for.

    Args:
        host: the name, or an address.
        port: is handed on.
        kind: of the socket.
        protocol: of the socket; 0 for whichever fits.
        flags: of :func:`socket.getaddrinfo`, for both families together.
        alone_after_s: how long both families are asked for together, before each is by itself.

    Raises:
        OSError: there is none, or too much is being asked.
        UnicodeError: the name has a form that none can have.
    """

    def ask(family: socket.AddressFamily, flags: int = 0) -> asyncio.Task[list[AddressInfo]]:
        return asyncio.create_task(in_one_thread(_addresses, host, port, family, kind, protocol, flags))

    both = ask(socket.AF_UNSPEC, flags)
    asking = {both}
    try:
        done, _ = await asyncio.wait(asking, timeout=alone_after_s)
        if not done:
            asking |= {ask(socket.AF_INET6), ask(socket.AF_INET)}
        waiting = asking
        while not both.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done - {both}:
                if each.exception() is None:
                    return each.result()
        return both.result()
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _addresses(*question: Any) -> list[AddressInfo]:
    return list(socket.getaddrinfo(*question))
