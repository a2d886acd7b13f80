"""Whose words a message holds: what its sender has typed as a command, and nothing that somebody else has a hand in.

A message carries words of others in many ways: quotations, replies that repeat what they answer, edits, forwarded
messages, names of files, captions, struck-out and hidden text, display names. So a command is the ``body`` alone, of a
plain ``m.text`` on one line, that stands in no relation but a reply or a thread. Everything else is no command, or is
refused with a sentence where the sender must have meant one. Fields that other clients might show instead (extensible
events, MSC1767) are not read.

The formatted text gives nothing but, in order, whose names the mentions are (specification, "User, room and group
mentions"): a mention is a link to a user, and its name must stand in the body at the same place. It then is one word,
whatever the name looks like. Where the formatted text says anything else than the body, the sender has seen something
else than what would be carried out, so nothing is. It is read by a list of the elements that are known to hold the
sender's own words; all others are doubted, whatever they are called.

Pure, and never raises for anything that a homeserver can deliver.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import quote, unquote

from mxrtc_bridge.core.bot.words import MAX_TEXT_CHARS, PREFIX, command_words
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import UserId, localpart_of, parse_user_id
from mxrtc_bridge.core.text.display import INVISIBLE, display

HTML = "org.matrix.custom.html"
MAX_MENTIONS = 16
MAX_HTML_CHARS = 4 * MAX_TEXT_CHARS
MAX_TAGS = 100
"""Of a formatted text: what reads it takes time by their number times the length, where they do not end."""
_SHOWN = 60

_RELATION_KEYS = frozenset({"rel_type", "event_id", "is_falling_back", "m.in_reply_to", "io.element.show_reply"})
_NOT_TEXT = frozenset({"m.new_content", "url", "file", "filename", "info", "geo_uri"})
"""Keys of edits, files and places: what such a message calls its text is made of something else."""
_CARRIES = re.compile(r"forward|quote", re.IGNORECASE)
"""Part of each key by which clients mark what is another's (MSC2723, ``m.forwarded``)."""
_FALLBACK = re.compile(r"> (?:\* )?<@")
"""How a repeated message begins (specification before 1.13, "Fallbacks for rich replies")."""
_USER_LINK = re.compile(r"(?:https?://matrix\.to/#/|matrix:u/)([^?/]{1,400})(?:\?.*)?", re.IGNORECASE | re.DOTALL)
_OWN_ELEMENTS = frozenset({"p", "br", "div", "span", "strong", "b", "em", "i", "u", "code", "pre", "a"})
"""What a client makes of words that somebody types. No attributes but those of a link: they can hide or replace."""
_BLOCKS = frozenset({"p", "br", "div", "pre"})
_CODE = frozenset({"code", "pre"})
_CODED = re.compile(r"```(?:\r?\n)?([^`]+?)(?:\r?\n)?```|`([^`]+)`")
"""A text that is code as a whole: a command that was copied from a page, or is marked as one."""
_LINK_ATTRIBUTES = frozenset({"href", "target", "rel"})
_MARKS = str.maketrans("", "", "*_~`")
"""Markdown, which stands in the body and not in what is shown."""
_MENTION = "\0"
"""Stands for a mention while texts are compared; text that holds it is refused before."""

_TO_PLAIN = "Send it as plain text, with the ids of users written out."
_BORROWED = f"A part of it is marked as code or a link, which may be another's. {_TO_PLAIN}"
_LINES = (
    "A command is one line, alone in its message, so that nothing else is taken for a part of it. I have done nothing."
)


@dataclass(frozen=True, slots=True)
class Typed:
    """What the sender of a message has typed."""

    words: tuple[str, ...]
    """Of the command, without the prefix; a mention is one word, the user's id."""
    doubt: str | None = None
    """Why it must not be carried out, whatever it is: a sentence for the sender."""
    doubt_to_give: str | None = None
    """Why it must not be carried out if it gives anything."""


