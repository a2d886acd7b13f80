"""Threads for what may hang: the resolver of a name, the disk behind a target, a file of our own.

A thread cannot be cancelled, and a disk may keep it for ever (a network file system whose server is gone). So nothing
that may hang is done by the threads of the loop, which read transactions, and no two things share threads of which one
can hang without the other:

- each target has a few threads of its own (:func:`threads_of`), and counts as down while all of them hang;
- what several ask at the same time is asked once, in one thread (:func:`in_one_thread`);
- what is done once has a thread for itself (:func:`in_new_thread`).

Threads end when they have had nothing to do for a moment, and none of them keeps the process from ending.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from mxrtc_bridge.engine.capabilities import be_no_more_than_owner

Result = TypeVar("Result")

THREADS_OF_TARGET = 4
WAITING_OF_TARGET = 256
"""Jobs of one target that wait for a thread; the next one fails at once."""
HANGS_S = 30.0
"""A target of which nothing has come back for this time, while all of its threads are busy, counts as down."""
MAX_QUESTIONS = 256
"""Names and paths that are asked for at the same time; the next one fails at once."""
IDLE_S = 5.0


class DaemonThreads(Executor):
    """At most so many threads, started when they are needed; jobs beyond wait in order.

    Unlike those of the standard library they are not waited for when the process ends: a job may hang for ever.

    Args:
        threads: how many jobs run at a time.
        name: of the threads.
        begin: is done before each job; where it fails, the job fails.
    """

    def __init__(self, threads: int, name: str, begin: Callable[[], None] = lambda: None) -> None:
        self._begin = begin
        self._most = threads
        self._name = name
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[..., Result], /, *args: Any, **options: Any) -> Future[Result]:
        """Do something in a thread.

        Raises:
            RuntimeError: it was shut down.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("these threads were shut down")
            self._jobs.append((future, lambda: work(*args, **options)))
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._running < self._most:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._running += 1
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and let the threads end when their jobs have; it is never waited for them."""
        del wait
        with self._changed:
            self._closed = True
            if cancel_futures:
                for future, _ in self._jobs:
                    future.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._begin()
                result = work()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            # Not kept until the next job comes.
            del future, work, job

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs or self._closed, IDLE_S)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._running -= 1
            return None


class TargetThreads:
    """The threads of one target.

    Args:
        name: of the target, for whoever looks at threads.
        threads: how many jobs run at a time.
        hangs_s: see :data:`HANGS_S`.
    """

    def __init__(self, name: str, threads: int = THREADS_OF_TARGET, hangs_s: float = HANGS_S) -> None:
        self._pool = DaemonThreads(threads, f"mxrtc {name}"[:60], be_no_more_than_owner)
        self._threads = threads
        self._hangs_s = hangs_s
        self._jobs: set[asyncio.Future[Any]] = set()
        self._moved_at = 0.0

    @property
    def jobs(self) -> frozenset[asyncio.Future[Any]]:
        """What is being done or waits."""
        return frozenset(self._jobs)

    @property
    def hang(self) -> bool:
        """Whether all threads have been busy, and none has come back, for a while."""
        if len(self._jobs) < self._threads:
            return False
        return asyncio.get_running_loop().time() - self._moved_at > self._hangs_s

    def run(self, work: Callable[..., Result], *args: object, always: bool = False) -> asyncio.Future[Result]:
        """Do in a thread what may hang; fails with a TimeoutError at once where the target counts as down.

        Args:
            work: blocks.
            args: its arguments.
            always: also where it does: this lets go of something, and is done once.
        """
        loop = asyncio.get_running_loop()
        if not self._jobs:
            self._moved_at = loop.time()
        if not always and (self.hang or len(self._jobs) >= WAITING_OF_TARGET):
            refused: asyncio.Future[Result] = loop.create_future()
            refused.set_exception(_no_answer())
            return refused
        future = loop.run_in_executor(self._pool, work, *args)
        self._jobs.add(future)
        future.add_done_callback(self._ended)
        return future

    def close(self, *, drop: bool = False) -> None:
        """Take nothing more; with ``drop`` what has not begun is not done."""
        self._pool.shutdown(cancel_futures=drop)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._jobs.discard(future)
        self._moved_at = asyncio.get_running_loop().time()


_targets: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], TargetThreads] = WeakValueDictionary()
_questions = DaemonThreads(MAX_QUESTIONS, "mxrtc question")
_Question = tuple[asyncio.AbstractEventLoop, Callable[..., Any], tuple[Hashable, ...]]
_under_way: dict[_Question, asyncio.Future[Any]] = {}


def threads_of(target: str) -> TargetThreads:
    """The threads of a target, for as long as somebody has them or a job is left."""
    key = (asyncio.get_running_loop(), target)
    found = _targets.get(key)
    if found is None:
        found = _targets[key] = TargetThreads(target)
    return found


async def in_one_thread(work: Callable[..., Result], *args: Hashable) -> Result:
    """Ask in a thread for what may hang; who asks the same meanwhile has the same answer, and takes no other thread.

    So one name or path that hangs takes one thread, however often it is asked for. The question belongs to nobody: it
    goes on when whoever has asked it is cancelled.

    Raises:
        TimeoutError: too many questions hang.
    """
    what = (asyncio.get_running_loop(), work, args)
    future = _under_way.get(what)
    if future is None:
        if len(_under_way) >= MAX_QUESTIONS:
            # A loop that was closed tells nobody of an answer: its questions are nobody's.
            for other in [other for other in _under_way if other[0].is_closed()]:
                del _under_way[other]
        if len(_under_way) >= MAX_QUESTIONS:
            raise _no_answer()
        future = _under_way[what] = what[0].run_in_executor(_questions, work, *args)
        future.add_done_callback(partial(_answered, what))
    answer: Result = await asyncio.shield(future)
    return answer


def _answered(what: _Question, future: asyncio.Future[Any]) -> None:
    _under_way.pop(what, None)
    # It may have failed when nobody waited for it any more, which is no defect.
    if not future.cancelled():
        future.exception()


async def in_new_thread(work: Callable[..., Result], *args: object) -> Result:
    """Do something in a thread of its own, which is left alone when whoever waits is cancelled."""
    threads = DaemonThreads(1, "mxrtc once")
    future = asyncio.get_running_loop().run_in_executor(threads, work, *args)
    threads.shutdown()
    return await future


def _no_answer() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "it does not answer at the moment")
