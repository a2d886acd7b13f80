"""The words behind each verb, read into frozen values; the table of verbs is in :mod:`mxrtc_bridge.core.bot.parser`."""

from __future__ import annotations

import re
from collections.abc import Callable

from mxrtc_bridge.core.access.peer_names import NamingError, parse_peer_name
from mxrtc_bridge.core.access.policy import Subject, parse_subject
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
from mxrtc_bridge.core.bot.words import free_text, unquoted
from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_user_id
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.text.durations import parse_duration, take_duration

MAX_PAGE = 10_000
SHOWN_WORD = 40
"""Columns of a wrong word that are repeated."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}")

Words = tuple[str, ...]
Reader = Callable[[Words, Names], Command]


class WrongError(Exception):
    """The words do not fit the form; the text says which one."""


# Parts of commands


def shown(word: str) -> str:
    """A word as it can be said in an answer."""
    return f'"{display(word, SHOWN_WORD)}"'


def _none(words: Words, verb: str) -> None:
    if words:
        raise WrongError(f"{verb} takes nothing more; {shown(words[0])} is too much.")


def _peer(words: Words, names: Names) -> tuple[UserId, Words]:
    peer, service, rest = _target(words, names)
    if service is not None:
        raise WrongError("Only the peer is wanted here, without a service.")
    return peer, rest


def _target(words: Words, names: Names) -> tuple[UserId, ServiceName | None, Words]:
    if not words:
        raise WrongError("The peer is missing.")
    try:
        name = parse_peer_name(unquoted(words[0]), server=names.server, prefix=names.prefix)
    except NamingError as error:
        raise WrongError(_sentence(str(error))) from None
    return name.peer, name.service, words[1:]


def _service(words: Words, names: Names) -> tuple[UserId, ServiceName, Words]:
    if not words:
        raise WrongError("The peer and its service are missing.")
    peer, service, rest = _target(words, names)
    if service is None:
        raise WrongError(f"The service is missing: write {shown(unquoted(words[0]) + '/SERVICE')}.")
    return peer, service, rest


def _user(word: str) -> UserId:
    try:
        return parse_user_id(unquoted(word))
    except EventError:
        raise WrongError(f"{shown(word)} is not a user; write @user:example.org.") from None


def _subject(words: Words) -> tuple[Subject, Words]:
    if not words:
        raise WrongError("Say who: @user:server, server:name or room:!id.")
    try:
        return parse_subject(unquoted(words[0])), words[1:]
    except ConfigError as error:
        raise WrongError(_sentence(str(error))) from None


def _is(words: Words, *wanted: str) -> bool:
    return bool(words) and unquoted(words[0]).lower() in wanted


def _for(words: Words) -> tuple[int | None, Words]:
    """Read ``for 2h`` where it stands."""
    if not _is(words, "for"):
        return None, words
    seconds, rest = take_duration(words[1:])
    if seconds is None:
        said = shown(words[1]) if len(words) > 1 else "nothing"
        raise WrongError(f"After for, a time is wanted, not {said}: 30m, 2h or 3d, at most 90d.")
    return seconds, rest


def _because(words: Words) -> str:
    """Read ``because ...`` to the end."""
    if not words:
        return ""
    if not _is(words, "because"):
        raise WrongError(f"I do not understand {shown(words[0])} here.")
    return free_text(words[1:])


def _number(words: Words, what: str) -> tuple[int, Words]:
    digits = unquoted(words[0]).lstrip("#") if words else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        raise WrongError(
            f"The number of the {what} is missing." if not words else f"{shown(words[0])} is not a number."
        )
    return int(digits), words[1:]


def _page(words: Words, verb: str) -> int:
    if not words:
        return 1
    number, rest = _number(words[1:] if _is(words, "page") else words, "page")
    _none(rest, verb)
    if not 1 <= number <= MAX_PAGE:
        raise WrongError(f"Pages are numbered from 1 to {MAX_PAGE}.")
    return number


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# Commands


def _help(words: Words, _: Names) -> Help:
    return Help(unquoted(words[0]).lower()[:SHOWN_WORD] if words else None)


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
        raise WrongError("Say for how long: for 2h.")
    return GiveGrant(subject, peer, service, for_s, _because(rest))


def _revoke(words: Words, names: Names) -> RevokeGrant | RevokeAccess:
    if not words:
        raise WrongError("Say what to revoke: a grant number or a user.")
    word = unquoted(words[0])
    if ":" not in word and word != "*":
        if _ID.fullmatch(word) is None:
            raise WrongError(f"{shown(words[0])} is not the id of a grant; grants lists them.")
        return RevokeGrant(word, _because(words[1:]))
    subject, rest = _subject(words)
    if not rest or _is(rest, "because"):
        return RevokeAccess(subject, because=_because(rest))
    peer, service, rest = _service(rest, names)
    return RevokeAccess(subject, peer, service, _because(rest))


def _kick(words: Words, _: Names) -> KickSession | KickUser:
    if not words:
        raise WrongError("Say whom to kick: a session number or a user.")
    word = unquoted(words[0])
    if word.startswith("@"):
        return KickUser(_user(word), _because(words[1:]))
    word = word.lstrip("#")
    if _ID.fullmatch(word) is None:
        raise WrongError(f"{shown(words[0])} is not the id of a session; who lists them.")
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
            raise WrongError("After since, a time is wanted: 30m, 2h or 3d.")
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


def _confirm(words: Words, _: Names) -> Confirm:
    number, rest = _number(words, "question")
    _none(rest, "yes")
    return Confirm(number)


def _alone(verb: str, command: Command) -> Reader:
    """The reader of a command that is one word."""

    def read(words: Words, _: Names) -> Command:
        _none(words, verb)
        return command

    return read


READERS: dict[str, Reader] = {
    "help": _help,
    "peers": _list_peers,
    "open": _open_peer,
    "status": _alone("status", ShowStatus()),
    "how": _show_how,
    "request": _request_access,
    "withdraw": _withdraw,
    "close": _close_sessions,
    "requests": _alone("requests", ListRequests()),
    "allow": _allow,
    "deny": _deny,
    "grants": lambda words, _: ListGrants(_page(words, "grants")),
    "grant": _give_grant,
    "revoke": _revoke,
    "who": lambda words, _: ListSessions(_page(words, "who")),
    "kick": _kick,
    "log": _show_log,
    "check": _alone("check", CheckBridge()),
    "reload": _alone("reload", ReloadConfig()),
    "pause": _alone("pause", Pause()),
    "resume": _alone("resume", Resume()),
    "yes": _confirm,
}
"""By verb; every row of the table has one."""