def read_message(
    content: Mapping[str, object],
    *,
    direct: bool,
    is_own: Callable[[UserId], bool] = lambda _: False,
    spoken_to: UserId | None = None,
) -> Typed | None:
    """Return the command that a message is; None where it is none.

    Args:
        content: of an ``m.room.message``, unchecked.
        direct: whether the room is a direct chat, where no prefix is needed.
        is_own: whether a user is the bridge's: an answer to what it has said mentions it.
        spoken_to: which of them is in the room; in a direct chat its name may stand in front of a command.
    """
    text = command_line(content, direct=direct)
    coded = _CODED.fullmatch(text) if text is not None else None
    text = text if coded is None else (coded[1] or coded[2]).strip()
    words = None if text is None else command_words(text, direct=direct)
    if text is None or words is None:
        return None
    if len(text.splitlines()) > 1:
        return Typed(words, _LINES)
    mentioned: frozenset[UserId] = frozenset()
    to_give = _odd_character(text) or (_BORROWED if coded is not None else None)
    if content.get("format") == HTML and "formatted_body" in content:
        shown = _Shown.of(content["formatted_body"], reply=bool(_is_reply(content)))
        placed = _place(shown, text, is_own)
        if isinstance(placed, _Doubt):
            return Typed(words, placed.why)
        words = command_words(placed, direct=direct)
        if words is None:
            return None
        mentioned = frozenset(user for user, _ in shown.mentions)
        if shown.borrowed:
            to_give = to_give or _BORROWED
    words = _without_address(words, is_own, spoken_to) if direct else words
    return Typed(words, None, to_give or _unplaced(content.get("m.mentions"), mentioned, is_own))


def _without_address(
    words: tuple[str, ...], is_own: Callable[[UserId], bool], spoken_to: UserId | None
) -> tuple[str, ...]:
    """Drop the name of ours that a message begins with, as clients write it when one is addressed."""
    name = words[0].rstrip(":,")
    user = _user(name)
    called = spoken_to is not None and name.removeprefix("@").lower() == localpart_of(spoken_to).lower()
    addressed = (called and name != words[0]) or (user is not None and is_own(user))
    return words[1:] if addressed and words[1:] else words


def _user(text: str) -> UserId | None:
    try:
        return parse_user_id(text)
    except EventError:
        return None


def command_line(content: Mapping[str, object], *, direct: bool) -> str | None:
    """The text of a message that may be a command, at little cost; None where it is none."""
    body, reply = content.get("body"), _is_reply(content)
    if reply is None or not isinstance(body, str) or len(body) > MAX_TEXT_CHARS:
        return None
    text = (_without_fallback(body) if reply else body).strip()
    # Ids in the places of names would make no command of what is none.
    return None if text.startswith(">") or command_words(text, direct=direct) is None else text


def _is_reply(content: Mapping[str, object]) -> bool | None:  # noqa: PLR0911 - one for each form
    """Whether a text answers another message; None for what is no message of one's own words."""
    if content.get("msgtype") != "m.text" or any(key in _NOT_TEXT or _CARRIES.search(key) for key in content):
        return None
    relation = content.get("m.relates_to")
    if relation is None:
        return False
    if not isinstance(relation, Mapping) or not _RELATION_KEYS.issuperset(relation):
        return None
    answered = relation.get("m.in_reply_to")
    if answered is not None and not (isinstance(answered, Mapping) and isinstance(answered.get("event_id"), str)):
        return None
    if "rel_type" not in relation:
        return answered is not None
    if relation["rel_type"] != "m.thread":
        return None
    # In a thread every message names one that it does not answer, for clients without threads.
    return answered is not None and relation.get("is_falling_back") is not True


def _without_fallback(body: str) -> str:
    """Drop the message that older clients repeat in front of an answer; what is left must stand by itself."""
    if _FALLBACK.match(body) is None:
        return body
    lines = body.split("\n")
    start = next((at for at, line in enumerate(lines) if not line.startswith(">")), len(lines))
    return "\n".join(lines[start:])


