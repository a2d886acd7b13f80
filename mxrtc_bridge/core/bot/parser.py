"""What people may tell the bridge in a chat: ``verb noun``, read into a command and its arguments.

Total: every list of words gives a command or a :class:`Mistake` that says what the right form is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mxrtc_bridge.core.bot.arguments import SHOWN_WORD, Arguments, Names, Words, WrongError, shown
from mxrtc_bridge.core.bot.commands import Command, CommandForm, Mistake
from mxrtc_bridge.core.bot.message_text import Typed
from mxrtc_bridge.core.bot.words import PREFIX
from mxrtc_bridge.core.text.display import display


def meant_by(typed: Typed, forms: Iterable[CommandForm], names: Names) -> Command | Mistake:
    """Read the command that somebody has typed, where it is certain enough for what it does.

    Args:
        typed: the words of a message.
        forms: see :func:`parse_command`.
        names: see there.
    """
    forms = tuple(forms)
    form = form_of(typed.words[0].lower(), forms)
    gives = form is not None and form.effect.gives
    doubt = typed.doubt or (typed.doubt_to_give if gives else None)
    return Mistake(doubt) if doubt is not None else parse_command(typed.words, forms, names)


def parse_command(words: Words, forms: Iterable[CommandForm], names: Names) -> Command | Mistake:
    """Read the words of a command.

    Args:
        words: what :func:`mxrtc_bridge.core.bot.words.command_words` has given.
        forms: the commands that exist for whoever typed this; there are no others.
        names: for short names.
    """
    if not words:
        return Mistake("There is no command.", suggestion="help")
    by_verb = {verb: form for form in forms for verb in (form.verb, form.also) if verb is not None}
    # As it stands: with quotation marks around it, it would be a quotation.
    verb = words[0].lower()
    form = by_verb.get(verb)
    if form is None:
        near = difflib.get_close_matches(verb[:SHOWN_WORD], by_verb, 1, 0.6)
        return Mistake(
            f"I do not know {shown(words[0])}.",
            usage=by_verb[near[0]].usage if near else None,
            suggestion=_corrected(near[0], words[1:]) if near else "help",
        )
    arguments = Arguments(words[1:], names)
    try:
        command = Command(form, form.read(arguments))
    except WrongError as wrong:
        return Mistake(str(wrong), usage=form.usage)
    if arguments.words:
        return Mistake(f"After {verb}, {shown(arguments.words[0])} is too much.", usage=form.usage)
    return command


def _corrected(verb: str, rest: Words) -> str:
    """The command with the right verb: ready to be sent if the rest was right and is short."""
    corrected = " ".join([verb, *rest])
    return corrected if len(corrected) <= 120 and display(corrected, 400) == corrected else verb


def form_of(verb: str, forms: Iterable[CommandForm]) -> CommandForm | None:
    """The form of a verb."""
    return next((form for form in forms if verb in (form.verb, form.also)), None)


def addressed(usage: str, *, direct: bool) -> str:
    """A command as it must be typed in a room: with the prefix, unless the room is a direct chat."""
    return usage if direct else f"{PREFIX} {usage}"
