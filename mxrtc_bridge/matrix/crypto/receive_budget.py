"""How long messages that a device receives may have it wait for answers of other servers.

Messages are taken in order, and anybody may send some. Those of a stranger make us ask the stranger's server, which may
let us wait as long as it likes, and whoever has a domain has as many server names as they like. So all foreign servers
together may hold up the reading for a small share of time only, whatever they are called:

- for :data:`ASK_S` with the messages of one answer to ``/sync``;
- for :data:`BURST` times that at once, and for :data:`SHARE` of all time in the long run: in any ``t`` seconds,
  1.5 s + 5 % of ``t``.

Both count twice: for servers that have answered within :data:`KNOWN_S`, and for all others, so that new names take
nothing from those that are known to be good. A server that does not answer in time is a new one again, and is not asked
for :data:`SILENT_S`. Users of our own homeserver do not count: it has their keys, and answers at once or not at all.

What cannot be asked for is judged by what the message proves itself and by what is known, and else asked for outside of
the order (:mod:`mxrtc_bridge.matrix.crypto.late_senders`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mxrtc_bridge.core.call.limits import TimeBudget
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId, server_of

ASK_S = 0.75
"""For all messages of one answer. One question gets half of it at least, or is not asked: less would be of no use."""
BURST = 2.0
SHARE = 0.05
KNOWN_S = 24 * 3600.0
MAX_KNOWN = 1000
"""Servers that have answered; the one that did so longest ago is forgotten, and counts as a new one."""
SILENT_S = 60.0
MAX_SILENT = 1000


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class _Purse:
    """What the servers of one kind may take."""

    def __init__(self, ask_s: float) -> None:
        self.answer_left_s = ask_s
        self._all = TimeBudget(ask_s * BURST, SHARE)

    def left_s(self, now_s: float) -> float:
        return min(self.answer_left_s, self._all.left_s(now_s))

    def spend(self, spent_s: float, now_s: float) -> None:
        self.answer_left_s -= spent_s
        self._all.spend(spent_s, now_s)


class ReceiveBudget:
    """See the head of this module; :meth:`begin` comes before each answer.

    Args:
        own_server: the name of our homeserver.
        monotonic: seconds, by the clock that timers go by.
        ask_s: see :data:`ASK_S`.
    """

    def __init__(self, own_server: str, monotonic: Callable[[], float] = _loop_time, *, ask_s: float = ASK_S) -> None:
        self._ask_s = ask_s
        self._own_server = own_server
        self._monotonic = monotonic
        self._of_known, self._of_others = _Purse(ask_s), _Purse(ask_s)
        self._known: OrderedDict[str, float] = OrderedDict()
        self._silent: OrderedDict[str, float] = OrderedDict()

    def begin(self) -> None:
        """Another answer is gone through."""
        self._of_known.answer_left_s = self._of_others.answer_left_s = self._ask_s

    def heard(self, user: UserId) -> None:
        """The server of a user has answered, whoever asked it."""
        _note(self._known, server_of(user), self._monotonic(), MAX_KNOWN)

    @asynccontextmanager
    async def asking(self, user: UserId) -> AsyncIterator[None]:
        """Ask for something of a user inside this block, as long as there is time.

        Raises:
            HomeserverError: there is none left, or the user's server has not answered in it.
        """
        server, began_s = server_of(user), self._monotonic()
        if server == self._own_server:
            async with _at_most(self._ask_s, server):
                yield
            return
        if began_s - self._silent.get(server, -SILENT_S) < SILENT_S:
            raise HomeserverError(f"{server} did not answer a moment ago")
        purse = self._of_known if began_s - self._known.get(server, -KNOWN_S) < KNOWN_S else self._of_others
        left_s = purse.left_s(began_s)
        if left_s < self._ask_s / 2:
            raise HomeserverError("other servers have let us wait for too long")
        try:
            async with _at_most(left_s, server):
                yield
        except _LateError:
            self._known.pop(server, None)
            _note(self._silent, server, self._monotonic(), MAX_SILENT)
            raise
        finally:
            now_s = self._monotonic()
            purse.spend(now_s - began_s, now_s)


class _LateError(HomeserverError):
    """A server has not answered in the time that there was."""


@asynccontextmanager
async def _at_most(limit_s: float, server: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise _LateError(f"{server} does not answer in time") from error


def _note(table: OrderedDict[str, float], server: str, now_s: float, limit: int) -> None:
    table[server] = now_s
    table.move_to_end(server)
    while len(table) > limit:
        table.popitem(last=False)
