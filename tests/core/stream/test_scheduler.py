from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.scheduler import (
    EPOCH_BYTES,
    INTERACTIVE_PENDING_BYTES,
    INTERACTIVE_RECENT_BYTES,
    MAX_EARLY_BYTES,
    MAX_STREAMS,
    QUANTUM_BYTES,
    SESSION_BUDGET_BYTES,
    Scheduler,
    WindowBudget,
)
from tests.long import examples


def drain(scheduler: Scheduler[str]) -> list[tuple[str, int]]:
    turns = []
    while (turn := scheduler.next()) is not None:
        turns.append(turn)
    return turns


def test_nobody_ready_means_no_turn() -> None:
    scheduler = Scheduler[str]()
    assert scheduler.next() is None
    assert len(scheduler) == 0


def test_turns_go_round_and_each_has_to_be_asked_for() -> None:
    scheduler = Scheduler[str]()
    for key in ("a", "b", "c"):
        scheduler.ready(key)
    scheduler.ready("a")
    assert drain(scheduler) == [("a", QUANTUM_BYTES), ("b", QUANTUM_BYTES), ("c", QUANTUM_BYTES)]


@pytest.mark.parametrize(
    ("pending", "limit"), [(1, 1), (16383, 16383), (16384, 16384), (16385, 16384), (10_000_000, 16384)]
)
def test_turn_is_for_what_is_pending_and_never_more_than_one_message(pending: int, limit: int) -> None:
    scheduler = Scheduler[str]()
    scheduler.ready("a", pending)
    assert drain(scheduler) == [("a", limit)]


@pytest.mark.parametrize(
    ("pending", "first"), [(INTERACTIVE_PENDING_BYTES - 1, "keys"), (INTERACTIVE_PENDING_BYTES, "bulk")]
)
def test_little_to_say_goes_first(pending: int, first: str) -> None:
    scheduler = Scheduler[str]()
    scheduler.ready("bulk", 100_000)
    scheduler.ready("keys", pending)
    assert drain(scheduler)[0][0] == first


def test_stream_that_has_more_to_say_while_it_waits_becomes_bulk() -> None:
    scheduler = Scheduler[str]()
    scheduler.ready("bulk", 100_000)
    scheduler.ready("grows", 10)
    scheduler.ready("grows", 5000)
    assert drain(scheduler) == [("bulk", QUANTUM_BYTES), ("grows", 5000)]


def test_file_in_small_pieces_is_bulk_and_is_forgiven_when_it_stops() -> None:
    scheduler = Scheduler[str]()
    for _ in range(INTERACTIVE_RECENT_BYTES // 2048):
        scheduler.ready("pieces", 2048)
        assert scheduler.next() == ("pieces", 2048)
    scheduler.ready("other", 100_000)
    scheduler.ready("pieces", 2048)
    assert drain(scheduler)[0][0] == "other"
    for _ in range(2 * EPOCH_BYTES // QUANTUM_BYTES):
        scheduler.ready("other", 100_000)
        scheduler.next()
    scheduler.ready("other", 100_000)
    scheduler.ready("pieces", 2048)
    assert drain(scheduler)[0][0] == "pieces"


def test_interactive_streams_do_not_starve_the_bulk() -> None:
    """Many small talkers get at most one quantum, as they are charged, between two turns of the bulk."""
    scheduler = Scheduler[str]()
    talkers = [f"talker{number}" for number in range(200)]
    bulk_turns = talker_turns = 0
    for _ in range(5000):
        scheduler.ready("bulk", 100_000)
        for talker in talkers:
            scheduler.ready(talker, 1)
        turn = scheduler.next()
        assert turn is not None
        bulk_turns += turn[0] == "bulk"
        talker_turns += turn[0] != "bulk"
    assert talker_turns <= 32 * (bulk_turns + 1)
    assert talker_turns >= 31 * (bulk_turns - 1), "and the talkers do go first"


def test_removed_stream_has_no_turn_and_leaves_nothing() -> None:
    scheduler = Scheduler[str]()
    scheduler.ready("a")
    scheduler.ready("b", 1)
    scheduler.remove("a")
    scheduler.remove("b")
    scheduler.remove("never seen")
    assert scheduler.next() is None


def test_scheduler_refuses_more_streams_than_a_session_can_have() -> None:
    scheduler = Scheduler[int]()
    for key in range(MAX_STREAMS):
        scheduler.ready(key)
    scheduler.ready(0)
    with pytest.raises(StateError, match="1024 streams"):
        scheduler.ready(MAX_STREAMS)
    scheduler.remove(0)
    scheduler.ready(MAX_STREAMS)


@pytest.mark.parametrize("pending", [0, -1])
def test_stream_with_nothing_to_send_is_not_ready(pending: int) -> None:
    with pytest.raises(StateError, match="is not ready"):
        Scheduler[str]().ready("a", pending)


@given(
    bulk=st.integers(1, 6),
    talkers=st.lists(st.sampled_from([1, 100, 4095]), max_size=6),
    steps=st.integers(50, 600),
)
@settings(max_examples=examples(60), deadline=None)
def test_streams_that_always_have_more_are_served_alike(bulk: int, talkers: list[int], steps: int) -> None:
    """Backlogged streams differ by at most one quantum, and none waits longer than for two quanta of each other."""
    scheduler = Scheduler[str]()
    served = {f"bulk{number}": 0 for number in range(bulk)}
    waited = dict.fromkeys(served, 0)
    longest_wait = (bulk + len(talkers)) * (2 * QUANTUM_BYTES + INTERACTIVE_PENDING_BYTES)
    for _ in range(steps):
        for key in served:
            scheduler.ready(key, 1_000_000)
        for number, pending in enumerate(talkers):
            scheduler.ready(f"talker{number}", pending)
        turn = scheduler.next()
        assert turn is not None
        key, limit = turn
        assert 0 < limit <= QUANTUM_BYTES
        for other in waited:
            waited[other] += limit
        if key in served:
            served[key] += limit
            waited[key] = 0
        assert max(served.values()) - min(served.values()) <= QUANTUM_BYTES
        assert max(waited.values()) <= longest_wait


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0, 1, 4095, 4096, 16385])), max_size=60))
@settings(max_examples=examples(100), deadline=None)
def test_every_request_gets_exactly_one_turn(requests: list[tuple[str, int]]) -> None:
    """A size of 0 stands for a turn that is taken."""
    scheduler = Scheduler[str]()
    waiting: dict[str, int] = {}
    for key, pending in requests:
        if pending:
            scheduler.ready(key, pending)
            waiting[key] = pending
        elif (turn := scheduler.next()) is not None:
            assert turn[1] == min(waiting.pop(turn[0]), QUANTUM_BYTES)
        assert len(scheduler) == len(waiting)
    assert {key for key, _ in drain(scheduler)} == set(waiting)


