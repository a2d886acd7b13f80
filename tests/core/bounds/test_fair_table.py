"""What some put into a table pushes out nothing of others, and the table stays within its limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bounds.fair_table import FairTable
from mxrtc_bridge.core.ids import UserId
from tests.counted_lines import lines

ALICE = UserId("@alice:example.org")


@pytest.mark.parametrize("flood", ["@m{0}:evil.test", "@m:evil.test", "@m{0}:example.org", "@m:evil.test:{0}"])
def test_flood_of_others_pushes_nothing_out(flood: str) -> None:
    table: FairTable[str, int] = FairTable(20)
    table.put(ALICE, "a", 1)
    for number in range(200):
        table.put(UserId(flood.format(number % 3)), f"c{number}", number)
    assert (table.get(ALICE, "a"), len(table)) == (1, 20)


def test_what_a_user_has_used_longest_ago_makes_room() -> None:
    table: FairTable[str, int] = FairTable(3)
    for key in ("a", "b", "c", "a", "d"):
        table.put(ALICE, key, 0)
    assert [table.get(ALICE, key) for key in "abcd"] == [0, None, 0, 0]


@pytest.mark.parametrize("crowd", ["@m{0}:evil.test", "@m:evil{0}.test", "@m:evil.test"])
def test_a_full_table_costs_no_more_than_an_empty_one(crowd: str) -> None:
    """Lines that run, however many strangers are in it, and however many of them have made room before."""
    limit = 5_000
    table: FairTable[int, int] = FairTable(limit)

    def put(number: int) -> None:
        table.put(UserId(crowd.format(number)), number, 0)

    empty = lines(lambda: put(0), "core/bounds/fair_table")
    for number in range(1, limit + 2_000):
        put(number)
    assert len(table) == limit
    assert lines(lambda: put(limit + 2_000), "core/bounds/fair_table") <= 3 * empty
    table.put(ALICE, 1, 1)
    assert table.get(ALICE, 1) == 1


USERS = st.sampled_from([UserId(f"@{name}:{server}") for name in "ab" for server in ("one.test", "two.test")])


@given(st.lists(st.tuples(st.booleans(), USERS, st.integers(0, 5))))
def test_it_holds_what_was_put_and_not_taken_up_to_its_limit(steps: list[tuple[bool, UserId, int]]) -> None:
    table: FairTable[int, int] = FairTable(6)
    held: dict[tuple[UserId, int], int] = {}
    for number, (puts, user, key) in enumerate(steps):
        if puts:
            table.put(user, key, number)
            held[user, key] = number
        else:
            assert table.pop(user, key) in (held.pop((user, key), None), None)
        held = {place: value for place, value in held.items() if table.get(*place) is not None}
        assert len(held) == len(table) == sum(len(list(table.of(each))) for each in {user for user, _ in held}) <= 6
        assert all(table.get(*place) == value for place, value in held.items())
