"""Who may use what, by everything together: the configuration, given grants, members of rooms, policy lists.

A table to read, and the same against a short evaluator that walks over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.bridge.access.configured_rooms import named_rooms
from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.audit.events import MAX_DENIED, ServiceAudit
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.access.grants import Claimant, GrantTable, StoredGrant
from mxrtc_bridge.core.access.policy import Allow, Deny, Service, Subject, parse_subject
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind
from tests.config.samples import GOOD, load
from tests.fakes import FakeClock, Records
from tests.long import examples

NOW = 1_700_000_000_000
ADMIN = UserId("@admin:example.org")
ALICE, BOB, ZOE = UserId("@alice:example.org"), UserId("@bob:partner.test"), UserId("@zoe:example.org")
GUEST = UserId("@17:example.org")
USERS = (ALICE, BOB, ZOE, GUEST)
TEAM, OTHER = RoomId("!team:example.org"), RoomId("!other:example.org")
PEER = UserId("@rtc_build:example.org")
BOT = UserId("@rtcbot:example.org")
SERVICES = tuple(ServiceName(name) for name in ("ssh", "web", "db"))


@dataclass
class Given:
    """What people have given."""

    table: GrantTable
    end_s: float | None = None

    def next_end_s(self) -> float | None:
        return self.end_s

    def claimed(self, grant: StoredGrant, claimant: Claimant) -> None:
        self.table.claim(grant, claimant)

    async def claim_written(self, claimant: Claimant) -> bool:
        return bool(self.table.claimed_by(claimant))


@dataclass
class Rooms:
    """Who is in rooms, and whom policy lists deny."""

    joined: dict[UserId, frozenset[RoomId]] = field(default_factory=dict)
    listed: Callable[[UserId], str | None] = lambda _user: None
    unsure: tuple[RoomId, ...] = ()
    asked: list[tuple[RoomId, ...]] = field(default_factory=list)

    def rooms_of(self, user: UserId) -> frozenset[RoomId]:
        return self.joined.get(user, frozenset())

    async def confirm(self, rooms: Collection[RoomId]) -> bool:
        """No homeserver answers: only what needs none is known."""
        self.asked.append(tuple(rooms))
        return not rooms

    def doubtful(self) -> tuple[RoomId, ...]:
        return self.unsure

    def denial(self, user: UserId) -> str | None:
        return self.listed(user)


def config(
    grants: list[tuple[str, str]] = [],  # noqa: B006 - never changed
    grantable: dict[str, list[str]] = {},  # noqa: B006
    deny: list[str] = [],  # noqa: B006
    admins: tuple[str, ...] = (str(ADMIN),),
    shown: tuple[str, ...] = (),
    admin_room: str | None = "!admins:example.org",
) -> Config:
    services = {
        name: {"target": f"tcp:127.0.0.1:{port}", "grantable_to": grantable.get(name, []), "listed": name in shown}
        for port, name in enumerate(SERVICES, 1)
    }
    return load(
        {
            **GOOD,
            "peers": {"build": {"services": services}},
            "groups": {},
            "tests": [],
            "grants": [
                {
                    "id": f"g{number}",
                    "from": [subject],
                    "to": [f"build/{service}"],
                    **({"acknowledge": "open-to-federation"} if subject == "*" else {}),
                }
                for number, (subject, service) in enumerate(grants)
            ],
            "deny": deny,
            "admins": list(admins),
            "rooms": {"admin": admin_room},
        }
    )


def test_kind_of_a_service_is_that_of_its_target() -> None:
    directions = {"in": "receive", "out": "send", "box": "both"}
    services: dict[str, object] = {
        name: {"files": {"dir": f"/srv/{name}", "direction": direction}} for name, direction in directions.items()
    }
    services |= {"ssh": {"target": "tcp:127.0.0.1:22"}, "log": {"target": "append:/var/log/x"}}
    each = rights(load({**GOOD, "peers": {"build": {"services": services}}, "groups": {}, "tests": [], "grants": []}))
    kinds = {name: each.kind(PEER, ServiceName(name)) for name in (*services, "none")}
    assert kinds == {
        "in": ServiceKind.INBOX,
        "out": ServiceKind.SHARE,
        "box": ServiceKind.FILES,
        "ssh": ServiceKind.STREAM,
        "log": ServiceKind.STREAM,
        "none": None,
    }


def until_config(until_ms: int) -> Config:
    until = datetime.fromtimestamp(until_ms / 1000, UTC).isoformat()
    grant = {"id": "ends", "from": [str(ALICE)], "to": ["build/ssh"], "until": until}
    return load({**GOOD, "groups": {}, "grants": [grant]})


def rights(
    made: Config,
    given: list[StoredGrant] = [],  # noqa: B006
    rooms: dict[UserId, frozenset[RoomId]] = {},  # noqa: B006
    listed: frozenset[UserId] = frozenset(),
) -> Rights:
    table = GrantTable()
    for grant in given:
        table.add(grant)
    each = Rooms(rooms, lambda user: f"policy list: {user}" if user in listed else None)
    return Rights(CurrentConfig(made), each, Given(table), FakeClock(wall_ms=NOW))


def by_clock(config: CurrentConfig, clock: FakeClock) -> Rights:
    return Rights(config, Rooms(), Given(GrantTable()), clock)


def stored(number: int, subject: str, service: str = "ssh", until_ms: int = NOW + 1, once: bool = False) -> StoredGrant:
    return StoredGrant(
        number, parse_subject(subject), Service(PEER, ServiceName(service)), ADMIN, NOW - 1, until_ms, "", once
    )


CASES: list[tuple[str, dict[str, object], UserId, str | None]] = [
    # what the case shows, the world, user, the rule that lets them use ssh
    ("nothing is allowed by itself", {}, ALICE, None),
    ("a grant of the configuration", {"grants": [("@alice:example.org", "ssh")]}, ALICE, "g0"),
    ("nobody else", {"grants": [("@alice:example.org", "ssh")]}, ZOE, None),
    (
        "a given grant",
        {"grantable": ["@alice:example.org"], "given": [stored(1, "@alice:example.org")]},
        ALICE,
        "given 1",
    ),
    (
        "not beyond grantable_to",
        {"grantable": ["@zoe:example.org"], "given": [stored(1, "@alice:example.org")]},
        ALICE,
        None,
    ),
    ("nor without one", {"given": [stored(1, "@alice:example.org")]}, ALICE, None),
    ("not after its end", {"grantable": ["*"], "given": [stored(1, "@alice:example.org", until_ms=NOW)]}, ALICE, None),
    ("not for another service", {"grantable": ["*"], "given": [stored(1, "@alice:example.org", "web")]}, ALICE, None),
    (
        "given to a server",
        {"grantable": ["server:partner.test"], "given": [stored(1, "server:partner.test")]},
        BOB,
        "given 1",
    ),
    (
        "a server, as far as it is grantable",
        {"grantable": ["@bob:partner.test"], "given": [stored(1, "server:partner.test")]},
        BOB,
        "given 1",
    ),
    ("a room in the configuration", {"grants": [(f"room:{TEAM}", "ssh")], "rooms": {BOB: [TEAM]}}, BOB, "g0"),
    ("who is not in it", {"grants": [(f"room:{TEAM}", "ssh")], "rooms": {BOB: [OTHER]}}, BOB, None),
    (
        "given to a room",
        {"grantable": [f"room:{TEAM}"], "given": [stored(1, f"room:{TEAM}")], "rooms": {BOB: [TEAM]}},
        BOB,
        "given 1",
    ),
    (
        "given to a member who has left",
        {"grantable": [f"room:{TEAM}"], "given": [stored(1, "@bob:partner.test")]},
        BOB,
        None,
    ),
    (
        "given to a member",
        {"grantable": [f"room:{TEAM}"], "given": [stored(1, "@bob:partner.test")], "rooms": {BOB: [TEAM]}},
        BOB,
        "given 1",
    ),
    ("deny comes first", {"grants": [("*", "ssh")], "deny": ["server:partner.test"]}, BOB, None),
    (
        "before what is given too",
        {"grantable": ["*"], "given": [stored(1, "@bob:partner.test")], "deny": ["@bob:partner.test"]},
        BOB,
        None,
    ),
    ("and so does a policy list", {"grants": [("*", "ssh")], "listed": {BOB}}, BOB, None),
    ("which denies nobody else", {"grants": [("*", "ssh")], "listed": {BOB}}, ALICE, "g0"),
    ("an admin uses nothing by being one", {}, ADMIN, None),
    (
        "a guest account is no user of the server",
        {"grants": [("server:example.org", "ssh"), ("*", "ssh")]},
        GUEST,
        None,
    ),
    ("but a guest account of it", {"grants": [("guest-accounts:example.org", "ssh")]}, GUEST, "g0"),
    ("a user is none", {"grants": [("guest-accounts:example.org", "ssh")]}, ALICE, None),
    (
        "a guest in a room that a grant names",
        {"grants": [(f"room:{TEAM}", "ssh")], "rooms": {GUEST: [TEAM]}},
        GUEST,
        "g0",
    ),
    (
        "what a room was given is no guest's where guests may not be given it",
        {"grantable": ["*"], "given": [stored(1, f"room:{TEAM}")], "rooms": {GUEST: [TEAM]}},
        GUEST,
        None,
    ),
    (
        "nor what a guest was given by name",
        {"grantable": ["*", "server:example.org"], "given": [stored(1, str(GUEST))]},
        GUEST,
        None,
    ),
    (
        "given to guest accounts",
        {"grantable": ["guest-accounts:example.org"], "given": [stored(1, "guest-accounts:example.org")]},
        GUEST,
        "given 1",
    ),
    (
        "given to a server, where both are grantable",
        {"grantable": ["guest-accounts:example.org", "server:example.org"], "given": [stored(1, "server:example.org")]},
        GUEST,
        None,
    ),
    (
        "a denied server means its guests",
        {"grants": [("guest-accounts:example.org", "ssh")], "deny": ["server:example.org:8448"]},
        GUEST,
        None,
    ),
    (
        "the configuration's grant is named first",
        {"grants": [("*", "ssh")], "grantable": ["*"], "given": [stored(1, "@zoe:example.org")]},
        ZOE,
        "g0",
    ),
]


@pytest.mark.parametrize(("world", "user", "rule"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_access_is_decided_as_in_the_table(world: dict[str, object], user: UserId, rule: str | None) -> None:
    each = rights(
        config(world.get("grants", []), {"ssh": world.get("grantable", [])}, world.get("deny", [])),  # type: ignore[arg-type,dict-item]
        world.get("given", []),  # type: ignore[arg-type]
        {user: frozenset(rooms) for user, rooms in world.get("rooms", {}).items()},  # type: ignore[attr-defined]
        frozenset(world.get("listed", ())),  # type: ignore[call-overload]
    )
    decision, _ = each.decide(user, PEER, SERVICES[0])
    assert (decision.rule if isinstance(decision, Allow) else None) == rule
    assert isinstance(each.may_call(user, PEER), Allow) is (rule is not None)
    assert (each.grant(user, PEER, SERVICES[0]) is not None) is (rule is not None)
    assert dict(each.listing(user, PEER))[PEER] == (SERVICES[:1] if rule else ())


def test_admins_talk_to_the_bot_even_where_a_policy_list_names_them() -> None:
    each = rights(config(), listed=frozenset({ADMIN, ALICE}))
    assert (each.is_admin(ADMIN), each.is_admin(ALICE)) == (True, False)
    assert each.may_call(ADMIN, BOT) == Allow("admin")
    assert isinstance(each.may_call(ALICE, BOT), Deny)
    assert not rights(config(deny=["server:example.org"])).is_admin(ADMIN)


@pytest.mark.parametrize("written", ["@admin:Example.ORG", "@admin:example.org"])
@pytest.mark.parametrize("sender", ["@admin:example.org", "@admin:EXAMPLE.org"])
def test_an_admin_is_known_however_the_server_is_written(written: str, sender: str) -> None:
    each = rights(config(admins=(written,)))
    assert each.is_admin(UserId(sender))
    assert not each.is_admin(UserId("@Admin:example.org"))
    assert not each.is_admin(UserId("@admin:example.org:8448"))


def test_only_what_could_be_given_may_be_asked_for() -> None:
    each = rights(config(grantable={"ssh": ["@alice:example.org", f"room:{TEAM}"]}), rooms={BOB: frozenset({TEAM})})
    assert [each.may_ask(user, PEER, SERVICES[0]) for user in USERS] == [True, True, False, False]
    assert [each.could_ask_for_anything(user) for user in USERS] == [True, True, False, False]
    assert not each.may_ask(ALICE, PEER, SERVICES[1])
    assert not each.may_ask(ALICE, UserId("@rtc_other:example.org"), SERVICES[0])
    each = rights(config(grantable={"ssh": ["@alice:example.org"]}), listed=frozenset({ALICE}))
    assert not each.may_ask(ALICE, PEER, SERVICES[0])
    assert not each.could_ask_for_anything(ALICE)


def test_who_may_ask_is_shown_what_is_listed_and_nobody_else_is() -> None:
    may_ask = {name: ["@alice:example.org", f"room:{TEAM}"] for name in SERVICES}
    team = {BOB: frozenset({TEAM})}
    each = rights(config(grantable=may_ask, shown=SERVICES[:1]), rooms=team)
    assert [each.to_ask_for(user) for user in USERS] == [[(PEER, SERVICES[:1])]] * 2 + [[], []]
    each = rights(config([(ALICE, SERVICES[0])], grantable=may_ask, shown=SERVICES), rooms=team)
    assert [each.to_ask_for(user) for user in USERS[:2]] == [
        [(PEER, tuple(sorted(SERVICES[1:])))],  # besides what she has
        [(PEER, tuple(sorted(SERVICES)))],
    ]
    each = rights(config(grantable={"ssh": ["@alice:example.org"], "db": ["@bob:partner.test"]}, shown=SERVICES))
    assert [dict(each.to_ask_for(user)) for user in USERS[:2]] == [{PEER: ("ssh",)}, {PEER: ("db",)}]
    assert rights(config(grantable=may_ask, shown=SERVICES), listed=frozenset({ALICE})).to_ask_for(ALICE) == []
    assert rights(config(grantable=may_ask, shown=SERVICES, admin_room=None)).to_ask_for(ALICE) == []
    assert rights(config(shown=SERVICES)).to_ask_for(ALICE) == []


def test_a_grant_for_one_session_belongs_to_the_first_that_uses_it() -> None:
    each = rights(config(grantable={"ssh": ["*"]}), [stored(1, "@alice:example.org", once=True)])
    first, second = (each.gate(PEER, ALICE, ServiceAudit(Records(), lambda: NOW, ALICE, PEER)) for _ in range(2))
    assert first.open(SERVICES[0]) is not None
    assert second.open(SERVICES[0]) is None
    assert first.open(SERVICES[0]) is not None, "as often as it likes"


async def test_what_is_used_and_what_is_denied_is_written_down_each_denial_once() -> None:
    records = Records()
    each = rights(config([("@alice:example.org", "ssh")]))
    gate = each.gate(PEER, ALICE, ServiceAudit(records, lambda: NOW, ALICE, PEER))
    grant = gate.open(SERVICES[0])
    assert grant is not None
    assert await gate.recorded(SERVICES[0], grant.rule)
    assert await gate.recorded(SERVICES[0], grant.rule)
    records.durable = False
    assert not await gate.recorded(SERVICES[0], grant.rule), "nor may it be used again while nothing can be written"
    for _ in range(3):
        gate.refused(SERVICES[1])
        gate.refused(SERVICES[0])
    for number in range(100):
        gate.refused(ServiceName(f"guess{number}"))
    found = [(record.service, record.allowed, record.rule) for record in records.all]
    assert found[:3] == [
        ("ssh", True, "g0"),
        ("web", False, "no grant"),
        ("ssh", False, "not in this way"),
    ]
    assert len(found) == 1 + MAX_DENIED + 1
    assert found[-1] == (None, False, f"and more than {MAX_DENIED} others")


async def test_uses_of_one_session_are_a_record_for_each_service_and_one_with_their_number() -> None:
    records = Records()
    services = ServiceAudit(records, lambda: NOW, ALICE, PEER)
    for _ in range(5000):
        assert await services.used(SERVICES[0], "g0")
    assert await services.used(SERVICES[1], "g1")
    services.ended()
    services.ended()
    assert [(record.service, record.rule, record.count) for record in records.all] == [
        ("ssh", "g0", None),
        ("web", "g1", None),
        ("ssh", "g0", 5000),
    ]


async def test_a_use_that_was_not_written_down_is_not_counted_and_is_written_down_again() -> None:
    records = Records()
    services = ServiceAudit(records, lambda: NOW, ALICE, PEER)
    records.durable = False
    assert not await services.used(SERVICES[0], "g0")
    records.durable = True
    assert await services.used(SERVICES[0], "g0")
    services.ended()
    assert len(records.all) == 2


def test_rooms_that_any_rule_names_are_followed() -> None:
    one, two, three = (RoomId(f"!{name}:example.org") for name in ("one", "two", "three"))
    table = GrantTable()
    table.add(stored(1, f"room:{three}"))
    table.add(stored(2, str(ALICE)))
    current = CurrentConfig(config([(f"room:{one}", "web")], {"ssh": [f"room:{two}"]}))
    assert named_rooms(current, table) == {one, two, three}
    current.put_in_force(config())
    assert named_rooms(current, table) == {three}


def test_the_next_change_is_the_first_end_of_any_grant() -> None:
    each = rights(until_config(NOW + 30_000))
    assert each.next_change_s() == 30
    given = Given(GrantTable(), 20.0)
    current = CurrentConfig(until_config(NOW + 30_000))
    each = Rights(current, Rooms(), given, FakeClock(wall_ms=NOW))
    assert each.next_change_s() == 20
    assert rights(config()).next_change_s() is None


def test_a_clock_that_is_set_ends_a_right_of_the_configuration_early_and_never_late() -> None:
    wall, elapsed = [NOW], [0]
    current = CurrentConfig(until_config(NOW + 60_000))
    clock = SimpleNamespace(wall_ms=lambda: wall[0], elapsed_ms=lambda: elapsed[0])
    each = Rights(current, Rooms(), Given(GrantTable()), clock)
    may = lambda: isinstance(each.may_call(ALICE, PEER), Allow)  # noqa: E731
    wall[0], elapsed[0] = NOW - 3_600_000, 59_000
    assert may()
    assert each.next_change_s() == 1
    elapsed[0] = 60_000
    assert not may(), "an hour back, but a minute has passed"
    assert each.expiries(ALICE, PEER) == {}
    assert each.next_change_s() is None
    current.put_in_force(until_config(NOW + 70_000))
    assert may(), "the admin has written down a later end"
    wall[0] = NOW + 70_000
    assert not may(), "set forward"


def test_a_reload_after_the_clock_was_set_back_brings_no_right_back() -> None:
    clock = FakeClock(wall_ms=NOW)
    current = CurrentConfig(until_config(NOW + 60_000))
    each = by_clock(current, clock)
    clock.sleep(61)
    clock.set_by(-3600)
    for _ in range(2):
        current.put_in_force(until_config(NOW + 60_000))
        assert isinstance(each.may_call(ALICE, PEER), Deny)
        assert each.next_change_s() is None
    current.put_in_force(until_config(NOW + 62_000))
    assert each.next_change_s() == 1
    clock.sleep(1)
    assert isinstance(each.may_call(ALICE, PEER), Deny), "no later either, by what was counted before the reload"


@pytest.mark.parametrize(
    "happens",
    [
        lambda clock: clock.advance(60),
        lambda clock: clock.sleep(60),
        lambda clock: (clock.set_by(-3600), clock.advance(60)),
        lambda clock: (clock.sleep(30), clock.set_by(-3600), clock.advance(30)),
        lambda clock: (clock.set_by(3600), clock.set_by(-7200), clock.sleep(60)),
        lambda clock: clock.set_by(60),
    ],
    ids=["passes", "slept", "set back", "slept and set back", "set forward and back", "set forward"],
)
def test_right_ends_no_later_than_it_says_whatever_the_clock_says(happens: Callable[[FakeClock], object]) -> None:
    clock = FakeClock(wall_ms=NOW)
    each = by_clock(CurrentConfig(until_config(NOW + 60_000)), clock)
    assert isinstance(each.may_call(ALICE, PEER), Allow)
    happens(clock)
    assert isinstance(each.may_call(ALICE, PEER), Deny)


def test_a_user_without_a_right_costs_no_look_at_the_policy_lists() -> None:
    """Anybody can invent user ids, and a list may be long."""
    asked: list[UserId] = []
    current = CurrentConfig(config([("@alice:example.org", "ssh")], {"web": ["@bob:partner.test"]}))
    rooms = Rooms(listed=asked.append)  # type: ignore[arg-type]
    each = Rights(current, rooms, Given(GrantTable()), FakeClock(wall_ms=NOW))
    stranger, ssh = UserId("@stranger:elsewhere.test"), ServiceName("ssh")
    assert each.may_call(stranger, PEER) == each.may_call(stranger, BOT) == Deny("no grant")
    assert each.decide(stranger, PEER, ssh) == (Deny("no grant"), None)
    assert each.grant(stranger, PEER, ssh) is None
    assert each.listing(stranger, BOT) == each.given_to(stranger) == []
    assert not each.may_ask(stranger, PEER, ssh)
    assert not each.could_ask_for_anything(stranger)
    assert asked == []
    assert isinstance(each.may_call(ALICE, PEER), Allow)
    assert each.may_ask(BOB, PEER, ServiceName("web"))
    assert asked == [ALICE, BOB]


# -- against a reference evaluator that walks everything -------------------------------------------------------------

SUBJECTS = [
    "*",
    "server:example.org",
    "server:partner.test",
    "guest-accounts:example.org",
    *map(str, USERS),
    f"room:{TEAM}",
    f"room:{OTHER}",
]
DENIABLE = [subject for subject in SUBJECTS if not subject.startswith("room:") and subject != str(ADMIN)]
GIVEN = [subject for subject in SUBJECTS if subject != "*"]
names = st.sampled_from([str(name) for name in SERVICES])


def fits(subject: str, user: UserId, rooms: frozenset[RoomId]) -> bool:
    """Whether it may be given to the user by this subject."""
    wide = {"guest-accounts:example.org"} if user == GUEST else {"*", "server:" + user.partition(":")[2]}
    return subject in {str(user), *wide, *(f"room:{room}" for room in rooms)}


def denies(subject: str, user: UserId) -> bool:
    """Whether a denial of the subject means the user: a server's guests are denied with it."""
    return fits(subject, user, frozenset()) or subject in {"*", "server:" + user.partition(":")[2]}


