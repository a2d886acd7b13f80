"""Policy lists (client-server API, "Moderation policy lists"): whom others advise to ban, as denials here.

A list is a room whose state events name users and servers, with ``*`` and ``?`` as wildcards. Only rules that
recommend a ban count, and all they can do is to deny: nothing in a list gives anybody anything, or makes an admin.

Pure. Rules with wildcards are compared in time linear to the text, and a verdict about a user is kept until a rule
changes, so that a decision costs a look-up however long the lists are.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.ids import MAX_ID_CHARS, RoomId, UserId, server_of

MAX_RULES = 20_000
"""Of one list; those beyond are not taken."""
MAX_VERDICTS = 10_000
"""Users whose verdict is kept; then the one that was asked for longest ago is found anew."""

_HASHED = "sha256 "
"""Stands before a hash: neither a user id nor the name of a server can begin so."""
_DIGEST = re.compile(r"[A-Za-z0-9+/]{43}=?")
_BANS = frozenset({"m.ban", "org.matrix.mjolnir.ban", "m.takedown", "org.matrix.msc4204.takedown"})


class RuleKind(Enum):
    """What a rule names."""

    USER = "user"
    SERVER = "server"


RULE_TYPES: Mapping[str, RuleKind] = {
    f"{prefix}.{kind.value}": kind
    # The last two were used before the specification had a name for them, and are still in old lists.
    for prefix in ("m.policy.rule", "m.room.rule", "org.matrix.mjolnir.rule")
    for kind in RuleKind
}
"""Types of state events that hold rules."""

RuleKey = tuple[str, str]
"""Event type and state key: a newer event with the same replaces the rule."""


@dataclass(frozen=True, slots=True)
class ListRule:
    """One rule that recommends a ban."""

    kind: RuleKind
    entity: str
    """A user id or the name of a server, with wildcards, names of servers in lower case; or the hash of one."""


def parse_rule(event_type: str, content: Mapping[str, object]) -> ListRule | None:
    """Return the rule of a state event, or None if it is none, is taken back, or recommends something else."""
    kind = RULE_TYPES.get(event_type)
    entity, recommendation = content.get("entity"), content.get("recommendation")
    if kind is None or not isinstance(recommendation, str) or recommendation not in _BANS:
        return None
    if entity is None and (digest := _hash_in(content)) is not None:
        return ListRule(kind, _HASHED + digest)
    if not isinstance(entity, str) or not 0 < len(entity) <= MAX_ID_CHARS:
        return None
    return ListRule(kind, _folded(kind, entity))


def _hash_in(content: Mapping[str, object]) -> str | None:
    """The SHA-256 of whom a rule names without saying it, in unpadded base64 (MSC4205)."""
    hashes = content.get("hashes", content.get("org.matrix.msc4205.hashes"))
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        return None
    return digest.rstrip("=")


class DenyLists:
    """The rules of all lists."""

    def __init__(self) -> None:
        self._rules: dict[RoomId, dict[RuleKey, ListRule]] = {}
        self._plain: dict[ListRule, RoomId] = {}
        self._globs: list[tuple[ListRule, RoomId]] = []
        self._verdicts: OrderedDict[UserId, str | None] = OrderedDict()

    def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]]) -> bool:
        """Take over all rules of a list; returns False where :data:`MAX_RULES` left some of them out."""
        taken: dict[RuleKey, ListRule] = {}
        complete = True
        for key, rule in rules:
            if len(taken) >= MAX_RULES and key not in taken:
                complete = False
                break
            taken[key] = rule
        self._rules[room] = taken
        self._index()
        return complete

    def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None) -> bool:
        """Take over one rule, or its end; returns whether that changes anything. A full list takes no further rule."""
        rules = self._rules.setdefault(room, {})
        if rules.get(key) == rule or (rule is not None and key not in rules and len(rules) >= MAX_RULES):
            return False
        if rule is None:
            del rules[key]
        else:
            rules[key] = rule
        self._index()
        return True

    def drop(self, room: RoomId) -> bool:
        """Forget a list; returns whether there was one."""
        known = self._rules.pop(room, None) is not None
        if known:
            self._index()
        return known

    def rooms(self) -> frozenset[RoomId]:
        """The lists that are known."""
        return frozenset(self._rules)

    def rules(self, room: RoomId) -> tuple[tuple[RuleKey, ListRule], ...]:
        """The rules of a list."""
        return tuple(self._rules.get(room, {}).items())

    def count(self, room: RoomId) -> int:
        """How many rules a list has."""
        return len(self._rules.get(room, {}))

    def denial(self, user: UserId) -> str | None:
        """The rule that denies ``user`` everything, in words for the admin; None if no list names them."""
        if user in self._verdicts:
            self._verdicts.move_to_end(user)
            return self._verdicts[user]
        verdict = self._judge(user)
        self._verdicts[user] = verdict
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    def _judge(self, user: UserId) -> str | None:
        server = server_of(user)
        # With the port and without: a list names servers, and whoever runs one can choose another port.
        names = {
            RuleKind.USER: (_folded(RuleKind.USER, user),),
            RuleKind.SERVER: (server, _without_port(server)),
        }
        exact = {RuleKind.USER: (str(user),), RuleKind.SERVER: names[RuleKind.SERVER]}
        for kind, texts in names.items():
            for text in (*texts, *(_HASHED + _digest(name) for name in exact[kind])):
                rule = ListRule(kind, text)
                if rule in self._plain:
                    return _words(rule, self._plain[rule])
        for rule, room in self._globs:
            if any(matches(rule.entity, text) for text in names[rule.kind]):
                return _words(rule, room)
        return None

    def _index(self) -> None:
        self._plain = {}
        self._globs = []
        for room, rules in self._rules.items():
            for rule in rules.values():
                if "*" in rule.entity or "?" in rule.entity:
                    self._globs.append((rule, room))
                else:
                    self._plain.setdefault(rule, room)
        self._verdicts.clear()


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern with ``*`` (anything) and ``?`` (one character) stands for the whole of ``text``.

    Goes back to the last ``*`` only, so the time is at most the product of the lengths, whatever the pattern.
    """
    at, of, star, resume = 0, 0, -1, 0
    while of < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, of
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[of]):
            at += 1
            of += 1
        elif star >= 0:
            resume += 1
            at, of = star + 1, resume
        else:
            return False
    return all(rest == "*" for rest in pattern[at:])


def _folded(kind: RuleKind, entity: str) -> str:
    """Write the part that names a server in lower case."""
    if kind is RuleKind.SERVER:
        return entity.lower()
    localpart, colon, server = entity.partition(":")
    return localpart + colon + server.lower()


def _digest(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def _without_port(server: str) -> str:
    host, colon, port = server.rpartition(":")
    return host if colon and port.isdigit() else server


def _words(rule: ListRule, room: RoomId) -> str:
    return f"policy list {room}: {rule.kind.value} {rule.entity}"
