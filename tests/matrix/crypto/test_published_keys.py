"""A database or a homeserver that was put back from a copy is found out, and costs the device and nothing else."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto import published_keys
from mxrtc_bridge.matrix.crypto.account import KEYS_LOW, KEYS_WANTED, OwnAccount
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from mxrtc_bridge.matrix.crypto.signed_json import is_signed, unpadded
from mxrtc_bridge.matrix.crypto.values import OLM, DeviceIdentity, ToDeviceEvent
from tests.matrix.crypto.device_world import Beside
from tests.matrix.crypto.key_homeserver import PICKLE_KEY, KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

PEER, ALICE = UserId("@rtc_build:example.org"), UserId("@alice:example.org")
LOGIN = DeviceId("LOGIN")
NOW_MS = 1_000_000_000_000


class Shelf(KeyHomeserver):
    """A homeserver that keeps keys for devices and hands them out, oldest first, as Synapse does.

    It is that of all users; :meth:`of` is how one of them sees it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[tuple[UserId, DeviceId], dict[str, Any]] = {}
        self.fallback: dict[tuple[UserId, DeviceId], tuple[str, Any]] = {}
        self.given: Counter[UserId] = Counter()
        self.now_s = 1000.0
        self.beside, self.late = Beside(), list[tuple[str, Mapping[str, Any]]]()
        self.messages: list[tuple[UserId, str, dict[str, Any]]] = []

    def of(self, user: UserId) -> View:
        return View(self, user)

    def claim(self, user: UserId, device: DeviceId) -> dict[str, Any]:
        self.given[user] += 1
        keys = self.keys.get((user, device))
        if keys:
            name = next(iter(keys))
            return {name: keys.pop(name)}
        spare = self.fallback.get((user, device))
        return {} if spare is None else dict([spare])


