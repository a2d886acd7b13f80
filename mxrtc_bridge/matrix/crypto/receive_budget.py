"""How long the messages of one sync answer may make a device ask for others' keys, all of them together.

Messages are taken in order, and anybody may send some. Those of a stranger make us ask the stranger's server, which may
let us wait as long as it likes; so without an end to that, whoever has a server decides when the others are heard.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.engine.clock import elapsed_s

ASK_S = 1.5
"""For all messages of one answer; what comes behind is judged by what it proves itself and by what is known.

Users of our own homeserver do not count: it has their keys, and answers at once or not at all.
"""
SILENT_S = 60.0
"""A server that has used up what was left is not asked again for so long."""
MAX_SILENT = 1000


class ReceiveBudget:
    """See the head of this module; :meth:`begin` comes before each answer.

    Args:
        own_server: the name of our homeserver.
        monotonic: seconds that only ever grow.
    """

    def __init__(self, own_server: str, monotonic: Callable[[], float] = elapsed_s) -> None:
        self._own_server = own_server
        self._monotonic = monotonic
        self._left_s = ASK_S
        self._silent: OrderedDict[str, float] = OrderedDict()

    def begin(self) -> None:
        """Another answer is gone through."""
        self._left_s = ASK_S

    @asynccontextmanager
    async def asking(self, user: UserId) -> AsyncIterator[None]:
        """Ask for something of a user inside this block, as long as there is time.

        Raises:
            HomeserverError: there is none left, or the user's server has not answered in it.
        """
        server, began_s = server_of(user), self._monotonic()
        own = server == self._own_server
        if not own:
            self._check(server, began_s)
        try:
            async with asyncio.timeout(ASK_S if own else self._left_s):
                yield
        except TimeoutError as error:
            if not own:
                self._note(server)
            raise HomeserverError(f"{server} does not answer in time") from error
        finally:
            if not own:
                self._left_s -= self._monotonic() - began_s

    def _check(self, server: str, now_s: float) -> None:
        if now_s - self._silent.get(server, -SILENT_S) < SILENT_S:
            raise HomeserverError(f"{server} did not answer a moment ago")
        if self._left_s <= 0:
            raise HomeserverError("other messages have made us ask for too long")

    def _note(self, server: str) -> None:
        self._silent[server] = self._monotonic()
        self._silent.move_to_end(server)
        while len(self._silent) > MAX_SILENT:
            self._silent.popitem(last=False)
