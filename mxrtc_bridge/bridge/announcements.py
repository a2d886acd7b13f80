"""What the bridge says by itself into its named rooms, and to those who have sent files."""

from __future__ import annotations

import secrets
from html import escape

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.audit.chain import AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.files.delivery import Delivery, announcement, receipt
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex


class Announcements:
    """See the head of this module.

    Args:
        notices: sends them.
        config: says what is announced, and who the bot is.
        rooms: the direct chats, and those that are named for the bot.
    """

    def __init__(self, notices: Notices, config: CurrentConfig, rooms: RoomIndex) -> None:
        self._notices = notices
        self._config = config
        self._rooms = rooms

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
        room = self._rooms.chat_with(delivery.peer, delivery.sender)
        if room is not None:
            text = receipt(delivery)
            self._notices.post(room, delivery.peer, text.plain, text.html, key=key)
        text = announcement(delivery)
        self._post("notices", text.plain, text.html, key)

    def _post(self, purpose: str, text: str, html: str | None, key: str) -> None:
        room = self._rooms.bot_rooms.room(purpose)
        if room is not None:
            self._notices.post(room, self._config.in_force.appservice.bot, text, html, key=key)