class View:
    """The homeserver as one user sees it; stands in for KeyServer."""

    def __init__(self, shelf: Shelf, user: UserId) -> None:
        self.shelf, self.user = shelf, user
        self.refuses: HomeserverError | None = None
        """What it says to keys that are uploaded."""

    async def query_keys(self, users: Sequence[UserId]) -> Mapping[str, object]:
        return await self.shelf.query_keys(users)

    async def make_device(self, device: DeviceId, _name: str) -> None:
        self.shelf.listed.setdefault(self.user, {})[device] = {}

    async def devices(self) -> tuple[DeviceId, ...]:
        return tuple(self.shelf.listed.get(self.user, {}))

    async def delete_devices(self, devices: Sequence[DeviceId]) -> None:
        for device in devices:
            del self.shelf.listed[self.user][device]
            self.shelf.keys.pop((self.user, device), None)

    async def upload_keys(self, device: DeviceId, content: Mapping[str, Any]) -> int:
        if self.refuses is not None:
            raise self.refuses
        if "device_keys" in content:
            self.shelf.listed.setdefault(self.user, {})[device] = copy.deepcopy(content["device_keys"])
        keys = self.shelf.keys.setdefault((self.user, device), {})
        new = content.get("one_time_keys", {})
        for name, key in new.items():
            if name in keys and keys[name]["key"] != key["key"]:
                raise HomeserverError(f"One time key {name} already exists", 400, "M_UNKNOWN")
        keys |= new
        for spare in content.get("fallback_keys", {}).items():
            self.shelf.fallback[self.user, device] = spare
        return len(keys)

    async def claim_keys(self, _device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Mapping[str, Any]:
        return {user: {each: self.shelf.claim(user, each) for each in devices} for user, devices in wanted.items()}

    async def upload_identity(self, _device: object, content: Mapping[str, Any]) -> None:
        keys = IdentityKeys.derived(b"k" * 32, self.user)
        assert content["master_key"] == identity_content(self.user, keys)["master_key"]
        self.shelf.identities[self.user] = keys

    async def upload_signatures(self, _device: object, content: Mapping[str, Any]) -> Mapping[str, object]:
        for device, signed in content[self.user].items():
            if device in self.shelf.listed[self.user]:
                self.shelf.listed[self.user][device] = copy.deepcopy(signed)
        return {}

    async def send_to_device(
        self, _device: object, event_type: str, messages: Mapping[UserId, Mapping[str, Any]], _txn: str
    ) -> None:
        for user, contents in messages.items():
            for content in contents.values():
                self.shelf.messages.append((user, event_type, {"sender": self.user, "content": content}))


async def end(shelf: Shelf, user: UserId, store: MemoryStore, **options: Any) -> CryptoDevice:
    device = CryptoDevice(
        shelf.of(user),  # type: ignore[arg-type]
        store,
        user=user,
        pickle_key=PICKLE_KEY,
        display_name="test",
        wall_ms=lambda: NOW_MS,
        monotonic=lambda: shelf.now_s,
        later=shelf.beside.put,
        **options,
    )

    async def take(_device: CryptoDevice, event: ToDeviceEvent) -> None:
        shelf.late.append((event.type, event.content))

    device.deliver_to(take)
    await device.start()
    return device


async def peer(shelf: Shelf, store: MemoryStore, **options: Any) -> CryptoDevice:
    return await end(shelf, PEER, store, identity=IdentityKeys.derived(b"k" * 32, PEER), **options)


async def person(shelf: Shelf, store: MemoryStore | None = None, **options: Any) -> CryptoDevice:
    return await end(shelf, ALICE, store or MemoryStore(), device=LOGIN, **options)


def take_for(shelf: Shelf, user: UserId) -> dict[str, Any]:
    """What waits for a user, as an answer to ``/sync``."""
    mine = [{"type": kind, **rest} for to, kind, rest in shelf.messages if to == user]
    shelf.messages = [each for each in shelf.messages if each[0] != user]
    return {"to_device": {"events": mine}}


async def receive(shelf: Shelf, device: CryptoDevice) -> list[tuple[str, Mapping[str, Any]]]:
    answer = take_for(shelf, device.user)
    events = await device.receive_sync(answer)
    await device.settle("token", answer)
    await shelf.beside.idle()
    late, shelf.late = shelf.late, []
    return [*((event.type, event.content) for event in events), *late]


async def say(sender: CryptoDevice, to: UserId, text: str) -> None:
    (device,) = (await sender.devices_of(to, fresh=True)).devices
    await sender.sender.send([device], "io.example.text", {"text": text})


async def all_are_ours(shelf: Shelf, device: CryptoDevice, store: MemoryStore) -> bool:
    """Whether each key that the homeserver would hand out of a device is one that the device has, and signs for it."""
    keys = shelf.keys[device.user, device.device_id]
    spare = shelf.fallback[device.user, device.device_id]
    record = await store.account()
    assert record is not None
    own = OwnAccount(device.user, record, PICKLE_KEY)
    return all(
        is_signed(key, device.user, device.device_id, device.ed25519) and own.use_up(key["key"])
        for key in [*keys.values(), spare[1]]
    )


async def assert_talk(shelf: Shelf, one: CryptoDevice, other: CryptoDevice) -> None:
    await say(one, other.user, "there")
    assert await receive(shelf, other) == [("io.example.text", {"text": "there"})]
    await say(other, one.user, "back")
    assert await receive(shelf, one) == [("io.example.text", {"text": "back"})]


@pytest.mark.parametrize("claimed", [1, KEYS_WANTED - KEYS_LOW, KEYS_WANTED - KEYS_LOW + 1, KEYS_WANTED])
async def test_a_device_whose_database_was_put_back_is_replaced_at_the_start_and_its_identity_stays(
    claimed: int,
) -> None:
    shelf, store = Shelf(), MemoryStore()
    alice = await person(shelf)
    before = await peer(shelf, store)
    seen = await alice.devices_of(PEER)
    kept = copy.deepcopy(store)
    for _ in range(claimed):
        shelf.claim(PEER, before.device_id)
    await before.settle("token", {"device_one_time_keys_count": {"signed_curve25519": KEYS_WANTED - claimed}})
    again = await peer(shelf, store)
    assert again.device_id == before.device_id, "a start with the database that belongs to it changes nothing"

    rolled_back = await peer(shelf, kept)
    assert rolled_back.device_id != before.device_id
    after = await alice.devices_of(PEER, fresh=True)
    assert [(each.device, each.trust) for each in after.devices] == [(rolled_back.device_id, Trust.CROSS_SIGNED)]
    assert (after.master, after.identity_changed) == (seen.master, False)
    assert await all_are_ours(shelf, rolled_back, kept)


async def test_starts_with_the_right_database_keep_the_device_and_the_number_of_its_keys() -> None:
    shelf, store = Shelf(), MemoryStore()
    first = await peer(shelf, store)
    for _ in range(2 * KEYS_WANTED):
        assert (await peer(shelf, store)).device_id == first.device_id
    assert len(shelf.keys[PEER, first.device_id]) == KEYS_WANTED


class Noting:
    """The homeserver as a user sees it, which notes what it is asked, and may break off after one thing."""

    def __init__(self, view: View, *, breaks_off_after: str = "") -> None:
        self._view = view
        self._breaks_off_after = breaks_off_after
        self.user = view.user
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def ask(*values: Any) -> Any:
            self.asked.append(name)
            answer = await getattr(self._view, name)(*values)
            if name == self._breaks_off_after:
                raise HomeserverError("the connection was lost")
            return answer

        return ask


def noted(shelf: Shelf, store: MemoryStore, **options: Any) -> tuple[Noting, CryptoDevice]:
    server = Noting(shelf.of(PEER), **options)
    identity = IdentityKeys.derived(b"k" * 32, PEER)
    device = CryptoDevice(
        server,  # type: ignore[arg-type]
        store,
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="test",
        wall_ms=lambda: NOW_MS,
        identity=identity,
    )
    return server, device


async def test_a_start_asks_the_homeserver_no_more_than_is_needed() -> None:
    """With hundreds of peers, the homeserver has most of the work of a start."""
    shelf, store = Shelf(), MemoryStore()
    server, device = noted(shelf, store)
    await device.start()
    assert server.asked == [
        *("query_keys", "make_device", "upload_keys"),
        *("upload_identity", "upload_signatures", "devices"),
    ]
    listed = shelf.listed[PEER][device.device_id]
    key = shelf.identities[PEER].self_signing.public
    assert is_signed(listed, PEER, key, key)
    assert len(shelf.keys[PEER, device.device_id]) == KEYS_WANTED
    assert (PEER, device.device_id) in shelf.fallback
    server, device = noted(shelf, store)
    await device.start()
    assert server.asked == ["query_keys", "claim_keys", "upload_keys", "devices"]


@pytest.mark.parametrize("broken", ["make_device", "upload_keys", "upload_identity", "upload_signatures"])
async def test_a_first_start_that_was_broken_off_is_gone_on_with(broken: str) -> None:
    shelf, store = Shelf(), MemoryStore()
    server, device = noted(shelf, store, breaks_off_after=broken)
    with pytest.raises(HomeserverError, match="was lost"):
        await device.start()
    assert server.asked[-1] == broken
    _, again = noted(shelf, store)
    await again.start()
    assert again.device_id == device.device_id
    assert await all_are_ours(shelf, again, store)
    assert list(shelf.listed[PEER]) == [again.device_id]
    key = shelf.identities[PEER].self_signing.public
    assert is_signed(shelf.listed[PEER][again.device_id], PEER, key, key)


async def test_devices_of_before_go_with_the_start_of_a_new_one() -> None:
    shelf = Shelf()
    before = await peer(shelf, MemoryStore())
    server, device = noted(shelf, MemoryStore())
    await device.start()
    assert server.asked[-1] == "delete_devices"
    assert list(shelf.listed[PEER]) == [device.device_id] != [before.device_id]


async def test_a_device_whose_homeserver_was_put_back_is_replaced_at_the_start() -> None:
    shelf, store = Shelf(), MemoryStore()
    before = await peer(shelf, store)
    kept = copy.deepcopy(shelf)
    alice = await person(shelf)
    await say(alice, PEER, "uses up the oldest key")
    await receive(shelf, before)
    again = await peer(kept, store)
    assert again.device_id != before.device_id
    assert await all_are_ours(kept, again, store)


@pytest.mark.parametrize("used_by", [["@bob:x.test"], ["@bob:x.test", "@carol:x.test"]])
async def test_while_it_runs_keys_that_are_not_ours_replace_the_device_and_their_user_is_answered_by_the_new_one(
    used_by: list[str],
) -> None:
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, store)
    kept = copy.deepcopy(shelf.keys)
    begun: list[tuple[DeviceIdentity, bool]] = []
    alice = await person(shelf, session_begun=lambda device, by_us: begun.append((device, by_us)))
    for user in used_by:
        await say(await end(shelf, UserId(user), MemoryStore(), device=LOGIN), PEER, "uses up a key")
        assert len(await receive(shelf, ours)) == 1
    # The homeserver is put back from a copy.
    shelf.keys = kept
    shelf.now_s += 1000
    old = ours.device_id
    await say(alice, PEER, "unreadable")
    assert await receive(shelf, ours) == []
    # Where the homeserver has given away the only one, a new session is enough.
    assert (ours.device_id != old) is (len(used_by) > 1)
    assert await all_are_ours(shelf, ours, store)
    assert await receive(shelf, alice) == []
    assert begun == [((await alice.devices_of(PEER)).devices[0], False)]
    assert begun[0][0].trust is Trust.CROSS_SIGNED
    await assert_talk(shelf, alice, ours)


