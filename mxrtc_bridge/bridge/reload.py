"""Reads the configuration again: rights count at once, and what is slow comes after them.

A right that was taken away must end within seconds, whatever else is under way. So nothing here waits before a
configuration is in force: it is read in a thread of its own, since a disk that hangs may have taken all the others; it
is put in force by calls that do not wait; and then one task does what takes time (rooms, devices, directories), each
step within a limit. A newer configuration interrupts that task, which begins again with the newer one. Steps must
stand being cancelled, and must do all of their work again when they are called again.

Only the newest configuration counts: one that was asked for earlier and is read later is dropped. One that cannot be
read changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.bridge.admin.service import ReloadOutcome
from mxrtc_bridge.bridge.failures import outlive
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.settled import PATIENCE_S, QUIET_S, load_settled
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import localpart_of

log = logging.getLogger(__name__)

READ_S = 5.0
"""How long whoever asked waits for the file; it is put in force whenever it has been read."""
REST_S = 3.0
"""How long whoever asked waits for what comes after rights."""
STEP_S = 60.0
"""Limit for one slow step; what it has not done is done at the next reload, or when the house is kept."""
CANCEL_S = 5.0
"""How long a step may take to end once it is cancelled; then it is left to itself."""
MAX_READING = 4
"""Threads that read at the same time: one takes long where a disk does not answer, or the file is being written."""


@dataclass(frozen=True, slots=True)
class ReloadStep:
    """Something slow that a new configuration asks for."""

    what: str
    """For the answer and the log, in the plural: "rooms"."""
    work: Callable[[], Awaitable[None]]
    limit_s: float = STEP_S


@dataclass(slots=True)
class _Rest:
    """What is left to be done for the configuration in force."""

    config: Config
    chains: Sequence[Sequence[ReloadStep]]
    done: asyncio.Future[None]
    open: list[str]
    failed: list[str]
    later: Sequence[str]
    """Keys whose change takes effect after a restart only."""
    answered: bool = False
    """Whether those who asked were told already, so that a failure has to be told apart."""


class Reload:
    """See the head of this module. :meth:`run` must run for the slow part to be done.

    Args:
        path: of the configuration.
        at_once: put a configuration in force, in this order; must not wait. A failure of one does not stop the others.
        steps: what to do for it afterwards: chains that run beside each other, each in its order.
        tell_admins: says something to the admins; must not block.
        load: reads a configuration; blocks.
        restart_only: says which keys of a configuration that is put in force take effect after a restart only.
        announce: told when reading begins (True) and when whoever asked has been answered (False); must not block.
    """

    def __init__(
        self,
        path: Path,
        *,
        at_once: Sequence[Callable[[Config], None]],
        steps: Callable[[Config], Sequence[Sequence[ReloadStep]]],
        tell_admins: Callable[[str], None],
        load: Callable[[Path], Config] = load_config,
        read_s: float = READ_S,
        rest_s: float = REST_S,
        cancel_s: float = CANCEL_S,
        quiet_s: float = QUIET_S,
        patience_s: float = PATIENCE_S,
        restart_only: Callable[[Config], Sequence[str]] = lambda _config: (),
        announce: Callable[[bool], None] = lambda _begins: None,
    ) -> None:
        self._cancel_s = cancel_s
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._rest_s = rest_s
        self._read_s = read_s
        self._path = path
        self._at_once = at_once
        self._steps = steps
        self._tell_admins = tell_admins
        self._load = load
        self._restart_only = restart_only
        self._announce = announce
        self._asked = 0
        """How many are being answered."""
        self._numbers = itertools.count(1)
        self._newest = 0
        """The number of the configuration in force, in the order in which they were asked for."""
        self._reading = 0
        self._next: asyncio.Future[_Rest | None] | None = None
        """A reading that was asked for, and begins when a thread is free."""
        self._rest: _Rest | None = None
        self._wake = asyncio.Event()
        self._left_alone: set[asyncio.Task[bool]] = set()

    @property
    def reading(self) -> int:
        """How many threads read the configuration; one of them may hang."""
        return self._reading

    async def carry_out(self) -> ReloadOutcome:
        """Read the configuration and put it in force; returns what came of it, within seconds."""
        self._asked += 1
        self._announce(True)
        try:
            return await self._carry_out()
        finally:
            self._asked -= 1
            if not self._asked:
                self._announce(False)

    async def _carry_out(self) -> ReloadOutcome:
        reading = self._begin_reading()
        try:
            async with asyncio.timeout(self._read_s):
                rest = await asyncio.shield(reading)
        except TimeoutError:
            log.error(
                "! the configuration has not been read within %g s; until it is, the old one counts", self._read_s
            )
            return ReloadOutcome(
                f"The configuration could not be read within {self._read_s:g} s, "
                "so the old one stays in force until it is.",
                done=False,
            )
        except ConfigError as error:
            text = "The configuration has mistakes, so the old one stays in force; the log says which."
            return ReloadOutcome(text, done=False, mistakes=str(error))
        if rest is None:
            return ReloadOutcome("A newer configuration is in force already.")
        await asyncio.wait([rest.done], timeout=self._rest_s)
        rest.answered = True
        return ReloadOutcome(_outcome(rest), done=not rest.failed)

    async def run(self, asked: asyncio.Event) -> None:
        """Do the slow part of each reload, and reload whenever ``asked`` is set, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._do_rests(), name="rest of a reload")
            while True:
                await asked.wait()
                asked.clear()
                tasks.create_task(self.carry_out(), name="reload")

    async def catch_up(self, asked: asyncio.Event) -> None:
        """Put in force what was asked for while the bridge started; waits no longer than :data:`READ_S`."""
        if asked.is_set():
            asked.clear()
            await asyncio.wait([self._begin_reading()], timeout=self._read_s)

    # Reading

    def _begin_reading(self) -> asyncio.Future[_Rest | None]:
        """Read in a thread; the result is what is left to be done, or None if a newer one is in force.

        Where there are as many threads as may be, one reading begins when one of them ends, for all who ask until then.
        """
        loop = asyncio.get_running_loop()
        reading = self._next
        if reading is None:
            reading = loop.create_future()
            reading.add_done_callback(_looked_at)
        if self._reading >= MAX_READING:
            self._next = reading
            return reading
        self._next = None
        number = next(self._numbers)

        def read() -> None:
            outcome: Config | Exception
            try:
                outcome = load_settled(self._path, self._load, quiet_s=self._quiet_s, patience_s=self._patience_s)
            except Exception as error:  # noqa: BLE001 - handed on, to where it is logged
                outcome = error
            with contextlib.suppress(RuntimeError):  # the bridge has stopped meanwhile
                loop.call_soon_threadsafe(self._end_reading, number, outcome, reading)

        self._reading += 1
        # As a daemon: a disk that hangs must not keep the process from ending.
        threading.Thread(target=read, name="mxrtc-configuration", daemon=True).start()
        return reading

    def _end_reading(self, number: int, outcome: Config | Exception, reading: asyncio.Future[_Rest | None]) -> None:
        self._reading -= 1
        if isinstance(outcome, Config):
            reading.set_result(self._put_in_force(number, outcome))
        else:
            if isinstance(outcome, ConfigError):
                log.error("the configuration was not reloaded, the old one stays in force:\n%s", outcome)
                error = outcome
            else:
                log.error("! the configuration was not reloaded, the old one stays in force", exc_info=outcome)
                error = ConfigError("it could not be read")
            reading.set_exception(error)
        if self._next is not None:
            self._begin_reading()

    def _put_in_force(self, number: int, config: Config) -> _Rest | None:
        if number <= self._newest:
            log.info("a configuration was read that is older than the one in force; it is dropped")
            return None
        self._newest = number
        failed: list[str] = []
        for put in self._at_once:
            try:
                put(config)
            except Exception:
                log.exception("! not all of the new configuration is in force")
                failed.append("some settings")
        chains = self._steps(config)
        names = [step.what for chain in chains for step in chain]
        later = self._restart_only(config)
        for key in later:
            log.warning("a change of %s takes effect after a restart only", key)
        rest = _Rest(config, chains, asyncio.get_running_loop().create_future(), names, failed, later)
        log.info("rights of the new configuration are in force: %d grants", len(config.grants))
        if self._rest is not None:
            _settle(self._rest)
        self._rest = rest
        self._wake.set()
        return rest

    # The slow part

    async def _do_rests(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                rest = self._rest
                if rest is None:
                    continue
                await self._do(rest)
                if self._rest is rest:
                    self._say(rest)
                _settle(rest)
        finally:
            for task in self._left_alone:
                task.cancel()

    async def _do(self, rest: _Rest) -> None:
        """Do the steps until they are done, or a newer configuration is in force."""
        working = [asyncio.create_task(self._do_chain(rest, chain), name="reload") for chain in rest.chains]
        newer = asyncio.create_task(self._wake.wait(), name="newer configuration")
        try:
            pending: set[asyncio.Task[None]] = set(working)
            while pending and not newer.done():
                _, waiting = await asyncio.wait([*pending, newer], return_when=asyncio.FIRST_COMPLETED)
                pending &= waiting
        finally:
            for task in (*working, newer):
                task.cancel()
            await asyncio.wait(working)
            if self._left_alone:  # what does not end by then goes on beside its successor
                await asyncio.wait(self._left_alone, timeout=self._cancel_s)

    async def _do_chain(self, rest: _Rest, chain: Sequence[ReloadStep]) -> None:
        for step in chain:
            if not await self._do_step(step):
                rest.failed.append(step.what)
            rest.open.remove(step.what)

    async def _do_step(self, step: ReloadStep) -> bool:
        """Whether it was done; one that does not end is left alone, to be cancelled at the end."""
        task = asyncio.create_task(
            outlive(f"{step.what} of the new configuration", step.work), name=f"reload: {step.what}"
        )
        try:
            await asyncio.wait([task], timeout=step.limit_s)
        finally:
            if not task.done():
                task.cancel()
                self._left_alone.add(task)
                task.add_done_callback(self._left_alone.discard)
        if not task.done():
            log.error("! %s of the new configuration: not done within %g s", step.what, step.limit_s)
            return False
        return not task.cancelled() and task.result()

    def _say(self, rest: _Rest) -> None:
        config = rest.config
        if rest.failed:
            text = _outcome_of_rest(rest)
            log.error("! %s", text)
            if rest.answered:
                self._tell_admins(text)
        else:
            log.info("configuration reloaded: %d peers, %d grants", len(config.peers), len(config.grants))


def _settle(rest: _Rest) -> None:
    """Nothing more is done for this configuration: all was, or a newer one has taken its place."""
    if not rest.done.done():
        rest.done.set_result(None)


_RESTART_ONLY: Mapping[str, Callable[[Config], object]] = {
    "homeserver.address": lambda config: config.homeserver.address,
    "homeserver.domain": lambda config: config.homeserver.domain,
    "homeserver.proxy": lambda config: config.homeserver.proxy,
    "appservice.id": lambda config: config.appservice.id,
    "appservice.listen": lambda config: config.appservice.listen,
    "appservice.url": lambda config: config.appservice.url,
    "appservice.bot": lambda config: localpart_of(config.appservice.bot),
    "appservice.peer_prefix": lambda config: config.appservice.peer_prefix,
    "appservice.sender_localpart": lambda config: config.appservice.sender_localpart,
    "appservice.hs_token": lambda config: config.appservice.hs_token,
    "appservice.as_token": lambda config: config.appservice.as_token,
    "database": lambda config: config.database,
    "audit.file": lambda config: config.audit.file,
    "audit.max_size": lambda config: config.audit.max_bytes,
    "audit.keep": lambda config: config.audit.keep,
    "control": lambda config: config.control_socket,
    "metrics.listen": lambda config: config.metrics_listen,
    "logging.level": lambda config: config.log_level,
    "encryption.enabled": lambda config: config.encryption.mode,
    "encryption.key": lambda config: (config.encryption.key, config.encryption.key_file),
    "encryption.receive": lambda config: config.encryption.announced,
}
_REGISTERED = {"homeserver.domain", "encryption.receive"} | {
    key for key in _RESTART_ONLY if key.startswith("appservice.") and key != "appservice.listen"
}
"""Keys that the registration repeats to the homeserver."""


def restart_only(started_with: Config, now: Config) -> list[str]:
    """The keys whose values in ``now`` are not those in use, and will not be before a restart."""
    return [key for key, value in _RESTART_ONLY.items() if value(now) != value(started_with)]


def _outcome(rest: _Rest) -> str:
    said = _outcome_of_rest(rest)
    if rest.later:
        keys = _list(rest.later)
        said += f" A change of {keys} takes effect after a restart only; until then the old value is used."
        if told := [key for key in rest.later if key in _REGISTERED]:
            said += (
                f" The homeserver must be told of {_list(told)} as well: give it the new registration "
                "(mxrtc-bridge registration), and restart it."
            )
    return said


def _outcome_of_rest(rest: _Rest) -> str:
    config = rest.config
    peers, grants = len(config.peers), len(config.grants)
    known = f"{peers} peer{'s' * (peers != 1)}, {grants} grant{'s' * (grants != 1)}"
    if rest.failed:
        return f"Rights are in force ({known}), but not all of the rest: {_list(rest.failed)}; the log says why."
    if not rest.done.done():
        return f"Rights are in force ({known}). Still under way: {_list(rest.open) or 'the rest'}."
    if rest.open:
        return f"Rights were in force ({known}); a newer configuration has taken their place."
    return f"The configuration is in force: {known}."


def _list(words: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _looked_at(reading: asyncio.Future[_Rest | None]) -> None:
    """Nobody complains that the failure of a reading was not looked at: it was logged."""
    if not reading.cancelled():
        reading.exception()
