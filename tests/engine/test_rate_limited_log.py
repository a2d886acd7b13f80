"""Lines that strangers can order: how many there are, and that the rest is counted."""

from __future__ import annotations

import itertools
import logging
import re
import sys
import threading

import pytest

from mxrtc_bridge.engine import rate_limited_log
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.rate_limited_log import MAX_KEPT_CHARS, SUBJECTS, RateLimitedLog

log = logging.getLogger("tests.seldom")


class Bench:
    def __init__(self, lines: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self._lines = lines
        self.seldom = RateLimitedLog(log, lambda: self.now, period_s=10)

    def lines(self) -> list[str]:
        found = [record.getMessage() for record in self._lines.records]
        self._lines.clear()
        return found


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO, log.name)
    return Bench(caplog)


def test_flood_is_one_line_and_its_number_when_the_time_is_over(bench: Bench) -> None:
    for _ in range(2000):
        bench.seldom.info("@m:evil.test", "x junk of %s", "@m:evil.test")
    assert bench.lines() == ["x junk of @m:evil.test"]
    bench.now = 9.0
    bench.seldom.tell_left_out()
    assert bench.lines() == []
    bench.now = 10.0
    bench.seldom.tell_left_out()
    assert bench.lines() == ["x junk of @m:evil.test (and 1998 more like this that were not written)"]
    bench.now = 100.0
    bench.seldom.tell_left_out(everything=True)
    assert bench.lines() == []


def test_a_single_line_that_was_left_out_is_written_as_it_is(bench: Bench) -> None:
    for _ in range(2):
        bench.seldom.info("@m:evil.test", "x %s", "100 %d")
    bench.lines()
    bench.seldom.tell_left_out(everything=True)
    assert bench.lines() == ["x 100 %d"]


def test_next_line_has_the_number_itself(bench: Bench) -> None:
    for bench.now in (0.0, 1.0, 12.0, 13.0):
        bench.seldom.warning("a", "! %s is late by %d", "a", bench.now)
    assert bench.lines() == ["! a is late by 0", "! a is late by 12 (and 1 more like this that were not written)"]


def test_stop_tells_what_every_log_has_left_out_so_far(bench: Bench) -> None:
    for _ in range(3):
        bench.seldom.log(logging.ERROR, "a", "! 100%% of %s", "100 % <a>")
    bench.lines()
    rate_limited_log.tell_all()
    assert bench.lines() == []
    rate_limited_log.tell_all(everything=True)
    assert "! 100% of 100 % <a> (and 1 more like this that were not written)" in bench.lines()


def test_invented_names_have_a_number_of_lines_together_and_leave_other_kinds_alone(bench: Bench) -> None:
    for number in range(1000):
        bench.seldom.info(number, "x junk of %d", number)
    assert len(bench.lines()) == SUBJECTS
    bench.seldom.info("a", "x another kind by %s", "a")
    assert bench.lines() == ["x another kind by a"]
    bench.now = 10.0
    bench.seldom.tell_left_out()
    assert bench.lines() == [f"x junk of {SUBJECTS} (and {1000 - SUBJECTS - 1} more like this that were not written)"]


def test_line_says_which_call_it_is_about_also_with_its_number(bench: Bench) -> None:
    call = ContextLog(log, "call 100%")
    for _ in range(2):
        bench.seldom.warning("a", "! %s", "refused", to=call.child("stream web"))
    bench.seldom.tell_left_out(everything=True)
    assert bench.lines() == [
        "! call 100%, stream web: refused",
        "! call 100%, stream web: refused",
    ]


def test_long_line_is_kept_short(bench: Bench) -> None:
    for _ in range(2):
        bench.seldom.info("a", "x %s", "y" * 10_000)
    bench.lines()
    bench.seldom.tell_left_out(everything=True)
    (line,) = bench.lines()
    assert len(line) < MAX_KEPT_CHARS + 100


def test_defect_has_its_traceback_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        bench.seldom.exception("a", "! defect of %s", "a", error=ValueError("odd"))
    bench.seldom.tell_left_out(everything=True)
    assert caplog.text.count("ValueError: odd") == 1
    assert "(and 1 more" in caplog.text


def test_everything_is_at_debug(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, log.name)
    for _ in range(5):
        bench.seldom.info("a", "x junk of %s", "a")
    assert bench.lines() == ["x junk of a"] * 5


def test_lines_of_several_threads_are_all_counted(bench: Bench) -> None:
    moments, threads, times = itertools.count(), 4, 2500
    seldom = RateLimitedLog(log, lambda: float(next(moments)), period_s=200, subjects=5)
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for n in range(times):
                kind = "a line of %d" + "." * (n % 9)
                seldom.info((number, n % 4), kind, number)
                if n % 10 == number:
                    seldom.tell_left_out()
        except Exception as error:  # noqa: BLE001 - shown below
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        working = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    seldom.tell_left_out(everything=True)
    lines = bench.lines()
    counted = [re.search(r" \(and (\d+) more like this that were not written\)$", line) for line in lines]
    left_out = sum(int(each[1]) for each in counted if each is not None)
    assert left_out > threads * times / 2
    assert len(lines) + left_out == threads * times
