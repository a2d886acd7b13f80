"""What people may tell the bridge in a chat: ``verb noun``, read into frozen values.

Total: every list of words gives a command or a :class:`Mistake` that says what the right form is. No word is looked up
anywhere, so a name that is well formed but unknown is a command all the same; whoever carries it out answers that.

The table :data:`COMMANDS` is the only list of the commands: the parser, the help and the reference page are made of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mxrtc_bridge.core.command_text import PREFIX, free_text, parse_duration, take_duration, unquoted
from mxrtc_bridge.core.command_values import (
    AllowRequest,
    CheckBridge,
    CloseSessions,
    Command,
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
from mxrtc_bridge.core.display import display
from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_user_id
from mxrtc_bridge.core.naming import NamingError, parse_peer_name
from mxrtc_bridge.core.policy import Subject, parse_subject

MAX_PAGE = 10_000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}")
_SHOWN_WORD = 40


class _Wrong(Exception):  # noqa: N818 - not an error of the program: the way out of a parser
    """The words do not fit the form; the text says which one."""


Words = tuple[str, ...]
Reader = Callable[[Words, Names], Command]


@dataclass(frozen=True, slots=True)
class CommandForm:
    """A row of the table."""

    verb: str
    usage: str
    summary: str
    read: Reader
    admin: bool = False
    examples: tuple[str, ...] = ()


def parse_command(
    words: Words, names: Names, *, admin: bool, missing: frozenset[str] = frozenset()
) -> Command | Mistake:
    """Read the words of a command.

    Args:
        words: what :func:`mxrtc_bridge.core.command_text.command_words` has given.
        names: for short names.
        admin: whether commands of admins are known; to others they do not exist.
        missing: verbs that nobody carries out here: they do not exist either.
    """
    if not words:
        return Mistake("There is no command.", suggestion="help")
    forms = {form.verb: form for form in usable_forms(admin=admin) if form.verb not in missing}
    verb = unquoted(words[0]).lower()
    form = forms.get(verb)
    if form is None:
        near = difflib.get_close_matches(verb[:_SHOWN_WORD], forms, 1, 0.6)
        return Mistake(
            f"I do not know {_shown(words[0])}.",
            usage=forms[near[0]].usage if near else None,
            suggestion=_corrected(near[0], words[1:]) if near else "help",
        )
    try:
        command = form.read(words[1:], names)
    except _Wrong as wrong:
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


def _shown(word: str) -> str:
    return f'"{display(word, _SHOWN_WORD)}"'


# Parts of commands


def _none(words: Words, verb: str) -> None:
    if words:
        raise _Wrong(f"{verb} takes nothing more; {_shown(words[0])} is too much.")


def _peer(words: Words, names: Names) -> tuple[UserId, Words]:
    peer, service, rest = _target(words, names)
    if service is not None:
        raise _Wrong("Only the peer is wanted here, without a service.")
    return peer, rest


def _target(words: Words, names: Names) -> tuple[UserId, ServiceName | None, Words]:
    if not words:
        raise _Wrong("The peer is missing.")
    try:
        name = parse_peer_name(unquoted(words[0]), server=names.server, prefix=names.prefix)
    except NamingError as error:
        raise _Wrong(_sentence(str(error))) from None
    return name.peer, name.service, words[1:]


def _service(words: Words, names: Names) -> tuple[UserId, ServiceName, Words]:
    if not words:
        raise _Wrong("The peer and its service are missing.")
    peer, service, rest = _target(words, names)
    if service is None:
        raise _Wrong(f"The service is missing: write {_shown(unquoted(words[0]) + '/SERVICE')}.")
    return peer, service, rest


def _user(word: str) -> UserId:
    try:
        return parse_user_id(unquoted(word))
    except EventError:
        raise _Wrong(f"{_shown(word)} is not a user; write @user:example.org.") from None


def _subject(words: Words) -> tuple[Subject, Words]:
    if not words:
        raise _Wrong("It is missing whom this is about.")
    try:
        return parse_subject(unquoted(words[0])), words[1:]
    except ConfigError as error:
        raise _Wrong(_sentence(str(error))) from None


def _is(words: Words, *wanted: str) -> bool:
    return bool(words) and unquoted(words[0]).lower() in wanted


def _for(words: Words) -> tuple[int | None, Words]:
    """Read ``for 2h`` where it stands."""
    if not _is(words, "for"):
        return None, words
    seconds, rest = take_duration(words[1:])
    if seconds is None:
        said = _shown(words[1]) if len(words) > 1 else "nothing"
        raise _Wrong(f"After for, a time is wanted, not {said}: 30m, 2h or 3d, at most 90d.")
    return seconds, rest


def _because(words: Words) -> str:
    """Read ``because ...`` to the end."""
    if not words:
        return ""
    if not _is(words, "because"):
        raise _Wrong(f"I do not understand {_shown(words[0])} here.")
    return free_text(words[1:])


def _number(words: Words, what: str) -> tuple[int, Words]:
    digits = unquoted(words[0]).lstrip("#") if words else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        raise _Wrong(f"The number of the {what} is missing." if not words else f"{_shown(words[0])} is not a number.")
    return int(digits), words[1:]


def _page(words: Words, verb: str) -> int:
    if not words:
        return 1
    number, rest = _number(words[1:] if _is(words, "page") else words, "page")
    _none(rest, verb)
    if not 1 <= number <= MAX_PAGE:
        raise _Wrong(f"Pages are numbered from 1 to {MAX_PAGE}.")
    return number


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# Commands


def _help(words: Words, _: Names) -> Help:
    return Help(unquoted(words[0]).lower()[:_SHOWN_WORD] if words else None)


def _list_peers(words: Words, _: Names) -> ListPeers:
    if _is(words, "all"):
        _none(words[1:], "peers all")
        return ListPeers(everything=True)
    _none(words, "peers")
    return ListPeers()


def _open_peer(words: Words, names: Names) -> OpenPeer:
    peer, rest = _peer(words, names)
    _none(rest, "open")
    return OpenPeer(peer)


def _show_how(words: Words, names: Names) -> ShowHow:
    peer, service, rest = _target(words, names)
    _none(rest, "how")
    return ShowHow(peer, service)


def _request_access(words: Words, names: Names) -> RequestAccess:
    peer, service, rest = _service(words, names)
    for_s, rest = _for(rest)
    return RequestAccess(peer, service, for_s, _because(rest))


def _withdraw(words: Words, _: Names) -> WithdrawRequest:
    number, rest = _number(words, "request")
    _none(rest, "withdraw")
    return WithdrawRequest(number)


def _close_sessions(words: Words, names: Names) -> CloseSessions:
    if not words:
        return CloseSessions()
    peer, rest = _peer(words, names)
    _none(rest, "close")
    return CloseSessions(peer)


def _give_grant(words: Words, names: Names) -> GiveGrant:
    subject, rest = _subject(words)
    peer, service, rest = _service(rest, names)
    for_s, rest = _for(rest)
    if for_s is None:
        raise _Wrong("Say for how long: for 2h.")
    return GiveGrant(subject, peer, service, for_s, _because(rest))


def _revoke(words: Words, names: Names) -> RevokeGrant | RevokeAccess:
    if not words:
        raise _Wrong("It is missing what to revoke.")
    word = unquoted(words[0])
    if ":" not in word and word != "*":
        if _ID.fullmatch(word) is None:
            raise _Wrong(f"{_shown(words[0])} is not the id of a grant; grants lists them.")
        return RevokeGrant(word, _because(words[1:]))
    subject, rest = _subject(words)
    if not rest or _is(rest, "because"):
        return RevokeAccess(subject, because=_because(rest))
    peer, service, rest = _service(rest, names)
    return RevokeAccess(subject, peer, service, _because(rest))


def _kick(words: Words, _: Names) -> KickSession | KickUser:
    if not words:
        raise _Wrong("It is missing whom to kick.")
    word = unquoted(words[0])
    if word.startswith("@"):
        return KickUser(_user(word), _because(words[1:]))
    word = word.lstrip("#")
    if _ID.fullmatch(word) is None:
        raise _Wrong(f"{_shown(words[0])} is not the id of a session; who lists them.")
    return KickSession(word, _because(words[1:]))


def _show_log(words: Words, names: Names) -> ShowLog:
    user, peer, since_s, page = None, None, None, 1
    if words and not _is(words, "since", "page") and parse_duration(words[0]) is None:
        about = unquoted(words[0])
        if about.startswith("@") and not about[1:].startswith(names.prefix):
            user = _user(about)
            words = words[1:]
        else:
            peer, words = _peer(words, names)
    if words and not _is(words, "page"):
        since_s, words = take_duration(words[1:] if _is(words, "since") else words)
        if since_s is None:
            raise _Wrong("After since, a time is wanted: 30m, 2h or 3d.")
    if words:
        page = _page(words, "log")
    return ShowLog(user, peer, since_s, page)


def _allow(words: Words, _: Names) -> AllowRequest:
    number, rest = _number(words, "request")
    if _is(rest, "once"):
        _none(rest[1:], "allow N once")
        return AllowRequest(number, once=True)
    for_s, rest = _for(rest)
    _none(rest, "allow")
    return AllowRequest(number, for_s=for_s)


def _deny(words: Words, _: Names) -> DenyRequest:
    number, rest = _number(words, "request")
    return DenyRequest(number, _because(rest))


def _alone(verb: str, command: Command) -> Reader:
    """The reader of a command that is one word."""

    def read(words: Words, _: Names) -> Command:
        _none(words, verb)
        return command

    return read


COMMANDS: tuple[CommandForm, ...] = (
    CommandForm("help", "help [COMMAND]", "what I understand", _help, examples=("help", "help request")),
    CommandForm("peers", "peers", "what you may use, and whether it is up", _list_peers, examples=("peers",)),
    CommandForm("open", "open PEER", "have a peer invite you to a direct chat", _open_peer, examples=("open build",)),
    CommandForm(
        "status",
        "status",
        "your live sessions, what you were granted, and what you asked for",
        _alone("status", ShowStatus()),
        examples=("status",),
    ),
    CommandForm(
        "how", "how PEER/SERVICE", "lines to paste into a terminal", _show_how, examples=("how build/ssh", "how build")
    ),
    CommandForm(
        "request",
        "request PEER/SERVICE [for 2h] [because ...]",
        "ask the admins for a service",
        _request_access,
        examples=("request build/ssh", "request build/db for 2h because the report is due"),
    ),
    CommandForm("withdraw", "withdraw N", "take back a request", _withdraw, examples=("withdraw 12",)),
    CommandForm(
        "close",
        "close [PEER]",
        "end your live sessions, or those with one peer",
        _close_sessions,
        examples=("close", "close build"),
    ),
    CommandForm(
        "requests",
        "requests",
        "what waits for an answer",
        _alone("requests", ListRequests()),
        admin=True,
        examples=("requests",),
    ),
    CommandForm(
        "allow",
        "allow N [once | for 2h]",
        "allow a request: for the time that was asked for, for one session, or for another time",
        _allow,
        admin=True,
        examples=("allow 12", "allow 12 once", "allow 12 for 30m"),
    ),
    CommandForm(
        "deny",
        "deny N [because ...]",
        "refuse a request",
        _deny,
        admin=True,
        examples=("deny 12", "deny 12 because it is Friday"),
    ),
    CommandForm(
        "grants",
        "grants [PAGE]",
        "what is granted to whom, until when, and by whom",
        lambda words, _: ListGrants(_page(words, "grants")),
        admin=True,
        examples=("grants", "grants 2"),
    ),
    CommandForm(
        "grant",
        "grant @user:server|server:name|guest-accounts:name|room:!id PEER/SERVICE for 2h [because ...]",
        "give a right that ends by itself",
        _give_grant,
        admin=True,
        examples=("grant @bob:example.org build/ssh for 2h", "grant server:partner.org build/web for 3d"),
    ),
    CommandForm(
        "revoke",
        "revoke ID|@user:server|server:name|guest-accounts:name|room:!id [PEER/SERVICE] [because ...]",
        "take back grants, by id or by whom they name; live sessions end at once",
        _revoke,
        admin=True,
        examples=("revoke 17", "revoke @bob:example.org", "revoke @bob:example.org build/ssh"),
    ),
    CommandForm(
        "who",
        "who [PAGE]",
        "live sessions",
        lambda words, _: ListSessions(_page(words, "who")),
        admin=True,
        examples=("who",),
    ),
    CommandForm(
        "kick",
        "kick SESSION|@user:server [because ...]",
        "end a session, or all of a user",
        _kick,
        admin=True,
        examples=("kick 4", "kick @bob:example.org because the backup starts"),
    ),
    CommandForm(
        "log",
        "log [PEER|@user:server] [since 2h] [page N]",
        "who did what, the newest first",
        _show_log,
        admin=True,
        examples=("log", "log build since 3d", "log @bob:example.org"),
    ),
    CommandForm("check", "check", "whether everything works", _alone("check", CheckBridge()), admin=True),
    CommandForm("reload", "reload", "read the configuration again", _alone("reload", ReloadConfig()), admin=True),
    CommandForm("pause", "pause", "take no new sessions", _alone("pause", Pause()), admin=True),
    CommandForm("resume", "resume", "take new sessions again", _alone("resume", Resume()), admin=True),
)
"""``peers all`` is a form of ``peers`` that only admins have; everything else is a row."""


def form_of(verb: str, forms: Iterable[CommandForm] = COMMANDS) -> CommandForm | None:
    """The row of a verb."""
    return next((form for form in forms if form.verb == verb), None)


def addressed(usage: str, *, direct: bool) -> str:
    """A command as it must be typed in a room: with the prefix, unless the room is a direct chat."""
    return usage if direct else f"{PREFIX} {usage}"
