"""Puts together what serves the people who talk to the bridge: the desk, requests, the chat, the conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.admin.explanations import Explanations
from mxrtc_bridge.bridge.admin.service import AdminService, ReloadOutcome
from mxrtc_bridge.bridge.admin.socket import AdminSocket
from mxrtc_bridge.bridge.bot.confirmation import Giving
from mxrtc_bridge.bridge.bot.user_commands import UserCommands
from mxrtc_bridge.bridge.build import Access, Basis, CallHandling, Devices
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.command_bot import CommandDispatcher
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.matrix.rooms.direct_chats import DirectChats
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex


@dataclass(frozen=True, slots=True)
class Bot:
    """Everybody who talks to the bridge in a room. :meth:`run` must run for anybody to be answered."""

    requests: AccessRequests
    control: AdminSocket
    commands: CommandDispatcher
    rooms: RoomIndex

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            await self.commands.run()
        finally:
            await self.requests.close()

    def receive_message(self, event: RoomEvent, local: UserId) -> None:
        """Take a message or a reaction of a room of ``local``, in plain text."""
        members = self.rooms.members(event.room_id)
        self.commands.receive(event, local, direct=members == frozenset({local, event.sender}))


def build_bot(
    basis: Basis,
    access: Access,
    devices: Devices,
    calls: CallHandling,
    *,
    reload: Callable[[], Awaitable[ReloadOutcome]],
    withdrawn: WithdrawnEvents,
) -> Bot:
    """Make it.

    Args:
        basis: what all is built upon.
        access: who may do what.
        devices: those of virtual users.
        calls: live sessions, and the rooms for them.
        reload: reads the configuration again, and says what came of it.
        withdrawn: what was redacted.
    """
    config, clock, rooms, rights = basis.config, basis.clock, access.index, access.rights
    service = AdminService(
        access.given,
        calls.manager,
        audited=access.audited,
        reload=reload,
        monotonic=clock.monotonic,
    )
    requests = AccessRequests(
        basis.stores.requests,
        service,
        rights,
        config,
        devices.outbox,
        access.notices,
        rooms=rooms,
        wall_ms=clock.wall_ms,
    )
    admins = AdminCommands(service, requests, config=config, wall_ms=clock.wall_ms)
    giving = Giving(
        basis.homeserver,
        admins=lambda: config.in_force.admins,
        is_own=rooms.is_own,
        admin_room=lambda: rooms.bot_rooms.room("admin"),
        new_number=basis.numbers.questions.next,
        monotonic=lambda: clock.elapsed_ms() / 1000,
    )
    chat = UserCommands(
        rights,
        config,
        calls.manager.live,
        DirectChats(basis.homeserver, rooms, calls.peers, reads_encrypted=lambda: devices.encryption.is_on),
        calls.states,
        requests,
        admins,
        giving,
        why_down=devices.why_down,
        monotonic=clock.monotonic,
        wall_ms=clock.wall_ms,
    )
    control = AdminSocket(admins, devices.verifications, chat.names, [Explanations(rights, config, clock.wall_ms)])
    commands = CommandDispatcher(
        devices.homeserver,
        chat,
        is_own=rooms.is_own,
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
        withdrawn=withdrawn.holds,
        commands_per_minute=basis.pace.commands_per_minute,
        own_server=config.in_force.homeserver.domain,
    )
    return Bot(requests, control, commands, rooms)
