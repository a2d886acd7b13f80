"""Messages of people to the bridge's users: which of them are commands, and the replies.

Must never answer itself or another bot, never give anything by an old message, never take another's words for a command
(whose words they are is said in :mod:`mxrtc_bridge.core.bot.message_text`), never let one person's commands hold up
anybody's calls, and never raise because of what somebody wrote.

How it works: :meth:`CommandDispatcher.receive` judges an event without waiting (who, what, how old, how often) and puts
what is left into the queue of one of a few workers, always the same one for the same person, so that commands of a
person are carried out in order. At a full queue the message is dropped and counted in the log: whoever writes that
fast reads no answers. What a worker does ends within :data:`COMMAND_TIMEOUT_S`. A queue is not kept over a restart:
what was not answered then is typed again.

What was redacted before its turn came is not carried out. But what takes something away is taken back by its own sender
only: somebody with power in the room must not be able to keep what an admin takes from them.

An encrypted event is given to :meth:`CommandDispatcher.receive` once it is decrypted; one that is not is no command,
and :mod:`mxrtc_bridge.matrix.rooms.peers` has told the room that it cannot be read.

One file: what is refused, dropped, queued or answered is one decision about each message.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Command, CommandForm, Effect, Mistake
from mxrtc_bridge.core.bot.message_text import command_line, read_message
from mxrtc_bridge.core.bot.parser import addressed, meant_by
from mxrtc_bridge.core.bot.reply import Code, Line, Reply, pages, say, text
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.engine.cancellation import is_told_to_end
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.outbox.outbox import notice_content, transaction_id
from mxrtc_bridge.matrix.relations import Reaction, answer_relation, read_reaction

log = logging.getLogger(__name__)

MESSAGE_TYPES = frozenset({"m.room.message", "m.reaction"})
"""What :meth:`CommandDispatcher.receive` reads."""
MAX_AGE_MS = 5 * 60 * 1000
"""A message that took longer gives nothing any more; also how far a sender's clock may be ahead."""
MAX_LATE_MS = 3 * 24 * 3600 * 1000
"""What takes something away counts this much later still, as when the bridge was down. By far less than the inbox
remembers ids of events (30 days), so the same event never counts twice, whoever sends it again; and the time of an
event is a part of what its id stands for."""
WORKERS = 8
QUEUE = 32
"""Messages that wait for one worker."""
MAX_AT_ONCE = 32
"""Commands that take something away and wait behind nothing; the next one takes its turn like any other."""
COMMAND_TIMEOUT_S = 40.0
COMMANDS_PER_MINUTE = 20
"""Of one user. An admin has as many, whatever others of their server write, and what takes away is never too fast."""
COMMANDS_PER_MINUTE_OF_SERVER = 120
ADMINS = 100
"""Admins of one server that may write as much as that at the same time."""
STRANGER_EVERY_S = 3600.0
"""Somebody without rights is told so once in this time."""
STRANGERS_PER_MINUTE = 30
"""Of all strangers together: a crowd of new accounts cannot make the bridge talk without end."""
MAX_STRANGERS = 10_000
"""Strangers that are remembered; then the one that was told longest ago."""

STRANGER_TEXT = "You don't have access to this bridge, so I can't run commands for you. Ask its admin."
TOO_FAST_TEXT = "That was too fast for me; please wait a minute."
RESTARTED_TEXT = "I was started only after you had written this, so I did nothing. Send it again if you still want it."
LATE_TEXT = (
    "This reached me long after it was written, or a clock is wrong, so I did nothing. Send it again if you still want "
    "it. (I say so once.)"
)
FAILED_TEXT = "That did not work; the bridge's log says why, beside {}."
TIMEOUT_TEXT = "That took too long, and I have given up waiting for it."


class Rank(Enum):
    """What the rules in force make of a person."""

    STRANGER = "stranger"
    USER = "user"
    """Has a right, or may ask for one."""
    ADMIN = "admin"
    """By the configuration; a power level in a room makes nobody one."""


@dataclass(frozen=True, slots=True)
class CommandSender:
    """Who gave a command, and where."""

    user: UserId
    admin: bool
    room: RoomId
    speaker: UserId
    """The user of the bridge that was spoken to, and that answers."""
    direct: bool
    """Whether nobody else is in the room."""


