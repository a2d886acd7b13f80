"""The running bridge: starts everything in order, keeps it together, stops it in order.

Start: database, endpoint (answers 503), homeserver, peers, calls left open by the last run, stored events; then ready,
and a ping so that the homeserver delivers what it holds. Stop: no new calls, farewell to live ones, then the reverse.
What is started is made in :mod:`mxrtc_bridge.bridge.build`; who gets which event is decided in
:mod:`mxrtc_bridge.bridge.event_router`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from mxrtc_bridge.bridge.bot.bot import build_bot
from mxrtc_bridge.bridge.build import Pace, build_access, build_basis, build_calls, build_devices, peer_connections
from mxrtc_bridge.bridge.config_mapping import call_settings, profiles
from mxrtc_bridge.bridge.event_router import EventRouter
from mxrtc_bridge.bridge.failures import outlive
from mxrtc_bridge.bridge.reload import Reload, ReloadStep, restart_only
from mxrtc_bridge.bridge.revocation import HANDLED, Revocation
from mxrtc_bridge.bridge.service_manager import ServiceManager
from mxrtc_bridge.config import Config, UnixListen
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.errors import AdminError, first_error
from mxrtc_bridge.engine.clock import Clock, LoopClock
from mxrtc_bridge.matrix.api.ping import ping_loop, wait_for_homeserver
from mxrtc_bridge.matrix.inbox.inbox import Inbox
from mxrtc_bridge.matrix.inbox.redactions import WithdrawnEvents
from mxrtc_bridge.matrix.virtual_users import Consent
from mxrtc_bridge.storage.tables import Stores
from mxrtc_bridge.web.appservice import AppserviceEndpoint
from mxrtc_bridge.web.control import SOCKET_MODE, control_application
from mxrtc_bridge.web.metrics import metrics_application
from mxrtc_bridge.web.server import Server

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long live sessions may take to end when the bridge stops."""
LAST_EVENTS_S = 2.0
"""How long the events that are being handled then may take; what does not end is handled again after the start."""


