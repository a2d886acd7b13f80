"""Where commands that give something count, and the question back where others are in the room.

Must never let a right be given by words that somebody else could have had a hand in: a command that gives counts in a
direct chat, where nobody but its admin and one virtual user is or is invited, and in the room of the admins. Where
that room has others in it than admins, the bot shows in full what would be given, and does it after a ``yes`` with the
number of that question (:mod:`mxrtc_bridge.core.bot.confirmations`). Who is in a room is asked for at that moment;
where the homeserver does not say, nothing is given. A restart forgets all questions.

A reaction to a request is not asked back: it is an event of its own that no quotation can bring forth, and it answers
what the bot itself has shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from mxrtc_bridge.core.bot.commands import Command, Effect
from mxrtc_bridge.core.bot.confirmations import ANSWER_WITHIN_S, Confirmations
from mxrtc_bridge.core.bot.parser import addressed
from mxrtc_bridge.core.bot.reply import Code, Reply, answer, say, text
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId, folded
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
        new_number: gives a number that no question has had before.
        monotonic: seconds.
    """

    def __init__(
        self,
        present: Present,
        *,
        admins: Callable[[], Collection[UserId]],
        is_own: Callable[[UserId], bool],
        admin_room: Callable[[], RoomId | None],
        new_number: Callable[[], Awaitable[int]],
        monotonic: Callable[[], float],
    ) -> None:
        self._present = present
        self._admins = admins
        self._is_own = is_own
        self._admin_room = admin_room
        self._new_number = new_number
        self._monotonic = monotonic
        self._questions = Confirmations()

    def forget(self, user: UserId) -> None:
        """Let the question lapse that ``user`` was asked, if there is one."""
        self._questions.lapse(user)

    async def judge(self, command: Command, sender: CommandSender, owner: object) -> Reply | None:
        """Return what the admin is told instead of carrying the command out now; None where it counts.

        Args:
            command: of an admin.
            sender: who has given it, and where.
            owner: declares it.

        Raises:
            AdminError: it would give nothing.
            StorageError: the database cannot be read.
        """
        if command.form.effect is not Effect.CONFIRMS:
            self.forget(sender.user)
        if command.form.effect is not Effect.GIVES:
            return None
        if not sender.direct and sender.room != self._admin_room():
            return self._elsewhere()
        try:
            joined = await self._present.joined_members(sender.room, sender.speaker)
            invited = await self._present.invited_members(sender.room, sender.speaker)
        except HomeserverError:
            return say("I could not find out who is in this room just now, so I give nothing. Please try again.")
        present = joined | invited
        if sender.user not in joined or (sender.direct and present != {sender.user, sender.speaker}):
            return self._elsewhere()
        admins = frozenset(self._admins())
        others = sorted(user for user in present if folded(user) not in admins and not self._is_own(user))
        if not others or sender.direct:
            return None
        return await self._ask_back(command, sender, others, owner)

    def confirmed(self, number: int, sender: CommandSender) -> Command | None:
        """Return the command that is confirmed, once; None where ``sender`` was asked nothing by this number here."""
        meant = self._questions.answer(number, sender.user, sender.room, self._monotonic())
        return meant if sender.room == self._admin_room() else None

    def _elsewhere(self) -> Reply:
        rooms = "" if self._admin_room() is None else " or in the room of the admins"
        return say(
            f"I take commands that give something only in a direct chat of you and me alone{rooms}, so I have done "
            "nothing. Write it there."
        )

    async def _ask_back(self, command: Command, sender: CommandSender, others: list[UserId], owner: object) -> Reply:
        assert command.form.would_give is not None
        what = await command.form.would_give(owner, *command.arguments)
        number = await self._new_number()
        self._questions.ask(number, command, sender.user, sender.room, self._monotonic())
        named = ", ".join(display(user, 90) for user in others[:_SHOWN_OTHERS])
        more = f" and {len(others) - _SHOWN_OTHERS} more" if len(others) > _SHOWN_OTHERS else ""
        return answer(
            text("Others than admins are in this room (", named, more, "), so I ask you first."),
            text(*what),
            text(
                "If you mean it, write ",
                Code(addressed(f"yes {number}", direct=sender.direct)),
                f" within {say_duration(ANSWER_WITHIN_S)}. Anything else lets it lapse.",
            ),
        )