class CommandHandler(Protocol):
    """Carries out what was said."""

    @property
    def forms(self) -> tuple[CommandForm, ...]:
        """The commands that there are."""
        ...

    def rank(self, user: UserId) -> Rank: ...

    def names(self) -> Names: ...

    async def carry_out(self, command: Command, sender: CommandSender) -> Reply: ...

    def mistaken(self, sender: CommandSender) -> None:
        """Take down that somebody has given a command that was none."""
        ...

    async def reacted(self, reaction: Reaction) -> None: ...


@dataclass(frozen=True, slots=True)
class _ReceivedCommand:
    """A message that was taken."""

    event: RoomEvent
    command: Command | Mistake
    sender: CommandSender

    @property
    def _effect(self) -> Effect:
        return Effect.LOOKS if isinstance(self.command, Mistake) else self.command.form.effect

    @property
    def takes_away(self) -> bool:
        return self._effect is Effect.TAKES

    @property
    def ends(self) -> bool:
        """Whether nobody has more by it, so that it does no harm when it comes late."""
        return self._effect in (Effect.TAKES, Effect.ENDS)

    @property
    def looks(self) -> bool:
        return self._effect is Effect.LOOKS

    @property
    def once_more(self) -> bool:
        """Whether it is done again in its turn, after it was done at once."""
        return not isinstance(self.command, Mistake) and self.command.form.once_more

    @property
    def withdrawn_by(self) -> UserId | None:
        """Who alone can take it back by redacting it; None for everybody whom the homeserver lets do so."""
        return self.event.sender if self.ends else None


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that needs no command."""

    event: RoomEvent
    speaker: UserId
    direct: bool
    line: str


class CommandDispatcher:
    """Takes messages and reactions, and answers.

    After making one you must run :meth:`run` in a task; until then, and at full queues, what comes in is dropped.
    """

    def __init__(
        self,
        sender: Homeserver,
        handler: CommandHandler,
        *,
        is_own: Callable[[UserId], bool],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        withdrawn: Callable[[RoomId, EventId, UserId | None], bool] = lambda _room, _event, _by: False,
        commands_per_minute: int = COMMANDS_PER_MINUTE,
        own_server: str = "",
    ) -> None:
        """Make a dispatcher.

        Args:
            sender: sends the replies.
            handler: carries out commands.
            is_own: whether a user is of the bridge's namespace.
            wall_ms: milliseconds since the epoch.
            monotonic: seconds.
            withdrawn: whether an event was redacted, by a user or (None) by anybody.
            commands_per_minute: See :data:`COMMANDS_PER_MINUTE`.
            own_server: our homeserver, whose users together may say more than those of another.
        """
        self._withdrawn = withdrawn
        self._sender = sender
        self._handler = handler
        self._is_own = is_own
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._started_ms = wall_ms()
        self._tasks: asyncio.TaskGroup | None = None
        self._at_once: set[asyncio.Task[None]] = set()
        self._busy = [False] * WORKERS
        self._queues: list[asyncio.Queue[_ReceivedCommand | Reaction | _Line]] = [
            asyncio.Queue(QUEUE) for _ in range(WORKERS)
        ]
        self._rate = RateLimit(commands_per_minute, COMMANDS_PER_MINUTE_OF_SERVER, own_server)
        self._admins_rate = RateLimit(commands_per_minute, ADMINS * commands_per_minute)
        self._warned = Latest[UserId, None](MAX_STRANGERS)
        self._told_late = Latest[UserId, None](MAX_STRANGERS)
        self._strangers = Latest[UserId, float](MAX_STRANGERS)
        self._seldom = RateLimitedLog(log)
        self._stranger_rate = RateLimit(STRANGERS_PER_MINUTE, STRANGERS_PER_MINUTE)

    async def run(self) -> None:
        """Carry out commands until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for number in range(WORKERS):
                tasks.create_task(self._work(number), name="commands")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                # What takes away goes with the others until this is begun again.
                self._tasks = None

    async def idle(self) -> None:
        """Return when everything that was taken has been answered."""
        while self._at_once:
            await asyncio.wait(self._at_once)
        for queue in self._queues:
            await queue.join()

    def receive(self, event: RoomEvent, speaker: UserId, *, direct: bool) -> None:
        """Take one event of a room in which ``speaker`` is; never waits, never raises for its content.

        Args:
            event: a message or reaction, decrypted if it was encrypted; others are ignored.
            speaker: the user of the bridge that answers in this room.
            direct: whether the room holds nobody but the sender and ``speaker``.
        """
        if event.state_key is not None or self._is_own(event.sender):
            return
        if event.type == "m.reaction":
            reaction = read_reaction(event) if self._is_fresh(event) else None
            if reaction is not None and self._handler.rank(event.sender) is Rank.ADMIN:
                self._put(event.sender, reaction)
        elif event.type == "m.room.message" and command_line(event.content, direct=direct) is not None:
            self._take(event, speaker, direct=direct)

    def _take(self, event: RoomEvent, speaker: UserId, *, direct: bool) -> None:
        rank = self._handler.rank(event.sender)
        fresh = self._is_fresh(event)
        if rank is Rank.STRANGER:
            if not fresh:
                self._note_late(event)
            elif self._may_tell_stranger(event.sender):
                self._put(event.sender, _Line(event, speaker, direct, STRANGER_TEXT))
            return
        admin = rank is Rank.ADMIN
        in_time = (self._admins_rate if admin else self._rate).allow(event.sender, self._monotonic())
        said = self._said(event, speaker, admin=admin, direct=direct) if in_time or admin else None
        if in_time:
            self._warned.pop(event.sender, None)
        if not fresh and (said is None or not self._counts_late(said)):
            self._note_late(event)
            return
        if said is not None and (in_time or said.takes_away):
            self._put(event.sender, said)
        elif not in_time and event.sender not in self._warned:
            self._warned[event.sender] = None
            self._put(event.sender, _Line(event, speaker, direct, TOO_FAST_TEXT))

    def _said(self, event: RoomEvent, speaker: UserId, *, admin: bool, direct: bool) -> _ReceivedCommand | None:
        # Not before: reading formatted text costs more than asking who it is from.
        typed = read_message(event.content, direct=direct, is_own=self._is_own, spoken_to=speaker)
        if typed is None:
            return None
        forms = (form for form in self._handler.forms if admin or not form.admin)
        command = meant_by(typed, forms, self._handler.names())
        return _ReceivedCommand(event, command, CommandSender(event.sender, admin, event.room_id, speaker, direct))

    def _is_fresh(self, event: RoomEvent) -> bool:
        """Whether the message is of now. Its time is its server's claim: a lie makes it old, or no older than it is."""
        return abs(self._wall_ms() - event.origin_server_ts) <= MAX_AGE_MS

    def _note_late(self, event: RoomEvent) -> None:
        minutes = (self._wall_ms() - event.origin_server_ts) / 60_000
        self._seldom.info(
            event.sender,
            "x a message of %s is not heard: its homeserver says that it is %.0f minutes %s; is a clock wrong?",
            event.sender,
            min(abs(minutes), 1e6),
            "old" if minutes > 0 else "ahead",
        )

    def _counts_late(self, said: _ReceivedCommand) -> bool:
        """Whether an old command is carried out; its sender is told that it is not, once until the next start."""
        event = said.event
        if said.ends and abs(self._wall_ms() - event.origin_server_ts) <= MAX_LATE_MS:
            return True
        if not said.looks and event.sender not in self._told_late:
            self._told_late[event.sender] = None
            self._put(event.sender, _Line(event, said.sender.speaker, said.sender.direct, LATE_TEXT))
        return False

    def _may_tell_stranger(self, user: UserId) -> bool:
        now = self._monotonic()
        told = self._strangers.get(user)
        if told is not None and now - told < STRANGER_EVERY_S:
            return False
        # One bucket for everybody: the name stands for no user.
        if not self._stranger_rate.allow(UserId("@strangers:all"), now):
            return False
        self._strangers[user] = now
        return True

    def _put(self, user: UserId, work: _ReceivedCommand | Reaction | _Line) -> None:
        number = zlib.crc32(user.encode()) % WORKERS
        if isinstance(work, _ReceivedCommand) and work.sender.admin and work.takes_away:
            # Behind nothing: neither behind others' commands, nor behind one of the same person that hangs.
            waits = self._busy[number] or not self._queues[number].empty()
            if self._tasks is not None and len(self._at_once) < MAX_AT_ONCE:
                task = self._tasks.create_task(self._guarded(work), name="command that takes away")
                self._at_once.add(task)
                task.add_done_callback(self._at_once.discard)
                if not (waits and work.once_more):
                    return
        try:
            self._queues[number].put_nowait(work)
        except asyncio.QueueFull:
            self._seldom.warning(user, "! a message of %s was dropped: too many wait", user)

    # Workers

    async def _work(self, number: int) -> None:
        queue = self._queues[number]
        while True:
            work = await queue.get()
            self._busy[number] = True
            try:
                await self._guarded(work)
            finally:
                self._busy[number] = False
                queue.task_done()

    async def _guarded(self, work: _ReceivedCommand | Reaction | _Line) -> None:
        """Do it within a limited time; what fails ends nothing but itself."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self._do(work)
        except TimeoutError:
            self._seldom.warning(
                _whose(work), "! a command of %s was not carried out within %g s", _whose(work), COMMAND_TIMEOUT_S
            )
        except MxrtcError as error:  # the homeserver refuses, or the database is away
            self._seldom.warning(_whose(work), "! an answer to %s was not sent: %s", _whose(work), error)
        except (asyncio.CancelledError, Exception) as error:
            # Otherwise something that the command waited for was cancelled, and not its worker.
            if isinstance(error, asyncio.CancelledError) and is_told_to_end():
                raise
            self._seldom.exception(_whose(work), "! a message of %s was not handled", _whose(work), error=error)

    async def _do(self, work: _ReceivedCommand | Reaction | _Line) -> None:
        event_id = work.event if isinstance(work, Reaction) else work.event.event_id
        room = work.room if isinstance(work, Reaction) else work.event.room_id
        by = work.withdrawn_by if isinstance(work, _ReceivedCommand) else None
        if event_id is not None and self._withdrawn(room, event_id, by):
            return
        match work:
            case Reaction():
                await self._handler.reacted(work)
            case _Line(event=event, speaker=speaker, direct=direct, line=line):
                await self._reply(event, speaker, say(line), direct=direct)
            case _ReceivedCommand(event=event, sender=sender):
                await self._reply(event, sender.speaker, await self._answer(work), direct=sender.direct)

    async def _answer(self, said: _ReceivedCommand) -> Reply:
        command, sender, event_id = said.command, said.sender, said.event.event_id
        if isinstance(command, Mistake):
            self._handler.mistaken(sender)
            return mistake_answer(command, direct=sender.direct)
        if said.event.origin_server_ts < self._started_ms and not (said.looks or said.ends):
            # Perhaps the last run has done it already, and was ended before it could say so.
            return say(RESTARTED_TEXT)
        log.info("< %s: %s", sender.user, command.form.verb)
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S * 0.75):
                return await self._handler.carry_out(command, sender)
        except TimeoutError:
            return say(TIMEOUT_TEXT)
        except MxrtcError as error:
            self._seldom.warning(
                sender.user, "! %s of %s failed (%s): %s", command.form.verb, sender.user, event_id, error
            )
        except (asyncio.CancelledError, Exception) as error:
            if isinstance(error, asyncio.CancelledError) and is_told_to_end():
                raise
            self._seldom.exception(
                sender.user, "! %s of %s failed (%s)", command.form.verb, sender.user, event_id, error=error
            )
        return say(FAILED_TEXT.format(event_id))

    async def _reply(self, event: RoomEvent, speaker: UserId, answer: Reply, *, direct: bool) -> None:
        relation = answer_relation(event, direct=direct)
        for number, page in enumerate(pages(answer)):
            txn_id = transaction_id(event.room_id, speaker, event.event_id, f"reply-{number}")
            fields = {} if number else answer.fields
            content = {**fields, **notice_content(page.plain, page.html), **relation}
            await self._sender.send_event(event.room_id, "m.room.message", content, txn_id, speaker)


def _whose(work: _ReceivedCommand | Reaction | _Line) -> UserId:
    return work.user if isinstance(work, Reaction) else work.event.sender


def mistake_answer(mistake: Mistake, *, direct: bool) -> Reply:
    """What a wrong command gets: the problem, the form, and the nearest right command."""
    lines: list[Line] = [text(mistake.problem)]
    if mistake.suggestion is not None:
        lines.append(text("Did you mean ", Code(addressed(mistake.suggestion, direct=direct)), "?"))
    if mistake.usage is not None and mistake.usage != mistake.suggestion:
        lines.append(text("Usage: ", Code(addressed(mistake.usage, direct=direct))))
    return Reply(tuple(lines))