def by_a_key_of_nobody(shelf: Shelf, to: CryptoDevice, account: OwnAccount) -> dict[str, Any]:
    """A first message that names a key which the device has never had."""
    shelf.listed.setdefault(account.user, {})[account.device] = account.device_keys()
    session = account.olm.create_outbound_session(
        vodozemac.Curve25519PublicKey.from_base64(to.curve25519), vodozemac.Account().curve25519_key
    )
    kind, body = session.encrypt(b"{}").to_parts()
    ciphertext = {to.curve25519: {"type": kind, "body": unpadded(body)}}
    content = {"algorithm": OLM, "sender_key": account.curve25519, "ciphertext": ciphertext}
    return {"type": "m.room.encrypted", "sender": account.user, "content": content}


async def test_rubbish_that_claims_to_be_for_a_key_of_ours_costs_a_question_a_minute_and_no_device() -> None:
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, store)
    device = ours.device_id
    mallory = OwnAccount.new(ALICE, DeviceId("MALLORY"), PICKLE_KEY)
    minutes = 10
    for _ in range(minutes * 20):
        shelf.now_s += 3
        answer = {"to_device": {"events": [by_a_key_of_nobody(shelf, ours, mallory)]}}
        assert await ours.receive_sync(answer) == ()
        await ours.settle("token", answer)
    assert ours.device_id == device
    assert 1 <= shelf.given[PEER] <= minutes


