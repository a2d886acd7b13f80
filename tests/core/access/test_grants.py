"""Given grants: found in a few look-ups, never worth more than the configuration says, over at their time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.grants import GrantTable, StoredGrant, may_be_given
from mxrtc_bridge.core.access.policy import Service, parse_subject
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId

ALICE, BOB, ADMIN = (UserId(f"@{name}:example.org") for name in ("alice", "bob", "admin"))
ROOM = RoomId("!room:example.org")
PEER = UserId("@rtc_build:example.org")
SSH, WEB = Service(PEER, ServiceName("ssh")), Service(PEER, ServiceName("web"))


def stored(
    number: int, subject: str, service: Service = SSH, until_ms: int = 100, *, once: bool = False
) -> StoredGrant:
    return StoredGrant(number, parse_subject(subject), service, ADMIN, 0, until_ms, "because", once)


def table(*grants: StoredGrant) -> GrantTable:
    made = GrantTable()
    for grant in grants:
        made.add(grant)
    return made


def numbers(
    made: GrantTable, user: UserId = ALICE, now_ms: int = 0, rooms: tuple[RoomId, ...] = (), **more: object
) -> set[int]:
    covers = more.pop("covers", lambda _: True)
    return {g.number for g in made.matching(user, rooms, now_ms, covers, **more)}  # type: ignore[arg-type]


def test_a_user_a_server_and_the_members_of_a_room_are_found() -> None:
    made = table(stored(1, "@alice:example.org"), stored(2, "server:example.org"), stored(3, f"room:{ROOM}"))
    assert numbers(made) == {1, 2}
    assert numbers(made, rooms=(ROOM,)) == {1, 2, 3}
    assert numbers(made, BOB) == {2}
    assert numbers(made, UserId("@alice:other.test")) == set()
    assert made.rooms() == {ROOM}


def test_a_grant_counts_until_its_time_and_not_at_it() -> None:
    made = table(stored(1, "@alice:example.org", until_ms=50), stored(2, "@alice:example.org", until_ms=70))
    assert (numbers(made, now_ms=49), numbers(made, now_ms=50), numbers(made, now_ms=70)) == ({2}, {2}, set())
    assert numbers(table(stored(1, "@alice:example.org", until_ms=50)), now_ms=49) == {1}


def test_what_the_configuration_does_not_cover_counts_for_nothing() -> None:
    made = table(stored(1, "@alice:example.org", SSH), stored(2, "@alice:example.org", WEB))
    assert numbers(made, covers=lambda service: service == WEB) == {2}


def test_a_grant_that_was_taken_back_is_gone_from_everywhere() -> None:
    made = table(stored(1, f"room:{ROOM}"), stored(2, "@alice:example.org"))
    assert made.remove(1) == stored(1, f"room:{ROOM}")
    assert made.remove(1) is None
    assert (made.rooms(), numbers(made, rooms=(ROOM,)), made.get(1), len(made)) == (frozenset(), {2}, None, 1)
    assert made.of_subject(parse_subject("@alice:example.org")) == (stored(2, "@alice:example.org"),)
    assert made.of_subject(parse_subject(f"room:{ROOM}")) == ()


def test_a_grant_for_one_session_is_of_no_use_to_another_one() -> None:
    made = table(grant := stored(1, "@alice:example.org", once=True))
    first, second = object(), object()
    assert numbers(made, claimant=second) == {1}
    assert made.claim(grant, first)
    assert not made.claim(grant, second)
    assert numbers(made, claimant=first) == {1}
    assert numbers(made, claimant=second) == set()
    assert numbers(made) == set()
    assert numbers(made, any_session=True) == {1}
    assert made.claimed_by(first) == (grant,)
    assert made.claimed_by(second) == ()
    made.remove(1)
    assert made.claimed_by(first) == ()


def test_a_grant_for_one_session_is_kept_while_there_is_another() -> None:
    made = table(stored(1, "@alice:example.org", until_ms=90, once=True), stored(2, "@alice:example.org", until_ms=50))
    assert (numbers(made, now_ms=10), numbers(made, now_ms=60)) == ({2}, {1})


def test_only_the_peer_or_the_service_in_question_is_looked_at() -> None:
    lab = Service(UserId("@rtc_lab:example.org"), SSH.name)
    made = table(*(stored(number, "@alice:example.org", each) for number, each in enumerate((SSH, WEB, lab), 1)))
    assert numbers(made, peer=PEER) == {1, 2}
    assert numbers(made, peer=PEER, service=WEB.name) == {2}
    assert numbers(made, peer=lab.peer, service=SSH.name) == {3}
    assert numbers(made, peer=lab.peer, service=WEB.name) == set()
    assert made.count_same(parse_subject("@alice:example.org"), WEB) == 1
    made.remove(2)
    assert made.count_same(parse_subject("@alice:example.org"), WEB) == 0


def test_a_grant_for_many_sessions_is_claimed_by_none() -> None:
    made = table(grant := stored(1, "@alice:example.org"))
    assert not made.claim(grant, object())
    assert numbers(made, claimant=object()) == {1}


@pytest.mark.parametrize(
    ("subject", "grantable_to", "rooms", "expected"),
    [
        ("@alice:example.org", ["@alice:example.org"], (), True),
        ("@alice:example.org", ["@bob:example.org"], (), False),
        ("@alice:example.org", ["server:example.org"], (), True),
        ("@alice:example.org", ["server:other.test"], (), False),
        ("@alice:example.org", ["*"], (), True),
        ("@alice:example.org", [f"room:{ROOM}"], (), False),
        ("@alice:example.org", [f"room:{ROOM}"], (ROOM,), True),
        ("@alice:example.org", [], (), False),
        ("server:example.org", ["server:example.org"], (), True),
        ("server:example.org", ["@alice:example.org"], (), False),
        ("server:example.org", ["*"], (), True),
        (f"room:{ROOM}", [f"room:{ROOM}"], (), True),
        (f"room:{ROOM}", ["server:example.org"], (), False),
        ("*", ["*"], (), False),
        ("@17:example.org", ["server:example.org", "*"], (), False),
        ("@17:example.org", ["guest-accounts:example.org"], (), True),
        ("@17:example.org", ["guest-accounts:other.test"], (), False),
        ("@17:example.org", ["@17:example.org"], (), True),
        ("@17:example.org", [f"room:{ROOM}"], (ROOM,), True),
        ("@alice:example.org", ["guest-accounts:example.org"], (), False),
        ("guest-accounts:example.org", ["server:example.org", "*"], (), False),
        ("guest-accounts:example.org", ["guest-accounts:example.org"], (), True),
        ("server:example.org", ["guest-accounts:example.org"], (), False),
        ("@alice:example.org:8448", ["server:example.org"], (), False),
    ],
)
def test_whom_a_service_may_be_given_to(
    subject: str, grantable_to: list[str], rooms: tuple[RoomId, ...], expected: bool
) -> None:
    allowed = frozenset(parse_subject(text) for text in grantable_to)
    assert may_be_given(parse_subject(subject), allowed, rooms) is expected


SUBJECTS = [
    "@alice:example.org",
    "@bob:example.org",
    "server:example.org",
    "guest-accounts:example.org",
    f"room:{ROOM}",
    "*",
]


@given(
    rows=st.lists(st.tuples(st.sampled_from(SUBJECTS), st.sampled_from([SSH, WEB]), st.integers(0, 20)), max_size=12),
    gone=st.sets(st.integers(0, 11)),
    user=st.sampled_from([ALICE, BOB, UserId("@x:other.test"), UserId("@42:example.org")]),
    member=st.booleans(),
    now=st.integers(0, 20),
)
def test_the_table_agrees_with_a_walk_over_all_grants(
    rows: list[tuple[str, Service, int]], gone: set[int], user: UserId, member: bool, now: int
) -> None:
    grants = [stored(number, *row) for number, row in enumerate(rows)]
    made = table(*grants)
    for number in gone:
        made.remove(number)
    server = user.partition(":")[2]
    texts = {str(user)} | ({f"room:{ROOM}"} if member else set())
    texts |= {f"guest-accounts:{server}"} if user == "@42:example.org" else {f"server:{server}", "*"}
    counting = [g for g in grants if g.number not in gone and str(g.subject) in texts and now < g.until_ms]
    longest = {(g.subject, g.service): g for g in sorted(counting, key=lambda g: (g.until_ms, -g.number))}
    expected = {g.number for g in longest.values()}
    assert numbers(made, user, now, (ROOM,) if member else ()) == expected
    assert {grant.number for grant in made} == {g.number for g in grants} - gone
