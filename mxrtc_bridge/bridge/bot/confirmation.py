"""Where commands that give something count, and the question back where others are in the room.

Must never let a right be given by words that somebody else could have had a hand in: a command that gives counts in a
direct chat, where nobody but its admin and our user is or is invited, and in the room of the admins. Where that room
has others in it than admins, the bot shows in full what would be given, and does it after a ``yes`` with the number of
that question (:mod:`mxrtc_bridge.core.bot.confirmations`). Who is in a room is asked for at that moment; where the
homeserver does not say, nothing is given. A restart forgets all questions.

A reaction to a request is not asked back: it is an event of its own that no quotation can bring forth, and it answers
what the bot itself has shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Protocol

from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.bot.commands import AllowRequest, Command, Confirm, GiveGrant
from mxrtc_bridge.core.bot.confirmations import ANSWER_WITHIN_S, Confirmations
from mxrtc_bridge.core.bot.parser import Effect, addressed, effect_of
from mxrtc_bridge.core.bot.reply import Code, Reply, answer, say, text
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.text.durations import say_duration
from mxrtc_bridge.matrix.command_bot import CommandSender

_SHOWN_OTHERS = 5


class Present(Protocol):
    """Says who is in a room now."""

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]: ...

    async def invited_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]: ...


class Giving:
    """See the head of this module.

    Args:
        present: who is in a room.
        admins: by the rules in force.
        is_own: whether a user is the bridge's.
        admin_room: the room of the admins, if the bot is in it.
        waiting: the requests that wait for an answer.
        new_number: gives a number that no question has had before.
        monotonic: seconds.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        present: Present,
        *,
        admins: Callable[[], Collection[UserId]],
        is_own: Callable[[UserId], bool],
        admin_room: Callable[[], RoomId | None],
        waiting: Callable[[], Awaitable[list[AccessRequest]]],
        new_number: Callable[[], Awaitable[int]],
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._present = present
        self._admins = admins
        self._is_own = is_own
        self._admin_room = admin_room
        self._waiting = waiting
        self._new_number = new_number
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._questions = Confirmations()

    def forget(self, user: UserId) -> None:
        """Let the question lapse that ``user`` was asked, if there is one."""
        self._questions.lapse(user)

    async def judge(self, command: Command, asker: CommandSender) -> Command | Reply:
        """Return the command that is to be carried out now, or what the admin is told instead.

        Args:
            command: of an admin.
            asker: who has given it, and where.

        Raises:
            StorageError: the database cannot be read.
        """
        if isinstance(command, Confirm):
            return self._confirmed(command, asker)
        self.forget(asker.user)
        if effect_of(command) is not Effect.GIVES:
            return command
        if not asker.direct and asker.room != self._admin_room():
            return self._elsewhere()
        try:
            joined = await self._present.joined_members(asker.room, asker.speaker)
            invited = await self._present.invited_members(asker.room, asker.speaker)
        except HomeserverError:
            return say("I could not find out who is in this room just now, so I give nothing. Please try again.")
        present = joined | invited
        if asker.user not in joined or (asker.direct and present != {asker.user, asker.speaker}):
            return self._elsewhere()
        others = sorted(user for user in present - frozenset(self._admins()) if not self._is_own(user))
        return command if not others or asker.direct else await self._ask_back(command, asker, others)

    def _confirmed(self, command: Confirm, asker: CommandSender) -> Command | Reply:
        meant = self._questions.answer(command.number, asker.user, asker.room, self._monotonic())
        if meant is None or asker.room != self._admin_room():
            return say(f"No question {command.number} waits for your answer here, so I have done nothing.")
        return meant

    def _elsewhere(self) -> Reply:
        rooms = "" if self._admin_room() is None else " or in the room of the admins"
        return say(
            f"What gives something I take only in a direct chat of you and me alone{rooms}, so I have done nothing. "
            "Write it there."
        )

    async def _ask_back(self, command: Command, asker: CommandSender, others: list[UserId]) -> Reply:
        what = await self._described(command)
        if what is None:
            return say("There is no such request that waits for an answer.")
        number = await self._new_number()
        self._questions.ask(number, command, asker.user, asker.room, self._monotonic())
        named = ", ".join(display(user, 90) for user in others[:_SHOWN_OTHERS])
        more = f" and {len(others) - _SHOWN_OTHERS} more" if len(others) > _SHOWN_OTHERS else ""
        return answer(
            text("Others than admins are in this room (", named, more, "), so I ask you first."),
            text(*what),
            text(
                "If you mean it, write ",
                Code(addressed(f"yes {number}", direct=asker.direct)),
                f" within {say_duration(ANSWER_WITHIN_S)}. Anything else lets it lapse.",
            ),
        )

    async def _described(self, command: Command) -> tuple[str, ...] | None:
        """What would be given, to whom and until when, in full; None for a request that is not there."""
        match command:
            case GiveGrant(subject=subject, peer=peer, service=service, for_s=for_s, because=because):
                return self._would(str(subject), f"{peer}/{service}", for_s, because)
            case AllowRequest(number=number, once=once, for_s=length):
                for request in await self._waiting():
                    if request.number == number:
                        what = f"{request.peer}/{request.service}" + (", for one session" if once else "")
                        return self._would(request.user, what, length or request.for_s, request.because)
                return None
        return ("New sessions would be taken again.",)

    def _would(self, who: str, what: str, for_s: int, because: str) -> tuple[str, ...]:
        until = datetime.fromtimestamp(self._wall_ms() / 1000 + for_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        # Each part has a limit of its own: none is cut off by what stands before it.
        return (
            who,
            " would get ",
            what,
            f", for {say_duration(for_s)}, until {until}",
            f' "{because}".' if because else ".",
        )
