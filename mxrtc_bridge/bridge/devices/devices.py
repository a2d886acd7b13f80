"""The devices of all virtual users: brought up at the start, kept listening, and brought up again when they fail.

Must never stop the bridge because of one device. What is said and heard in rooms by them is in :mod:`.room_messages`.

One file: all devices share connections, what was compared, and one order in which they are brought up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from mxrtc_bridge.bridge.config_mapping import proxy_of
from mxrtc_bridge.bridge.devices.identity_key import load_key, why_impossible
from mxrtc_bridge.bridge.devices.retirement import in_words, retire
from mxrtc_bridge.bridge.devices.wakeups import FIRST_POLLS_S, DeviceWakeups
from mxrtc_bridge.config.config import Config, EncryptionMode
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError, StateError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.cross_signing import DEVICE_NAME, OtherIdentityError
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.encrypted_rooms import EncryptedRooms
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys, pickle_key
from mxrtc_bridge.matrix.crypto.sync import LONG_POLL_S, DeviceSync
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent, UserDevices
from mxrtc_bridge.storage.crypto import CryptoStore

log = logging.getLogger(__name__)

DEVICES_PER_TRANSPORT = 64
"""Long polls that share a pool of connections."""
STARTS_AT_A_TIME = 8
TRIED_S = 30.0
"""How long what is said and heard in encrypted rooms waits, after a start, for the device to be brought up."""
FIRST_RESTART_S, RESTART_S = 1.0, 60.0
"""Until a device that has failed is brought up again: the first time, and at most."""
_UNABLE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""How a homeserver says that it has no devices without a login (Matrix 1.17, MSC4190), or none for us."""

ToDeviceHandler = Callable[[CryptoDevice, ToDeviceEvent], Awaitable[None]]


@dataclass(slots=True)
class _End:
    rooms: EncryptedRooms
    sync: DeviceSync
    polling: Transport
    """Which it shares with others."""
    up: bool = False
    """Whether its device has been brought up at the homeserver in this run."""
    is_other: bool = False
    """Whether the homeserver shows another identity of its user than ours, so that the device does not come up."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when that was tried once; until then whoever needs the device waits."""
    task: asyncio.Task[None] | None = None


