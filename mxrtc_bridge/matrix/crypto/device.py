"""One device of one user, able to read and write encrypted messages between devices.

It serves a virtual user of the bridge (device without a login, identity of its own) and an ordinary user with a token
alike (``identity=None``: the identity belongs to the user's other sessions, which may sign this device).

After making one you must call :meth:`CryptoDevice.start`, and then give it every sync answer, in order, with
:meth:`receive_sync` and afterwards :meth:`settle`; :class:`mxrtc_bridge.matrix.crypto.sync.DeviceSync` does both.

What is said in rooms is read and written with its keys (:mod:`mxrtc_bridge.matrix.crypto.encrypted_rooms`). What it
does not do: rooms' history is not kept in a key backup.

One file: what the other files of this folder do is put together here, and little more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mxrtc_bridge.core.crypto.records import AccountRecord, Changes, InboundRecord, Trust
from mxrtc_bridge.core.errors import EventError, HomeserverError, RefusalCode, StateError
from mxrtc_bridge.core.ids import DeviceId, UserId, server_of
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.broken_sessions import BrokenSessions, ReplacedSessions, SessionBegun
from mxrtc_bridge.matrix.crypto.claims import Claims
from mxrtc_bridge.matrix.crypto.cross_signing import ask_for_own_keys, publish_identity, refuse_other
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists, device_with
from mxrtc_bridge.matrix.crypto.inbound import InboundSessions
from mxrtc_bridge.matrix.crypto.key_answers import keys_in
from mxrtc_bridge.matrix.crypto.key_requests import REQUEST, KeyRequests
from mxrtc_bridge.matrix.crypto.key_server import KeyServer, one_time_keys_in
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from mxrtc_bridge.matrix.crypto.late_senders import LateSenders
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.olm_sessions import OlmSessions, UnknownKeyError
from mxrtc_bridge.matrix.crypto.opened_messages import OpenedMessage, OpenedMessages, name_of
from mxrtc_bridge.matrix.crypto.outbound import Later, OutboundSessions
from mxrtc_bridge.matrix.crypto.patience import Patience
from mxrtc_bridge.matrix.crypto.published_keys import PublishedKeys, Renewals, StrangeKeysError, delete_others
from mxrtc_bridge.matrix.crypto.signed_json import identity_of, parse_devices
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.sync_answer import OF_USE, envelope, has_brought, messages_in, received
from mxrtc_bridge.matrix.crypto.to_device_sender import ToDeviceSender
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent, UserDevices

log = logging.getLogger(__name__)

MAX_TO_DEVICE = 1000
"""Messages of one answer that are looked at; Synapse sends at most 100."""
SAVE_TOKEN_EVERY_MS = 10 * 60 * 1000
SHOW_AGAIN_S = 10.0
"""Until it is looked again which identity the homeserver shows, where that could not be found out or mended."""
MAX_UNREAD = 64
"""Devices whose messages could not be read, and which are told of the device that takes the place of ours."""


Handler = Callable[["CryptoDevice", ToDeviceEvent], Awaitable[None]]


class CryptoDevice:
    """See the head of this module."""

    def __init__(
        self,
        server: KeyServer,
        store: DeviceStore,
        *,
        user: UserId,
        pickle_key: bytes,
        display_name: str,
        wall_ms: Callable[[], int],
        identity: IdentityKeys | None = None,
        device: DeviceId | None = None,
        known_identities: Mapping[UserId, str] | None = None,
        later: Later = lambda _user, _work: False,
        session_begun: SessionBegun = lambda _device, _by_us: None,
        monotonic: Callable[[], float] = elapsed_s,
        compared: Mapping[UserId, str] | None = None,
        seldom: RateLimitedLog | None = None,
    ) -> None:
        """Make a device; nothing is sent before :meth:`start`.

        Args:
            server: the homeserver, as ``user``.
            store: the memory of this device.
            user: whose device it is.
            pickle_key: 32 bytes that secrets in the store are encrypted with.
            display_name: what the user's clients call the device.
            wall_ms: milliseconds since the epoch.
            identity: the user's identity, which signs the device; None where another session holds it.
            device: the device of the token; None to make one without a login.
            known_identities: master keys that were compared by hand.
            later: does what servers are waited for with, while the device goes on reading.
            session_begun: told of sessions that have taken the place of broken ones; must not block.
            monotonic: seconds.
            compared: master keys that were compared with any device of ours; see :class:`DeviceLists`.
            seldom: shared by the devices of one program, so that nobody has a line of each of them.
        """
        self.user = user
        self.seldom = seldom = (seldom or RateLimitedLog(log)).of(log)
        """Writes what strangers make it say."""
        self._later = later
        self._server = server
        self._store = store
        self._pickle_key = pickle_key
        self._display_name = display_name
        self._wall_ms = wall_ms
        self._identity = identity
        self._given_device = device
        self._account: OwnAccount | None = None
        self._olm: OlmSessions
        self.outbound: OutboundSessions
        """The room keys that we make, once the device has been started."""
        self.sender: ToDeviceSender
        """Sends messages to other devices, once ours has been started."""
        own = server_of(user)
        self.lists = DeviceLists(
            server, store, wall_ms=wall_ms, known=known_identities, own_server=own, compared=compared, seldom=seldom
        )
        self._opened = OpenedMessages(pickle_key)
        self._reading = 0
        self._left: list[OpenedMessage] = []
        """What an earlier run has decrypted, and not dealt with."""
        self._late = LateSenders(self.lists, later, self._take_late, self._opened.end, self._forget_ended, seldom)
        self._deliver: Handler | None = None
        self.inbound = InboundSessions(store, pickle_key, wall_ms=wall_ms)
        """The room keys that others have made."""
        self.requests = KeyRequests(lambda: self.device_id, pickle_key, wall_ms=wall_ms)
        """Those of others that we ask for."""
        # Sessions change with every message: one task at a time.
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._token_saved_ms = 0
        self._monotonic = monotonic
        self._unwedged = ReplacedSessions(monotonic)
        self.session_begun = session_begun
        self._unread: dict[tuple[UserId, str], None] = {}
        self._renewals = Renewals(monotonic)
        self._identity_doubted = False
        self._identity_asked_at = float("-inf")
        self._new_keys: list[InboundRecord] = []

    # --- the device itself

    @property
    def device_id(self) -> DeviceId:
        """Our device id."""
        return self._own.device

    @property
    def ed25519(self) -> str:
        """The fingerprint of our device."""
        return self._own.ed25519

    @property
    def curve25519(self) -> str:
        """The key that others make Olm sessions with."""
        return self._own.curve25519

    @property
    def master_key(self) -> str | None:
        """The public master key of the own user's identity, where this device holds it."""
        return None if self._identity is None else self._identity.master.public

    @property
    def sync_token(self) -> str | None:
        """Of the last answer that was dealt with completely."""
        return self._token

    @property
    def _own(self) -> OwnAccount:
        if self._account is None:
            raise StateError("the device has not been started")
        return self._account

    async def start(self) -> None:
        """Bring up the device at the homeserver: the one of the last run, or a new one where that is lost.

        A device of which the homeserver knows more or less than the store, as one of them was put back from a copy, is
        replaced by a new one. The device of a login keeps its name, and only its sessions and its keys for new ones go.

        Raises:
            HomeserverError: it refuses, or does not know devices without a login (Matrix 1.17, MSC4190).
            OtherIdentityError: the user shows another identity, whose place ours may not take; nothing was changed.
        """
        record = await self._store.account()
        if record is not None and self._given_device not in (None, record.device):
            record = None
        shown: Mapping[str, object] = {}
        if self._identity is not None or (record is not None and record.uploaded):
            shown = await ask_for_own_keys(self._server)
        if self._identity is not None:  # before anything is deleted or published
            refuse_other(shown, self.user, self._identity)
        if record is None or not self._take_up(record, shown):
            await self._begin_anew()
        try:
            await self._publish(shown)
        except StrangeKeysError as error:
            if not self._renewals.may_be():
                raise
            await self._renew(error)
        self._left += self._opened.restore(await self._store.opened())

    def _take_up(self, record: AccountRecord, shown: Mapping[str, object]) -> bool:
        """Go on with the device of the last run; False if it is of no use any more."""
        try:
            account = OwnAccount(self.user, record, self._pickle_key)
        except ValueError:
            log.warning("! the database of %s was written with another encryption key", self.user)
            return False
        self._use(account)
        if record.uploaded and not self._is_in(shown):
            log.warning("! the device %s of %s is not at the homeserver any more", record.device, self.user)
            return False
        return True

    def _use(self, account: OwnAccount) -> None:
        self._account = account
        self._token = account.stored.sync_token
        self._olm = OlmSessions(
            account, self._store, self._server, self._pickle_key, opened=self._opened, wall_ms=self._wall_ms
        )
        claims = Claims(self._olm, self._lock, Patience(server_of(self.user)))
        self.sender = ToDeviceSender(account, claims, self._server, self._flush)
        self._broken = BrokenSessions(
            self.lists, self.sender, self._unwedged, self._later, lambda device: self.session_begun(device, True)
        )
        self._keys = PublishedKeys(
            account, self._server, self._store, self._lock, wall_ms=self._wall_ms, monotonic=self._monotonic
        )
        self.outbound = OutboundSessions(
            account,
            claims,
            self.lists,
            self._store,
            self._server,
            self._pickle_key,
            wall_ms=self._wall_ms,
            later=self._later,
        )

    def _is_in(self, shown: Mapping[str, object]) -> bool:
        """Whether the homeserver has our device with our keys (a database may have been restored from a copy)."""
        own, keys = self._own, keys_in(shown, self.user)
        listed = parse_devices(None if keys is None else keys.devices, self.user)
        ours = (own.device, own.ed25519, own.curve25519)
        return any((each.device, each.ed25519, each.curve25519) == ours for each in listed)

    async def _begin_anew(self) -> None:
        device = self._given_device or DeviceId("".join(secrets.choice(string.ascii_uppercase) for _ in range(10)))
        account = OwnAccount.new(self.user, device, self._pickle_key)
        async with self._lock:
            await self._store.forget()
            await self._store.save(Changes(account=account.record()))
            self._use(account)

    async def _renew(self, why: StrangeKeysError) -> None:
        """Put a device in the place of one that is of no use; with the name that a login has given it, the same again.

        Whoever has verified the device of a login has verified its key, so that one stays.
        """
        own = self._own
        log.warning(
            "! the keys of the device %s of %s are not those that the homeserver has (a copy of the database or of the "
            "homeserver was put back?): it gets %s (%s)",
            *(own.device, self.user, "new ones" if self._given_device else "a new device in its place", why),
        )
        self._renewals.begin()
        self._unwedged.forget()
        if self._given_device is None:
            await self._begin_anew()
        else:
            async with self._lock:
                await self._store.forget(but=own.record(fallback_ms=0))
                self._olm.forget()
                self.outbound.forget()
        shown = {} if self._identity is None else await ask_for_own_keys(self._server)
        await self._publish(shown, take_back=True)
        self._renewals.end()

    async def _publish(self, shown: Mapping[str, object], *, take_back: bool = False) -> None:
        """Have the homeserver show our keys, and nothing else, where ``shown`` is what it showed before."""
        own = self._own
        if self._given_device is None and not own.stored.uploaded:
            await self._server.make_device(own.device, self._display_name)
            await self._keys.publish_first()
        else:
            await self._keys.publish_again(take_back=take_back, of_login=self._given_device is not None)
        if self._identity is not None:
            await publish_identity(self._server, shown, own.device, self._identity, own.device_keys(), own.sign)
            await self.lists.mark_outdated([self.user])
        if self._given_device is None:
            await delete_others(self._server, own.device, self.user)

    # --- receiving

    def deliver_to(self, handler: Handler) -> None:
        """Have a handler given what came from devices that had to be looked up, each once that is done."""
        self._deliver = handler

    async def receive_sync(self, answer: Mapping[str, Any]) -> tuple[ToDeviceEvent, ...]:
        """Take one sync answer: keys are kept, lists noted, and what is for others is returned, in order.

        No server is waited for: what comes from a device that is not known is given to the handler of
        :meth:`deliver_to` later, when it was looked up. After the events were handled, :meth:`settle` must be called
        with the answer's token; until then the same answer may be given again, and says the same.

        Raises:
            StorageError: the database refuses; the answer has to be asked for again.
        """
        if self._token is None:
            # The first answer of a device says nothing of the changes before it.
            await self.lists.mark_all_outdated()
        lists = answer.get("device_lists")
        await self.lists.receive(lists)
        changed = lists.get("changed") if isinstance(lists, dict) else None
        if isinstance(changed, list) and self.user in changed:
            self.doubt_identity()
        self._reading += 1
        # What is left is received with each answer until one is settled: this one may come again.
        left, new = map(self._receive_left, self._left), map(self._receive, messages_in(answer)[:MAX_TO_DEVICE])
        events = [await received(receiving, self.user, self.seldom) for receiving in itertools.chain(left, new)]
        return tuple(event for event in events if event is not None)

    async def settle(self, token: str, answer: Mapping[str, Any]) -> None:
        """Save what the answer has brought and its token, and give the homeserver the keys that it lacks.

        The token of an answer that has brought nothing is saved now and then only: an older one gives nothing twice.

        Raises:
            StorageError: the database refuses; the answer has to be asked for again.
        """
        now = self._wall_ms()
        late = self._left or self._opened.has_ended
        if has_brought(answer) or late or now - self._token_saved_ms >= SAVE_TOKEN_EVERY_MS:
            async with self._lock:
                await self._flush(settles=True, account=self._own.record(sync_token=token))
            self._token_saved_ms = now
        self._token = token
        self._opened.settle()
        self._left.clear()
        counts = one_time_keys_in(answer.get("device_one_time_keys_count"))
        unused = answer.get("device_unused_fallback_key_types")
        used = isinstance(unused, list) and "signed_curve25519" not in unused
        try:
            await self._keys.refill(counts, fallback_used=used)
            await self._keys.prove_where_due(busy=has_brought(answer))
            await self._show_identity_where_due()
        except StrangeKeysError as error:
            if self._renewals.may_be():
                await self._renew(error)
        except HomeserverError as error:
            # The next answer has the count again.
            self.seldom.info(self.user, "! keys of %s were not uploaded: %s", self.user, error)
        self._begin_with_unread()

    def doubt_identity(self) -> None:
        """The homeserver perhaps shows another identity of our user than ours, or none; the next answer finds out."""
        self._identity_doubted = self._identity is not None

    async def _show_identity_where_due(self) -> None:
        """See to it that the homeserver shows our identity, where it may have been put back to before it did.

        Raises:
            HomeserverError: it does not answer, or refuses.
            OtherIdentityError: it shows another one, whose place ours may not take.
        """
        now = self._monotonic()
        if self._identity is None or not self._identity_doubted or now - self._identity_asked_at < SHOW_AGAIN_S:
            return
        self._identity_asked_at = now
        own, shown = self._own, await ask_for_own_keys(self._server)
        await publish_identity(self._server, shown, own.device, self._identity, own.device_keys(), own.sign)
        self._identity_doubted, self._identity_asked_at = False, float("-inf")

    def _begin_with_unread(self) -> None:
        """Begin sessions with those who have used keys that were not ours: they find by that who takes our place."""
        unread, self._unread = self._unread, {}
        for sender, curve25519 in unread:
            self._broken.replace_later(sender, curve25519)

    async def _forget_ended(self) -> None:
        """Have the store forget what has waited and is dealt with."""
        if self._opened.has_ended:
            async with self._lock:
                await self._flush()

    async def _flush(self, **more: Any) -> None:
        keys, self._new_keys = self._new_keys, []
        try:
            await self._store.save(self._olm.changes(inbound=keys, **more))
        except BaseException:
            self._new_keys = keys + self._new_keys
            raise
        self._olm.saved()
        for key in keys:
            self.inbound.key_saved(key)
            self.requests.came(key)

    async def _receive(self, item: object) -> ToDeviceEvent | None:
        try:
            event_type, sender, content = envelope(item)
        except EventError:
            return None
        if event_type == "m.room_key.withheld":
            self.inbound.read_withheld(sender, content)
            return None
        if event_type == REQUEST:
            self.outbound.give_again_later(sender, content)
            return None
        if event_type != "m.room.encrypted":
            return ToDeviceEvent(event_type, sender, content, None)
        try:
            return await self._receive_encrypted(sender, content)
        except EventError as error:
            self.seldom.info(sender, "x a message of %s to a device of %s is ignored: %s", sender, self.user, error)
            if error.code is RefusalCode.UNDECRYPTABLE:
                self._could_not_read(sender, str(content.get("sender_key")), error)
            return None

    async def _receive_left(self, opened: OpenedMessage) -> ToDeviceEvent | None:
        """Take a message that an earlier run has decrypted."""
        try:
            return await self._hand_on(opened.sender, opened)
        except EventError as error:
            self.seldom.info(opened.sender, "x a message of %s is ignored: %s", opened.sender, error)
            return None

    def _could_not_read(self, sender: UserId, curve25519: str, error: EventError) -> None:
        if isinstance(error, UnknownKeyError) and self._keys.doubt() and len(self._unread) < MAX_UNREAD:
            # A session that is begun before it is known whether ours have to go would perhaps go with them.
            self._unread[sender, curve25519] = None
            return
        self._broken.replace_later(sender, curve25519)

    async def _receive_encrypted(self, sender: UserId, content: Mapping[str, Any]) -> ToDeviceEvent | None:
        name = name_of(sender, content, self.curve25519)
        opened = self._opened.get(name)
        if opened is None:
            async with self._lock:
                opened = await self._opened.open(name, sender, self._olm.decrypt(sender, content), self._wall_ms())
        return await self._hand_on(sender, opened)

    async def _hand_on(self, sender: UserId, opened: OpenedMessage) -> ToDeviceEvent | None:
        message = opened.message()
        if opened.waits or opened.handed_on == self._reading:
            return None  # It is in line already, and came again as its answer was not settled.
        opened.handed_on = self._reading
        if self._late.holds(sender, message):
            # In its place behind them, or nowhere: nothing overtakes what waits.
            self._late.put(sender, opened)
            return None
        known = await self.lists.known(sender)
        listed = None if known is None else device_with(known, message.curve25519, message.ed25519)
        if listed is None and self._late.put(sender, opened):
            return None
        return await self._take(sender, message, listed)

    async def _take_late(self, sender: UserId, message: OlmMessage, listed: DeviceIdentity | None) -> None:
        event = await self._take(sender, message, listed)
        if event is not None and self._deliver is not None:
            await self._deliver(self, event)

    async def _take(self, sender: UserId, message: OlmMessage, listed: DeviceIdentity | None) -> ToDeviceEvent | None:
        device = listed
        if device is None:
            if message.device_keys is None:
                raise EventError(RefusalCode.BAD_EVENT, "nobody knows the device that has sent it")
            device = identity_of(message.device_keys, Trust.UNSIGNED)
        if listed is not None or message.type in OF_USE:
            async with self._lock:
                self._olm.keep(message)
        match message.type:
            case "m.room_key" | "m.forwarded_room_key":
                source = self.inbound if message.type == "m.room_key" else self.requests
                key = source.read_key(sender, message, device)
                async with self._lock:
                    self._new_keys.append(key)
                    await self._flush()
                return None
            case "m.dummy":
                # A session that the other side has begun, as a rule because it could not read what came by the last.
                if listed is not None:
                    self.session_begun(device, False)
                return None
            case _:
                return ToDeviceEvent(message.type, sender, message.content, device)

    # --- other users

    async def devices_of(self, user: UserId, *, fresh: bool = False) -> UserDevices:
        """The devices of a user and how far each is trusted; ``fresh`` where no room is shared with the user.

        Raises:
            HomeserverError: they are not known, and it does not answer.
        """
        return (await self.lists.of([user], fresh=fresh))[user]