async def test_a_refusal_that_says_nothing_about_keys_replaces_no_device() -> None:
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, store)
    for status in (401, 403, 404, 429, 500, 0):
        device = CryptoDevice(
            (view := shelf.of(PEER)),  # type: ignore[arg-type]
            store,
            user=PEER,
            pickle_key=PICKLE_KEY,
            display_name="test",
            wall_ms=lambda: NOW_MS,
            identity=IdentityKeys.derived(b"k" * 32, PEER),
        )
        view.refuses = HomeserverError("no", status)
        with pytest.raises(HomeserverError, match="no"):
            await device.start()
        assert device.device_id == ours.device_id


async def test_the_device_of_a_login_keeps_its_name_and_key_and_gets_new_ones_to_begin_with() -> None:
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, MemoryStore())
    before = await person(shelf, store)
    kept = copy.deepcopy(store)
    for _ in range(KEYS_WANTED - KEYS_LOW + 1):
        shelf.claim(ALICE, LOGIN)
    await assert_talk(shelf, before, ours)
    await before.settle("token", {"device_one_time_keys_count": {"signed_curve25519": KEYS_LOW - 1}})
    for _ in range(KEYS_WANTED - KEYS_LOW + 1):
        shelf.claim(ALICE, LOGIN)
    again = await person(shelf, kept)
    assert (again.device_id, again.ed25519) == (LOGIN, before.ed25519)
    assert await all_are_ours(shelf, again, kept)
    await assert_talk(shelf, again, ours)


