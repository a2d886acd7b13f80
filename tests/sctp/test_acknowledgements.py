"""When what has arrived is acknowledged, seen as the sender sees it: one SACK after the other."""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.settings import KIB, SctpSettings
from tests.sctp.hostile import THEIR_TSN, Puppet

MOST = 8
"""SACKs of one batch."""
LONG_ENOUGH = 1024
"""Packets without a loss, after which one SACK is enough for a batch."""
PAUSE_S = 0.004
"""Who rests for so long may wait for a SACK."""
AFTER_PAUSE = 66
"""Packets after a pause, after which one SACK is enough as well."""
FAST_S = 0.008
"""Between the batches of a sender that is fast already if each has more than 80 packets."""
MEASURED_S = 0.05
"""For how long a sender is fast or slow before it counts as that."""
REPORTS = 4
"""SACKs of a batch behind a new gap from a fast sender, which counts three of them."""


def sacks(puppet: Puppet) -> list[tuple[int, list[tuple[int, int]]]]:
    """What each SACK that is ready to leave says: the cumulative TSN and the blocks behind it, counted from 0."""
    found = []
    for kind, body in puppet.answers():
        if kind == chunks.SACK:
            _, _, offsets, _ = chunks.read_sack(bytes(4) + body, 0, 4 + len(body), 512)
            cumulative = int.from_bytes(body[:4], "big") - THEIR_TSN
            starts, ends = offsets[::2], offsets[1::2]
            blocks = [(cumulative + start, cumulative + end) for start, end in zip(starts, ends, strict=True)]
            found.append((cumulative, blocks))
    return found


def batch(puppet: Puppet, first: int, count: int) -> None:
    """Have so many packets arrive together."""
    for tsn in range(first, first + count):
        puppet.send(puppet.data(tsn, sequence=tsn))


def long_without_loss(puppet: Puppet) -> int:
    """Have so much arrive that one SACK for a batch is enough; return the next TSN."""
    for tsn in range(0, LONG_ENOUGH, 64):
        batch(puppet, tsn, 64)
        sacks(puppet)
    puppet.wait(1.0)
    batch(puppet, LONG_ENOUGH, AFTER_PAUSE)
    sacks(puppet)
    return LONG_ENOUGH + AFTER_PAUSE


def test_each_packet_behind_a_gap_is_reported() -> None:
    """Three reports have a sender repeat what is missing; with a window of four packets they are all that follow."""
    puppet = Puppet()
    batch(puppet, 1, 4)
    assert sacks(puppet) == [(-1, [(1, 1)]), (-1, [(1, 2)]), (-1, [(1, 3)]), (-1, [(1, 4)])]


def test_each_packet_behind_a_gap_is_reported_after_any_time_without_loss() -> None:
    puppet = Puppet()
    first = long_without_loss(puppet)
    batch(puppet, first + 1, 3)
    assert [blocks[-1][1] - first for _, blocks in sacks(puppet)] == [1, 2, 3]


def test_every_second_packet_of_the_first_batch_is_acknowledged() -> None:
    puppet = Puppet()
    batch(puppet, 0, 5)
    assert [cumulative for cumulative, _ in sacks(puppet)] == [1, 3]
    assert puppet.wait(0.03) != [], "the last one waits for the timer"


def test_every_second_packet_of_a_batch_is_acknowledged_after_a_packet_came_twice() -> None:
    """It was repeated in vain: a SACK was lost."""
    puppet = Puppet()
    first = long_without_loss(puppet)
    batch(puppet, first - 1, 1)
    sacks(puppet)
    batch(puppet, first, 4)
    assert [cumulative - first for cumulative, _ in sacks(puppet)] == [1, 3]


def test_one_is_enough_for_a_batch_where_nothing_was_lost_for_long() -> None:
    puppet = Puppet()
    first = long_without_loss(puppet)
    batch(puppet, first, 64)
    assert sacks(puppet) == [(first + 63, [])]


