"""What the bridge says by itself into its named rooms, and to those who have sent files."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from html import escape

from mxrtc_bridge.bridge.admin.access_requests import Poster
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.audit.chain import AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.files.delivery import Delivery, announcement, receipt
from mxrtc_bridge.core.ids import RoomId, UserId


class Announcements:
    """See the head of this module.

    Args:
        poster: sends them.
        config: says what is announced, and who the bot is.
        room_for: the room that is named for a purpose, if the bot is in it.
        direct_rooms: the direct chats of a peer with a user.
    """

    def __init__(
        self,
        poster: Poster,
        config: CurrentConfig,
        room_for: Callable[[str], RoomId | None],
        direct_rooms: Callable[[UserId, UserId], list[RoomId]],
    ) -> None:
        self._poster = poster
        self._config = config
        self._room_for = room_for
        self._direct_rooms = direct_rooms

    def to_admins(self, text: str) -> None:
        """Tell the admins something that needs them; where there is no room for it, the log has it."""
        self._post("admin", text, None, f"admins-{secrets.token_hex(8)}")

    def mirror(self, number: int, record: AuditRecord) -> None:
        """Repeat a record of the audit in the room for it."""
        text = f"{number}: {describe(record)}"
        self._post("audit", text, escape(text), f"audit-{number}-{record.at_ms}")

    def delivered(self, delivery: Delivery | None) -> None:
        """Tell the sender, and the room for notices, what has arrived."""
        service = None if delivery is None else self._config.in_force.service(delivery.peer, delivery.service)
        if delivery is None or service is None:
            return
        if not isinstance(service.target, FilesTarget) or not service.target.announce:
            return
        key = f"delivery-{secrets.token_hex(8)}"
        rooms = self._direct_rooms(delivery.peer, delivery.sender)
        if rooms:
            text = receipt(delivery)
            self._poster.post(rooms[0], delivery.peer, text.plain, text.html, key=key)
        text = announcement(delivery)
        self._post("notices", text.plain, text.html, key)

    def _post(self, purpose: str, text: str, html: str | None, key: str) -> None:
        room = self._room_for(purpose)
        if room is not None:
            self._poster.post(room, self._config.in_force.appservice.bot, text, html, key=key)
