"""Policy lists: which rules count, and whom they deny."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core import policy_lists as module
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.policy_lists import DenyLists, ListRule, RuleKind, matches, parse_rule

ROOM, OTHER = RoomId("!list:example.org"), RoomId("!other:example.org")
USER, SERVER = "m.policy.rule.user", "m.policy.rule.server"
MALLORY = UserId("@mallory:evil.test")


def ban(entity: object, recommendation: object = "m.ban") -> dict[str, object]:
    return {"entity": entity, "recommendation": recommendation, "reason": "spam"}


def lists(*rules: tuple[str, str]) -> DenyLists:
    made = DenyLists()
    for number, (kind, entity) in enumerate(rules):
        made.set_rule(ROOM, (kind, str(number)), parse_rule(kind, ban(entity)))
    return made


@pytest.mark.parametrize("recommendation", ["m.ban", "org.matrix.mjolnir.ban", "m.takedown"])
@pytest.mark.parametrize("prefix", ["m.policy.rule", "m.room.rule", "org.matrix.mjolnir.rule"])
def test_bans_of_every_age_count(prefix: str, recommendation: str) -> None:
    assert parse_rule(f"{prefix}.user", ban("@a:B.test", recommendation)) == ListRule(RuleKind.USER, "@a:b.test")
    assert parse_rule(f"{prefix}.server", ban("B.test", recommendation)) == ListRule(RuleKind.SERVER, "b.test")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (USER, {}),
        (USER, ban(None)),
        (USER, ban("")),
        (USER, ban(["@a:b"])),
        (USER, ban("@" + "a" * 255)),
        (USER, ban("@a:b", "m.mute")),
        (USER, ban("@a:b", None)),
        (USER, ban("@a:b", ["m.ban"])),
        (USER, {"entity": "@a:b"}),
        ("m.policy.rule.room", ban("!a:b")),
        ("m.room.message", ban("@a:b")),
    ],
)
def test_what_is_no_ban_is_no_rule(kind: str, content: dict[str, object]) -> None:
    assert parse_rule(kind, content) is None


@pytest.mark.parametrize(
    ("kind", "entity", "user", "denied"),
    [
        (USER, "@mallory:evil.test", "@mallory:evil.test", True),
        (USER, "@mallory:EVIL.test", "@mallory:evil.test", True),
        (USER, "@mallory:evil.test", "@mallory:evil.test.org", False),
        (USER, "@mallory:evil.test", "@mallory2:evil.test", False),
        (USER, "@mal*:evil.test", "@mallory:evil.test", True),
        (USER, "@mal*:evil.test", "@normal:evil.test", False),
        (USER, "@?allory:*", "@mallory:anywhere.test", True),
        (USER, "*", "@anybody:example.org", True),
        (SERVER, "evil.test", "@mallory:evil.test", True),
        (SERVER, "EVIL.test", "@mallory:Evil.Test", True),
        (SERVER, "evil.test", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:8448", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:8448", "@mallory:evil.test", False),
        (SERVER, "evil.test", "@mallory:sub.evil.test", False),
        (SERVER, "*.evil.test", "@mallory:sub.evil.test", True),
        (SERVER, "*.evil.test", "@mallory:evil.test", False),
        (SERVER, "[2001:db8::1]", "@mallory:[2001:db8::1]:8448", True),
        # A rule about users says nothing about servers, and the other way round.
        (USER, "evil.test", "@mallory:evil.test", False),
        (SERVER, "@mallory:evil.test", "@mallory:evil.test", False),
    ],
)
def test_whom_a_rule_denies(kind: str, entity: str, user: str, denied: bool) -> None:
    verdict = lists((kind, entity)).denial(UserId(user))
    assert (verdict is not None) is denied
    if verdict is not None:
        assert str(ROOM) in verdict


def test_a_rule_is_replaced_and_taken_back_by_its_key() -> None:
    made = lists((USER, str(MALLORY)))
    assert made.denial(MALLORY)
    assert not made.set_rule(ROOM, (USER, "0"), parse_rule(USER, ban(str(MALLORY)))), "no news"
    assert made.set_rule(ROOM, (USER, "0"), parse_rule(USER, ban("@other:evil.test")))
    assert made.denial(MALLORY) is None
    assert made.set_rule(ROOM, (USER, "0"), None)
    assert not made.set_rule(ROOM, (USER, "0"), None)
    assert made.denial(UserId("@other:evil.test")) is None


def test_lists_stand_beside_each_other() -> None:
    made = lists((USER, str(MALLORY)))
    made.set_rule(OTHER, (SERVER, "0"), parse_rule(SERVER, ban("evil.test")))
    assert made.drop(ROOM)
    assert not made.drop(ROOM)
    assert str(OTHER) in (made.denial(MALLORY) or "")
    assert made.rooms() == {OTHER}
    assert made.replace(OTHER, [])
    assert made.denial(MALLORY) is None


def test_a_list_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RULES", 2)
    made = DenyLists()
    rules = [((USER, str(n)), ListRule(RuleKind.USER, f"@{n}:evil.test")) for n in range(3)]
    assert not made.replace(ROOM, rules)
    assert made.count(ROOM) == 2
    assert not made.set_rule(ROOM, (USER, "9"), rules[2][1])
    assert made.set_rule(ROOM, (USER, "0"), rules[2][1]), "in place of another"
    assert made.replace(ROOM, rules[:2])


def test_verdicts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERDICTS", 3)
    made = lists((SERVER, "evil.*"))
    for number in range(20):
        assert made.denial(UserId(f"@u{number}:evil.test"))
    assert len(made._verdicts) == 3


letters = st.text("ab:.*?\n[", max_size=12)


@given(letters, st.text("ab:.\n[", max_size=12))
def test_wildcards_mean_what_a_regular_expression_says(pattern: str, text: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    assert matches(pattern, text) == (re.fullmatch(expression, text, re.DOTALL) is not None)


def test_no_pattern_takes_long() -> None:
    """A regular expression would not end in a life time here; the steps are counted, not the seconds."""
    steps = 0

    class Counted(str):
        __slots__ = ()

        def __getitem__(self, key: object) -> str:
            nonlocal steps
            steps += 1
            return str.__getitem__(self, key)  # type: ignore[index]

    assert not matches(Counted("*a" * 120 + "b"), Counted("a" * 255))
    assert steps < 10 * 240 * 255


def hashed(name: str, field: str = "hashes") -> dict[str, object]:
    digest = base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()
    return {field: {"sha256": digest}, "recommendation": "m.takedown"}


@pytest.mark.parametrize("field", ["hashes", "org.matrix.msc4205.hashes"])
def test_a_rule_may_name_somebody_by_a_hash(field: str) -> None:
    """The example of MSC4205, and a server."""
    example = {field: {"sha256": "VPqwbUV7mMMkOVto3kPwsNXXiALMs7VCKWh3OeqqjGs="}, "recommendation": "m.takedown"}
    assert hashed("@yarrgh:example.com", field) == example
    made = DenyLists()
    made.set_rule(ROOM, (USER, "1"), parse_rule(USER, example))
    made.set_rule(ROOM, (SERVER, "1"), parse_rule(SERVER, hashed("evil.test", field)))
    for user, denied in (("@yarrgh:example.com", True), ("@other:example.com", False), ("@a:evil.test:8448", True)):
        assert (made.denial(UserId(user)) is not None) is denied, user


@pytest.mark.parametrize("hashes", [None, "x", {}, {"sha256": 5}, {"sha256": "x"}, {"md5": "x"}, {"sha256": "*" * 43}])
def test_what_is_no_hash_is_no_rule(hashes: object) -> None:
    assert parse_rule(USER, {"hashes": hashes, "recommendation": "m.ban"}) is None