class Bridge:
    """One running bridge. Its parts can be looked at; only the bridge starts, changes and stops them.

    Args:
        config: the configuration to start with.
        stores: the open database.
        consent: what may be done to accounts and identities that are there.
        manager: is told when the bridge is ready and when it stops; nobody by default.
        clock: where time comes from, if not from the running loop.
        pace: how often what is done by itself is done.
    """

    def __init__(
        self,
        config: Config,
        stores: Stores,
        consent: Consent = Consent(),  # noqa: B008 - a value
        clock: Clock | None = None,
        pace: Pace = Pace(),  # noqa: B008 - a value
        manager: ServiceManager | None = None,
    ) -> None:
        self._manager = manager or ServiceManager({})
        self._config = config
        self._serving = asyncio.Event()
        self.basis = build_basis(config, stores, clock or LoopClock(), pace)
        self.access = build_access(self.basis, consent)
        self.devices = build_devices(self.basis, self.access)
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
            self.access.rooms, self.calls.peers.membership, self.calls.manager, times=pace.comparison
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
            stack.push_async_callback(self.basis.homeserver.close)
            stack.push_async_callback(self.devices.encryption.close)
            # After the sessions, which end with the tasks below.
            stack.push_async_callback(self.calls.files.close)
            stack.push_async_callback(self.access.audit.close)
            stack.push_async_callback(self.access.given.close)
            endpoint = AppserviceEndpoint(
                self.inbox,
                token=config.appservice.hs_token,
                metrics=self.basis.metrics,
                hear=self.devices.encryption.hear,
            )
            await stack.enter_async_context(Server(endpoint.application(), config.appservice.listen))
            if config.metrics_listen is not None:
                await stack.enter_async_context(
                    Server(metrics_application(self.basis.metrics.render), config.metrics_listen)
                )
            if config.control_socket is not None:
                control = control_application(self.bot.control.handle, AdminError, ready=self._serving.is_set)
                listen = UnixListen(str(config.control_socket))
                await stack.enter_async_context(Server(control, listen, unix_mode=SOCKET_MODE))
            try:
                async with asyncio.TaskGroup() as tasks:
                    living = tasks.create_task(self._live(reload), name="bridge")
                    await stop.wait()
                    log.info("stopping")
                    self._manager.stopping()
                    await self._wind_down()
                    living.cancel()
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        log.info("stopped")

    async def _live(self, reload: asyncio.Event) -> None:
        """Get ready, then serve until cancelled; a stop is heard in every phase, also while the homeserver is away."""
        users, files = [profile.user_id for profile in profiles(self._config)], self.calls.files
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._manager.run(self._serving), name="service manager")
            await self.access.audit.start()
            tasks.create_task(self.access.audit.run(), name="audit")
            tasks.create_task(self.basis.numbers.run(), name="numbers")
            await self.access.given.load()
            await self.access.rooms.recall(self.calls.manager.rights_changed)
            tasks.create_task(self.access.given.run(), name="ends of grants")
            tasks.create_task(self.calls.manager.run(), name="calls")
            tasks.create_task(self.bot.run(), name="people")
            await outlive("not all directories are open", lambda: files.serve(self._config.files_targets()))
            await wait_for_homeserver(self.basis.homeserver)
            await self.access.users.load()
            await self.access.users.take(users)
            await self.calls.peers.start()
            tasks.create_task(self.revocation.run(), name="arrivals")
            await self.devices.encryption.start(users, self._router.receive_to_device)
            tasks.create_task(self.calls.signalling.run(), name="calls by devices")
            tasks.create_task(self.devices.encryption.run(), name="encryption")
            tasks.create_task(self.devices.verifications.run(), name="verifications")
            tasks.create_task(self.devices.slow_work.run(), name="slow work")
            tasks.create_task(self.calls.device_policy.run(), name="policy for devices")
            await self.calls.manager.hang_up_leftovers()
            await self.calls.redaction.start()
            # Before the first call: what was taken away while the bridge started is gone.
            await self._reload.catch_up(reload)
            tasks.create_task(self._reload.run(reload), name="reload")
            # Not earlier: what an earlier run has left in the inbox is judged by the rooms that the peers are in.
            tasks.create_task(self.access.notices.run(self.devices.outbox), name="notices")
            tasks.create_task(self.calls.redaction.run(), name="traces of calls")
            tasks.create_task(self.access.rooms.bot_rooms.run(), name="rooms of the bot")
            self._taking = tasks.create_task(self.inbox.run(), name="inbox")
            self.inbox.set_ready(True)
            self._serving.set()
            log.info("bridge ready: %d peers", len(self._config.peers))
            tasks.create_task(ping_loop(self.basis.homeserver, self._config.appservice.id), name="ping")
            tasks.create_task(self._keep_house(), name="housekeeping")

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
        self.calls.manager.rights_changed()
        self.calls.device_policy.policy_changed()

    def _steps_of_reload(self, config: Config) -> list[list[ReloadStep]]:
        users, fit = [profile.user_id for profile in profiles(config)], self.access.users.is_fit
        return [
            [ReloadStep("devices of callers", self.calls.device_policy.judge_again)],
            [ReloadStep("directories", lambda: self.calls.files.serve(config.files_targets()))],
            [
                ReloadStep("accounts of peers", lambda: self.access.users.take(users)),
                ReloadStep(
                    "rooms of peers", lambda: self.calls.peers.reload(p for p in profiles(config) if fit(p.user_id))
                ),
                ReloadStep("devices of peers", lambda: self.devices.encryption.serve(filter(fit, users))),
            ],
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
        busy = frozenset(each.route for each in self.calls.manager.sessions if not isinstance(each.route, DevicePair))
        left = await self.calls.peers.leave_idle(self.basis.clock.wall_ms() - idle_ms, busy=busy)
        log.info("housekeeping: %d idle rooms left", left)
