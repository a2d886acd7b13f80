"""A peer greets whoever has invited it into a direct chat: once a day, and once in a room.

Must never say anything to somebody without a right, nor in a room with others in it: only a join that was judged fit
for calls is greeted (:mod:`mxrtc_bridge.matrix.rooms.peers`), and what is said is what ``peers`` and ``how`` would
answer. Nor to somebody of whom no device may read it: all that they would see is that it cannot be decrypted.

Which rooms were greeted is kept over restarts, and taken down before the greeting is sent, so a crash costs a greeting
and repeats none. The bot greets nobody: ``mxrtc request`` waits there for an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.bot.greeting import greeting
from mxrtc_bridge.core.bot.recipes import lines_for, name_for
from mxrtc_bridge.core.bot.reply import pages
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.storage.greetings import GreetingStore

log = logging.getLogger(__name__)

PER_MINUTE = 6
"""Of one user, by all peers."""
AGAIN_S = 24 * 3600.0
"""Whoever opens more rooms with the same peer knows it."""
MAX_REMEMBERED = 10_000
"""People and peers; beyond that those are forgotten who were greeted longest ago."""
PER_MINUTE_OF_SERVER = 60


class Greetings:
    """See the head of this module.

    Args:
        rights: the rules in force.
        config: names the peers and their services.
        notices: sends them.
        store: remembers which rooms were greeted.
        is_encrypted: whether a room is.
        is_readable: whether what a peer (second) says in an encrypted room can be read by its user (third).
        later: does what asks other homeservers, for a user, while others are served; False where it has no place.
        wall_ms: milliseconds since the epoch.
        monotonic: seconds.
        own_server: our homeserver, whose users together may have more than those of another.
    """

    def __init__(
        self,
        rights: Rights,
        config: CurrentConfig,
        notices: Notices,
        store: GreetingStore,
        *,
        is_encrypted: Callable[[RoomId], bool],
        is_readable: Callable[[RoomId, UserId, UserId], Awaitable[bool]],
        later: Callable[[UserId, Callable[[], Awaitable[object]]], bool],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        own_server: str = "",
    ) -> None:
        self._rights = rights
        self._config = config
        self._notices = notices
        self._store = store
        self._is_encrypted = is_encrypted
        self._is_readable = is_readable
        self._later = later
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._rate = RateLimit(PER_MINUTE, PER_MINUTE_OF_SERVER, own_server)
        self._greeted = Latest[tuple[UserId, UserId], float](MAX_REMEMBERED)
        self._seldom = RateLimitedLog(log)

    async def joined(self, room: RoomId, peer: UserId, user: UserId) -> None:
        """Greet ``user`` in the room that ``peer`` has joined, which holds nobody else."""
        if peer == self._config.in_force.appservice.bot or not dict(self._rights.listing(user, peer)).get(peer):
            return
        now = self._monotonic()
        if now - self._greeted.get((user, peer), -AGAIN_S) < AGAIN_S or not self._rate.allow(user, now):
            return
        if self._is_encrypted(room):
            # Their homeserver is asked about their devices, and what happens in the room meanwhile does not wait.
            self._later(user, lambda: self._greet(room, peer, user))
        else:
            await self._greet(room, peer, user)

    async def _greet(self, room: RoomId, peer: UserId, user: UserId) -> None:
        try:
            if self._is_encrypted(room) and not await self._is_readable(room, peer, user):
                return
            config, services = self._config.in_force, dict(self._rights.listing(user, peer)).get(peer, ())
            if not services or not await self._store.is_first(room, self._wall_ms()):
                return
        except (HomeserverError, StorageError) as error:
            self._seldom.warning(user, "%s was not greeted in %s: %s", user, room, error)
            return
        self._greeted[user, peer] = self._monotonic()
        name = name_for(user, peer, config.appservice.peer_prefix)
        targets = {service: config.target(peer, service) for service in services}
        lines = {
            service: lines_for(name, service, target)[0] for service, target in targets.items() if target is not None
        }
        said = greeting(name, lines, dict(self._rights.to_ask_for(user)).get(peer, ()))
        for page in pages(said, max_pages=1):
            self._notices.post(room, peer, page.plain, page.html, key="greeting", fields=said.fields)
