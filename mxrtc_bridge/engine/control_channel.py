"""The control channel of a session, driven: liveness, lists and the farewell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import control_channel
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.driver import ChannelDriver
from mxrtc_bridge.engine.file_operations import Spawn
from mxrtc_bridge.engine.ports import Channel

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

Listing = Sequence[tuple[UserId, tuple[ServiceName, ...]]]
Expiries = Mapping[tuple[UserId, ServiceName], int]
"""Wall-clock milliseconds at which the right to a service ends by itself; one without is not in it."""

Look = Callable[[Listing], Awaitable[control_channel.States]]
"""Finds out which services answer; must take less than the other side waits for a list."""

TRAFFIC_EVERY_S = 1.0
"""Signs of life from other channels are passed on at most so often: they come with every packet."""


CLOSED = "control_closed"
"""The other side has closed the channel: one that has died says nothing, and its silence is ``control_dead``."""
_BYE = "bye_"


def is_farewell(reason: str) -> bool:
    """Whether a session that is over for ``reason`` was ended by the other side in order."""
    return reason == CLOSED or reason.startswith(_BYE)


class ControlLink(ChannelDriver[control_channel.ControlEvent, control_channel.OtherEffect]):
    """Runs a control machine on a channel.

    Args:
        role: which side of the channel we are.
        channel: the control channel.
        clock: where time comes from.
        listing: what the other side may use, asked each time; None where we have nothing to list.
        over: called once when the session is of no use any more, with a short word for the log.
        expiries: when what ``listing`` gives ends by itself.
        kind: what a service that ``listing`` gives is for.
        look: which of them answer; None where nobody looks.
        spawn: runs that.
    """

    def __init__(
        self,
        role: stream.StreamRole,
        channel: Channel,
        *,
        clock: Clock,
        listing: Callable[[], Listing] | None,
        over: Callable[[str], None],
        expiries: Callable[[], Expiries] = dict,
        kind: Callable[[UserId, ServiceName], ServiceKind | None] = lambda _peer, _service: None,
        look: Look | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        super().__init__(control_channel.ControlMachine(role), channel, clock=clock, heard=lambda: None)
        self.expiries: dict[tuple[UserId, ServiceName], int] = {}
        """When what was listed last ends by itself, in wall-clock milliseconds; what is missing has no end."""
        self.kinds: control_channel.Kinds = {}
        """What those that were listed last are for; what is missing was not said, or is not known to us."""
        self.states: control_channel.States = {}
        """Whether those that were listed last answer, as far as that was said."""
        self._tell_expiries = expiries
        self._look = look
        self._spawn = spawn
        self._kind = kind
        self.bye: tuple[str, str] | None = None
        self._listing = listing
        self._over = over
        self._lists: list[asyncio.Future[dict[UserId, tuple[ServiceName, ...]]]] = []
        self._pings: list[asyncio.Future[float]] = []
        self._next_traffic = 0.0
        channel.set_listener(self)
        if role is stream.StreamRole.ACCEPTOR:
            self._driver.feed(stream.DataChannelOpened())

    def list_services(self, *, states: bool = False) -> asyncio.Future[dict[UserId, tuple[ServiceName, ...]]]:
        """Ask the other side what we may use; fails with TransportError when the session ends first.

        Args:
            states: ask too what of it is up, which may take some seconds.
        """
        answer: asyncio.Future[dict[UserId, tuple[ServiceName, ...]]] = asyncio.get_running_loop().create_future()
        self._lists.append(answer)
        self._driver.feed(control_channel.AskList(states))
        return answer

    def ping(self) -> asyncio.Future[float]:
        """Measure a round trip, in seconds; fails with TransportError when the session ends first."""
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pings.append(answer)
        self._driver.feed(control_channel.AskPing())
        return answer

    def traffic(self) -> None:
        """Something came on another channel."""
        now = self._clock.monotonic()
        if now >= self._next_traffic:
            self._next_traffic = now + TRAFFIC_EVERY_S
            self._driver.feed(control_channel.TrafficSeen())

    def say_bye(self, code: str, message: str) -> None:
        """Tell the other side that the session ends."""
        self._driver.feed(control_channel.Farewell(code, message))

    def close(self) -> None:
        """Stop; whoever waits for an answer learns that there will be none."""
        self._driver.close()
        self._fail("the session has ended")

    # Effects

    def _perform_other(self, effect: control_channel.OtherEffect) -> None:
        match effect:
            case control_channel.Greeted(version=version):
                log.debug("= control channel greeted, version %d", version)
            case control_channel.PingAnswered(seconds=seconds):
                for ping in _taken(self._pings):
                    ping.set_result(seconds)
            case control_channel.ListRequested(number=number, states=states):
                self._find_answer(number, states=states)
            case control_channel.ListReceived(entries=entries, until=until, kinds=kinds, states=states):
                self.kinds, self.states = kinds, states
                self.expiries = {(peer, name): until_ms for peer, name, until_ms in until}
                for answer in _taken(self._lists):
                    answer.set_result(dict(entries))
            case control_channel.ServiceListFailed():
                self._fail_lists("the other side did not list its services in time")
            case control_channel.ByeReceived(code=code, message=message):
                self.bye = (code, message)
                self._end(_BYE + code)
            case control_channel.Violated(code=code) | control_channel.Dead(code=code):
                self._end(f"control_{code}")

    def _find_answer(self, number: int, *, states: bool) -> None:
        if states and self._look is not None and self._spawn is not None and self._listing is not None:
            self._spawn(self._answer_with_states(number, self._look, self._listing()))
        else:
            self._answer(number, {})

    async def _answer_with_states(self, number: int, look: Look, listing: Listing) -> None:
        self._answer(number, await look(listing))

    def _answer(self, number: int, states: control_channel.States) -> None:
        # Asked anew, as a right may have ended in the meantime.
        entries = tuple(self._listing()) if self._listing is not None else ()
        kinds = self._kinds_of(entries)
        self._driver.feed(control_channel.ListAnswer(number, entries, self._tell_expiries(), kinds, states))

    def _kinds_of(self, entries: Listing) -> control_channel.Kinds:
        kinds = {(peer, name): self._kind(peer, name) for peer, services in entries for name in services}
        return {service: kind for service, kind in kinds.items() if kind is not None}

    def _end(self, reason: str) -> None:
        self._fail("the session has ended")
        self._over(reason)

    def _fail(self, why: str) -> None:
        self._fail_lists(why)
        for ping in _taken(self._pings):
            ping.set_exception(TransportError("lost", why))

    def _fail_lists(self, why: str) -> None:
        for answer in _taken(self._lists):
            answer.set_exception(TransportError("lost", why))


def _taken(waiting: list[asyncio.Future[ResultT]]) -> list[asyncio.Future[ResultT]]:
    """Empty the list; those who wait no longer (a timeout) are left out."""
    taken = [future for future in waiting if not future.done()]
    waiting.clear()
    return taken
