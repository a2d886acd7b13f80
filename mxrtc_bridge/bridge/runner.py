"""Runs a bridge as a process: its database, its signals, and what the admin says at the start.

Must always end when it is told to: within :data:`STOP_S` whatever hangs, and at once when it is told a second time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.config_mapping import profiles
from mxrtc_bridge.bridge.failures import outlive
from mxrtc_bridge.bridge.service_manager import ServiceManager
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.values import LATEST_VERSION
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.virtual_users import AdminConsent
from mxrtc_bridge.storage.tables import open_stores

log = logging.getLogger(__name__)
_SELDOM = RateLimitedLog(log)

STOP_S = 36.0
"""How long a stop may take in all; the service manager gives it 40 seconds (docs/how-to/mxrtc-bridge.service)."""
LEFT_S = 1.0
"""How long what is left behind may take to end, once everybody was told goodbye."""
_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT)


class LastBound:
    """Ends the process when its stop takes too long: by a thread, which waits for nothing that may hang.

    Args:
        leave: ends the process with a code, at once.
        limit_s: how long a stop may take.
    """

    def __init__(self, leave: Callable[[int], object] = os._exit, limit_s: float = STOP_S) -> None:
        self._leave = leave
        self._limit_s = limit_s
        self._over = threading.Event()
        self._begun = False

    def begin(self) -> None:
        """The stop has begun; once it has, the process has so much time."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._watch, name="last bound of the stop", daemon=True).start()

    def end(self) -> None:
        """Everything has ended in order."""
        self._over.set()

    def _watch(self) -> None:
        if not self._over.wait(self._limit_s):
            log.error("! the stop has taken %g s; what has not ended by now is left to the system", self._limit_s)
            self._leave(1)


async def run(
    config: Config,
    consent: AdminConsent = AdminConsent(),  # noqa: B008 - a value
    *,
    leave: Callable[[int], object] = os._exit,
    say_failure: Callable[[Exception], int] = lambda _error: 1,
    closed: threading.Event | None = None,
) -> None:
    """Run the bridge until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    The second of the two signals ends the process at once, as if nobody had taken it.

    Args:
        config: the configuration to start with.
        consent: what may be done to accounts and identities that are there.
        leave: ends the process with a code, at once: for an end in which something hangs.
        say_failure: says why it could not start, or cannot go on, and returns the code for it: used where something
            hangs, as nothing is raised then.
        closed: set by whoever runs this once the loop is closed, which waits for name servers; without it that may
            take as long as it does.

    Raises:
        MxrtcError: it could not start, or cannot go on; the message says why and what to do.
    """
    ours = [profile.user_id for profile in profiles(config)]
    if config.version < LATEST_VERSION:
        log.warning(
            "the configuration is written in version %d and is read as it was meant then; to have it in version %d: "
            "mxrtc-bridge config upgrade",
            config.version,
            LATEST_VERSION,
        )
    for user in sorted(consent.adopt.difference(ours)):
        raise ConfigError(f"--adopt {user}: by the configuration there is no such user; there are {', '.join(ours)}")
    stop, reload, bound = asyncio.Event(), asyncio.Event(), LastBound(leave)
    loop, task, opening = asyncio.get_running_loop(), asyncio.current_task(), True
    assert task is not None

    def end() -> None:
        bound.begin()
        stop.set()
        if opening:
            # Nothing of it is lost, and to write a large database anew takes minutes.
            task.cancel()
        for number in _TOLD_TO_END:
            loop.remove_signal_handler(number)
            # By the system, so that it counts whatever the loop is doing.
            signal.signal(number, signal.SIG_DFL)

    for number in _TOLD_TO_END:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    # One that came before was kept back by whoever started us.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    loop.set_exception_handler(_report)
    try:
        with closing(ServiceManager()) as manager:
            serving = asyncio.Event()
            notify = outlive("the service manager hears nothing", lambda: manager.run(serving))
            # From here on, as also the opening of a large database may take longer than a manager waits.
            telling = asyncio.create_task(notify, name="service manager")
            try:
                async with open_stores(config.database, sole=True) as stores:
                    opening = False
                    try:
                        await Bridge(config, stores, consent, manager=manager, serving=serving).run(stop, reload)
                    finally:
                        bound.begin()
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise
                task.uncancel()
                log.info("stopped while the database was opened")
            except Exception as error:
                # It would be waited for what hangs before anybody were told.
                await _leave_behind(leave, functools.partial(say_failure, error), closed)
                raise
            finally:
                telling.cancel()
        await _leave_behind(leave, lambda: 0, closed)
    finally:
        bound.end()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write down what nobody was there for; the loop itself would write as many lines as somebody can cause."""
    message = str(context.get("message"))
    _SELDOM.log(logging.ERROR, message, "! %s", message, exc_info=context.get("exception"))


async def _leave_behind(
    leave: Callable[[int], object], code: Callable[[], int], closed: threading.Event | None
) -> None:
    """End the process here if something of it would keep it from ending: a thread cannot be cancelled."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    hanging = (await asyncio.wait(left, timeout=LEFT_S))[1] if left else set[asyncio.Task[object]]()
    deadline = asyncio.get_running_loop().time() + LEFT_S
    # That of a database ends a moment after it has said that it is closed.
    while (threads := _keeping_the_process()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if hanging or threads:
        count = len(hanging) + len(threads)
        log.warning("! %d things hang, as their disks do not answer; they are left to the system", count)
        leave(code())
    elif closed is not None:
        threading.Thread(target=_bound_closing, args=(closed, leave, code), name="end of the loop", daemon=True).start()


def _bound_closing(closed: threading.Event, leave: Callable[[int], object], code: Callable[[], int]) -> None:
    """End the process if its loop is not closed soon: a question to a name server cannot be taken back."""
    if not closed.wait(LEFT_S):
        log.warning("! something hangs, as a name server or a disk does not answer; it is left to the system")
        leave(code())


def _keeping_the_process() -> list[threading.Thread]:
    # Those of the loop end with it, as nothing that may hang is done by them.
    others = (each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon)
    return [each for each in others if not each.name.startswith("asyncio_")]
