"""What a command is: declared beside the function that carries it out, with its words, its rights and its help.

A class of commands has them as methods under :func:`command`, and :func:`commands_of` lists them. That declaration is
all that is known of a command: the parser, the help, the reference page, and where and when it counts rest on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, TypeVarTuple

from mxrtc_bridge.core.bot.arguments import Arguments
from mxrtc_bridge.core.bot.reply import Reply

OwnerT = TypeVar("OwnerT")
SenderT = TypeVar("SenderT")
Values = TypeVarTuple("Values")


class Effect(Enum):
    """What a command does to rights; that decides where and when it counts, and how certain its words must be."""

    LOOKS = "looks"
    """Changes nothing: it may be answered late, and twice."""
    CHANGES = "changes"
    """Changes something of the sender's own: nobody may do more by it than before."""
    ENDS = "ends"
    """Ends something of the sender's own, or refuses: nobody has more afterwards, so it may come late."""
    TAKES = "takes"
    """Takes something away: it counts wherever commands do, also late, and waits behind nothing. Reading the
    configuration again is one of these: it gives only what somebody at the bridge's machine has written there, and may
    take away."""
    GIVES = "gives"
    """Lets somebody do what they could not do before, or may: it counts among admins, and is asked back before."""
    CONFIRMS = "confirms"
    """Answers that question."""

    @property
    def gives(self) -> bool:
        """Whether somebody may do more afterwards."""
        return self in (Effect.GIVES, Effect.CONFIRMS)


@dataclass(frozen=True, slots=True, eq=False)
class CommandForm:
    """What is declared of a command; see :func:`command`."""

    usage: str
    summary: str
    effect: Effect
    read: Callable[[Arguments], tuple[Any, ...]]
    carry_out: Callable[..., Awaitable[Reply]]
    would_give: Callable[..., Awaitable[tuple[str, ...]]] | None
    admin: bool
    once_more: bool
    examples: tuple[str, ...]
    also: str | None = None
    """Another word for its verb: that of the command line, where it is another one there."""

    def __post_init__(self) -> None:
        if not self.admin and self.effect not in (Effect.LOOKS, Effect.CHANGES, Effect.ENDS):
            raise ValueError(f"{self.verb} {self.effect.value}, so it must be for admins")
        if (self.effect is Effect.GIVES) is (self.would_give is None):
            raise ValueError(f"{self.verb} must say what it would give if, and only if, it gives something")

    @property
    def verb(self) -> str:
        """The word that it begins with."""
        return self.usage.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Command:
    """What a person has asked for: a form with its arguments."""

    form: CommandForm
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Mistake:
    """Words that are no command; all three are sentences or commands for the person, without anything unsafe."""

    problem: str
    usage: str | None = None
    """The form of the command that was probably meant."""
    suggestion: str | None = None
    """The nearest command."""


def command(
    usage: str,
    summary: str,
    effect: Effect,
    read: Callable[[Arguments], tuple[*Values]],
    *examples: str,
    admin: bool = True,
    once_more: bool = False,
    also: str | None = None,
    would_give: Callable[[OwnerT, *Values], Awaitable[tuple[str, ...]]] | None = None,
) -> Callable[[Callable[[OwnerT, SenderT, *Values], Awaitable[Reply]]], CommandForm]:
    """Declare a command; the function gets who gave it and what ``read`` returns.

    Args:
        usage: how it is typed, beginning with its verb.
        summary: what it is for; becomes a sentence.
        effect: what it does to rights.
        read: reads the words behind the verb.
        examples: of its use.
        admin: whether it exists for admins only.
        once_more: whether what takes away, and so waits behind nothing, is done again in its turn: where what it takes
            may just be being given.
        also: what the verb is called at the command line, if it is another word there.
        would_give: says in full what would be given, to whom and until when, as parts of a sentence; what gives must
            have it. Raises AdminError where it would give nothing.

    Raises:
        ValueError: somebody could give or take what they must not.
    """

    def declare(function: Callable[[OwnerT, SenderT, *Values], Awaitable[Reply]]) -> CommandForm:
        return CommandForm(usage, summary, effect, read, function, would_give, admin, once_more, examples, also)

    return declare


def commands_of(owner: type) -> tuple[CommandForm, ...]:
    """Return the commands that a class declares, in the order in which it does."""
    members = (member for each in reversed(owner.__mro__) for member in vars(each).values())
    return tuple(member for member in members if isinstance(member, CommandForm))
