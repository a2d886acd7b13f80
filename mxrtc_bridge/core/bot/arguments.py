"""The words behind the verb of a command, read from the left into typed arguments.

Total: any words give values or a :class:`WrongError` with a sentence for whoever typed them. No word is looked up
anywhere, so a name that is well formed but unknown is an argument all the same; whoever carries the command out answers
that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mxrtc_bridge.core.access.peer_names import NamingError, parse_peer_name
from mxrtc_bridge.core.access.policy import Subject, parse_subject
from mxrtc_bridge.core.bot.words import free_text, unquoted
from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.ids import ServiceName, UserId, typed_user_id
from mxrtc_bridge.core.text.display import display, sentence
from mxrtc_bridge.core.text.durations import HOW_TO_WRITE, parse_duration, take_duration

MAX_PAGE = 10_000
SHOWN_WORD = 40
"""Columns of a wrong word that are repeated."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}")

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """What short names of peers are completed with."""

    server: str
    prefix: str = "rtc_"


class WrongError(Exception):
    """The words do not fit the form; the text says which one."""


def shown(word: str) -> str:
    """A word as it can be said in an answer."""
    return f'"{display(word, SHOWN_WORD)}"'


class Arguments:
    """The words that are not read yet.

    Each method takes its own words from the left, or raises :class:`WrongError`.
    """

    def __init__(self, words: Words, names: Names) -> None:
        self.words = words
        self.names = names

    @property
    def next(self) -> str:
        """The next word, without quotes around it; empty where there is none."""
        return unquoted(self.words[0]) if self.words else ""

    def next_is(self, *wanted: str) -> bool:
        """Whether the next word is one of these."""
        return self.next.lower() in wanted

    def keyword(self, wanted: str) -> bool:
        """Take this word if it is the next one; returns whether it was."""
        found = self.next_is(wanted)
        self.words = self.words[found:]
        return found

    def word(self, missing: str) -> str:
        """Take any word, without quotes around it; ``missing`` is said where there is none."""
        if not self.words:
            raise WrongError(missing)
        word, self.words = self.next, self.words[1:]
        return word

    def rest(self) -> Words:
        """Take all that is left."""
        words, self.words = self.words, ()
        return words

    def target(self, missing: str = "The peer is missing.") -> tuple[UserId, ServiceName | None]:
        """Take a peer, or a peer and its service."""
        word = self.word(missing)
        try:
            name = parse_peer_name(word, server=self.names.server, prefix=self.names.prefix)
        except NamingError as error:
            raise WrongError(sentence(str(error))) from None
        return name.peer, name.service

    def peer(self) -> UserId:
        """Take a peer."""
        peer, service = self.target()
        if service is not None:
            raise WrongError("Only the peer is wanted here, without a service.")
        return peer

    def service(self) -> tuple[UserId, ServiceName]:
        """Take a peer and its service."""
        word = self.next
        peer, service = self.target("The peer and its service are missing.")
        if service is None:
            raise WrongError(f"The service is missing: write {shown(f'{word}/SERVICE')}.")
        return peer, service

    def user(self) -> UserId:
        """Take the id of a user."""
        word = self.word("The user is missing: write @user:example.org.")
        try:
            return typed_user_id(word, self.names.server)
        except EventError:
            raise WrongError(f"{shown(word)} is not a user; write @user:example.org.") from None

    def subject(self) -> Subject:
        """Take whom a grant is for."""
        word = self.word("Say who: @user:server, server:name or room:!id.")
        try:
            return parse_subject(word)
        except ConfigError as error:
            raise WrongError(sentence(str(error))) from None

    def number(self, what: str) -> int:
        """Take a number, with or without ``#``; ``what`` is numbered by it."""
        word = self.word(f"The number of the {what} is missing.")
        digits = word.lstrip("#")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
            raise WrongError(f"{shown(word)} is not a number.")
        return int(digits)

    def page(self) -> int:
        """Take ``page 2`` or ``2``; the first one where nothing is left."""
        if not self.words:
            return 1
        self.keyword("page")
        number = self.number("page")
        if not 1 <= number <= MAX_PAGE:
            raise WrongError(f"Pages are numbered from 1 to {MAX_PAGE}.")
        return number

    def duration(self, missing: str) -> int:
        """Take a time, in seconds; ``missing`` is said where there is none."""
        seconds, self.words = take_duration(self.words)
        if seconds is None:
            raise WrongError(missing)
        return seconds

    def for_time(self) -> int | None:
        """Take ``for 2h``, in seconds, if it is there."""
        if not self.keyword("for"):
            return None
        said = shown(self.next) if self.words else "nothing"
        return self.duration(f"After for, a time is wanted, not {said}: {HOW_TO_WRITE}.")

    def time(self) -> int:
        """Take ``for 2h``, in seconds."""
        seconds = self.for_time()
        if seconds is None:
            raise WrongError("Say for how long: for 2h.")
        return seconds

    def because(self) -> str:
        """Take ``because`` and all that is left; empty where nothing is."""
        if self.words and not self.keyword("because"):
            raise WrongError(f"I do not understand {shown(self.next)} here.")
        return free_text(self.rest())


# The arguments of commands that have more than one form


def nothing(_: Arguments) -> tuple[()]:
    """A command that is one word."""
    return ()


def grants_to_revoke(said: Arguments) -> tuple[str | Subject, UserId | None, ServiceName | None, str]:
    """Read the id of a grant, or a subject and perhaps a service; then why."""
    if not said.words:
        raise WrongError("Say what to revoke: a grant number or a user.")
    if ":" not in said.next and said.next != "*":
        number = said.word("").lstrip("#")
        if _ID.fullmatch(number) is None:
            raise WrongError(f"{shown(number)} is not the id of a grant; grants lists them.")
        return number, None, None, said.because()
    subject = said.subject()
    peer, service = (None, None) if not said.words or said.next_is("because") else said.service()
    return subject, peer, service, said.because()


def sessions_to_kick(said: Arguments) -> tuple[UserId | None, str, str]:
    """Read a user, or (then the user is None) the id of a session; then why."""
    if said.next.startswith("@"):
        return said.user(), "", said.because()
    session = said.word("Say whom to kick: a session number or a user.").lstrip("#")
    if _ID.fullmatch(session) is None:
        raise WrongError(f"{shown(session)} is not the id of a session; who lists them.")
    return None, session, said.because()


def records_to_show(said: Arguments) -> tuple[UserId | None, UserId | None, int | None, int]:
    """Read a user or a peer, how far back in seconds, and a page, each of which may be missing."""
    user, peer, since_s = None, None, None
    if said.words and not said.next_is("since", "page") and parse_duration(said.words[0]) is None:
        if said.next.startswith("@") and not said.next[1:].startswith(said.names.prefix):
            user = said.user()
        else:
            peer = said.peer()
    if said.words and not said.next_is("page"):
        said.keyword("since")
        since_s = said.duration(f"After since, a time is wanted: {HOW_TO_WRITE}.")
    return user, peer, since_s, said.page()


def request_to_allow(said: Arguments) -> tuple[int, bool, int | None]:
    """Read the number of a request, whether it is for one session, and for how many seconds if that is said."""
    number, once = said.number("request"), said.keyword("once")
    return number, once, None if once else said.for_time()