# The formatted text


class _Shown(HTMLParser):
    """What a formatted text shows as its sender's own words, and which of them are mentions."""

    def __init__(self, *, reply: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.mentions: list[tuple[UserId, str]] = []
        """Whose, and the name that is shown."""
        self.borrowed = False
        """Whether a part is code or a link: nothing of a command, and used for what others have written."""
        self.foreign: str | None = None
        """The first thing that may hold or hide what is not the sender's."""
        self._reply = reply
        self._parts: list[str] = []
        self._repeated = 0
        self._links: list[UserId | None] = []

    @classmethod
    def of(cls, source: object, *, reply: bool) -> _Shown:
        """Read a formatted text, whatever it is."""
        shown = cls(reply=reply)
        if not isinstance(source, str) or _MENTION in source or _is_long(source):
            shown.foreign = "something unreadable"
            return shown
        try:
            shown.feed(source)
            shown.close()
        except (AssertionError, ValueError):
            # The parser gives up on some malformed declarations.
            shown.foreign = "something unreadable"
        if shown._links or shown._repeated:
            shown._doubt("an element that does not end")
        return shown

    @property
    def text(self) -> str:
        """What is shown, with white space folded; a zero character stands for each mention."""
        return _folded("".join(self._parts))

    def _doubt(self, what: str) -> None:
        self.foreign = self.foreign or what

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "mx-reply" and self._reply and not self._parts:
            self._repeated += 1
        elif not self._repeated:
            self._begin(tag, attrs)

    def _begin(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.borrowed |= tag in _CODE
        allowed = _LINK_ATTRIBUTES if tag == "a" else frozenset[str]()
        names = [name for name, _ in attrs]
        if tag not in _OWN_ELEMENTS or not allowed.issuperset(names) or len(set(names)) != len(names):
            self._doubt(f"<{display(tag, _SHOWN)}>")
        if tag in _BLOCKS:
            self._parts.append("\n")
        elif tag == "a":
            if self._links:
                self._doubt("a link in a link")
            user = _linked_user(dict(attrs).get("href") or "")
            self.borrowed |= user is None
            if user is not None:
                self._parts.append(_MENTION)
                self.mentions.append((user, ""))
            self._links.append(user)

    def handle_endtag(self, tag: str) -> None:
        if self._repeated:
            self._repeated -= tag == "mx-reply"
        elif tag in _BLOCKS:
            self._parts.append("\n")
        elif tag == "a" and self._links:
            self._links.pop()

    def handle_data(self, data: str) -> None:
        if self._repeated:
            return
        if self._links and self._links[-1] is not None:
            user, name = self.mentions[-1]
            self.mentions[-1] = (user, name + data)
        else:
            self._parts.append(data)

    def handle_comment(self, data: str) -> None:  # noqa: ARG002 - what it says does not matter
        self._doubt("a comment")

    def handle_decl(self, decl: str) -> None:  # noqa: ARG002
        self._doubt("a declaration")

    def handle_pi(self, data: str) -> None:  # noqa: ARG002
        self._doubt("an instruction")

    def unknown_decl(self, data: str) -> None:  # noqa: ARG002
        self._doubt("a declaration")


def _is_long(source: str) -> bool:
    return len(source) > MAX_HTML_CHARS or source.count("<") > MAX_TAGS


def _linked_user(href: str) -> UserId | None:
    match = _USER_LINK.fullmatch(href)
    if match is None:
        return None
    target = unquote(match[1])
    return _user(target if target.startswith("@") else f"@{target}")


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Why it cannot be told what the sender means."""

    why: str


def _place(  # noqa: PLR0911 - one for each doubt
    shown: _Shown, text: str, is_addressed: Callable[[UserId], bool]
) -> str | _Doubt:
    """Put ids in the places of mentions, where body and formatted text say the same.

    Args:
        shown: what the formatted text shows.
        text: the body.
        is_addressed: whose mention may be the address of the message: it stands in front, and a colon behind it.
    """
    if shown.foreign is not None:
        return _Doubt(
            f"The formatted text of your message has {shown.foreign} in it, so I cannot tell whether all of it is "
            f"yours. {_TO_PLAIN}"
        )
    body = _folded(text)
    if not shown.mentions:
        return body if body.translate(_MARKS) == shown.text.translate(_MARKS) else _difference(shown, body)
    if len(shown.mentions) > MAX_MENTIONS or _MENTION in body:
        return _Doubt(f"Your message mentions too many users to be a command. {_TO_PLAIN}")
    before, *between = shown.text.split(_MENTION)
    if not body.startswith(before):
        return _difference(shown, body)
    placed, at = before, len(before)
    for (user, shown_name), after in zip(shown.mentions, between, strict=True):
        name = _folded(shown_name)
        written = next((form for form in _written(user, name) if body.startswith(form, at)), None)
        if written is None or not body.startswith(after, at + len(written)):
            return _difference(shown, body)
        ends = ("", " ", "/", ":", ",") if not placed and is_addressed(user) else ("", " ", "/")
        if _misleads(user, name) or placed[-1:] not in ("", " ") or after[:1] not in ends:
            return _Doubt(
                f'I cannot tell for certain where the name "{display(name, _SHOWN)}" begins and ends. {_TO_PLAIN}'
            )
        placed += user + after
        at += len(written) + len(after)
    return placed if at == len(body) else _difference(shown, body)


def _written(user: UserId, name: str) -> tuple[str, ...]:
    """How a mention may stand in a body, the longest first: clients differ."""
    links = {f"[{name}](https://matrix.to/#/{quote(user, safe=safe)})" for safe in ("", "@:", "@:/=")}
    forms = ({user, name, f"@{name}"} - {"", "@"}) | links
    return tuple(sorted(forms, key=len, reverse=True))


def _misleads(user: UserId, name: str) -> bool:
    """Whether a name could be taken for an id, a service or a command."""
    return name.removeprefix("@") != user.removeprefix("@") and (
        any(mark in name for mark in ":/!") or PREFIX in name.lower()
    )


def _difference(shown: _Shown, body: str) -> _Doubt:
    names = iter([name for _, name in shown.mentions])
    said = re.sub(_MENTION, lambda _: next(names, ""), shown.text)
    return _Doubt(
        f'The text of your message says "{display(body, _SHOWN)}", and its formatted text "{display(said, _SHOWN)}": '
        f"I cannot tell which one you mean. {_TO_PLAIN}"
    )


# What must not be in a command that gives


def _odd_character(text: str) -> str | None:
    """A sentence about the first character that shows nothing, or something else than it is."""
    for at, char in enumerate(text, start=1):
        if char != " " and (not char.isprintable() or char in INVISIBLE):
            name = unicodedata.name(char, "a control character").lower()
            return (
                f"Character {at} of your message is U+{ord(char):04X} ({name}), which nobody sees. "
                "Type the command again without it."
            )
    return None


def _unplaced(mentions: object, placed: frozenset[UserId], is_own: Callable[[UserId], bool]) -> str | None:
    """A sentence about the first user who is mentioned, but not at a place that can be seen: whose name is a word?"""
    if mentions is None:
        return None
    users = mentions.get("user_ids", []) if isinstance(mentions, Mapping) else None
    if not isinstance(users, list) or len(users) > MAX_MENTIONS or not all(isinstance(user, str) for user in users):
        return f"I cannot read whom your message mentions. {_TO_PLAIN}"
    for user in users:
        if user not in placed and not is_own(UserId(user)):
            return (
                f"Your message mentions {display(user, _SHOWN)}, and I cannot see which of its words that is. "
                f"{_TO_PLAIN} Do not write it as an answer to them."
            )
    return None


def _folded(text: str) -> str:
    return " ".join(text.split())