@settings(max_examples=examples(150), deadline=None)
@given(
    grants=st.lists(st.tuples(st.sampled_from(SUBJECTS), names), max_size=4),
    grantable=st.dictionaries(names, st.lists(st.sampled_from(SUBJECTS), max_size=2)),
    deny=st.lists(st.sampled_from(DENIABLE), max_size=1),
    given_rows=st.lists(st.tuples(st.sampled_from(GIVEN), names, st.sampled_from([NOW, NOW + 1])), max_size=5),
    rooms=st.dictionaries(st.sampled_from(USERS), st.frozensets(st.sampled_from([TEAM, OTHER]))),
    listed=st.frozensets(st.sampled_from(USERS), max_size=1),
)
def test_rights_agree_with_the_reference(
    grants: list[tuple[str, str]],
    grantable: dict[str, list[str]],
    deny: list[str],
    given_rows: list[tuple[str, str, int]],
    rooms: dict[UserId, frozenset[RoomId]],
    listed: frozenset[UserId],
) -> None:
    given = [stored(number, subject, name, until) for number, (subject, name, until) in enumerate(given_rows, 1)]
    each = rights(config(grants, grantable, deny), given, rooms, listed)
    for user in USERS:
        joined = rooms.get(user, frozenset())

        def may(name: str, user: UserId = user, joined: frozenset[RoomId] = joined) -> bool:
            if user in listed or any(denies(subject, user) for subject in deny):
                return False
            if any(fits(subject, user, joined) for subject, service in grants if service == name):
                return True
            return any(fits(subject, user, joined) for subject in grantable.get(name, [])) and any(
                fits(subject, user, joined) for subject, service, until in given_rows if service == name and until > NOW
            )

        wanted = [name for name in SERVICES if may(name)]
        assert [name for name in SERVICES if isinstance(each.decide(user, PEER, name)[0], Allow)] == wanted
        assert sorted(dict(each.listing(user, PEER))[PEER]) == sorted(wanted)
        assert isinstance(each.may_call(user, PEER), Allow) is bool(wanted)


