"""Runs tests side by side in forks of the process that has collected them: ``pytest -p tests.forked --forks 8``.

pytest-xdist starts workers that each import and collect everything anew, which takes a worker as long as it then takes
to run its share of the tests. Forks have that from their parent, and share its memory. The price: no thread may
run while the tests are collected, and a session has one interpreter, on one machine.

Each fork takes the next piece of the list of tests when it needs one: consecutive tests of one file, so that what a
file has in common is seldom made twice. Reports go back to the parent, which alone speaks to the terminal. A test
whose process ends has failed, and then not all tests are run.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from _pytest._io import TerminalWriter
from _pytest.config import create_terminal_writer

_MOST_OF_A_FILE = 50
"""So many tests of one file are one piece at most: the last pieces should not take long."""

_FORK = multiprocessing.get_context("fork")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="run the tests in so many forks of this process")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.forks > 0 and not config.option.collectonly:
        config.pluginmanager.register(_Parent(config.option.forks))


class _Parent:
    """Forks, and passes on what the forks report."""

    def __init__(self, forks: int) -> None:
        self._forks = forks

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # something could not be collected: the usual loop says so
        assert threading.active_count() == 1, f"a fork would lack these threads: {threading.enumerate()}"
        # Made once and then shared by the forks: each takes a number in it that nobody else has taken.
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        pieces = _pieces(session.items)
        taken, running = _FORK.Value("i", 0), _FORK.RawArray("i", self._forks)
        processes = {}
        try:
            for number in range(min(self._forks, len(pieces))):
                results, sender = _FORK.Pipe(duplex=False)
                child = _Child(session, sender, running, number)
                process = _FORK.Process(target=child.run, args=(pieces, taken, [results, *processes]), daemon=True)
                process.start()
                sender.close()  # the end of the process is then the end of its results
                processes[results] = process
            self._report(session, processes, running)
        finally:
            for process in processes.values():
                process.kill()
                process.join()
        return True

    def _report(self, session: pytest.Session, processes: dict[Connection, Any], running: Any) -> None:
        missing = len(session.items)
        numbers = {results: number for number, results in enumerate(processes)}
        while numbers:
            for results in wait(list(numbers)):
                assert isinstance(results, Connection)
                try:
                    index, sent = results.recv()
                except EOFError:
                    number, process = numbers.pop(results), processes[results]
                    process.join()
                    if process.exitcode == 0:
                        continue
                    item = session.items[running[number]]
                    why = f"the process of {item.nodeid} ended with exit code {process.exitcode}"
                    reports = [pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")]
                else:
                    item, reports = session.items[index], [_received(session.config, report) for report in sent]
                missing -= 1
                self._pass_on(item, reports)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        if missing:
            session.shouldfail = f"{missing} tests were not run, as the processes ended that had begun with their file"
            raise session.Failed(session.shouldfail)

    def _pass_on(self, item: pytest.Item, reports: list[pytest.TestReport]) -> None:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class _SilentReporter:
    """Has what :meth:`pytest.Config.get_terminal_writer` asks for, which a test that takes too long writes to."""

    def __init__(self, writer: TerminalWriter) -> None:
        self._tw = writer


class _Child:
    """Runs pieces, one after the other, and sends for each test its index and its reports."""

    def __init__(self, session: pytest.Session, results: Connection, running: Any, number: int) -> None:
        self._session = session
        self._results = results
        self._running = running
        self._number = number
        self._reports: list[object] = []

    def run(self, pieces: list[range], taken: Any, others: list[Connection]) -> None:
        config = self._session.config
        # Once the parent is gone nobody has these, and to send a report fails instead of waiting for ever.
        for results in others:
            results.close()
        # The file that output is captured in has one position for all forks.
        capture: Any = config.pluginmanager.get_plugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        config.pluginmanager.unregister(name="terminalreporter")
        with Path(os.devnull).open("w") as nowhere:
            config.pluginmanager.register(_SilentReporter(create_terminal_writer(config, nowhere)), "terminalreporter")
            config.pluginmanager.register(self)
            indices = _taken(pieces, taken)
            index = next(indices, None)
            while index is not None:
                following = next(indices, None)
                item = self._session.items[index]
                next_item = None if following is None else self._session.items[following]
                self._running[self._number] = index
                self._reports = []
                config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
                try:
                    self._results.send((index, self._reports))
                except BrokenPipeError:
                    return
                index = following

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._reports.append(config.hook.pytest_report_to_serializable(config=config, report=report))


def _received(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


def _pieces(items: list[pytest.Item]) -> list[range]:
    pieces: list[range] = []
    start = 0
    for index in range(1, len(items) + 1):
        if index == len(items) or items[index].path != items[start].path or index - start == _MOST_OF_A_FILE:
            pieces.append(range(start, index))
            start = index
    return pieces


def _taken(pieces: list[range], taken: Any) -> Iterator[int]:
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(pieces):
            return
        yield from pieces[number]
