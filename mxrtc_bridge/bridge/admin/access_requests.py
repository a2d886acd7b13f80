"""Requests for access: asked in a direct chat, shown in the room of the admins, answered there.

A request is stored before it is shown, and decided in the database before anything comes of it: of two admins who
answer at the same moment one is told that the other was first. What was allowed is a grant, given by the admin who
allowed it and stored together with the decision; if it does not come into force, for whatever reason, the request is
open again. Only who is an admin by the configuration decides.

What is stored is also told: both go on to their end when the person who asked or answered waits no more. What a crash
has kept from being shown to the admins is shown later (:meth:`AccessRequests.keep_house`).

One file: a request is asked, shown, answered and told by rules that refer to each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from html import escape
from typing import Any, NoReturn, TypeVar

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.access.runtime_grants import SettledError
from mxrtc_bridge.bridge.admin.service import AdminService
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.grants import MAX_FOR_S, MIN_FOR_S
from mxrtc_bridge.core.access.policy import Allow, Service, user_subject
from mxrtc_bridge.core.access.requests import (
    AccessRequest,
    Decision,
    RequestLimits,
    RequestRefused,
    RequestState,
    answer_of,
    ask,
    decide,
    expired,
    said,
    withdraw,
)
from mxrtc_bridge.core.bot.request_text import (
    ALREADY,
    RequestAnswer,
    RequestStatus,
    asked_words,
    decided_words,
    status_fields,
    unanswered_words,
)
from mxrtc_bridge.core.bot.words import PREFIX
from mxrtc_bridge.core.errors import AdminError, HomeserverError, StorageError, UnknownOutcomeError
from mxrtc_bridge.core.ids import Actor, EventId, RoomId, UserId, folded
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.text.durations import say_duration
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.outbox.outbox import Outbox, transaction_id
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex
from mxrtc_bridge.storage.requests import RequestStore

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_FOR_S = 2 * 3600
DAY_MS = 24 * 3600 * 1000
_NOT_NOW = "I cannot find out just now which rooms you are in, as my homeserver does not answer. Try again in a minute."
_HOW_TO_ANSWER = "React with \u2705 to allow it, 1\ufe0f\u20e3 for one session, \u274c to deny it; or write"


class AccessRequests:
    """See the head of this module."""

    def __init__(
        self,
        store: RequestStore,
        service: AdminService,
        rights: Rights,
        config: CurrentConfig,
        sender: Outbox,
        poster: Notices,
        *,
        rooms: RoomIndex,
        wall_ms: Callable[[], int],
        limits: RequestLimits | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the database.
            service: gives what is allowed.
            rights: the rules in force.
            config: names the admins, the bot and the peers.
            sender: shows requests to admins.
            poster: tells people what became of theirs.
            rooms: the room of the admins, and the virtual user in each.
            wall_ms: milliseconds since the epoch.
            limits: bounds.
        """
        self._store = store
        self._service = service
        self._rights = rights
        self._config = config
        self._sender = sender
        self._poster = poster
        self._audited = service.audited
        self._rooms = rooms
        self._wall_ms = wall_ms
        self._limits = limits or RequestLimits()
        self._doing: set[asyncio.Task[Any]] = set()
        """What goes on although nobody waits for it; as many as people have asked for at the same time."""
        self._showing: set[int] = set()

    @property
    def unsettled(self) -> int:
        """Requests that are being asked, given or refused at this moment."""
        return len(self._doing)

    async def close(self) -> None:
        """End what is still going on; what has been stored is shown after the next start."""
        for task in self._doing:
            task.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)

    async def ask(
        self, service: Service, for_s: int | None, because: str, user: UserId, room: RoomId
    ) -> RequestAnswer | None:
        """Take a request; returns what the person is told, or None if there is nothing that they could ask for.

        Args:
            service: what is asked for.
            for_s: seconds; None for what is usual here.
            because: why, in the person's own words.
            user: who asks.
            room: where they are answered.

        Raises:
            StorageError: the database does not take it.
        """
        if not await self._rights.confirm_member(user):
            return RequestAnswer(_NOT_NOW)
        if isinstance(self._rights.decide(user, service.peer, service.name)[0], Allow):
            return ALREADY
        if not self._rights.may_ask(user, service.peer, service.name):
            return None
        admins = self._rooms.bot_rooms.room("admin")
        if admins is None:
            return RequestAnswer(
                "Nobody can be asked here: the room of the admins is not set up. Ask an admin yourself."
            )
        for_s = DEFAULT_FOR_S if for_s is None else for_s
        if not MIN_FOR_S <= for_s <= MAX_FOR_S:
            return RequestAnswer(f"You can ask for {say_duration(MIN_FOR_S)} to {say_duration(MAX_FOR_S)}.")
        wanted = AccessRequest(0, user, service.peer, service.name, for_s, because, room, self._wall_ms())
        return await self._to_the_end(self._take(wanted, admins))

    async def withdraw(self, number: int, user: UserId) -> RequestAnswer:
        """Take a request back; returns what the person is told.

        Raises:
            StorageError: the database does not take it.
        """
        request = await self._store.get(number)
        judged = (
            RequestRefused(f"You have no request {number}; status lists those that you have.")
            if request is None
            else withdraw(request, user, self._wall_ms())
        )
        if isinstance(judged, RequestRefused):
            return RequestAnswer(judged.reason)
        return await self._to_the_end(self._take_back(judged, user))

    async def _take_back(self, request: AccessRequest, user: UserId) -> RequestAnswer:
        if not await self._settle(request):
            return RequestAnswer(f"Request {request.number} was answered just now.")
        self._audited.answered(request, "withdrawn", user)
        self._tell_admins(request, f"Request {request.number} was withdrawn.")
        return RequestAnswer(f"I have taken request {request.number} back.", _status(request))

    async def waiting(self) -> list[AccessRequest]:
        """The requests that wait for an answer, the oldest first.

        Raises:
            StorageError: the database cannot be read.
        """
        now_ms = self._wall_ms()
        return [each for each in await self._store.open_requests() if expired(each, now_ms, self._limits) is None]

    async def answer(self, number: int, answer: Decision, by: Actor, *, for_s: int | None = None, why: str = "") -> str:
        """Decide a request; returns what the admin is told.

        Raises:
            AdminError: it cannot be decided so.
            StorageError: the database does not take it.
        """
        request = await self._store.get(number)
        if request is None:
            raise AdminError(f"There is no request {number}; requests lists those that wait.")
        return await self._decide(request, answer, by, for_s, why)

    async def open_of(self, user: UserId) -> list[AccessRequest]:
        """The requests of ``user`` that wait for an answer.

        Raises:
            StorageError: the database cannot be read.
        """
        now_ms = self._wall_ms()
        return [
            request
            for request in await self._store.of_user(user, now_ms - DAY_MS)
            if request.is_open and expired(request, now_ms, self._limits) is None
        ]

    async def reacted(self, room: RoomId, target: EventId, key: str, by: UserId) -> None:
        """Take a reaction to an event; nothing happens unless it answers a request in the room of the admins.

        Raises:
            StorageError: the database does not take it.
        """
        answer = answer_of(key)
        if answer is None or room != self._rooms.bot_rooms.room("admin"):
            return
        request = await self._store.by_notice(target)
        if request is None:
            return
        try:
            await self._decide(request, answer, by, None, "")
        except AdminError as error:
            # Whoever is no admin gets no word.
            if folded(by) in self._config.in_force.admins:
                self._tell_admins(request, str(error))

    async def keep_house(self) -> None:
        """End the requests that nobody has answered in time, and tell those who asked; show what was not shown.

        Raises:
            StorageError: the database cannot be used.
            HomeserverError: a request cannot be shown.
        """
        admins = self._rooms.bot_rooms.room("admin")
        for request in await self._store.open_requests():
            if await self._expire(request) or admins is None:
                continue
            if request.notice is None and request.number not in self._showing:
                await self._show(admins, request.number, request)

    async def _take(self, wanted: AccessRequest, admins: RoomId) -> RequestAnswer:
        """Store what is asked for, if the limits let it, and show it to the admins."""
        user, now_ms = wanted.user, wanted.asked_ms
        earlier = await self._store.of_user(user, now_ms - DAY_MS)
        for request in earlier:
            await self._expire(request)
        judged = ask(wanted, earlier, await self._store.count_open(), self._limits)
        if isinstance(judged, RequestRefused):
            return RequestAnswer(judged.reason)
        number = await self._store.add(judged)
        if number is None:
            return RequestAnswer("You have asked for this already.")
        log.info("? request %d: %s asks for %s/%s", number, user, wanted.peer, wanted.service)
        self._audited.asked(judged, number)
        try:
            await self._show(admins, number, judged)
        except HomeserverError as error:
            log.warning("! request %d could not be shown to the admins: %s", number, error)
            taken_back = withdraw(replace(judged, number=number), user, now_ms)
            if isinstance(taken_back, AccessRequest):
                await self._settle(taken_back)
            return RequestAnswer("The admins could not be told just now; please try again.")
        return RequestAnswer(asked_words(number), RequestStatus(RequestState.ASKED, number))

    async def _refuse_second(self, number: int) -> NoReturn:
        """Tell an admin that another one was first."""
        now = await self._store.get(number)
        raise AdminError(f"Request {number} {said(now) if now is not None else 'is gone'} already.")

    async def _decide(self, request: AccessRequest, answer: Decision, by: Actor, for_s: int | None, why: str) -> str:
        await self._expire(request)
        now_ms = self._wall_ms()
        judged = decide(request, answer, by, now_ms, admins=self._config.in_force.admins, limits=self._limits)
        if isinstance(judged, RequestRefused):
            raise AdminError(judged.reason)
        if answer is Decision.DENY:
            return await self._to_the_end(self._deny(request, judged, why))
        try:
            await self._service.given.give(
                user_subject(request.user),
                Service(request.peer, request.service),
                for_s or request.for_s,
                by,
                reason=request.because,
                once=answer is Decision.ALLOW_ONCE,
                settles=judged,
            )
        except SettledError:
            await self._refuse_second(request.number)
        except (AdminError, StorageError) as error:
            raise AdminError(f"That did not work: {error} {await self._whether_open(request.number)}") from error
        return self._tell_decision(request, judged, answer, for_s or request.for_s, why)

    async def _deny(self, request: AccessRequest, judged: AccessRequest, why: str) -> str:
        if not await self._settle(judged):
            await self._refuse_second(request.number)
        return self._tell_decision(request, judged, Decision.DENY, request.for_s, why)

    def _tell_decision(
        self, request: AccessRequest, judged: AccessRequest, answer: Decision, for_s: int, why: str
    ) -> str:
        by = judged.decided_by
        assert by is not None
        outcome = said(judged)
        log.info("= request %d %s", request.number, outcome)
        self._audited.answered(judged, judged.state.value + (f": {why}" if why else ""), by)
        self._tell_admins(judged, f"Request {request.number} of {request.user} {outcome}.")
        self._tell_asker(
            judged,
            decided_words(judged, self._named(request), answer, for_s, display(why, 300)),
        )
        return f"Request {request.number} {outcome}."

    async def _whether_open(self, number: int) -> str:
        """Say whether a request whose grant did not come into force waits for an answer again."""
        try:
            now = await self._store.get(number)
        except StorageError:
            now = None
        if now is not None and now.is_open:
            return f"Request {number} is open again."
        return f"Request {number} is open again as soon as the database takes that."

    async def _settle(self, judged: AccessRequest) -> bool:
        """Write down how an open request ended; False if it had ended before.

        Raises:
            StorageError: that is not stored, or nobody knows.
        """
        try:
            return await self._store.settle(judged)
        except UnknownOutcomeError:
            now = await self._store.get(judged.number)
            if now is None or now.is_open:
                raise
            return (now.state, now.decided_by, now.decided_ms) == (judged.state, judged.decided_by, judged.decided_ms)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not be left half done when whoever waits for it gives up."""
        task = asyncio.create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._doing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits is told as well.
            log.info("! something about a request did not work: %s", error)

    async def _show(self, room: RoomId, number: int, request: AccessRequest) -> None:
        self._showing.add(number)
        try:
            await self._show_now(room, number, request)
        finally:
            self._showing.discard(number)

    async def _show_now(self, room: RoomId, number: int, request: AccessRequest) -> None:
        bot = self._config.in_force.appservice.bot
        because = f' "{display(request.because, 300)}"' if request.because else " (no reason given)"
        asked = f"{request.user} asks for {self._named(request)} for {say_duration(request.for_s)}:{because}"
        typed = ", ".join(
            f"{PREFIX} {words}" for words in (f"allow {number}", f"allow {number} once", f"deny {number}")
        )
        words = f"{_HOW_TO_ANSWER} {typed}."
        notice = await self._sender.send_notice(
            room, bot, f"{asked}\n{words}", f"<p>{escape(asked)}</p><p>{escape(words)}</p>", key=f"request-{number}"
        )
        await self._store.set_notice(number, notice)
        for answer in Decision:
            relation = {"rel_type": "m.annotation", "event_id": notice, "key": answer.value}
            try:
                await self._sender.send_event(
                    room, bot, "m.reaction", {"m.relates_to": relation}, key=f"request-{number}-{answer.name}"
                )
            except HomeserverError as error:
                # A convenience: the words say what to react with.
                log.info("! a reaction to request %d was not sent: %s", number, error)
                return

    async def _expire(self, request: AccessRequest) -> bool:
        """End a request that is too old; returns whether it is."""
        ended = expired(request, self._wall_ms(), self._limits)
        if ended is None:
            return False
        if await self._settle(ended):
            self._tell_asker(ended, unanswered_words(request, self._named(request)))
        return True

    def _named(self, request: AccessRequest) -> str:
        peer = self._config.in_force.peers.get(request.peer)
        return f"{peer.name if peer is not None else request.peer}/{request.service}"

    def _tell_asker(self, request: AccessRequest, text: str) -> None:
        speaker = self._rooms.teller_in(request.room)
        if speaker is not None:
            key = f"request-{request.number}-told-{self._wall_ms()}"
            self._poster.post(request.room, speaker, text, key=key, fields=status_fields(_status(request)))

    def _tell_admins(self, request: AccessRequest, text: str) -> None:
        room = self._rooms.bot_rooms.room("admin")
        if room is not None:
            key = transaction_id(room, request.user, str(request.number), f"{text}-{self._wall_ms()}")
            self._poster.post(room, self._config.in_force.appservice.bot, text, key=key)


def _status(request: AccessRequest) -> RequestStatus:
    return RequestStatus(request.state, request.number)