# Windows


def test_first_streams_get_large_windows_and_later_ones_smaller() -> None:
    budget = WindowBudget[int]()
    windows = [budget.take(key) for key in range(256)]
    assert windows[:2] == [messages.LARGEST_WINDOW, messages.LARGEST_WINDOW * 7 // 8]
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] == messages.MIN_WINDOW


def test_windows_stay_within_the_budget_and_the_floor() -> None:
    budget = WindowBudget[int]()
    for key in range(256):
        window = budget.take(key)
        assert messages.MIN_WINDOW <= window <= messages.LARGEST_WINDOW
        assert budget.given <= SESSION_BUDGET_BYTES + messages.MIN_WINDOW * (key + 1)


def test_window_that_is_given_back_is_there_for_others() -> None:
    budget = WindowBudget[int]()
    for key in range(100):
        budget.take(key)
    for key in range(99):
        budget.give_back(key)
        budget.give_back(key)
    assert budget.given == messages.MIN_WINDOW
    assert budget.take(99) == messages.LARGEST_WINDOW, "taking again fits the window to what is open now"
    budget.give_back(99)
    assert budget.given == 0


def test_early_bytes_have_a_hard_cap_over_all_streams() -> None:
    budget = WindowBudget[str]()
    assert budget.hold_early("a", MAX_EARLY_BYTES - 1)
    assert budget.hold_early("b", 1)
    assert not budget.hold_early("c", 1)
    assert budget.held == MAX_EARLY_BYTES
    budget.release_early("b")
    budget.release_early("b")
    assert budget.hold_early("c", 1)
    budget.give_back("a")
    assert budget.held == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "back", "hold", "release"]), st.integers(0, 3), st.sampled_from([1, 65536]))
    )
)
@settings(max_examples=examples(100), deadline=None)
def test_budget_always_adds_up(actions: list[tuple[str, int, int]]) -> None:
    budget = WindowBudget[int](total=100_000, early_total=100_000)
    windows: dict[int, int] = {}
    early: dict[int, int] = {}
    for action, key, size in actions:
        match action:
            case "take":
                windows[key] = budget.take(key)
            case "back":
                budget.give_back(key)
                windows.pop(key, None)
                early.pop(key, None)
            case "hold":
                if budget.hold_early(key, size):
                    early[key] = early.get(key, 0) + size
            case _:
                budget.release_early(key)
                early.pop(key, None)
        assert budget.given == sum(windows.values())
        assert budget.held == sum(early.values()) <= 100_000
