"""``mxrtc request``: asks for a service in the direct chat with the bridge's bot, and may wait for the answer."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.access.requests import RequestState
from mxrtc_bridge.core.bot.request_text import ALREADY, read_asked, read_decided
from mxrtc_bridge.core.bot.words import PREFIX
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.matrix.api.sync import SyncStream
from mxrtc_bridge.matrix.rooms.call_rooms import DirectRoomError, DirectRooms

ANSWER_S = 45.0
"""How long the bot may take to take the request."""
MAX_SHOWN = 1000


async def request(
    state: StateFolder, report: Report, name: PeerName, *, for_time: str | None, because: str | None, wait: bool
) -> None:
    """Ask the admins for a service.

    Args:
        state: the state folder.
        report: where to say what comes of it.
        name: the peer and the service.
        for_time: like 2h; None for what is usual there.
        because: why.
        wait: until the admins have decided.

    Raises:
        ClientError: it could not be asked for, or was not allowed.
        HomeserverError: the homeserver refuses us, or is away.
    """
    if name.service is None:
        raise ClientError(Exit.USAGE, "name the service that you ask for: PEER/SERVICE")
    login = state.load_login()
    bot = UserId(f"@{login.bot}:{server_of(name.peer)}")
    words = f"{PREFIX} request {name.peer}/{name.service}"
    words += (f" for {for_time}" if for_time else "") + (f" because {because}" if because else "")
    account = Account(login.homeserver, login.user_id, login.device_id, login.access_token)
    async with account.connect() as homeserver:
        room = await _room(homeserver, state, login, bot)
        notices = _notices(SyncStream(homeserver, types=["m.room.message"], rooms=[room]), room, bot)
        # The point from which on notices count must be fixed before anything is sent.
        await anext(notices)
        content = {"msgtype": "m.text", "body": words}
        await homeserver.send_event(room, "m.room.message", content, f"request-{secrets.token_hex(12)}")
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await anext(notices)
        except TimeoutError:
            raise ClientError(Exit.OFFLINE, f"{bot} does not answer; the bridge may not be running") from None
        number = read_asked(said)
        if number is None:
            if said != ALREADY:
                raise ClientError(Exit.DENIED, said)
            report.say("request", said, number=None, state="allowed")
            return
        report.say("request", said, number=number, state=RequestState.ASKED.value)
        if not wait:
            return
        async for said in notices:
            decided = read_decided(said, number)
            if decided is RequestState.ALLOWED:
                report.say("request", said, number=number, state=decided.value)
                return
            if decided is not None:
                raise ClientError(Exit.DENIED, said)


async def _room(homeserver: Homeserver, state: StateFolder, login: Login, bot: UserId) -> RoomId:
    known = state.load_room(login.user_id, bot)
    try:
        room = await DirectRooms(homeserver, login.user_id).find_or_create_direct(bot, known=known)
    except DirectRoomError as error:
        raise ClientError(Exit.DENIED, f"{error}; there may be nothing that you could ask for") from error
    if room != known:
        state.save_room(login.user_id, bot, room)
    return room


async def _notices(stream: SyncStream, room: RoomId, bot: UserId) -> AsyncIterator[str]:
    """Give an empty text once the stream has begun, then what the bot says."""
    await stream.start()
    yield ""
    async for event in stream.events():
        body = event.content.get("body")
        if (event.room_id, event.sender) != (room, bot) or event.content.get("msgtype") != "m.notice":
            continue
        if isinstance(body, str):
            yield display(body, MAX_SHOWN)
