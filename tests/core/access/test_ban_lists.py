"""Policy lists: which rules count, and whom they deny."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access import ban_lists as module
from mxrtc_bridge.core.access.ban_lists import BanRules, ListRule, RuleKey, RuleKind, parse_rule
from mxrtc_bridge.core.access.policy import Policy, parse_subject
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.text.globs import GlobIndex
from tests.long import size

ROOM, OTHER = RoomId("!list:example.org"), RoomId("!other:example.org")
USER, SERVER = "m.policy.rule.user", "m.policy.rule.server"
MALLORY = UserId("@mallory:evil.test")


def ban(entity: object, recommendation: object = "m.ban") -> dict[str, object]:
    return {"entity": entity, "recommendation": recommendation, "reason": "spam"}


def lists(*rules: tuple[str, str], **limits: int) -> BanRules:
    made = BanRules(**limits)
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
        (USER, "*EVIL.TEST", "@mallory:evil.test", True),
        (USER, "@Mallory?EVIL.TEST", "@Mallory:evil.test", True),
        (USER, "@Mallory*", "@mallory:evil.test", False),
        (USER, "@*Bot*EVIL.TEST", "@MyBot1:evil.test", True),
        (SERVER, "evil.test", "@mallory:evil.test", True),
        (SERVER, "EVIL.test", "@mallory:Evil.Test", True),
        (SERVER, "evil.test", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:8448", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:8448", "@mallory:evil.test", True),
        (SERVER, "evil.test", "@mallory:evil.test.:8448", True),
        (SERVER, "evil.*", "@mallory:evil.test:8448", True),
        (SERVER, "*.test", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:*", "@mallory:evil.test:8448", True),
        (SERVER, "evil.test:*", "@mallory:evil.test", False),
        (USER, "@mallory:evil.test", "@mallory:evil.test:8448", True),
        (USER, "@mal*:evil.test", "@mallory:evil.test:8448", True),
        (USER, "@mallory:evil.test:8448", "@mallory:evil.test", True),
        (USER, "@m*l*r?:?vil.*", "@mallory:EVIL.test", True),
        (USER, "@17:evil.test", "@17:evil.test", True),
        (SERVER, "evil.test", "@17:evil.test", True),
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


HOSTS = ["evil.test", "EVIL.test", "evil.test.", "192.0.2.1", "[::ffff:192.0.2.1]", "[2001:db8::1]", "[2001:DB8:0::1]"]
SERVERS = [f"{host}{port}" for host in HOSTS for port in ("", ":8448", ":1")]


@pytest.mark.parametrize("named", SERVERS)
def test_a_rule_without_wildcards_denies_whom_the_configuration_would_deny(named: str) -> None:
    whole = Policy(deny=[parse_subject(f"server:{named}")])
    one = Policy(deny=[parse_subject(f"@mallory:{named}")])
    for user in [UserId(f"@mallory:{server}") for server in SERVERS]:
        assert (lists((SERVER, named)).denial(user) is not None) is (whole.denial(user) is not None)
        assert (lists((USER, f"@mallory:{named}")).denial(user) is not None) is (one.denial(user) is not None)


def test_a_list_says_whether_it_has_a_rule_without_going_through_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lists(*((SERVER, f"s{n}.test") for n in range(100)))
    monkeypatch.setattr(BanRules, "rules", None)
    (room,) = made.rooms()
    there, elsewhere = ListRule(RuleKind.SERVER, "s7.test"), ListRule(RuleKind.SERVER, "other.test")
    assert made.has(room, there)
    assert not made.has(room, elsewhere)
    assert not made.has(RoomId("!another:x.test"), there)


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


def test_a_list_has_a_limit() -> None:
    made = BanRules(max_rules=2)
    rules = [((USER, str(n)), ListRule(RuleKind.USER, f"@{n}:evil.test")) for n in range(3)]
    assert not made.replace(ROOM, rules)
    assert made.count(ROOM) == 2
    assert not made.set_rule(ROOM, (USER, "9"), rules[2][1])
    assert made.set_rule(ROOM, (USER, "0"), rules[2][1]), "in place of another"
    assert made.replace(ROOM, rules[:2])


def test_decisions_are_bounded() -> None:
    made = lists((SERVER, "evil.*"), max_decisions=3)
    for number in range(20):
        assert made.denial(UserId(f"@u{number}:evil.test"))
    assert made.remembered == 3


def hashed(name: str, field: str = "hashes") -> dict[str, object]:
    digest = base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()
    return {field: {"sha256": digest}, "recommendation": "m.takedown"}


@pytest.mark.parametrize("field", ["hashes", "org.matrix.msc4205.hashes"])
def test_a_rule_may_name_somebody_by_a_hash(field: str) -> None:
    """The example of MSC4205, and a server."""
    example = {field: {"sha256": "VPqwbUV7mMMkOVto3kPwsNXXiALMs7VCKWh3OeqqjGs="}, "recommendation": "m.takedown"}
    assert hashed("@yarrgh:example.com", field) == example
    made = BanRules()
    made.set_rule(ROOM, (USER, "1"), parse_rule(USER, example))
    made.set_rule(ROOM, (SERVER, "1"), parse_rule(SERVER, hashed("evil.test", field)))
    for user, denied in (("@yarrgh:example.com", True), ("@other:example.com", False), ("@a:evil.test:8448", True)):
        assert (made.denial(UserId(user)) is not None) is denied, user


@pytest.mark.parametrize("hashes", [None, "x", {}, {"sha256": 5}, {"sha256": "x"}, {"md5": "x"}, {"sha256": "*" * 43}])
def test_what_is_no_hash_is_no_rule(hashes: object) -> None:
    assert parse_rule(USER, {"hashes": hashes, "recommendation": "m.ban"}) is None


# -- rules come and go -----------------------------------------------------------------------------------------------

ENTITIES = st.sampled_from(
    [
        "@a:b.test",
        "@a:b.test:1",
        "@*:b.test",
        "@?:*",
        "*",
        "@a*b:*.test",
        "@b:*",
        "?*?",
        "b.test",
        "*.test",
        "b.?est",
        "c.*",
    ]
)
PEOPLE = [
    UserId(f"@{local}:{server}") for local in ("a", "b", "ab", "acb") for server in ("b.test", "B.test:1", "c.org")
]


def names(rule: ListRule, user: UserId) -> bool:
    """The reference: whether a rule means a user."""
    local, server = user.lower().split(":", 1)
    servers = {server, server.partition(":")[0]}
    texts = servers if rule.kind is RuleKind.SERVER else {f"{local}:{each}" for each in servers}
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in rule.entity)
    return any(re.fullmatch(expression, text) for text in texts)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ROOM, OTHER]),
            st.integers(0, 3),
            st.sampled_from([USER, SERVER]),
            st.one_of(st.none(), ENTITIES),
            st.sampled_from(PEOPLE),
        ),
        max_size=60,
    )
)
def test_lists_agree_with_a_walk_over_all_rules_after_every_change(
    steps: list[tuple[RoomId, int, str, str | None, UserId]],
) -> None:
    made = BanRules()
    held: dict[tuple[RoomId, RuleKey], ListRule] = {}
    for room, number, kind, entity, asked in steps:
        key = (kind, str(number))
        rule = None if entity is None else parse_rule(kind, ban(entity))
        changed = made.set_rule(room, key, rule)
        assert changed == (held.get((room, key)) != rule)
        held.pop((room, key), None)
        if rule is not None:
            held[room, key] = rule
        for user in (asked, PEOPLE[0]):
            verdict = made.denial(user)
            assert (verdict is not None) == any(names(each, user) for each in held.values())
            if verdict is not None:
                assert any(verdict == f"policy list {at}: {r.kind.value} {r.entity}" for (at, _), r in held.items())
    for room in (ROOM, OTHER):
        made.replace(room, ())
    assert [made.denial(user) for user in PEOPLE] == [None] * len(PEOPLE)
    assert made.filed == 0


def test_a_kept_decision_catches_up_with_any_number_of_changes() -> None:
    made = lists((USER, "@x*:evil.test"))
    assert made.denial(MALLORY) is None
    for number in range(module.MAX_CAUGHT_UP * 3):
        made.set_rule(ROOM, (USER, f"n{number}"), parse_rule(USER, ban(f"@{number}*:evil.test")))
    made.set_rule(ROOM, (USER, "m"), parse_rule(USER, ban("@mal*:evil.test")))
    for number in range(module.MAX_CAUGHT_UP * 2):
        made.set_rule(ROOM, (USER, f"n{number}"), None)
    assert made.denial(MALLORY)
    made.set_rule(ROOM, (USER, "m"), None)
    assert made.denial(MALLORY) is None


def test_a_rule_with_too_many_wildcards_is_counted_and_not_used() -> None:
    made = lists((USER, "*a" * 17), (USER, "*a" * 16), (USER, "@*" * 120))
    assert made.unusable(ROOM) == 2
    assert made.denial(UserId("@" + "a" * 17 + ":b")) is None
    made.set_rule(ROOM, (USER, "0"), None)
    assert made.unusable(ROOM) == 1
    assert made.drop(ROOM)
    assert made.unusable(ROOM) == 0


def test_who_comes_near_more_rules_than_can_be_compared_is_denied() -> None:
    """Only authors of lists can bring that about, and they could deny that user anyway."""
    made = BanRules()
    every = [f"*{'a' * (n % 140 + 1)}*{'a' * (n // 140 + 1)}*b*" for n in range(size(20_000, 5_000))]
    made.replace(ROOM, [((USER, str(n)), ListRule(RuleKind.USER, entity)) for n, entity in enumerate(every)])
    assert made.denial(UserId("@" + "a" * 200 + ":example.org")) == (
        "policy lists: too many rules with wildcards come near this user"
    )
    made.replace(ROOM, ())
    assert made.denial(UserId("@" + "a" * 200 + ":example.org")) is None


def test_one_rule_of_many_is_changed_without_touching_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are counted, not the seconds: each rule that is filed anew is one."""
    rules = [((USER, str(n)), ListRule(RuleKind.USER, f"@spam{n}*:*")) for n in range(5000)]
    made = BanRules()
    made.replace(ROOM, rules)
    users = [UserId(f"@u{n}:example.org") for n in range(100)]
    assert not any(map(made.denial, users))
    filed: list[ListRule] = []
    add = GlobIndex.add
    monkeypatch.setattr(GlobIndex, "add", lambda *args: (filed.append(args[1]), add(*args)))
    searched: list[str] = []
    find = GlobIndex.find
    monkeypatch.setattr(GlobIndex, "find", lambda *args: (searched.append(args[1]), find(*args))[1])
    changed = ListRule(RuleKind.USER, "@u7:*")
    made.set_rule(ROOM, (USER, "3"), changed)
    made.replace(ROOM, [*rules[:3], ((USER, "3"), changed), *rules[4:]])
    assert filed == [changed]
    assert [user for user in users if made.denial(user)] == [users[7]]
    assert searched == []
