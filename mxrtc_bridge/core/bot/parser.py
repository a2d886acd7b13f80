"""What people may tell the bridge in a chat: ``verb noun``, read into frozen values.

Total: every list of words gives a command or a :class:`Mistake` that says what the right form is. No word is looked up
anywhere, so a name that is well formed but unknown is a command all the same; whoever carries it out answers that.

The table :data:`COMMANDS` is the only list of the commands, and of what they do to rights: the parser, the help, the
reference page, and where a command counts are made of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.bot import arguments as readers
from mxrtc_bridge.core.bot.arguments import Words
from mxrtc_bridge.core.bot.commands import (
    AllowRequest,
    CheckBridge,
    CloseSessions,
    Command,
    Confirm,
    DenyRequest,
    GiveGrant,
    Help,
    KickSession,
    KickUser,
    ListGrants,
    ListPeers,
    ListRequests,
    ListSessions,
    Mistake,
    Names,
    OpenPeer,
    Pause,
    ReloadConfig,
    RequestAccess,
    Resume,
    RevokeAccess,
    RevokeGrant,
    ShowHow,
    ShowLog,
    ShowStatus,
    WithdrawRequest,
)
from mxrtc_bridge.core.bot.message_text import Typed
from mxrtc_bridge.core.bot.words import PREFIX
from mxrtc_bridge.core.text.display import display


class Effect(Enum):
    """What a command does to rights; that decides where it counts, and how certain its words must be."""

    LOOKS = "looks"
    """Changes nothing: it may be answered late, and twice."""
    CHANGES = "changes"
    """Changes something of the sender's own, or refuses: nobody has more or less by it than before."""
    TAKES = "takes"
    """Takes something away: it counts wherever commands do, and waits behind nothing. Reading the configuration again
    is one of these: it gives only what somebody at the bridge's machine has written there, and may take away."""
    GIVES = "gives"
    """Lets somebody do what they could not do before, or may."""


@dataclass(frozen=True, slots=True)
class CommandForm:
    """A row of the table."""

    verb: str
    usage: str
    summary: str
    effect: Effect
    makes: tuple[type[Command], ...]
    admin: bool = False
    examples: tuple[str, ...] = ()


def meant_by(typed: Typed, names: Names, *, admin: bool, missing: frozenset[str] = frozenset()) -> Command | Mistake:
    """Read the command that somebody has typed, where it is certain enough for what it does.

    Args:
        typed: the words of a message.
        names: see :func:`parse_command`, as for the others.
        admin: see there.
        missing: see there.
    """
    form = form_of(typed.words[0].lower(), usable_forms(admin=admin))
    gives = form is not None and form.effect is Effect.GIVES
    doubt = typed.doubt or (typed.doubt_to_give if gives else None)
    return Mistake(doubt) if doubt is not None else parse_command(typed.words, names, admin=admin, missing=missing)


def parse_command(
    words: Words, names: Names, *, admin: bool, missing: frozenset[str] = frozenset()
) -> Command | Mistake:
    """Read the words of a command.

    Args:
        words: what :func:`mxrtc_bridge.core.bot.words.command_words` has given.
        names: for short names.
        admin: whether commands of admins are known; to others they do not exist.
        missing: verbs that nobody carries out here: they do not exist either.
    """
    if not words:
        return Mistake("There is no command.", suggestion="help")
    forms = {form.verb: form for form in usable_forms(admin=admin) if form.verb not in missing}
    # As it stands: with quotation marks around it, it would be a quotation.
    verb = words[0].lower()
    form = forms.get(verb)
    if form is None:
        near = difflib.get_close_matches(verb[: readers.SHOWN_WORD], forms, 1, 0.6)
        return Mistake(
            f"I do not know {readers.shown(words[0])}.",
            usage=forms[near[0]].usage if near else None,
            suggestion=_corrected(near[0], words[1:]) if near else "help",
        )
    try:
        command = readers.READERS[verb](words[1:], names)
    except readers.WrongError as wrong:
        return Mistake(str(wrong), usage=form.usage)
    if isinstance(command, ListPeers) and command.everything and not admin:
        return Mistake("peers takes nothing here.", usage=form.usage)
    return command


def usable_forms(*, admin: bool) -> tuple[CommandForm, ...]:
    """The commands for admins, or for everybody else."""
    return tuple(form for form in COMMANDS if admin or not form.admin)


def _corrected(verb: str, rest: Words) -> str:
    """The command with the right verb: ready to be sent if the rest was right and is short."""
    shown = " ".join([verb, *rest])
    return shown if len(shown) <= 120 and display(shown, 400) == shown else verb