async def test_the_device_of_a_login_whose_database_is_gone_takes_back_the_keys_of_the_old_one() -> None:
    shelf = Shelf()
    ours = await peer(shelf, MemoryStore())
    before, store = await person(shelf), MemoryStore()
    again = await person(shelf, store)
    assert again.ed25519 != before.ed25519
    assert await all_are_ours(shelf, again, store)
    await assert_talk(shelf, ours, again)


async def test_the_device_of_a_login_finds_out_by_what_it_cannot_read() -> None:
    """Its own keys were not few, so that nothing was uploaded at the start."""
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, MemoryStore())
    before = await person(shelf, store)
    kept = copy.deepcopy(store)
    for _ in range(KEYS_WANTED):
        shelf.claim(ALICE, LOGIN)
    await before.settle("token", {"device_one_time_keys_count": {"signed_curve25519": 0}})
    again = await person(shelf, kept)
    shelf.now_s += 1000
    await say(ours, ALICE, "unreadable")
    assert await receive(shelf, again) == []
    assert await all_are_ours(shelf, again, kept)
    await receive(shelf, ours)
    await assert_talk(shelf, again, ours)


async def test_an_hour_in_which_messages_come_makes_a_copy_of_before_known_at_its_start() -> None:
    shelf, store = Shelf(), MemoryStore()
    ours = await peer(shelf, store)
    alice = await person(shelf)
    await say(alice, PEER, "first")
    await receive(shelf, ours)
    kept = copy.deepcopy(store)
    shelf.now_s += published_keys.PROVE_EVERY_S
    await say(alice, PEER, "second")
    assert await receive(shelf, ours) == [("io.example.text", {"text": "second"})]
    rolled_back = await peer(shelf, kept)
    assert rolled_back.device_id != ours.device_id
    await receive(shelf, alice)
    await assert_talk(shelf, alice, rolled_back)


async def test_a_homeserver_that_takes_no_keys_at_all_is_given_no_new_device_each_time() -> None:
    shelf, store = Shelf(), MemoryStore()
    await peer(shelf, store)
    view = shelf.of(PEER)
    view.refuses = HomeserverError("no such thing", 400)
    device = CryptoDevice(
        view,  # type: ignore[arg-type]
        store,
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="test",
        wall_ms=lambda: NOW_MS,
        monotonic=lambda: shelf.now_s,
        identity=IdentityKeys.derived(b"k" * 32, PEER),
    )
    made = []
    for _ in range(5):
        with pytest.raises(HomeserverError, match="no such thing"):
            await device.start()
        made.append(device.device_id)
        shelf.now_s += 60
    assert len(set(made)) == 1
    view.refuses = None
    await device.start()
    assert device.device_id == made[0]
    assert list(shelf.listed[PEER]) == [device.device_id]
