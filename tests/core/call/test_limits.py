"""Limits on calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.call import limits as call_limits
from mxrtc_bridge.core.ids import UserId

ALICE = UserId("@alice:a.example")
BOB = UserId("@bob:a.example")
EVE = UserId("@eve:b.example")


@pytest.mark.parametrize(
    ("age_ms", "fresh"),
    [(0, True), (120_000, True), (120_001, False), (-120_000, True), (-120_001, False), (10**15, False)],
)
def test_invite_is_fresh_within_its_lifetime_and_the_tolerance(age_ms: int, fresh: bool) -> None:
    now = 1_800_000_000_000
    assert call_limits.is_fresh(now - age_ms, 60_000, now) is fresh


def test_rate_limit_allows_the_burst_then_one_each_interval() -> None:
    limit = call_limits.RateLimit(per_user=6, per_server=100)
    assert [limit.allow(ALICE, 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert not limit.allow(ALICE, 9.9)
    assert limit.allow(ALICE, 10.1)
    assert limit.allow(BOB, 10.1)


def test_rate_limit_of_a_server_counts_all_its_users() -> None:
    limit = call_limits.RateLimit(per_user=10, per_server=4)
    users = [UserId(f"@u{i}:b.example") for i in range(5)]
    assert [limit.allow(user, 0.0) for user in users] == [True] * 4 + [False]
    assert limit.allow(ALICE, 0.0)


def test_whoever_is_refused_reads_which_limit_it_is() -> None:
    rate = call_limits.RateLimit(per_user=2, per_server=3)
    assert [rate.allow(ALICE, 0.0) for _ in range(3)] == [True, True, False]
    assert rate.reached(ALICE, 0.0) == "invites_per_minute 2"
    other = UserId(f"@other:{ALICE.partition(':')[2]}")
    assert [rate.allow(other, 0.0) for _ in range(2)] == [True, False]
    assert rate.reached(other, 0.0) == "invites_per_minute_per_server 3"
    live = call_limits.LiveCalls(call_limits.CallLimits(per_user=1, per_server=2, total=3))
    one, two, three, far, farther = map(UserId, ("@1:a.org", "@2:a.org", "@3:a.org", "@4:b.org", "@5:c.org"))
    for user in (one, two, far):
        assert live.begin(user)
        assert not live.begin(user)
        assert live.reached(user) == "calls_per_user 1"
    for user, reached in ((three, "calls_per_server 2"), (farther, "calls_total 3")):
        assert not live.begin(user)
        assert live.reached(user) == reached


def test_users_of_our_own_homeserver_are_not_told_of_a_limit_that_does_not_hold_for_them() -> None:
    live = call_limits.LiveCalls(call_limits.CallLimits(per_user=1, per_server=2, total=3), own_server="A.example")
    for n in range(3):
        assert live.begin(UserId(f"@u{n}:a.example"))
    assert not live.begin(ALICE)
    assert live.reached(ALICE) == "calls_total 3"


def test_rate_limit_forgets_only_the_oldest_of_too_many_users() -> None:
    limit = call_limits.RateLimit(per_user=1, per_server=10**9)
    assert limit.allow(ALICE, 0.0)
    for i in range(call_limits.MAX_REMEMBERED + 5):
        limit.allow(UserId(f"@u{i}:s{i}.example"), 0.0)
    assert limit.remembered == call_limits.MAX_REMEMBERED
    assert limit.allow(ALICE, 0.0), "forgotten, so the bucket is full again"


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([ALICE, BOB, EVE])), max_size=60))
def test_live_calls_never_pass_a_limit_and_end_at_nothing(steps: list[tuple[bool, UserId]]) -> None:
    calls = call_limits.LiveCalls(call_limits.CallLimits(per_user=2, per_server=3, total=4))
    live: list[UserId] = []
    for begin, user in steps:
        if begin:
            room = len(live) < 4 and live.count(user) < 2 and sum(u.endswith(user.split(":")[1]) for u in live) < 3
            assert calls.begin(user) is room
            if room:
                live.append(user)
        elif user in live:
            live.remove(user)
            calls.end(user)
        assert len(calls) == len(live)
    for user in live:
        calls.end(user)
    assert len(calls) == 0
    assert calls.remembered == 0


def test_users_of_our_own_server_share_fifty_times_as_much() -> None:
    limit = call_limits.RateLimit(2, 4, "A.example")
    ours = [UserId(f"@u{number}:a.example") for number in range(4 * call_limits.OWN_SERVER_FACTOR + 1)]
    assert [limit.allow(user, 0.0) for user in ours] == [True] * (len(ours) - 1) + [False]
    assert limit.allow(ours[-1], 60 / (4 * call_limits.OWN_SERVER_FACTOR)), "a token of theirs comes back by their rate"
    assert [limit.allow(ours[0], 60.0) for _ in range(3)] == [True, True, False], "each of them is held to the same"


def test_live_calls_of_our_own_server_are_limited_by_the_user_and_in_total_only() -> None:
    calls = call_limits.LiveCalls(call_limits.CallLimits(per_user=1, per_server=2, total=30), "a.example")
    assert [calls.begin(UserId(f"@u{number}:b.example")) for number in range(3)] == [True, True, False]
    assert all(calls.begin(UserId(f"@u{number}:a.example")) for number in range(28))
    assert not calls.begin(UserId("@more:a.example")), "that is all that may live"
    calls.end(UserId("@u0:b.example"))
    assert not calls.begin(UserId("@u5:a.example"))
    assert calls.begin(UserId("@more:a.example"))


def test_a_host_has_one_share_on_all_of_its_ports() -> None:
    """Whoever has a name can run a homeserver on each of its ports, and make up users on all of them."""
    users = [UserId(f"@u:evil.test:{port}") for port in range(8000, 8010)]
    calls = call_limits.LiveCalls(call_limits.CallLimits(per_user=1, per_server=2, total=30), "a.example")
    assert [calls.begin(user) for user in users].count(True) == 2
    assert calls.reached(users[5]) == "calls_per_server 2"
    for user in users[:2]:
        calls.end(user)
    assert calls.remembered == 0
    rate = call_limits.RateLimit(10, 4, "a.example")
    assert [rate.allow(user, 0) for user in users].count(True) == 4


def test_another_port_of_our_own_host_is_not_our_homeserver() -> None:
    own, other = UserId("@u:a.example:8448"), UserId("@u:a.example:9000")
    calls = call_limits.LiveCalls(call_limits.CallLimits(per_user=3, per_server=1, total=30), "a.example:8448")
    assert [calls.begin(user) for user in (own, own, other, other)] == [True, True, True, False]