class Encryption:
    """The devices of the bridge, and whether there are any."""

    def __init__(
        self,
        config: Config,
        store: CryptoStore,
        *,
        wall_ms: Callable[[], int],
        may_replace: Callable[[UserId], bool] = lambda _user: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        has_right: Callable[[UserId], bool] = lambda _user: False,
        is_other: Callable[[UserId], bool] = lambda _user: False,
        identity_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Make it; nothing is sent before :meth:`begin`.

        Args:
            config: the configuration.
            store: remembers all devices.
            wall_ms: milliseconds since the epoch.
            may_replace: whether another identity that a virtual user shows is replaced.
            sleep: waits before a device asks again that the homeserver has failed, or is brought up again.
            has_right: whether a user holds any right.
            is_other: whether a virtual user showed another identity before its device is brought up.
            identity_changed: called when :meth:`shows_other` has changed for one of ours; must not block.
        """
        self._is_other = is_other
        self._identity_changed = identity_changed
        self._sleep = sleep
        self._config = config
        self._store = store
        self._wall_ms = wall_ms
        self._to_device: ToDeviceHandler
        """No device is there before :meth:`begin` has it."""
        self._register_again: Callable[[UserId], Awaitable[None]]
        self._may_replace = may_replace
        self._seldom = RateLimitedLog(log)
        self._ends: dict[UserId, _End] = {}
        self._compared: dict[UserId, str] = {}
        """Identities that were compared, for all devices; a row for each device and user would be their product."""
        self._loading, self._is_loaded = asyncio.Lock(), False
        self._users: frozenset[UserId] = frozenset()
        self._settled = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self._transports: list[Transport] = []
        self._transport: Transport | None = None
        self._key = b""
        self._tasks: asyncio.TaskGroup | None = None
        self._slow = FairWork("what waits for keys of other homeservers", config.homeserver.domain, has_right)
        self._bringing_up = asyncio.Lock()
        self.why_off: str | None = "it has not been started"
        self._announced = config.encryption.announced
        self._wakeups = DeviceWakeups(lambda: [(end.rooms.device, end.sync) for end in self._ends.values() if end.up])

    @property
    def is_on(self) -> bool:
        """Whether encrypted rooms are understood."""
        return self.why_off is None

    def configure(self, config: Config) -> None:
        """Take over who is trusted; the rest takes effect after a restart."""
        if config.encryption.announced != self._announced:
            log.warning("a change of encryption.receive takes effect after a restart only")
        self._config = config
        for end in self._ends.values():
            end.rooms.device.lists.know(config.encryption.identities)

    async def begin(
        self,
        users: Iterable[UserId],
        to_device: ToDeviceHandler,
        register_again: Callable[[UserId], Awaitable[None]] = lambda _user: asyncio.sleep(0),
    ) -> None:
        """Get ready to bring up the devices of all virtual users, which must be registered; asks no homeserver.

        Args:
            users: ours.
            to_device: given what other devices send, one at a time for each of ours.
            register_again: registers one of them with a homeserver that has forgotten it, as it was put back.

        Raises:
            LocalError: encryption was demanded (``enabled: on``) and is not possible.
        """
        settings, self._to_device, self._users = self._config.encryption, to_device, frozenset(users)
        self._register_again = register_again
        if settings.mode is EncryptionMode.OFF:
            self.why_off = "encryption.enabled is off"
            log.warning("encryption is off: the configuration says so; calls from encrypted rooms are not understood")
            return
        try:
            if (why := why_impossible(settings)) is not None:
                raise LocalError(why)
            self._key = await in_new_thread(load_key, settings)
        except MxrtcError as error:
            if settings.mode is EncryptionMode.ON:
                raise
            self._switch_off(error)
            return
        self._transport = self._new_transport()
        self.why_off = None
        # What is said meanwhile must know which rooms are encrypted.
        self._make_ends(self._users)

    async def bring_up(self) -> None:
        """Bring up the devices, or take those of an earlier run away where encryption is off.

        Raises:
            OtherIdentityError: all users show another identity, which may not be replaced.
            HomeserverError: the homeserver has devices for none of them, and they were demanded.
        """
        try:
            await self.serve(self._users)
        except OtherIdentityError:
            if all(end.is_other for end in self._ends.values()):
                raise
        except MxrtcError as error:
            if self._config.encryption.mode is EncryptionMode.ON:
                raise
            self._switch_off(error)
        finally:
            self._settled.set()
        if not self.is_on:
            await retire(self._users, self._store, self._new_transport(), self._note_defect)

    def _switch_off(self, error: MxrtcError) -> None:
        self.why_off = str(error)
        log.warning("encryption is off: %s", error)
        for end in self._ends.values():
            end.tried.set()
            if end.task is not None:
                end.task.cancel()
        self._ends.clear()

    async def settled(self) -> None:
        """Return when it was tried once to bring up each device."""
        await self._settled.wait()

    def _polling_transport(self) -> Transport:
        """One with room for another long poll; devices that are gone leave theirs to others."""
        used = Counter(end.polling for end in self._ends.values())
        free = (each for each in self._transports if each is not self._transport and used[each] < DEVICES_PER_TRANSPORT)
        return next(free, None) or self._new_transport()

    def _new_transport(self) -> Transport:
        transport = Transport(
            self._config.homeserver.address, self._config.appservice.as_token, proxy=proxy_of(self._config)
        )
        self._transports.append(transport)
        return transport

    async def close(self) -> None:
        """End what is under way, and close all connections."""
        for serving in self._serving:
            serving.cancel()
        for transport in self._transports:
            await transport.close()

    async def serve(self, users: Iterable[UserId]) -> None:
        """Have a device for each of the users and for nobody else; one that does not come up is tried again, by itself.

        Raises:
            HomeserverError: the homeserver has devices for none of our users.
            OtherIdentityError: a user shows another identity, which may not be replaced; all others were brought up.
        """
        if not self.is_on:
            return
        self._users = frozenset(users)
        for user in self._ends.keys() - self._users:
            end = self._ends.pop(user)
            if end.task is not None:
                end.task.cancel()
        # It goes on whatever becomes of who asked: a reload waits for a limited time, and is ended by a newer one.
        serving = asyncio.create_task(self._serve_new(), name="devices of peers")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            serving.add_done_callback(_tell_failure)
            raise

    async def _serve_new(self) -> None:
        refusals: list[MxrtcError] = []
        # One after the other: a second device of the same user would be deleted by the first, and it by the second.
        async with self._bringing_up:
            self._make_ends(self._users - self._ends.keys() if self.is_on else ())
            todo = iter(sorted(user for user, end in self._ends.items() if not end.tried.is_set()))

            async def work() -> None:
                for user in todo:
                    refusals.extend(await self._bring_up(user))

            await asyncio.gather(*(work() for _ in range(STARTS_AT_A_TIME)))
        others = [error for error in refusals if isinstance(error, OtherIdentityError)]
        # What the homeserver says to all alike is said of itself; else it is the trouble of single devices.
        if refusals and not others and len(refusals) == len(self._ends):
            raise refusals[0]
        log.info("encryption is on: %d devices", sum(end.up for end in self._ends.values()))
        if others:
            raise others[0]

    def _make_ends(self, users: Iterable[UserId]) -> None:
        for user in users:
            self._ends[user] = self._made(user)

    async def _bring_up(self, user: UserId) -> list[MxrtcError]:
        """Have a device for a user, which may come up later.

        Returns:
            Why not now, where the homeserver does not know or does not allow such devices, or shows another identity.
        """
        end, refusals = self._ends.get(user), list[MxrtcError]()
        if end is None:
            return []  # a reload has taken the user away meanwhile
        try:
            await self._start(end)
        except OtherIdentityError as error:
            self._note_other(end, error)
            refusals.append(error)
        except Exception as error:  # noqa: BLE001 - also a defect of ours with one device is the trouble of that device
            self._note_defect(user, error)
            log.warning("! the device of %s comes up later: %s", user, in_words(error))
            if isinstance(error, HomeserverError) and error.status in _UNABLE:
                refusals.append(error)
        finally:
            end.tried.set()
        if self._tasks is not None and self._ends.get(user) is end:
            end.task = self._tasks.create_task(self._listen(end), name=f"device of {user}")
        return refusals

    def _made(self, user: UserId) -> _End:
        assert self._transport is not None
        polling = self._polling_transport()
        server = KeyServer(self._transport, user, masquerade=True, polling=polling)
        device = CryptoDevice(
            server,
            self._store.of(user),
            user=user,
            pickle_key=pickle_key(self._key),
            display_name=DEVICE_NAME,
            wall_ms=self._wall_ms,
            identity=IdentityKeys.derived(self._key, user, may_replace=self._may_replace(user)),
            known_identities=self._config.encryption.identities,
            compared=self._compared,
            later=self._slow.put,
            seldom=self._seldom,
        )
        rooms = EncryptedRooms(device, self._store.of(user), Homeserver(self._transport))
        polls_s = FIRST_POLLS_S if self._announced else LONG_POLL_S
        sync = DeviceSync(server, device, self._to_device, sleep=self._sleep, first_polls_s=polls_s)
        return _End(rooms, sync, polling, is_other=self._is_other(user))

    async def _start(self, end: _End) -> None:
        await end.rooms.device.start()
        await self._load_compared()
        end.up = True
        if end.is_other:
            end.is_other = False
            log.warning("%s shows our identity again and takes calls", end.rooms.device.user)
            self._identity_changed()

    def _note_other(self, end: _End, error: OtherIdentityError) -> None:
        """Take no calls for a user before the homeserver shows our identity: somebody else may answer as it."""
        end.is_other = True
        user = end.rooms.device.user
        self._seldom.warning(user, "! %s takes no calls: %s; mxrtc-bridge check says what to do", user, error)
        self._identity_changed()

    async def run(self) -> None:
        """Listen for all devices that were brought up, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._slow.run(), name="keys of slow homeservers")
            for user, end in self._ends.items():
                if end.tried.is_set():
                    end.task = tasks.create_task(self._listen(end), name=f"device of {user}")
            try:
                if self._announced:
                    # By the first device that is up it is found out whether messages are announced.
                    await self._settled.wait()
                    await self._wakeups.run()
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    def hear(self, news: DeviceListChanges) -> None:
        """Take what a transaction of the homeserver says about devices."""
        if self._announced:
            self._wakeups.hear(news)

    async def _listen(self, end: _End) -> None:
        failures = 0
        while True:
            try:
                began_s = elapsed_s()
                if not end.up:
                    if failures:
                        await self._register_again(end.rooms.device.user)
                    # It may have been deleted at the homeserver: then a new one takes its place.
                    await self._start(end)
                    log.info("the device of %s is up", end.rooms.device.user)
                if self._wakeups.in_use is not None:
                    end.sync.listen(by_wakeups=self._wakeups.in_use)
                await end.sync.run()
            except Exception as error:  # noqa: BLE001 - a defect with one device must not end all the others
                self._note_defect(end.rooms.device.user, error)
                failures = 1 if elapsed_s() - began_s > RESTART_S else failures + 1
                pause_s = Backoff(FIRST_RESTART_S, RESTART_S).pause_s(failures)
                end.up = False
                if isinstance(error, OtherIdentityError):
                    self._note_other(end, error)
                else:
                    log.error(
                        "! the device of %s is deaf for %g s: %s", end.rooms.device.user, pause_s, in_words(error)
                    )
                await self._sleep(pause_s)

    def _note_defect(self, user: UserId, error: Exception) -> None:
        if not isinstance(error, MxrtcError):
            self._seldom.exception(user, "! the device of %s has failed", user, error=error)

    async def vouch_for(self, user: UserId, master: str) -> None:
        """Take an identity for the right one that was compared with one of our devices: all of them trust it then.

        Raises:
            StorageError: the database cannot be used.
        """
        self._compared[user] = master
        for end in tuple(self._ends.values()):
            await end.rooms.device.lists.vouch_for(user, master)

    async def accept_identity(self, user: UserId, key: str | None) -> UserDevices:
        """Take the identity that a user shows now for the right one; for a verified one if it was compared.

        Args:
            user: whose.
            key: the identity as it was compared over another way; None to accept it unseen.

        Returns:
            what was known of the user before, by one of our devices that knew another identity if there is one.

        Raises:
            StateError: no device of ours is up.
            HomeserverError: the homeserver does not say what the user shows.
            StorageError: the database cannot be used.
        """
        devices = [end.rooms.device for end in self._ends.values() if end.up]
        if not devices:
            raise StateError(self.why_off or "no device is up")
        # Each has seen the user at another time, and some of them perhaps never before.
        seen = [await device.devices_of(user, fresh=True) for device in devices]
        known = next((each for each in seen if each.identity_changed), seen[0])
        if known.master is not None and key in (None, known.master):
            if key is None:
                self._compared.pop(user, None)
            else:
                self._compared[user] = key
            for device in devices:
                await device.lists.accept_identity(user, verified=key)
        return known

    async def _load_compared(self) -> None:
        """Learn once which identities were compared before; all devices look them up in the same place."""
        async with self._loading:
            if not self._is_loaded:
                vouched = await self._store.vouched()
                # What was compared in this run is newer.
                self._compared.update({user: vouched[user] for user in vouched.keys() - self._compared.keys()})
                self._is_loaded = True

    def shows_other(self, user: UserId) -> bool:
        """Whether the homeserver shows another identity of a virtual user than ours, as far as we know."""
        end = self._ends.get(user)
        return end is not None and end.is_other

    def device_of(self, user: UserId) -> CryptoDevice | None:
        """The device of a virtual user, where it has one that is up."""
        end = self._ends.get(user)
        return end.rooms.device if end is not None and end.up else None

    def lists_of(self, user: UserId) -> DeviceLists | None:
        """What the device of a virtual user knows of others, also while that device is not up."""
        end = self._ends.get(user)
        return None if end is None else end.rooms.device.lists

    def rooms_of(self, user: UserId) -> EncryptedRooms | None:
        """The encrypted rooms of a virtual user, also while its device is not up."""
        end = self._ends.get(user)
        return None if end is None else end.rooms

    async def rooms_when_up(self, user: UserId) -> EncryptedRooms | None:
        """As :meth:`rooms_of`, once it was tried to bring up the device; None if it is not up then, or late."""
        end = self._ends.get(user)
        if end is not None and not await set_within(end.tried, TRIED_S):
            self._seldom.info(user, "the device of %s is not up within %g s", user, TRIED_S)
        return end.rooms if end is not None and end.up else None


def _tell_failure(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and isinstance(error := serving.exception(), Exception):
        log.error("! not all devices of peers are up: %s", in_words(error))
