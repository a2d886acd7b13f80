"""What each sender, server and room may take."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bounds.shares import FullShare, ShareLimits, Shares, host_of
from mxrtc_bridge.core.ids import UserId

OWN = "example.org"
LIMITS = ShareLimits(sender=2, server=3, foreign=5, others=8, total=10, room=4)


def user(name: str, server: str = OWN) -> UserId:
    return UserId(f"@{name}:{server}")


def take(shares: Shares, sender: UserId, room: str = "!r", *, right: bool = False) -> FullShare | None:
    full = shares.full(sender, room, has_right=lambda _user: right)
    if full is None:
        shares.add(sender, room)
    return full


def fill(shares: Shares, senders: int, server: str = OWN) -> None:
    for number in range(senders):
        shares.add(user(f"{server}-{number}", server), f"!{server}-{number}")


@pytest.mark.parametrize("right", [False, True])
def test_sender_gets_the_share_of_one_and_not_more_with_a_right_or_without(right: bool) -> None:
    shares = Shares(LIMITS, OWN)
    assert [take(shares, user("a"), right=right) for _ in range(3)] == [None, None, FullShare.SENDER]


@pytest.mark.parametrize("right", [False, True])
def test_foreign_server_gets_the_share_of_one_whatever_its_users_and_ports_are(right: bool) -> None:
    shares = Shares(LIMITS, OWN)
    servers = ("evil.test", "evil.test:8449", "EVIL.test:1", "evil.test")
    assert [take(shares, user(f"u{n}", server), f"!{n}", right=right) for n, server in enumerate(servers)] == [
        None, None, None, FullShare.SERVER,
    ]  # fmt: skip


def test_own_server_has_no_share_of_a_server() -> None:
    shares = Shares(LIMITS, "Example.org:8448")
    assert [take(shares, user(f"u{n}"), f"!{n}") for n in range(5)] == [None] * 5


def test_foreign_servers_together_leave_places_for_our_own() -> None:
    shares = Shares(LIMITS, OWN)
    assert [take(shares, user("u", f"s{n}.test"), f"!{n}") for n in range(6)] == [None] * 5 + [FullShare.FOREIGN]
    assert take(shares, user("a")) is None
    assert take(shares, user("u", "friend.test"), "!x", right=True) is None, "with a right they get more"


def test_full_room_takes_from_those_with_a_right_only() -> None:
    shares = Shares(LIMITS, OWN)
    assert [take(shares, user(f"u{n}")) for n in range(5)] == [None] * 4 + [FullShare.ROOM]
    assert take(shares, user("a"), "!other") is None
    assert take(shares, user("admin"), right=True) is None


def test_last_places_are_for_those_with_a_right_and_the_total_is_for_nobody() -> None:
    shares = Shares(LIMITS, OWN)
    fill(shares, 8)
    assert take(shares, user("a")) is FullShare.OTHERS
    assert [take(shares, user(f"b{n}"), right=True) for n in range(3)] == [None, None, FullShare.TOTAL]


def test_right_is_asked_for_only_where_it_makes_a_difference() -> None:
    shares, asked = Shares(LIMITS, OWN), []

    def has_right(sender: UserId) -> bool:
        asked.append(sender)
        return False

    for _ in range(5):
        if shares.full(user("a"), "!r", has_right=has_right) is None:
            shares.add(user("a"), "!r")
    assert asked == []
    fill(shares, 6)
    assert shares.full(user("b"), "!r", has_right=has_right) is FullShare.OTHERS
    assert asked == [user("b")]


def test_share_is_free_again_when_something_is_taken_back_and_no_entry_is_left_behind() -> None:
    shares = Shares(LIMITS, OWN)
    for n in range(5):
        shares.add(user("u", f"s{n}.test"), f"!{n}")
    for n in range(5):
        shares.remove(user("u", f"s{n}.test"), f"!{n}")
    assert (len(shares), shares.table_sizes) == (0, (0, 0, 0))
    shares.remove(user("u", "s1.test"), "!1")
    assert len(shares) == 0
    assert take(shares, user("u", "s1.test")) is None


senders = st.builds(user, st.sampled_from("abcd"), st.sampled_from([OWN, "f.test", "g.test:1", "g.test"]))


@given(st.lists(st.tuples(st.booleans(), senders, st.sampled_from(["!r", "!s"]), st.booleans()), max_size=200))
def test_counts_never_exceed_a_limit_and_tables_never_what_is_counted(
    steps: list[tuple[bool, UserId, str, bool]],
) -> None:
    shares, held = Shares(LIMITS, OWN), []
    for adds, sender, room, right in steps:
        if adds:
            full = take(shares, sender, room, right=right)
            if full is None:
                held.append((sender, room))
        elif held:
            shares.remove(*held.pop(0))
        assert len(shares) == len(held) <= LIMITS.total
        assert max(shares.table_sizes) <= len(held)
        by_sender = Counter(sender for sender, _ in held)
        by_server = Counter(host_of(sender) for sender, _ in held if host_of(sender) != OWN)
        assert all(count <= LIMITS.sender for count in by_sender.values())
        assert all(count <= LIMITS.server for count in by_server.values())