COMMANDS: tuple[CommandForm, ...] = (
    CommandForm(
        "help", "help [COMMAND]", "what I understand", Effect.LOOKS, (Help,), examples=("help", "help request")
    ),
    CommandForm(
        "peers", "peers", "what you may use, and whether it is up", Effect.LOOKS, (ListPeers,), examples=("peers",)
    ),
    CommandForm(
        "open",
        "open PEER",
        "have a peer invite you to a direct chat",
        Effect.CHANGES,
        (OpenPeer,),
        examples=("open build",),
    ),
    CommandForm(
        "status",
        "status",
        "your live sessions, what you were granted, and what you asked for",
        Effect.LOOKS,
        (ShowStatus,),
        examples=("status",),
    ),
    CommandForm(
        "how",
        "how PEER/SERVICE",
        "lines to paste into a terminal",
        Effect.LOOKS,
        (ShowHow,),
        examples=("how build/ssh", "how build"),
    ),
    CommandForm(
        "request",
        "request PEER/SERVICE [for 2h] [because ...]",
        "ask the admins for a service",
        Effect.CHANGES,
        (RequestAccess,),
        examples=("request build/ssh", "request build/db for 2h because the report is due"),
    ),
    CommandForm(
        "withdraw", "withdraw N", "take back a request", Effect.CHANGES, (WithdrawRequest,), examples=("withdraw 12",)
    ),
    CommandForm(
        "close",
        "close [PEER]",
        "end your live sessions, or those with one peer",
        Effect.CHANGES,
        (CloseSessions,),
        examples=("close", "close build"),
    ),
    CommandForm(
        "requests",
        "requests",
        "what waits for an answer",
        Effect.LOOKS,
        (ListRequests,),
        admin=True,
        examples=("requests",),
    ),
    CommandForm(
        "allow",
        "allow N [once | for 2h]",
        "allow a request: for the time that was asked for, for one session, or for another time",
        Effect.GIVES,
        (AllowRequest,),
        admin=True,
        examples=("allow 12", "allow 12 once", "allow 12 for 30m"),
    ),
    CommandForm(
        "deny",
        "deny N [because ...]",
        "refuse a request",
        Effect.CHANGES,
        (DenyRequest,),
        admin=True,
        examples=("deny 12", "deny 12 because it is Friday"),
    ),
    CommandForm(
        "grants",
        "grants [PAGE]",
        "what is granted to whom, until when, and by whom",
        Effect.LOOKS,
        (ListGrants,),
        admin=True,
        examples=("grants", "grants 2"),
    ),
    CommandForm(
        "grant",
        "grant @user:server|server:name|guest-accounts:name|room:!id PEER/SERVICE for 2h [because ...]",
        "give a right that ends by itself",
        Effect.GIVES,
        (GiveGrant,),
        admin=True,
        examples=("grant @bob:example.org build/ssh for 2h", "grant server:partner.org build/web for 3d"),
    ),
    CommandForm(
        "revoke",
        "revoke ID|@user:server|server:name|guest-accounts:name|room:!id [PEER/SERVICE] [because ...]",
        "take back grants, by id or by whom they name; live sessions end at once",
        Effect.TAKES,
        (RevokeGrant, RevokeAccess),
        admin=True,
        examples=("revoke 17", "revoke @bob:example.org", "revoke @bob:example.org build/ssh"),
    ),
    CommandForm("who", "who [PAGE]", "live sessions", Effect.LOOKS, (ListSessions,), admin=True, examples=("who",)),
    CommandForm(
        "kick",
        "kick SESSION|@user:server [because ...]",
        "end a session, or all of a user",
        Effect.TAKES,
        (KickSession, KickUser),
        admin=True,
        examples=("kick 4", "kick @bob:example.org because the backup starts"),
    ),
    CommandForm(
        "log",
        "log [PEER|@user:server] [since 2h] [page N]",
        "who did what, the newest first",
        Effect.LOOKS,
        (ShowLog,),
        admin=True,
        examples=("log", "log build since 3d", "log @bob:example.org"),
    ),
    CommandForm("check", "check", "whether everything works", Effect.LOOKS, (CheckBridge,), admin=True),
    CommandForm("reload", "reload", "read the configuration again", Effect.TAKES, (ReloadConfig,), admin=True),
    CommandForm("pause", "pause", "take no new sessions", Effect.TAKES, (Pause,), admin=True),
    CommandForm("resume", "resume", "take new sessions again", Effect.GIVES, (Resume,), admin=True),
    CommandForm(
        "yes",
        "yes N",
        "answer a question of mine: that was meant",
        Effect.GIVES,
        (Confirm,),
        admin=True,
        examples=("yes 17",),
    ),
)
"""``peers all`` is a form of ``peers`` that only admins have; everything else is a row."""


_EFFECTS = {made: form.effect for form in COMMANDS for made in form.makes}


def effect_of(command: Command) -> Effect:
    """What a command does to rights."""
    return _EFFECTS[type(command)]


def form_of(verb: str, forms: Iterable[CommandForm] = COMMANDS) -> CommandForm | None:
    """The row of a verb."""
    return next((form for form in forms if form.verb == verb), None)


def addressed(usage: str, *, direct: bool) -> str:
    """A command as it must be typed in a room: with the prefix, unless the room is a direct chat."""
    return usage if direct else f"{PREFIX} {usage}"
