"""Encrypted events whose key has not come yet: they wait here, outside of every order but their own.

Whoever reads events never waits for a key. The events of one session stay in their order, those that come while the
first one waits among them: the candidates of a call after its invite. Each sender may have a few sessions waiting, and
servers have their shares, so that nobody can take the places of others by inventing sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mxrtc_bridge.core.bounds.shares import ShareLimits, Shares
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import Undecryptable

log = logging.getLogger(__name__)

LATE_KEY_S = 60.0
"""How long a session waits for its key; then the senders of its events are told."""
SESSIONS = ShareLimits(sender=4, server=32, foreign=96, others=160, total=224)
"""Sessions that wait, of all devices of ours; a sender has one for each of their devices that writes."""
EVENTS_OF_SESSION = 32
HANDLE_S = 60.0
"""How long the handling of one event may take, as in the inbox."""
CHARS_OF_SESSION = 256 * 1024
"""Of ciphertext: a call with all of its candidates has a tenth of it."""

Open = Callable[[RoomEvent, float], Awaitable[Opened | Undecryptable]]
"""Decrypts an event, after waiting for its key for at most so many seconds."""
LateHandler = Callable[[RoomEvent, Opened | Undecryptable], Awaitable[None]]
Session = tuple[UserId, RoomId, UserId, str]
"""Our user, the room, the sender, and the session."""


@dataclass(slots=True)
class _Held:
    until: float
    events: deque[tuple[RoomEvent, LateHandler]] = field(default_factory=deque)
    chars: int = 0


def session_of(event: RoomEvent, local: UserId) -> Session:
    """The session that an encrypted event claims to be of."""
    return local, event.room_id, event.sender, str(event.content.get("session_id"))[:255]


class LateKeys:
    """See the head of this module. Nothing waits before :meth:`run` runs.

    Args:
        own_server: the server name of our homeserver.
        has_right: whether a user holds any right; asked only where places become few.
        monotonic: seconds.
    """

    def __init__(
        self, own_server: str, has_right: Callable[[UserId], bool], monotonic: Callable[[], float] | None = None
    ) -> None:
        self._shares = Shares(SESSIONS, own_server)
        self._has_right = has_right
        self._monotonic = monotonic
        self._held: dict[Session, _Held] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._seldom = RateLimitedLog(log)

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, session: Session) -> bool:
        """Whether events of this session wait, so that the next one must wait behind them."""
        return session in self._held

    def put(self, session: Session, event: RoomEvent, open_event: Open, late: LateHandler) -> bool:
        """Let an event wait for its key; False where there is no place for it.

        Args:
            session: of the event.
            event: the event.
            open_event: decrypts events of this session.
            late: given the event when its key has come, or will not.
        """
        if self._tasks is None:
            return False
        held, sender = self._held.get(session), session[2]
        if held is None:
            if self._shares.full(sender, has_right=self._has_right) is not None:
                return False
            held = _Held(self._now() + LATE_KEY_S)
            self._shares.add(sender)
            self._held[session] = held
            self._tasks.create_task(self._wait(session, held, open_event), name="late key")
        size = len(str(event.content.get("ciphertext")))
        if len(held.events) >= EVENTS_OF_SESSION or (held.chars + size > CHARS_OF_SESSION and held.events):
            return False
        held.events.append((event, late))
        held.chars += size
        return True

    async def run(self) -> None:
        """Own what waits, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._monotonic is None else self._monotonic()

    async def _wait(self, session: Session, held: _Held, open_event: Open) -> None:
        try:
            while held.events:
                # It stays in front until it is handled: what comes meanwhile is put behind it.
                event, late = held.events[0]
                await self._hand_on(event, late, open_event, max(0.0, held.until - self._now()))
                held.events.popleft()
        finally:
            del self._held[session]
            self._shares.remove(session[2])

    async def _hand_on(self, event: RoomEvent, late: LateHandler, open_event: Open, wait_s: float) -> None:
        try:
            opened = await open_event(event, wait_s)
            async with asyncio.timeout(HANDLE_S):
                await late(event, opened)
        except (MxrtcError, TimeoutError) as error:
            self._seldom.warning(
                event.sender, "! an event of %s whose key was late was not handled: %s", event.sender, error
            )
        except Exception as error:  # noqa: BLE001 - a defect of ours is written down, and keeps back no other event
            self._seldom.exception(
                event.sender, "! an event of %s whose key was late was not handled", event.sender, error=error
            )
