"""Questions that are asked back before something is given, and their one answer.

Must never let anybody but who was asked answer, nor in another room, nor twice, nor late: a question is answered by its
number, within :data:`ANSWER_WITHIN_S`, by the very next command of the same person in the same room. Every other
command of theirs lets it lapse. So there is one question for each person, and :data:`MAX_OPEN` in all; one more lets
the oldest lapse.

Pure: time and numbers are arguments. Numbers are given by whoever never gives one twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.bot.commands import Command
from mxrtc_bridge.core.ids import RoomId, UserId

ANSWER_WITHIN_S = 120.0
MAX_OPEN = 64


@dataclass(frozen=True, slots=True)
class _Question:
    number: int
    room: RoomId
    command: Command
    until: float


class Confirmations:
    """The questions that wait for an answer."""

    def __init__(self) -> None:
        self._open: dict[UserId, _Question] = {}

    def ask(self, number: int, command: Command, user: UserId, room: RoomId, now: float) -> None:
        """Remember what was asked: ``user`` is to confirm ``command`` in ``room``."""
        self._open.pop(user, None)
        while len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[user] = _Question(number, room, command, now + ANSWER_WITHIN_S)

    def lapse(self, user: UserId) -> None:
        """Forget what ``user`` was asked."""
        self._open.pop(user, None)

    def answer(self, number: int, user: UserId, room: RoomId, now: float) -> Command | None:
        """The command that is confirmed, once; None where nothing is, and whatever ``user`` was asked has lapsed."""
        question = self._open.pop(user, None)
        if question is None or (question.number, question.room) != (number, room) or now >= question.until:
            return None
        return question.command
