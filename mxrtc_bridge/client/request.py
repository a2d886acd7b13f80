"""``mxrtc request``: asks for a service in the direct chat with the bridge's bot, and may wait for the answer.

``mxrtc withdraw`` takes a request back there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.tokens import tokens_of
from mxrtc_bridge.client.options import Context, peer_name
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.waiting import HOMESERVER, Waiting
from mxrtc_bridge.core.access.requests import RequestState
from mxrtc_bridge.core.bot.request_text import RequestStatus, read_status
from mxrtc_bridge.core.bot.words import PREFIX
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.core.text.display import display, quoted
from mxrtc_bridge.core.text.durations import HOW_TO_WRITE, typed_duration
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.matrix.api.sync import SyncStream
from mxrtc_bridge.matrix.rooms.call_rooms import DirectRoomError, DirectRooms

MAX_SHOWN = 1000

Notice = tuple[str, RequestStatus | None]
"""What people read, and what is read here."""


async def request(context: Context, service: str, *, for_time: str | None, because: str | None, wait: bool) -> None:
    """Ask the admins for a service.

    Args:
        context: what all commands share.
        service: the peer and the service.
        for_time: like 2h; None for what is usual there.
        because: why.
        wait: until the admins have decided.

    Raises:
        ClientError: it could not be asked for, or was not allowed.
        HomeserverError: the homeserver refuses us, or is away.
    """
    login, report = context.state.load_login(), context.report
    name = peer_name(login, service)
    if name.service is None:
        raise ClientError(Exit.USAGE, "name the service that you ask for, as PEER/SERVICE")
    try:
        (because or "").encode()
    except UnicodeEncodeError:
        # A homeserver would answer it with an error of its own, as if that might pass.
        raise ClientError(Exit.USAGE, "the reason is not text in UTF-8") from None
    if for_time is not None and typed_duration(for_time) is None:
        raise ClientError(Exit.USAGE, f"--for {quoted(for_time)} is no time: {HOW_TO_WRITE}")
    words = f"request {name.peer}/{name.service}"
    words += (f" for {for_time}" if for_time else "") + (f" because {because}" if because else "")
    async with _told(context, login, server_of(name.peer), words) as (said, status, notices):
        report.say("request", said, number=status.number, state=status.state.value)
        if not wait or status.state is not RequestState.ASKED:
            return
        assert status.number is not None
        decided = await until_decided(notices, status.number)
        report.say("request", decided, number=status.number, state=RequestState.ALLOWED.value)


async def withdraw(context: Context, number: int) -> None:
    """Take back a request that was asked of the bridge of this user's server.

    Raises:
        ClientError: there is none that could be taken back.
        HomeserverError: the homeserver refuses us, or is away.
    """
    login = context.state.load_login()
    async with _told(context, login, login.server, f"withdraw {number}", about=number) as (said, status, _):
        context.report.say("request", said, number=status.number, state=status.state.value)


@contextlib.asynccontextmanager
async def _told(
    context: Context, login: Login, server: str, words: str, *, about: int | None = None
) -> AsyncIterator[tuple[str, RequestStatus, AsyncIterator[Notice]]]:
    """Tell the bot of a server something; gives its answer, and the notices that come after it.

    Raises:
        ClientError: it does not answer, or says no.
    """
    bot = UserId(f"@{login.bot}:{server}")
    account = Account(login.homeserver, login.user_id, login.device_id, tokens_of(context.state, login))
    waiting = Waiting(context.report, context.call.timeout_s)
    waiting.waits_for(f"{HOMESERVER}, and for the bot to join our room")
    async with account.connect(waiting.patience) as homeserver:
        direct = DirectRooms(homeserver, login.user_id, join_timeout_s=waiting.timeout_s)
        async with _told_of_joining(direct, bot, waiting.timeout_s), waiting.limited():
            room = await _room(direct, context.state, login, bot)
            waiting.waits_for(HOMESERVER)
            notices = _notices(SyncStream(homeserver, types=["m.room.message"], rooms=[room]), room, bot)
            # The point from which on notices count must be fixed before anything is sent.
            await anext(notices)
            content = {"msgtype": "m.text", "body": f"{PREFIX} {words}"}
            await homeserver.send_event(room, "m.room.message", content, f"request-{secrets.token_hex(12)}")
        try:
            async with waiting.told(lambda: f"{bot} to answer"), asyncio.timeout(waiting.timeout_s):
                said, status = await first_answer(notices, about)
        except TimeoutError:
            raise ClientError(Exit.OFFLINE, f"{bot} does not answer; the bridge may not be running") from None
        if status is None:
            raise ClientError(Exit.DENIED, said)
        yield said, status, notices


async def first_answer(notices: AsyncIterator[Notice], about: int | None = None) -> Notice:
    """Wait for the bot's answer, past what it tells meanwhile about other requests that are decided.

    Args:
        notices: what it says.
        about: the request that was told of, if it is one that was asked before.

    Raises:
        ClientError: the homeserver sends no more.
    """
    async for said, status in notices:
        if status is None or status.number in (None, about) or status.state is RequestState.ASKED:
            return said, status
    raise ClientError(Exit.OFFLINE, "the homeserver sends nothing any more; try again later")


async def until_decided(notices: AsyncIterator[Notice], number: int) -> str:
    """Wait until request ``number`` is allowed; returns the bridge's words.

    Raises:
        ClientError: it ended otherwise, or the homeserver sends no more.
    """
    async for said, status in notices:
        if status is None or status.number != number or status.state is RequestState.ASKED:
            continue
        if status.state is not RequestState.ALLOWED:
            raise ClientError(Exit.DENIED, said)
        return said
    raise ClientError(Exit.OFFLINE, "the homeserver sends nothing any more; try again later")


@contextlib.asynccontextmanager
async def _told_of_joining(direct: DirectRooms, bot: UserId, timeout_s: float) -> AsyncIterator[None]:
    """Say that it is the bot who does not come, where time ran out for that."""
    try:
        yield
    except ClientError as error:
        if error.code is Exit.RETRY and direct.awaits_join:
            raise ClientError(
                Exit.OFFLINE, f"{bot} did not join within {timeout_s:g} seconds; its bridge is probably not running"
            ) from error
        raise


async def _room(direct: DirectRooms, state: StateFolder, login: Login, bot: UserId) -> RoomId:
    known = state.load_room(login.user_id, bot)
    try:
        room = await direct.find_or_create_direct(bot, known=known)
    except DirectRoomError as error:
        if error.retryable:
            raise ClientError(Exit.OFFLINE, str(error)) from error
        raise ClientError(Exit.DENIED, f"{error}; there may be nothing that you could ask for") from error
    if room != known:
        state.save_room(login.user_id, bot, room)
    return room


async def _notices(stream: SyncStream, room: RoomId, bot: UserId) -> AsyncIterator[Notice]:
    """Give an empty notice once the stream has begun, then what the bot says."""
    await stream.start()
    yield "", None
    async for event in stream.events():
        body = event.content.get("body")
        if (event.room_id, event.sender) != (room, bot) or event.content.get("msgtype") != "m.notice":
            continue
        if isinstance(body, str):
            yield display(body, MAX_SHOWN), read_status(event.content)
