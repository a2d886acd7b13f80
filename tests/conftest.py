"""What all tests share: real homeservers, and a watch over what a test leaves behind.

Event loops: each async test runs in a loop of its own (``asyncio_mode = auto``), the standard library's and not
uvloop, because its debug mode and its warnings about unclosed transports are better. The programs that the tests
start as child processes choose their loop themselves, so uvloop is used there as in real life.

Left behind: every warning is an error, a ``ResourceWarning`` about a socket, a file or a child included. The garbage
collector runs at the end of each test file, so that such a warning falls to the file that caused it, and no child
process may be left at the end of the session.
"""

from __future__ import annotations

import compileall
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
import pytest_asyncio

import mxrtc_bridge
from tests.long import AFTER_FAST, FAST, examples, is_the_same_when_fast
from tests.processor import OTHER_PROCESSOR
from tests.synapse import Synapse
from tests.synapse_forks import SynapseForks

LONGEST_FIRST = (
    "e2e/test_grants_unwritten.py", "e2e/test_files.py", "e2e/test_rights.py", "e2e/test_messages.py",
    "e2e/test_devices_now.py", "e2e/test_own_users.py", "e2e/test_pipe.py", "e2e/test_outages.py",
    "e2e/test_files_killed.py", "e2e/test_large_files.py", "e2e/test_certificates.py", "e2e/test_removals.py",
    "e2e/test_postgres.py", "rtc/test_interop.py", "e2e/test_other_stacks.py",
)  # fmt: skip
"""Files in the order of the time that they take: where files run side by side, none of these begins when others end."""

REAL_FOLDERS = ("e2e", "links", "nets")
"""Where each test is ``real`` or ``alone``: for a quick look, whose tests are neither, nothing of it is loaded."""

REAL_FIXTURES = frozenset({"real_homeserver", "make_homeserver", "bridge_world", "postgres_url"})
"""A test that asks for one of these, or for the database ``postgres``, is marked ``real`` without saying so."""

# How long it takes to draw and to try an example says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile(
    "fast" if FAST else "usual",
    max_examples=examples(hypothesis.settings.default.max_examples),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fast" if FAST else "usual")


class HomeserverFactory(Protocol):
    """Starts a homeserver of the test's own; the arguments are those of :class:`Synapse`."""

    async def __call__(self, *, started: bool = True, **options: Any) -> Synapse: ...


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what the quick run before has done whole, and what a quick run has no test of."""
    if FAST:
        return (
            collection_path.relative_to(Path(__file__).parent).parts[:1] in {(name,) for name in REAL_FOLDERS} or None
        )
    return True if AFTER_FAST and collection_path.is_file() and is_the_same_when_fast(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let nothing be skipped for root: what some tests need and not everybody may do, root may.

    Only the processor is what it is.
    """
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.geteuid() == 0
        and OTHER_PROCESSOR not in str(report.longrepr)
    ):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped, though root runs the tests"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is there before the first test out of the garbage collector's sight: it looks at it some hundred times.

    These are the modules and the tests themselves, which last as long as the process. What little else there is may
    last as well: to look for it takes 0.2 seconds in each process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Have one more than there are processors: many tests wait for time to pass."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure() -> None:
    """Let the programs that the tests start hear signals, even if whoever started the tests had them ignored.

    What is ignored stays so in each child: a background job of a shell script ignores SIGINT, what ``nohup`` starts
    ignores SIGHUP. (SIGPIPE is set back for each child by :mod:`subprocess` itself.)
    """
    for number, heard in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, heard)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if REAL_FIXTURES.intersection(getattr(item, "fixturenames", ())) or "postgres" in parameters:
            item.add_marker(pytest.mark.real)
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _forked_homeservers(_no_child_left: None) -> Iterator[None]:
    Synapse.forks = SynapseForks()
    yield
    Synapse.forks.close()
    Synapse.forks = None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_homeserver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    """A homeserver without application services, shared by the whole session: choose user names of your own."""
    async with Synapse(tmp_path_factory.mktemp("homeserver")) as synapse:
        yield synapse


@pytest_asyncio.fixture
async def make_homeserver(tmp_path: Path) -> AsyncIterator[HomeserverFactory]:
    """A factory for homeservers that belong to one test; with ``started=False`` the test starts them itself."""
    async with AsyncExitStack() as stack:
        count = 0

        async def make(*, started: bool = True, **options: Any) -> Synapse:
            nonlocal count
            count += 1
            folder = tmp_path / f"homeserver-{count}"
            folder.mkdir()
            synapse = Synapse(folder, **options)
            stack.push_async_callback(synapse.stop)
            if started:
                await synapse.start()
            return synapse

        yield make


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile our modules once where Python is told to keep nothing: each of some hundred programs would do it anew."""
    if sys.dont_write_bytecode:
        compileall.compile_dir(str(Path(mxrtc_bridge.__file__).parent), quiet=2)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """Have what a file leaves behind fall to it, and what it has loaded looked at no more, as what was there before.

    A test may have let the collector see all again, as those of a program's own ``gc.freeze`` do.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_child_left() -> Iterator[None]:
    before = children()
    yield
    left = {pid: name for pid, name in children().items() if pid not in before}
    assert not left, f"the tests left child processes behind: {left}"


def children() -> dict[int, str]:
    """Return the ids and names of the child processes of this process that still run."""
    found: dict[int, str] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue  # the thread has ended meanwhile
        for pid in map(int, pids):
            try:
                state = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            name = state[state.index("(") + 1 : state.rindex(")")]
            if pid != os.getpid():
                found[pid] = name
    return found
