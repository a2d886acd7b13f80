"""Of several ways the first that works, without waiting for those that lead nowhere (RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable
from itertools import chain, zip_longest

from mxrtc_bridge.engine.name_lookup import look_up
from mxrtc_bridge.rtc.datagrams import Address

ADDRESS_HEAD_START_S = 0.25
"""Before the next address of a server is tried beside the one before it (RFC 8305 section 5)."""

MAX_ADDRESSES = 6
"""Of one server; a name can have any number."""


async def first_to_succeed(attempts: Iterable[Callable[[], Coroutine[None, None, bool]]], head_start_s: float) -> bool:
    """Start the attempts in order until one returns True; the others are cancelled.

    Args:
        attempts: each is called when its turn comes.
        head_start_s: how long an attempt runs before the next begins beside it; one that fails is followed at once.

    Returns:
        whether one has succeeded.
    """
    waiting = iter(attempts)
    running: set[asyncio.Task[bool]] = set()
    following = next(waiting, None)
    try:
        while following is not None or running:
            if following is not None:
                running.add(asyncio.create_task(following()))
                following = next(waiting, None)
            done, running = await asyncio.wait(
                running,
                timeout=None if following is None else head_start_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if any(task.result() for task in done):
                return True
        return False
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a server in the order in which to try them: the families take turns.

    Raises:
        OSError: its name does not resolve, or too much is being resolved.
    """
    infos = await look_up(host, port, socket.SOCK_DGRAM)
    families: dict[int, dict[Address, None]] = {}
    for family, _, _, _, address in infos:
        families.setdefault(family, {})[str(address[0]), int(address[1])] = None
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None][:MAX_ADDRESSES]
