"""Questions to several servers at the same time, and a short time that is waited for the slow ones.

What goes to many must not wait for the server of one of them. So each server is asked by itself: our own is waited for,
it has the keys of its users and what is sent goes through it; all others together get :data:`WAIT_S`, and only
:data:`AGAIN_S` where they have not answered the last time. Whoever is late is left out, and it is for the caller to ask
again. Where nobody else would have anything of it yet, the first answer is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.errors import HomeserverError

Result = TypeVar("Result")

WAIT_S = 1.0
AGAIN_S = 0.1
AT_ONCE = 32
"""Servers that are asked at the same time; the next ones wait for a place, those that were late behind all others."""
MAX_LATE = 1000


class Patience:
    """See the head of this module.

    Args:
        own_server: the name of our homeserver.
    """

    def __init__(self, own_server: str) -> None:
        self._own_server = own_server
        self._late = Latest[tuple[str, str], None](MAX_LATE)

    async def ask(
        self,
        what: str,
        questions: Mapping[str, Callable[[], Awaitable[Result]]],
        began_s: float,
        is_enough: Callable[[Mapping[str, Result]], bool],
    ) -> dict[str, Result]:
        """Ask servers; returns the answers of those that gave one in time, by server.

        Args:
            what: is asked for; a server may be quick with one thing and slow with another.
            questions: by server.
            began_s: when the waiting for others has begun, by the clock of the loop; one for several calls.
            is_enough: whether somebody has something of it with these answers; until then all are waited for.

        Raises:
            HomeserverError: our own homeserver refuses, or somebody else, and it is not enough without them.
        """
        servers = sorted(questions, key=lambda each: (each != self._own_server, (what, each) in self._late))
        answers: dict[str, Result] = {}
        failures: list[HomeserverError] = []
        places, asked = asyncio.Semaphore(AT_ONCE), set[str]()
        now_s = asyncio.get_running_loop().time

        async def one(server: str) -> None:
            try:
                async with places:
                    asked.add(server)
                    answers[server] = await questions[server]()
            except HomeserverError as error:
                if server == self._own_server:
                    raise
                failures.append(error)
            self._late.pop((what, server), None)

        tasks = {asyncio.create_task(one(server)): server for server in servers}
        try:
            asked_s = now_s()
            late = await self._wait(what, tasks, began_s, lambda: is_enough(answers))
            if now_s() - asked_s >= AGAIN_S:
                self._late |= {(what, server): None for server in late & asked}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if failures and not is_enough(answers):
            raise failures[0]
        return answers

    async def _wait(
        self, what: str, tasks: Mapping[asyncio.Task[None], str], began_s: float, is_enough: Callable[[], bool]
    ) -> set[str]:
        pending, now_s = set(tasks), asyncio.get_running_loop().time
        patience = {
            task: None
            if server == self._own_server
            else began_s + (AGAIN_S if (what, server) in self._late else WAIT_S)
            for task, server in tasks.items()
        }
        while pending:
            ends = [patience[task] for task in pending]
            last = None if None in ends or not is_enough() else max(end for end in ends if end is not None)
            left_s = None if last is None else max(0.0, last - now_s())
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done:
                break
        return {tasks[task] for task in pending}
