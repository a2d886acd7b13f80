"""A peer greets whoever has invited it into a direct chat, once in a room.

Must never say anything to somebody without a right, nor in a room with others in it: only a join that was judged fit
for calls is greeted (:mod:`mxrtc_bridge.matrix.rooms.peers`), and what is said is what ``peers`` and ``how`` would
answer. Which rooms were greeted is kept over restarts, and taken down before the greeting is sent, so a crash costs a
greeting and repeats none. The bot greets nobody: ``mxrtc request`` waits there for an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.bot.greeting import greeting
from mxrtc_bridge.core.bot.recipes import lines_for, name_for
from mxrtc_bridge.core.bot.reply import pages
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.storage.greetings import GreetingStore

log = logging.getLogger(__name__)

PER_MINUTE = 6
"""Of one user: whoever opens more rooms than that knows us."""
PER_MINUTE_OF_SERVER = 60


class Greetings:
    """See the head of this module.

    Args:
        rights: the rules in force.
        config: names the peers and their services.
        notices: sends them.
        store: remembers which rooms were greeted.
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
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        own_server: str = "",
    ) -> None:
        self._rights = rights
        self._config = config
        self._notices = notices
        self._store = store
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._rate = RateLimit(PER_MINUTE, PER_MINUTE_OF_SERVER, own_server)
        self._seldom = RateLimitedLog(log)

    async def joined(self, room: RoomId, peer: UserId, user: UserId) -> None:
        """Greet ``user`` in the room that ``peer`` has joined, which holds nobody else."""
        config = self._config.in_force
        services = dict(self._rights.listing(user, peer)).get(peer, ())
        if peer == config.appservice.bot or not services or not self._rate.allow(user, self._monotonic()):
            return
        name = name_for(user, peer, config.appservice.peer_prefix)
        targets = {service: config.target(peer, service) for service in services}
        lines = {
            service: lines_for(name, service, target)[0] for service, target in targets.items() if target is not None
        }
        said = greeting(name, lines, dict(self._rights.to_ask_for(user)).get(peer, ()))
        try:
            if not await self._store.is_first(room, self._wall_ms()):
                return
        except StorageError as error:
            self._seldom.warning(user, "%s was not greeted in %s: %s", user, room, error)
            return
        for page in pages(said, max_pages=1):
            self._notices.post(room, peer, page.plain, page.html, key="greeting", fields=said.fields)
