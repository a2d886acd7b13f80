"""The sessions that live, and what ends them from outside: rights and rooms that change, admins, a stop.

How a session begins, and in which order it is trusted, is in :mod:`mxrtc_bridge.engine.call_manager`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from mxrtc_bridge.core.access.policy import Deny
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.ids import CallId, RoomId, UserId
from mxrtc_bridge.core.text.durations import say_duration
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from mxrtc_bridge.engine.call_ports import CallRights, RoomMembers
from mxrtc_bridge.engine.clock import Clock, Timer
from mxrtc_bridge.engine.expiry import ExpiryWatch
from mxrtc_bridge.engine.session import Session

log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""How long the other side may take to end a session by itself after it was told to."""

STOPPING = "stopping"
"""The limit that callers without an answer are told of when the bridge stops (docs/reference/signal.md)."""

_HANG_UP = call.HangUp()

Key = tuple[CallRoute, CallId, UserId]


@dataclass(slots=True)
class LiveSession:
    """A session with what is known of it beside."""

    session: Session
    links: BridgeChannels
    end_count: Callable[[], None]
    confirming: bool = False
    """Whether its right is about to be decided about, once it is known who is in a room."""
    admitted: bool = False
    """Whether the audit says that it was admitted."""
    end_reason: str = ""
    """Why we end it, if we do."""


class LiveSessions:
    """All live sessions of one process.

    Args:
        rights: the rules in force.
        rooms: membership, as the homeserver pushes it.
        counted: told how many there are, whenever that changes.
        clock: where time comes from.
    """

    def __init__(self, rights: CallRights, rooms: RoomMembers, counted: Callable[[int], None], clock: Clock) -> None:
        self._rights = rights
        self._rooms = rooms
        self._counted = counted
        self._clock = clock
        self._live: dict[Key, LiveSession] = {}
        self._idle = asyncio.Event()
        self.expiry = ExpiryWatch(rights.next_change_s, self._judge_again, clock)
        """Judges again when a right has ended by time; to be run."""

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(live.session for live in self._live.values())

    def count_payload(self) -> None:
        """Count what streams have carried until now."""
        for live in self._live.values():
            live.links.count_payload()

    def get(self, key: Key) -> LiveSession | None:
        """Return the session of a call."""
        return self._live.get(key)

    def add(self, key: Key, live: LiveSession) -> None:
        """Take in a session; whoever runs it removes it."""
        self._live[key] = live
        self._counted(len(self._live))

    def remove(self, key: Key) -> None:
        """Forget a session that has ended."""
        del self._live[key]
        self._counted(len(self._live))
        if not self._live:
            self._idle.set()

    # Rights and rooms that change

    def member_left(self, room: RoomId, user: UserId) -> None:
        """End the calls of ``room`` that ``user`` takes part in."""
        for session in self.sessions:
            if session.route == room and user in (session.remote, session.local):
                session.feed(call.MemberLeft())

    def room_changed(self, room: RoomId) -> None:
        """End the calls of a room that is no longer a room of two."""
        for session in self.sessions:
            if session.route == room and self._rooms.members(room) != frozenset({session.local, session.remote}):
                session.feed(call.HangUp("not_a_direct_room"))

    def rights_changed(self, users: Collection[UserId] | None = None) -> None:
        """Judge live sessions again: calls that lost their peer end, streams that lost their service are reset.

        Args:
            users: whose sessions; None for all.
        """
        self._judge_again(users)
        self.expiry.rights_changed()

    def _judge_again(self, users: Collection[UserId] | None = None) -> None:
        for live in tuple(self._live.values()):
            session = live.session
            if users is not None and session.remote not in users:
                continue
            if live.confirming:
                continue  # It is refused then, and the decision is written down.
            if isinstance(self._rights.may_call(session.remote, session.local), Deny):
                log.info("x session of %s with %s: right withdrawn", session.remote, session.local)
                self._dismiss(live, "denied", "your right to use this peer has ended")
            else:
                live.links.judge_again()

    # Admins, time, a stop

    def end_sessions(self, which: Callable[[Session], bool], message: str) -> int:
        """End the live sessions for which ``which`` is true, for good; returns how many.

        Args:
            which: judges a session.
            message: what the other side is told. The code is ``denied``, or its client would call again at once.
        """
        chosen = [live for live in self._live.values() if which(live.session)]
        for live in chosen:
            self._dismiss(live, "denied", message)
        return len(chosen)

    def end_after(self, live: LiveSession, longest_s: float) -> Timer:
        """End a session when it has lasted for as long as one may; returns what must be cancelled with it."""
        return self._clock.call_at(
            self._clock.monotonic() + longest_s, lambda: self._end_longest(live, say_duration(longest_s))
        )

    def _end_longest(self, live: LiveSession, longest: str) -> None:
        session = live.session
        log.info("x session of %s with %s: it has lasted for session_max (%s)", session.remote, session.local, longest)
        message = f"it has lasted for {longest}, the longest that a session may (session_max)"
        self._dismiss(live, "limit", message, call.HangUp("session_max"))

    async def end_all(self, timeout_s: float) -> None:
        """Tell live sessions that the bridge goes away, and wait for their end."""
        for live in tuple(self._live.values()):
            message = "the bridge is shutting down; try again in a moment"
            self._dismiss(live, "unavailable", message, call.HangUp(later=STOPPING))
        if self._live:
            self._idle.clear()
            timer = self._clock.call_at(self._clock.monotonic() + timeout_s, self._idle.set)
            await self._idle.wait()
            timer.cancel()

    def _dismiss(self, live: LiveSession, code: str, message: str, hang_up: call.HangUp = _HANG_UP) -> None:
        """Tell the other side why, then end the session; at once where it cannot be told but in a word."""
        session = live.session
        live.end_reason = live.end_reason or message
        if live.links.say_bye(code, message):
            self._clock.call_at(self._clock.monotonic() + GOODBYE_S, lambda: session.feed(hang_up))
        else:
            session.feed(hang_up)
