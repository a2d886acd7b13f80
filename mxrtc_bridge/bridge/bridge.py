"""The running bridge: starts everything in order, keeps it together, stops it in order.

Start: database, endpoint (answers 503), homeserver, peers, calls left open by the last run, stored events; then ready,
and a ping so that the homeserver delivers what it holds. Stop: no new calls, farewell to live ones, then the reverse.
What is started is made in :mod:`mxrtc_bridge.bridge.build`; who gets which event is decided in
:mod:`mxrtc_bridge.bridge.event_router`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from mxrtc_bridge.bridge.bot.bot import build_bot
from mxrtc_bridge.bridge.build import Pace, build_access, build_basis, build_calls, build_devices, peer_connections
from mxrtc_bridge.bridge.config_mapping import call_settings, profiles
from mxrtc_bridge.bridge.event_router import EventRouter
from mxrtc_bridge.bridge.failures import keep_running, outlive, until_possible
from mxrtc_bridge.bridge.reload import STEP_S, Reload, ReloadStep, restart_only
from mxrtc_bridge.bridge.revocation import HANDLED, Revocation
from mxrtc_bridge.bridge.service_manager import ServiceManager
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.values import UnixListen
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.errors import AdminError, MxrtcError, first_error
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine import rate_limited_log
from mxrtc_bridge.engine.clock import Clock, LoopClock
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.ping import ping_loop, wait_for_homeserver
from mxrtc_bridge.matrix.inbox.inbox import Inbox
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.matrix.virtual_users import AdminConsent, UsersRefusedError
from mxrtc_bridge.storage.tables import Stores
from mxrtc_bridge.web.appservice import AppserviceEndpoint
from mxrtc_bridge.web.control import SOCKET_MODE, control_application
from mxrtc_bridge.web.metrics import metrics_application
from mxrtc_bridge.web.server import MAX_CONNECTIONS, Server

log = logging.getLogger(__name__)

DEVICE_S = 0.5
"""How much longer a reload waits for the devices of peers, for each: after a first start all of them come up."""
DRAIN_S = 5.0
"""How long live sessions may take to end when the bridge stops."""
END_S = 8.0
"""How long everything else may take to end then: sessions say goodbye to their relays, files are put away."""
ROOMS_AT_ONCE = 8
"""Rooms in which calls of the last run are looked at together."""
LEAVE_ROOMS_S = 600.0
"""How long a reload goes on to leave rooms; the rest of them are left when the house is kept."""
CLOSE_S = 12.0
"""How long each of the parts may take to be closed; those that wait for disks or databases have bounds of their own."""
LAST_EVENTS_S = 2.0
"""How long the events that are being handled then may take; what does not end is handled again after the start."""


class Bridge:
    """One running bridge. Its parts can be looked at; only the bridge starts, changes and stops them.

    Args:
        config: the configuration to start with.
        stores: the open database.
        consent: what may be done to accounts and identities that are there.
        manager: is told when the bridge reloads and when it stops; nobody by default.
        serving: set when it is ready.
        clock: where time comes from, if not from the running loop.
        pace: how often what is done by itself is done.
    """

    def __init__(
        self,
        config: Config,
        stores: Stores,
        consent: AdminConsent = AdminConsent(),  # noqa: B008 - a value
        clock: Clock | None = None,
        pace: Pace = Pace(),  # noqa: B008 - a value
        manager: ServiceManager | None = None,
        serving: asyncio.Event | None = None,
    ) -> None:
        self._manager = manager or ServiceManager({})
        self._config = config
        self._serving = serving or asyncio.Event()
        self.basis = build_basis(config, stores, clock or LoopClock(), pace)
        self.access = build_access(self.basis, consent)
        self.devices = build_devices(self.basis, self.access, identity_changed=self._tell_down)
        self.calls = build_calls(self.basis, self.access, self.devices)
        self._reload = Reload(
            config.path,
            at_once=(self._put_rights_in_force, self._configure_calls, self.devices.encryption.configure),
            steps=self._steps_of_reload,
            tell_admins=self.access.announcements.to_admins,
            restart_only=lambda new: restart_only(config, new),
            announce=lambda begins: self._manager.reload(begins=begins),
        )
        withdrawn = WithdrawnEvents()
        self.bot = build_bot(
            self.basis, self.access, self.devices, self.calls, reload=self._reload.carry_out, withdrawn=withdrawn
        )
        self._router = EventRouter(
            self.access.index,
            self.devices,
            self.calls,
            self.bot,
            withdrawn=withdrawn,
            counters=self.basis.metrics,
            serving=self._serving,
        )
        self.revocation = Revocation(
            self.access.rooms, self.calls.peers.membership, self.calls.manager.live, times=pace.comparison
        )
        self._taking: asyncio.Task[None] | None = None
        self.inbox = Inbox(
            stores.inbox,
            self._router.receive_room_event,
            wall_ms=self.basis.clock.wall_ms,
            knows_user=self.basis.config.own_user,
            metrics=self.basis.metrics,
            own_server=config.homeserver.domain,
            has_right=self.access.rights.has_any,
            types=HANDLED,
            arrived=self.revocation.look,
            withdrawn=withdrawn,
        )

    async def run(self, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Run until ``stop`` is set.

        Raises:
            HomeserverError: the homeserver refuses us for good.
            LocalError: an address cannot be listened on, or the database cannot be used.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            # Each within some seconds, whatever hangs.
            stack.push_async_callback(_closed, "the connections to the homeserver", self.basis.homeserver.close)
            stack.push_async_callback(_closed, "the connections of devices", self.devices.encryption.close)
            # After the sessions, which end with the tasks below.
            stack.push_async_callback(_closed, "the directories", self.calls.files.close)
            stack.push_async_callback(_closed, "the audit", self.access.audit.close)
            stack.push_async_callback(_closed, "the grants", self.access.given.close)
            endpoint = AppserviceEndpoint(
                self.inbox,
                token=config.appservice.hs_token,
                metrics=self.basis.metrics,
                hear=self.devices.encryption.hear,
                must_come_again=self.basis.homeserver_return.doubt,
            )
            await stack.enter_async_context(Server(endpoint.application(), config.appservice.listen))
            if config.metrics_listen is not None:
                page = metrics_application(
                    lambda: self.basis.measured(self.calls.manager.live, ready=self._serving.is_set())
                )
                server = Server(page, config.metrics_listen, max_connections=MAX_CONNECTIONS)
                await stack.enter_async_context(server)
            if config.control_socket is not None:
                control = control_application(self.bot.control.handle, AdminError, ready=self._serving.is_set)
                listen = UnixListen(str(config.control_socket))
                server = Server(control, listen, unix_mode=SOCKET_MODE, max_connections=MAX_CONNECTIONS)
                await stack.enter_async_context(server)
            living = asyncio.create_task(self._live(reload), name="bridge")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            try:
                await asyncio.wait([living, stopping], return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    log.info("stopping")
                    self._manager.stopping()
                    await self._wind_down()
            finally:
                living.cancel()
                stopping.cancel()
                # What does not end, as its disk hangs, is left behind: whoever runs the process ends it.
                _, left = await asyncio.wait([living], timeout=END_S)
                rate_limited_log.tell_all(everything=True)
            if left:
                log.error("! not everything has ended within %g s; it is left behind", END_S)
            elif not living.cancelled() and (error := living.exception()) is not None:
                raise (first_error(error) if isinstance(error, BaseExceptionGroup) else error) from None
        log.info("stopped")

    async def _live(self, reload: asyncio.Event) -> None:
        """Get ready, then serve until cancelled; a stop is heard in every phase, also while the homeserver is away."""
        users, files = [profile.user_id for profile in profiles(self._config)], self.calls.files
        async with asyncio.TaskGroup() as tasks:

            def keep(what: str, run: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
                return tasks.create_task(keep_running(what, run), name=what)

            await self.access.audit.start()
            keep("audit", self.access.audit.run)
            keep("numbers", self.basis.numbers.run)
            await until_possible("the recall of grants", self.access.given.load)
            recall = functools.partial(self.access.rooms.recall, self.calls.manager.live.rights_changed)
            await until_possible("the recall of policy lists", recall)
            keep("ends of grants", self.access.given.run)
            keep("calls", self.calls.manager.run)
            keep("people", self.bot.run)
            # Beside all else, as disks may be slow.
            directories = outlive("not all directories are open", lambda: files.serve(self._config.files_targets()))
            tasks.create_task(directories, name="directories")
            await wait_for_homeserver(self.basis.homeserver)
            await until_possible("the look at our accounts", self.access.users.load)
            await until_possible("the accounts of peers", lambda: self._take_users(users))
            await until_possible("the rooms of peers", lambda: self.calls.peers.start(self.access.users.is_fit))
            keep("rooms of peers", self.calls.peers.run)
            keep("arrivals", self.revocation.run)
            to_device, register = self._router.receive_to_device, self.calls.peers.register_again
            await self.devices.encryption.begin(filter(self.access.users.is_fit, users), to_device, register)
            keep("calls by devices", self.calls.signalling.run)
            keep("encryption", self.devices.encryption.run)
            keep("late keys", self.devices.messages.run)
            # Not before the bridge is ready: they take many requests. Other identities of all end the bridge.
            devices = until_possible("the devices of peers", self.devices.encryption.bring_up)
            tasks.create_task(devices, name="devices of peers")
            keep("verifications", self.devices.verifications.run)
            keep("slow work", self.devices.slow_work.run)
            keep("policy for devices", self.calls.device_policy.run)
            leftovers = await until_possible("the look at leftover calls", self.calls.manager.leftovers)
            hang_up = functools.partial(self._hang_up, leftovers)
            tasks.create_task(outlive("not all leftover calls are hung up", hang_up), name="calls of the last run")
            await until_possible("the look at events of calls", self.calls.redaction.start)
            # Before the first call: what was taken away while the bridge started is gone.
            await self._reload.catch_up(reload)
            keep("reload", lambda: self._reload.run(reload))
            # Not earlier: what an earlier run has left in the inbox is judged by the rooms that the peers are in.
            keep("notices", lambda: self.access.notices.run(self.devices.outbox))
            keep("traces of calls", self.calls.redaction.run)
            keep("rooms of the bot", self.access.rooms.bot_rooms.run)
            self._taking = tasks.create_task(self._take_events(), name="inbox")
            self.inbox.set_ready(True)
            # The ping has the homeserver send what waits; what is refused then comes seconds later, or minutes.
            await self.inbox.opened()
            self._serving.set()
            log.info("bridge ready: %d peers", len(self._config.peers))
            ping = functools.partial(ping_loop, self.basis.homeserver, self._config.appservice.id)
            returns, retry_s = self.basis.homeserver_return, self.basis.pace.ping_retry_s
            keep("ping", lambda: ping(on_change=returns.changed, retry_s=retry_s, sleep=returns.until_next_ping))
            keep("housekeeping", self._keep_house)
            keep("lines that were left out", rate_limited_log.keep_telling)

    async def _take_users(self, users: Sequence[UserId]) -> None:
        """Take our accounts; what is wrong with some of them is their trouble alone.

        Raises:
            ConfigError: so much is wrong that nobody could be served.
            HomeserverError: a user could not be registered.
            StorageError: it could not be written down.
        """
        own, bot = self.access.users, self._config.appservice.bot
        try:
            await own.take(users)
        except UsersRefusedError as error:
            if own.nobody_serves(bot, [user for user in users if user != bot]):
                raise
            log.warning("! not everybody is served: %s", error)
            self._tell_down()

    async def _take_new_users(self, users: Sequence[UserId]) -> None:
        try:
            await self.access.users.take(users)
        finally:
            self._tell_down()

    def _tell_down(self) -> None:
        """Have the service manager say which of our users take no calls."""
        users = [profile.user_id for profile in profiles(self.basis.config.in_force)]
        down = [user for user in users if self.devices.why_down(user) is not None]
        more = f" and {len(down) - 1} more" if down[1:] else ""
        self._manager.note(f"no calls for {down[0]}{more}, the log says why" if down else "")

    async def _take_events(self) -> None:
        """Own the inbox, which ends when it is closed."""

        async def run() -> None:
            await self.inbox.run()
            if self.inbox.closing:
                raise _ClosedError

        with contextlib.suppress(_ClosedError):
            await keep_running("inbox", run, ends=_ClosedError)

    async def _hang_up(self, leftovers: Sequence[CallRecord]) -> None:
        """Hang up what the last run left open, once it can be said; new calls are taken meanwhile."""
        await self.devices.encryption.settled()
        unread = self.access.index.unread
        left: dict[RoomId | None, list[CallRecord]] = {}
        """By room; those by devices are first, as nothing must be read for them, then those of rooms that are read."""
        for record in sorted(leftovers, key=lambda each: not isinstance(each.route, DevicePair)):
            left.setdefault(None if isinstance(record.route, DevicePair) else record.route, []).append(record)
        rounds, away = 0, set[str]()
        failed: dict[RoomId | None, None] = {}
        """Where something could not be said, the oldest failure first."""

        async def hang_up(room: RoomId | None) -> None:
            if room is not None:
                await outlive("a room of leftover calls is not read yet", lambda: self.calls.peers.settled(room))
            # Nothing can be said in a room before it is read: its calls would be taken for hung up, and never be.
            if room in unread:
                return
            skipped, in_vain = await self.calls.manager.hang_up_leftovers(left.pop(room), away)
            if skipped or in_vain:
                left[room] = [*skipped, *in_vain]
            if in_vain:
                failed.pop(room, None)
                failed[room] = None

        while left:
            away.clear()
            new = [room for room in left if room not in failed]
            await each(sorted(new, key=lambda room: room in unread), hang_up, ROOMS_AT_ONCE)
            # By turns, as one that fails has the others of its server wait for the next round.
            await each([room for room in failed if room in left and room not in new], hang_up, 1)
            rounds += 1
            if left:
                await asyncio.sleep(self.basis.pace.leftovers.pause_s(rounds))

    async def _wind_down(self) -> None:
        """Take nothing new, say goodbye, and let the events that are being handled end; all within some seconds."""
        self.inbox.set_ready(False)
        await self.calls.manager.drain(DRAIN_S)
        self.inbox.close()
        if self._taking is not None:
            await asyncio.wait([self._taking], timeout=LAST_EVENTS_S)

    # Reload, housekeeping

    def _configure_calls(self, config: Config) -> None:
        self.calls.manager.reconfigure(call_settings(config), peer_connections(self.basis, config))

    def _put_rights_in_force(self, config: Config) -> None:
        self.basis.config.put_in_force(config)
        self.access.rooms.configure()
        self.calls.manager.live.rights_changed()
        self.calls.device_policy.policy_changed()

    def _steps_of_reload(self, config: Config) -> list[list[ReloadStep]]:
        users, fit = [profile.user_id for profile in profiles(config)], self.access.users.is_fit
        return [
            [ReloadStep("devices of callers", self.calls.device_policy.judge_again)],
            [ReloadStep("directories", lambda: self.calls.files.serve(config.files_targets()))],
            [
                ReloadStep("accounts of peers", lambda: self._take_new_users(users)),
                ReloadStep(
                    "rooms of peers", lambda: self.calls.peers.reload(p for p in profiles(config) if fit(p.user_id))
                ),
                ReloadStep(
                    "devices of peers",
                    lambda: self.devices.encryption.serve(filter(fit, users)),
                    limit_s=STEP_S + DEVICE_S * len(users),
                ),
            ],
            # Beside new peers, which need not wait for it: each room is a request.
            [ReloadStep("rooms that must be left", self.calls.peers.leave_unused, LEAVE_ROOMS_S)],
            [ReloadStep("rooms of the bot", self.access.rooms.reload)],
        ]

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self.basis.pace.housekeeping_s)
            await outlive("old rows were not forgotten", self._forget)
            await outlive("unfinished files were not removed", self.calls.files.keep_house)
            await outlive("idle rooms were not left", self._leave_idle_rooms)
            await outlive("old requests were not ended", self.bot.requests.keep_house)

    async def _forget(self) -> None:
        log.info("housekeeping: %d rows forgotten", await self.basis.stores.prune(self.basis.clock.wall_ms()))

    async def _leave_idle_rooms(self) -> None:
        idle_ms = round(self.basis.config.in_force.limits.idle_room_s * 1000)
        sessions = self.calls.manager.live.sessions
        busy = frozenset(each.route for each in sessions if not isinstance(each.route, DevicePair))
        left = await self.calls.peers.leave_idle(self.basis.clock.wall_ms() - idle_ms, busy=busy)
        log.info("housekeeping: %d idle rooms left", left)


class _ClosedError(Exception):
    """The inbox has ended as it was closed."""


async def _closed(what: str, close: Callable[[], Awaitable[None]]) -> None:
    """Close a part, within a limited time; what fails keeps no other part from being closed."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await close()
    except TimeoutError:
        log.error("! %s could not be closed within %g s", what, CLOSE_S)
    except MxrtcError as error:
        log.error("! %s could not be closed: %s", what, error)
    except Exception:
        log.exception("! %s could not be closed", what)