@pytest.mark.parametrize(("rest_s", "expected"), [(0.9 * PAUSE_S, [3]), (FAST_S, [1, 3]), (1.0, [1, 3])])
def test_every_second_packet_of_a_batch_is_acknowledged_after_a_pause(rest_s: float, expected: list[int]) -> None:
    """The window of a sender that begins grows by one packet for each SACK, and it waits for them on a long way."""
    puppet = Puppet()
    first = long_without_loss(puppet)
    puppet.wait(rest_s)
    batch(puppet, first, 4)
    assert [cumulative - first for cumulative, _ in sacks(puppet)] == expected


def fast(puppet: Puppet, first: int, count: int = 100) -> tuple[int, list[int]]:
    """Send batches with pauses for so long that it counts; return the next TSN and how many SACKs each got."""
    found = []
    for _ in range(round(MEASURED_S / FAST_S) + 2):
        puppet.wait(FAST_S)
        batch(puppet, first, count)
        found.append(len(sacks(puppet)))
        first += count
    return first, found


def test_one_is_enough_for_a_batch_of_a_sender_that_is_fast_in_spite_of_its_pauses() -> None:
    """A busy machine reads late, and what has come meanwhile is a large batch after a pause."""
    puppet = Puppet()
    first, begun = fast(puppet, long_without_loss(puppet))
    assert (begun[0], begun[-1]) == (MOST, 1)
    _, slower = fast(puppet, first, 40)
    assert (slower[0], slower[-1]) == (1, MOST), "it depends on how much has come of late"


def test_a_fast_sender_is_told_of_each_new_gap_as_often_as_it_counts() -> None:
    """One SACK for each second packet, until nothing was lost for long, cost both sides half as much again."""
    puppet = Puppet()
    first, _ = fast(puppet, long_without_loss(puppet))
    batch(puppet, first + 1, 64)
    assert len(sacks(puppet)) == REPORTS
    batch(puppet, first + 65, 64)
    assert sacks(puppet) == [(first - 1, [(first + 1, first + 128)])], "the same gap"
    batch(puppet, first + 130, 64)
    assert len(sacks(puppet)) == REPORTS, "a new one"
    batch(puppet, first, 1)
    batch(puppet, first + 194, 63)
    assert len(sacks(puppet)) == 1, "the first is filled"


def test_a_fast_sender_that_has_to_begin_anew_is_told_of_every_second_packet() -> None:
    """After a timeout its window is one packet, and grows by one for each SACK, until all that was lost is there."""
    puppet = Puppet()
    first, _ = fast(puppet, long_without_loss(puppet))
    batch(puppet, first + 1, 1)
    batch(puppet, first + 3, 1)
    puppet.wait(1.0)
    sacks(puppet)
    batch(puppet, first, 1)
    sacks(puppet)
    batch(puppet, first + 2, 1)
    sacks(puppet)
    found = []
    for tsn in (first + 4, first + 4 + AFTER_PAUSE):
        batch(puppet, tsn, AFTER_PAUSE)
        found.append(len(sacks(puppet)))
    assert found == [MOST, MOST]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_large_batch_has_a_bounded_number_and_the_last_says_it_all(lost: int) -> None:
    puppet = Puppet()
    batch(puppet, lost, 64)
    found = sacks(puppet)
    assert len(found) == MOST
    assert found[-1] == ((-1, [(1, 64)]) if lost else (63, []))


def test_a_batch_that_closes_the_window_is_acknowledged_to_its_end() -> None:
    """What comes after a closed window was told is told at intervals only."""
    puppet = Puppet(SctpSettings(receive_window=64 * KIB))
    puppet.end.consume = False
    receiver = puppet.association._receiver
    assert receiver is not None
    tsn = 0
    while receiver.window > 4000:
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
        sacks(puppet)
        tsn += 1
    while receiver.window:
        puppet.send(puppet.data(tsn, bytes(1000), sequence=tsn))
        tsn += 1
    for last in (tsn, tsn + 1):  # which had been announced
        puppet.send(puppet.data(last, bytes(1000), sequence=last))
    assert sacks(puppet)[-1] == (tsn + 1, [])