def test_subjects_of_the_reference_are_those_of_the_program() -> None:
    parsed: list[Subject] = [parse_subject(subject) for subject in SUBJECTS]
    assert [str(subject) for subject in parsed] == SUBJECTS


@pytest.mark.parametrize(
    ("user", "grants", "doubtful", "asked", "confirmed"),
    [
        (ALICE, [(f"room:{TEAM}", "ssh")], (), [(), (TEAM,)], False),
        (ALICE, [(f"room:{TEAM}", "ssh"), (str(ALICE), "web")], (), [], True),
        (BOB, [(f"room:{TEAM}", "ssh")], (), [(), ()], True),
        (BOB, [(f"room:{TEAM}", "ssh")], (TEAM,), [(TEAM,), ()], True),
        (ZOE, [(f"room:{TEAM}", "ssh")], (TEAM,), [], True),
    ],
    ids=["by a room", "by a room and by name", "stranger", "perhaps joined just now", "denied"],
)
async def test_only_who_is_let_in_by_a_room_alone_is_confirmed(
    user: UserId,
    grants: list[tuple[str, str]],
    doubtful: tuple[RoomId, ...],
    asked: list[tuple[RoomId, ...]],
    confirmed: bool,
) -> None:
    rooms = Rooms({ALICE: frozenset({TEAM})}, unsure=doubtful)
    current = CurrentConfig(config(grants, deny=[str(ZOE)]))
    each = Rights(current, rooms, Given(GrantTable()), FakeClock(wall_ms=NOW))
    assert await each.confirm(user, PEER) is confirmed
    assert rooms.asked == asked
