"""How every command calls: by its own session, or by that of the command that holds the account.

The account is held by whoever has the lock on a file of the state folder: the first command that calls, until it ends.
All others use its sessions, and take its place when it is gone. Where that one does not answer, or cannot be asked, a
command calls by itself: none waits for another one. What is asked of the device of the account goes the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType

from mxrtc_bridge.client.calls.caller import Caller
from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.calls.shared_device import SharedDevice
from mxrtc_bridge.client.exit_codes import ClientError
from mxrtc_bridge.client.options import CallOptions, Context
from mxrtc_bridge.client.report import Person, Says
from mxrtc_bridge.client.sharing.device_work import DeviceWork
from mxrtc_bridge.client.sharing.guest import HolderGoneError, HolderLink
from mxrtc_bridge.client.sharing.holder import Holder
from mxrtc_bridge.client.sharing.pool import Place, SessionPool
from mxrtc_bridge.client.sharing.reach import StrangerError, UnreachableError, reach
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.config.private_files import open_private_file, take_lock
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.sharing.messages import DeviceRequest
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.sinks.frame_socket import SHARES

log = logging.getLogger(__name__)

LOCK_NAME, SOCKET_NAME = "account.lock", "account.sock"
UNREACHABLE_S = 3.0
"""How long the command that holds the account may be unreachable before we call by ourselves."""
AGAIN_S = 0.05
TRIES = 3
"""How many commands that are gone before they have answered one command goes through, until it calls by itself."""
OTHER_COMMAND = "the mxrtc command that holds the account"
"""What is waited for, as the user reads it."""


class Calls:
    """The calls of one command; use it as an asynchronous context manager.

    Args:
        context: what all commands share.
        login: as whom.
        place: makes a session; None for the one way in which that is done.
        unreachable_s: see :data:`UNREACHABLE_S`.
    """

    def __init__(
        self, context: Context, login: Login, *, place: Place | None = None, unreachable_s: float = UNREACHABLE_S
    ) -> None:
        self.login = login
        self._context = context
        self._unreachable_s = unreachable_s
        self._device = SharedDevice(context.state, login)
        self._work = DeviceWork(self._device, context.state, login)
        self._pool = SessionPool(place or self._place)
        self._taking = asyncio.Lock()
        """Held by whoever finds out who holds the account, as it may be another task of ours."""
        self._holder: Holder | None = None
        self._lock: int | None = None
        self._alone = not (context.call.share and SHARES)
        """Whether it neither asks others nor is asked by them."""

    async def __aenter__(self) -> Calls:
        """Begin.

        Raises:
            ConfigError: no request can be made with this login, whoever makes it.
        """
        login = self.login
        await Account(login.homeserver, login.user_id, login.device_id, login.access_token).connect().close()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            # The next one may hold the account: those who use our sessions go on with them.
            self._let_go()
            await self._pool.stop_lingering()
            if self._holder is not None and self._holder.guests and self._may_stay(error):
                self._tell_that_we_go_on(self._holder.guests, error)
                await self._holder.wait_until_empty()
        finally:
            if self._holder is not None:
                await self._holder.close()
            await self._pool.close()

    @contextlib.asynccontextmanager
    async def call(self, peer: UserId) -> AsyncIterator[Connection]:
        """Reach ``peer``; the connection lives inside the context.

        Raises:
            ClientError: the call did not get through; says why, and whether to try again.
            HomeserverError: the homeserver refuses us, or is away.
        """
        options, report = self._context.call, self._context.report
        async with contextlib.AsyncExitStack() as using:
            connection = None
            async for link in self._links(self.login.name_of(peer)):
                with contextlib.suppress(HolderGoneError):
                    connection = await using.enter_async_context(link.call(peer, options, report))
                    break
            if connection is None:
                connection = await using.enter_async_context(self._pool.connection(peer, options, report))
            yield connection

    async def ask_device(self, asked: DeviceRequest, person: Person) -> None:
        """Have something done by the device of the account, whoever has it.

        Args:
            asked: what.
            person: who has asked.

        Raises:
            ClientError: it was not possible; says why.
            HomeserverError: the homeserver refuses us, or is away.
        """
        async for link in self._links():
            with contextlib.suppress(HolderGoneError):
                await link.ask_device(asked, person)
                return
        await self._work.do(asked, person)

    @contextlib.asynccontextmanager
    async def _place(self, peer: UserId, options: CallOptions, says: Says) -> AsyncIterator[Connection]:
        context = replace(self._context, call=options)
        async with Caller(context, self.login, self._device, says) as caller, caller.call(peer) as connection:
            yield connection

    async def _links(self, name: str = "") -> AsyncIterator[HolderLink]:
        """Yield ways to the command that holds the account, until that is us, or we do it by ourselves."""
        for _ in range(TRIES):
            async with self._taking:
                link = await self._link(name)
            if link is None:
                return
            yield link

    async def _link(self, name: str) -> HolderLink | None:
        """The way to the command that holds the account; None where that is us, or where we call by ourselves."""
        if self._alone or self._holder is not None:
            return None
        now = asyncio.get_running_loop().time
        deadline = now() + self._unreachable_s
        waiting = Waiting(self._context.report, self._context.call.timeout_s)
        async with waiting.told(lambda: OTHER_COMMAND, name):
            while now() < deadline:
                try:
                    with self._context.state.opened() as folder:
                        if await self._hold(folder):
                            return None
                        return await reach(folder, self._context.state.path / SOCKET_NAME, self.login)
                except UnreachableError as error:
                    log.debug("the command that holds the account cannot be reached: %s", error)
                except StrangerError as error:
                    self._context.report.say("own_call", f"{error}; this command calls by itself", reason=str(error))
                    return None
                except (LocalError, ClientError, OSError) as error:
                    log.info("we call by ourselves: %s", error)
                    return None
                await asyncio.sleep(AGAIN_S)
        log.info("we call by ourselves, as the command that holds the account does not answer")
        return None

    async def _hold(self, folder: int) -> bool:
        """Hold the account from now on; False where another one does.

        Raises:
            LocalError: the lock is not ours alone.
            OSError: it cannot be used, or no socket can be made.
        """
        path = self._context.state.path
        lock = open_private_file(folder, LOCK_NAME, os.O_RDWR | os.O_CREAT, str(path / LOCK_NAME))
        try:
            if not take_lock(lock):
                os.close(lock)
                return False
            holder = Holder(self._pool, self._work.do, self._context.call, self.login)
            await holder.open(folder, path / SOCKET_NAME)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(lock)
            raise
        self._lock, self._holder = lock, holder
        self._context.lending.guests = lambda: holder.guests
        return True

    def _may_stay(self, error: BaseException | None) -> bool:
        """Whether our guests may go on: a command that is told to end at once takes them with it."""
        if not isinstance(error, asyncio.CancelledError):
            return True
        task = asyncio.current_task()
        if task is None or not self._context.lending.asked_to_end:
            return False
        task.uncancel()
        return True

    def _let_go(self) -> None:
        if self._holder is not None:
            self._holder.turn_away()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _tell_that_we_go_on(self, guests: int, error: BaseException | None) -> None:
        report = self._context.report
        if isinstance(error, ClientError) and not error.told:
            # Now, as this command may end much later.
            report.error(str(error), code=int(error.code))
            error.told = True
        others = "another mxrtc command uses" if guests == 1 else f"{guests} other mxrtc commands use"
        now = "Ctrl-C ends it now, and cuts them"
        report.say(
            "lending", f"this command is done, but {others} its connections; it ends with them ({now})", guests=guests
        )
