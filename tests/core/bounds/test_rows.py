"""Whose rows go: never those of somebody who is known for the sake of a stranger, and who has most gives first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bounds.rows import Bound, Row, surplus

BOUND = Bound(total=20, of_user=6, of_server=5, strangers=10, strangers_bytes=100)

users = st.builds(
    "@{}:{}".format, st.sampled_from("abcdefgh"), st.sampled_from(["x.test", "y.test", "y.test:8448", "z.test"])
)
rows = st.lists(st.tuples(users, st.integers(0, 50), st.booleans(), st.integers(0, 30)), max_size=80).map(
    lambda values: [
        Row((str(number),), user, used, known, size) for number, (user, used, known, size) in enumerate(values)
    ]
)


@given(rows)
def test_what_is_left_is_within_the_bounds_and_known_rows_do_not_depend_on_strangers(made: list[Row]) -> None:
    gone = surplus(made, BOUND)
    assert len({row.name for row in gone}) == len(gone)
    left = [row for row in made if row not in gone]
    known, strangers = ([row for row in left if row.known is flag] for flag in (True, False))
    assert len(known) <= BOUND.total
    assert len(strangers) <= BOUND.strangers
    assert sum(row.size for row in strangers) <= 100
    assert max(Counter(row.user for row in known).values(), default=0) <= BOUND.of_user
    assert max(Counter(row.user for row in strangers).values(), default=0) <= BOUND.of_user
    hosts = Counter(row.user.partition(":")[2].partition(":")[0] for row in strangers)
    assert max(hosts.values(), default=0) <= BOUND.of_server, "a port is no other server"
    assert surplus([row for row in made if row.known], BOUND) == [row for row in gone if row.known]
    assert surplus(left, BOUND) == [], "what was kept once stays"


def test_the_oldest_of_who_has_most_go() -> None:
    many = [Row((f"m{n}",), "@m:x", n, known=True) for n in range(6)]
    few = [Row((f"f{n}",), f"@f{n % 8}:x", n, known=True) for n in range(16)]
    gone = surplus([*many, *few], BOUND)
    assert sorted(row.name[0] for row in gone) == ["m0", "m1"]


def test_a_server_with_many_users_pushes_out_its_own() -> None:
    flood = [Row((f"e{n}",), f"@u{n}:evil.test", 1000 + n, known=False) for n in range(1000)]
    other = [Row((f"o{n}",), f"@o:s{n}.test", n, known=False) for n in range(5)]
    left = {row.name[0] for row in [*flood, *other]} - {row.name[0] for row in surplus([*flood, *other], BOUND)}
    assert left == {"o0", "o1", "o2", "o3", "o4", "e995", "e996", "e997", "e998", "e999"}
