"""Policy lists (client-server API, "Moderation policy lists"): whom others advise to ban, as denials here.

A list is a room whose state events name users and servers, with ``*`` and ``?`` as wildcards. Only rules that
recommend a ban count, and all they can do is to deny: nothing in a list gives anybody anything, or makes an admin.

Pure. A user who is not known yet costs less than a millisecond however long the lists are and whatever their authors
write (:mod:`mxrtc_bridge.core.text.globs`); a decision is kept, and a change of one rule costs the others nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.ids import MAX_ID_CHARS, RoomId, UserId, host_of, localpart_of, server_of
from mxrtc_bridge.core.text.globs import Glob, GlobIndex, TooManyWildcards

MAX_RULES = 20_000
"""Of one list; those beyond are not taken."""
MAX_DECISIONS = 10_000
"""Users whose decision is kept; then the one that was asked for longest ago is found anew."""
MAX_CAUGHT_UP = 32
"""New rules that a kept decision is compared with; after more of them it is found anew."""

_HASHED = "sha256 "
"""Stands before a hash: neither a user id nor the name of a server can begin so."""
_DIGEST = re.compile(r"[A-Za-z0-9+/]{43}=?")
_LAST_WILDCARD = re.compile(r".*[*?]", re.DOTALL)
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


@dataclass(frozen=True, slots=True)
class _Names:
    """How rules may name one user."""

    globs: Mapping[RuleKind, tuple[str, ...]]
    """What rules with wildcards are compared with."""
    exact: frozenset[ListRule]

    @classmethod
    def of(cls, user: UserId) -> _Names:
        # With the port and without: a list names servers, and whoever runs one can choose another port.
        servers = tuple(dict.fromkeys((server_of(user), host_of(server_of(user)))))
        users = tuple(f"@{localpart_of(user)}:{server}" for server in servers)
        hashed = {RuleKind.USER: {str(user), *users}, RuleKind.SERVER: servers}
        texts = {RuleKind.USER: users, RuleKind.SERVER: servers}
        return cls(
            texts,
            frozenset(ListRule(kind, text) for kind in RuleKind for text in texts[kind])
            | frozenset(ListRule(kind, _HASHED + _digest(name)) for kind in RuleKind for name in hashed[kind]),
        )


@dataclass(slots=True)
class _Decision:
    rule: ListRule | None
    complete: bool
    """Whether all rules that come near were compared; if not, the user is denied."""
    version: int
    """Which of the changes it knows."""


class BanRules:
    """The rules of all lists."""

    def __init__(self, *, max_rules: int = MAX_RULES, max_decisions: int = MAX_DECISIONS) -> None:
        self._max_decisions = max_decisions
        self._max_rules = max_rules
        self._rules: dict[RoomId, dict[RuleKey, ListRule]] = {}
        self._holders: dict[ListRule, Counter[RoomId]] = {}
        """The lists that a rule is in, and how often."""
        self._globs: dict[ListRule, Glob] = {}
        self._index: dict[RuleKind, GlobIndex[ListRule]] = {kind: GlobIndex() for kind in RuleKind}
        self._unusable: set[ListRule] = set()
        self._decisions: OrderedDict[UserId, _Decision] = OrderedDict()
        self._version = 0
        self._newest: deque[ListRule | None] = deque(maxlen=MAX_CAUGHT_UP)
        """The last changes: a rule that has come, or None for one that has gone."""

    def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]]) -> bool:
        """Take over all rules of a list; returns False where :data:`MAX_RULES` left some of them out."""
        taken: dict[RuleKey, ListRule] = {}
        complete = True
        for key, rule in rules:
            if len(taken) >= self._max_rules and key not in taken:
                complete = False
                break
            taken[key] = rule
        before = self._rules.get(room, {})
        self._rules[room] = taken
        # First what is new: there is no moment at which a rule is missing that was there and will be.
        for key, rule in taken.items():
            if before.get(key) != rule:
                self._hold(room, rule)
        for key, rule in before.items():
            if taken.get(key) != rule:
                self._release(room, rule)
        return complete

    def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None) -> bool:
        """Take over one rule, or its end; returns whether that changes anything. A full list takes no further rule."""
        rules = self._rules.setdefault(room, {})
        before = rules.get(key)
        if before == rule or (rule is not None and before is None and len(rules) >= self._max_rules):
            return False
        if rule is None:
            del rules[key]
        else:
            rules[key] = rule
            self._hold(room, rule)
        if before is not None:
            self._release(room, before)
        return True

    def drop(self, room: RoomId) -> bool:
        """Forget a list; returns whether there was one."""
        known = room in self._rules
        self.replace(room, ())
        del self._rules[room]
        return known

    def rooms(self) -> frozenset[RoomId]:
        """The lists that are known."""
        return frozenset(self._rules)

    def rules(self, room: RoomId) -> tuple[tuple[RuleKey, ListRule], ...]:
        """The rules of a list."""
        return tuple(self._rules.get(room, {}).items())

    def has(self, room: RoomId, rule: ListRule) -> bool:
        """Whether a list has a rule; costs the same however long the list is."""
        return rule in self._holders and room in self._holders[rule]

    def count(self, room: RoomId) -> int:
        """How many rules a list has."""
        return len(self._rules.get(room, {}))

    def unusable(self, room: RoomId) -> int:
        """How many of them have too many wildcards, and so deny nobody."""
        return sum(self._holders[rule][room] for rule in self._unusable)

    @property
    def filed(self) -> int:
        """Rules and their entries in the indexes; none once all lists are empty."""
        return len(self._holders) + len(self._globs) + sum(map(len, self._index.values()))

    @property
    def remembered(self) -> int:
        """Users whose decision is kept until the lists change."""
        return len(self._decisions)

    def denial(self, user: UserId) -> str | None:
        """The rule that denies ``user`` everything, in words for the admin; None if no list names them."""
        decision = self._decisions.get(user)
        if decision is None or not self._caught_up(decision, user):
            decision = self._decisions[user] = self._judge(user)
        self._decisions.move_to_end(user)
        if len(self._decisions) > self._max_decisions:
            self._decisions.popitem(last=False)
        if not decision.complete:
            return "policy lists: too many rules with wildcards come near this user"
        return None if decision.rule is None else self._words(decision.rule)

    def _caught_up(self, decision: _Decision, user: UserId) -> bool:
        """Bring a decision up to date where that is little work; False if it must be found anew."""
        missed = self._version - decision.version
        if missed == 0:
            return True
        if not decision.complete or missed > len(self._newest):
            return False
        if decision.rule is None:
            names = _Names.of(user)
            new = (self._newest[-number] for number in range(1, missed + 1))
            decision.rule = next((rule for rule in new if rule in self._holders and self._means(rule, names)), None)
        decision.version = self._version
        return decision.rule is None or decision.rule in self._holders

    def _means(self, rule: ListRule | None, names: _Names) -> bool:
        """Whether a rule names a user."""
        if rule is None or rule in names.exact:
            return rule is not None
        glob = self._globs.get(rule)
        return glob is not None and any(glob.matches(text) for text in names.globs[rule.kind])

    def _judge(self, user: UserId) -> _Decision:
        names = _Names.of(user)
        for rule in names.exact:
            if rule in self._holders:
                return _Decision(rule, True, self._version)
        complete = True
        for kind, texts in names.globs.items():
            for text in texts:
                found, compared = self._index[kind].find(text)
                if found is not None:
                    return _Decision(found, True, self._version)
                complete = complete and compared
        return _Decision(None, complete, self._version)

    def _hold(self, room: RoomId, rule: ListRule) -> None:
        holders = self._holders.setdefault(rule, Counter())
        holders[room] += 1
        if holders.total() > 1:
            return
        self._changed(rule)
        if "*" in rule.entity or "?" in rule.entity:
            try:
                glob = Glob(rule.entity)
            except TooManyWildcards:
                self._unusable.add(rule)
                return
            self._globs[rule] = glob
            self._index[rule.kind].add(rule, glob)

    def _release(self, room: RoomId, rule: ListRule) -> None:
        holders = self._holders[rule]
        holders[room] -= 1
        if not holders[room]:
            del holders[room]
        if holders:
            return
        del self._holders[rule]
        self._unusable.discard(rule)
        if self._globs.pop(rule, None) is not None:
            self._index[rule.kind].remove(rule)
        self._changed(None)

    def _changed(self, new: ListRule | None) -> None:
        self._version += 1
        self._newest.append(new)

    def _words(self, rule: ListRule) -> str:
        return f"policy list {next(iter(self._holders[rule]))}: {rule.kind.value} {rule.entity}"


def _folded(kind: RuleKind, entity: str) -> str:
    """Write the part that names a server in the form in which it is compared.

    That is the form of ``deny`` in the configuration: whoever runs a server can choose another port, so a rule that
    names one with its port means all of it. With wildcards nothing is known about the parts of a name. Where a
    wildcard stands for the colon, what is behind the last one belongs to the server; of what is between two nobody
    knows it, and localparts differ by case.
    """
    localpart, colon, server = ("", "", entity) if kind is RuleKind.SERVER else entity.partition(":")
    if not colon and (last := _LAST_WILDCARD.match(localpart)):
        return last[0] + localpart[last.end() :].lower()
    server = server.lower() if "*" in server or "?" in server or not server else host_of(server)
    return localpart + colon + server


def _digest(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")
