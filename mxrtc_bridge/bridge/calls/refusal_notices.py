"""Tells people in words that their call was refused, once a day at most."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.storage.notice_times import NoticeStore

log = logging.getLogger(__name__)

EVERY_MS = 24 * 3600 * 1000
REFUSED_TEXT = "Your call was refused. If you think that you should have access, ask the admin of this bridge."
MEDIA_TEXT = (
    "I take no voice or video calls: programs reach services through me, such as mxrtc on your computer. Write help to "
    "see what I understand here."
)


class RefusalNotices:
    """See the head of this module.

    Args:
        outbox: sends them.
        notices: remembers who was told.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(self, outbox: Outbox, notices: NoticeStore, wall_ms: Callable[[], int]) -> None:
        self._outbox = outbox
        self._notices = notices
        self._wall_ms = wall_ms
        self._seldom = RateLimitedLog(log)

    async def say(self, route: CallRoute, local: UserId, user: UserId, reason: str | None = None) -> None:
        """Tell ``user`` in the room of a call, as ``local``, unless they were told lately.

        Args:
            route: the room.
            local: the peer.
            user: the caller.
            reason: ``media_refused`` for a voice or video call; None for want of a right.
        """
        if isinstance(route, DevicePair):
            return  # Between two devices there is no room to say it in; the caller's program does.
        now_ms = self._wall_ms()
        try:
            if await self._notices.may_notify(user, now_ms, EVERY_MS):
                text = REFUSED_TEXT if reason is None else MEDIA_TEXT
                await self._outbox.send_notice(route, local, text, key=f"refused-{now_ms}")
        except (HomeserverError, StorageError) as error:
            self._seldom.warning(user, "the refusal of %s could not be explained: %s", user, error)
