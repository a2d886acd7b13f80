"""What was put in longest ago is forgotten, however it was put in."""

from __future__ import annotations

from mxrtc_bridge.core.bounds.latest import Latest


def test_the_oldest_is_forgotten_and_what_is_put_in_again_is_new() -> None:
    latest = Latest[str, int](2)
    latest["a"], latest["b"], latest["a"], latest["c"] = 1, 2, 3, 4
    assert list(latest.items()) == [("a", 3), ("c", 4)]


def test_every_way_to_put_something_in_has_the_limit() -> None:
    latest = Latest[int, int](3)
    latest.update((each, each) for each in range(10))
    latest |= {10: 10}
    assert latest.setdefault(11, 11) == latest.setdefault(11, 12) == 11
    assert list(latest) == [9, 10, 11]


def test_what_is_taken_out_leaves_its_place() -> None:
    latest = Latest[str, int](2)
    latest["a"], latest["b"] = 1, 2
    assert (latest.pop("a", None), latest.pop("a", None)) == (1, None)
    latest["c"] = 3
    assert list(latest) == ["b", "c"]
