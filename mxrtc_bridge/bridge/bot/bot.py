"""Puts together what serves the people who talk to the bridge: the desk, requests, the chat, the conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.chat import AdminCommands
from mxrtc_bridge.bridge.admin.service import AdminService
from mxrtc_bridge.bridge.admin.socket import AdminSocket
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.bridge.bot.confirmation import Giving
from mxrtc_bridge.bridge.bot.target_health import TargetStates
from mxrtc_bridge.bridge.bot.user_commands import UserCommands
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.engine.call_manager import CallManager
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.ports import Connector
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.command_bot import CommandDispatcher
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.bot_rooms import BotRooms
from mxrtc_bridge.matrix.rooms.direct_chats import DirectChats
from mxrtc_bridge.matrix.rooms.peers import Peers
from mxrtc_bridge.storage.requests import RequestStore


class Bot:
    """Everybody who talks to the bridge in a room."""

    def __init__(
        self,
        homeserver: Homeserver,
        outbox: Outbox,
        notices: Notices,
        peers: Peers,
        bot_rooms: BotRooms,
        *,
        config: CurrentConfig,
        rights: Rights,
        given: RuntimeGrants,
        calls: CallManager,
        requests: RequestStore,
        audit: AuditLog,
        audited: AuditEvents,
        connector: Connector,
        verifications: BridgeVerifications,
        new_question: Callable[[], Awaitable[int]],
        clock: Clock,
        reads_encrypted: Callable[[], bool],
        reload: Callable[[], Awaitable[str]],
        withdrawn: Callable[[RoomId, EventId, UserId | None], bool],
    ) -> None:
        """Make it; :meth:`run` must run for anybody to be answered.

        Args:
            homeserver: makes direct chats and sends answers.
            outbox: sends to the room of the admins.
            notices: tells people what they do not wait for.
            peers: who is in which room.
            bot_rooms: the rooms that are named for the bot.
            config: the configuration in force.
            rights: the rules in force.
            given: the grants that admins give.
            calls: live sessions.
            requests: the table of requests.
            audit: what was written down.
            audited: where it is written down.
            connector: looks whether targets answer.
            verifications: wait for an admin.
            new_question: gives a number that no question of ours has had before.
            clock: where time comes from.
            reads_encrypted: whether encrypted rooms are understood.
            reload: reads the configuration again, and says what came of it.
            withdrawn: whether an event was redacted, by a user or (None) by anybody.
        """
        self._peers = peers
        self.desk = AdminService(given, calls, audit=audit, audited=audited, reload=reload, monotonic=clock.monotonic)
        self._requests = AccessRequests(
            requests,
            self.desk,
            rights,
            config,
            outbox,
            notices,
            audited=audited,
            admin_room=lambda: bot_rooms.room("admin"),
            speaker_in=peers.speaker_in,
            wall_ms=clock.wall_ms,
        )
        admins = AdminCommands(self.desk, self._requests, config=config, wall_ms=clock.wall_ms)
        giving = Giving(
            homeserver,
            admins=lambda: config.in_force.admins,
            is_own=peers.is_own,
            admin_room=lambda: bot_rooms.room("admin"),
            waiting=self._requests.waiting,
            new_number=new_question,
            monotonic=lambda: clock.elapsed_ms() / 1000,
            wall_ms=clock.wall_ms,
        )
        chat = UserCommands(
            rights,
            config,
            calls,
            DirectChats(homeserver, peers, reads_encrypted=reads_encrypted),
            TargetStates(connector, clock.monotonic),
            self._requests,
            admins,
            giving,
            monotonic=clock.monotonic,
            wall_ms=clock.wall_ms,
        )
        self.control = AdminSocket(self.desk, admins, self._requests, verifications, chat.names, clock.wall_ms)
        self._conversation = CommandDispatcher(
            homeserver,
            chat,
            is_own=config.in_force.claims,
            wall_ms=clock.wall_ms,
            monotonic=clock.monotonic,
            withdrawn=withdrawn,
        )

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            await self._conversation.run()
        finally:
            await self._requests.close()

    async def hear(self, event: RoomEvent, local: UserId) -> None:
        """Take a message or a reaction of a room of ``local``, in plain text."""
        members = self._peers.members(event.room_id)
        self._conversation.receive(event, local, direct=members == frozenset({local, event.sender}))

    async def keep_house(self) -> None:
        """End requests that nobody answers, and show those that a crash has kept from being shown.

        Raises:
            StorageError: the database cannot be used.
            HomeserverError: a request cannot be shown.
        """
        await self._requests.keep_house()
