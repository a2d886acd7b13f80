"""What is said in a room, or to one device, waits a short time for slow servers of others, and they get it later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId, server_of
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.patience import AGAIN_S, AT_ONCE, WAIT_S
from tests import virtual_time
from tests.matrix.crypto.device_world import ALICE, PEER, peer_at
from tests.matrix.crypto.key_homeserver import PICKLE_KEY
from tests.matrix.crypto.test_claims import MALLORY, OTHER_ROOM, ROOM, ClaimServer, Friend

DAVE = UserId("@dave:good.test")
SOON_S = 0.001


class SlowServer(ClaimServer):
    """Answers for a server that hangs once that is released, and else at once; for several as late as the slowest."""

    def __init__(self) -> None:
        super().__init__()
        self.answers_s = 0.0
        self.refuses = False

    async def _hang(self, users: Sequence[UserId]) -> None:
        if self.refuses:
            raise HomeserverError("away")
        if any(server_of(user) != "example.org" for user in users):
            await asyncio.sleep(self.answers_s)
        if any(server_of(user) in self.hanging for user in users):
            await self.released.wait()

    async def query_keys(self, users: Sequence[UserId]) -> Mapping[str, object]:
        self.asked.append(tuple(users))
        await self._hang(users)
        return self.truth(users)

    async def claim_keys(self, _device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Mapping[str, Any]:
        self.claimed += wanted
        await self._hang(list(wanted))
        return {
            user: {name: self.friends[user].one_time() for name in devices if name == self.friends[user].account.device}
            for user, devices in wanted.items()
        }


class World:
    """A peer, and members of a room of whose servers one hangs."""

    def __init__(self, server: SlowServer, ours: CryptoDevice, work: FairWork) -> None:
        self.server, self.ours, self.work = server, ours, work
        self.alice, self.mallory, self.dave = (Friend(user, server) for user in (ALICE, MALLORY, DAVE))
        self._keys: dict[UserId, list[dict[str, Any]]] = {}
        self._seen: dict[UserId, int] = {}

    async def say(self, number: int, *users: UserId) -> tuple[dict[str, Any], float]:
        """The encrypted event, and how long it took."""
        began_s = asyncio.get_running_loop().time()
        said = await self.ours.outbound.encrypt(
            ROOM, [PEER, *users], "m.call.answer", {"n": number}, least=Trust.UNSIGNED
        )
        return said, asyncio.get_running_loop().time() - began_s

    def opens(self, friend: Friend, *said: dict[str, Any]) -> list[int]:
        """What a friend reads of these events by the keys that have come to it."""
        keys, sent = self._keys.setdefault(friend.user, []), self.server.sent
        # Each message can be read once.
        self.server.sent = sent[self._seen.get(friend.user, 0) :]
        keys += [each for each in friend.reads(self.server, self.ours) if "session_key" in each]
        self.server.sent, self._seen[friend.user] = sent, len(sent)
        assert len({each["session_id"] for each in keys}) == len(keys), "each key once"
        found = []
        for each in said:
            for key in keys:
                if key["session_id"] == each["session_id"]:
                    session = vodozemac.InboundGroupSession(vodozemac.SessionKey(key["session_key"]))
                    try:
                        opened = session.decrypt(vodozemac.MegolmMessage.from_base64(each["ciphertext"]))
                    except ValueError:
                        continue
                    found.append(json.loads(opened.plaintext)["content"]["n"])
        return found


def tell(
    story: Callable[[World], Awaitable[None]], *, known: bool, beside: bool = True, hanging: str = "evil.test"
) -> None:
    """Run a story in virtual time; devices are known before or not, and the slow are waited for beside it or not."""

    async def run() -> None:
        server = SlowServer()
        work = FairWork("test", "example.org", lambda _user: False)
        running = asyncio.create_task(work.run())
        ours = await peer_at(server, later=work.put) if beside else await peer_at(server)
        await ours.settle("token", {})
        made = World(server, ours, work)
        if known:
            await ours.lists.of([ALICE, MALLORY, DAVE])
        server.hanging = {hanging}
        try:
            await story(made)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(run())


@pytest.mark.parametrize("known", [True, False])
def test_a_room_waits_a_second_for_a_slow_server_and_its_users_can_read_it_all_later(*, known: bool) -> None:
    async def story(made: World) -> None:
        said, took_s = [], []
        for number in range(5):
            event, time_s = await made.say(number, MALLORY, ALICE, DAVE)
            said.append(event)
            took_s.append(time_s)
        assert took_s[0] == pytest.approx(WAIT_S, abs=SOON_S)
        assert max(took_s[1:]) <= AGAIN_S + SOON_S
        assert made.opens(made.alice, *said) == made.opens(made.dave, *said) == list(range(5))
        assert made.opens(made.mallory, *said) == []
        made.server.released.set()
        await made.work.idle()
        assert made.opens(made.mallory, *said) == list(range(5))
        event, time_s = await made.say(5, MALLORY, ALICE, DAVE)
        assert time_s <= SOON_S
        assert event["session_id"] == said[0]["session_id"], "nobody has lost anything"
        assert made.opens(made.mallory, event) == [5]

    tell(story, known=known)


@pytest.mark.parametrize("known", [True, False])
def test_whoever_was_left_out_is_asked_again_with_the_next_message(*, known: bool) -> None:
    async def story(made: World) -> None:
        first, took_s = await made.say(0, MALLORY, ALICE)
        assert took_s == pytest.approx(WAIT_S, abs=SOON_S)
        made.server.released.set()
        second, took_s = await made.say(1, MALLORY, ALICE)
        assert took_s <= SOON_S
        assert made.opens(made.alice, first, second) == [0, 1]
        assert made.opens(made.mallory, first, second) == [1]

    tell(story, known=known, beside=False)


def test_all_that_a_message_waits_for_together_is_a_second() -> None:
    """Lists of devices of one server and keys of another are asked for one after the other."""

    async def story(made: World) -> None:
        made.server.answers_s = 0.8
        first, took_s = await made.say(0, MALLORY, ALICE, DAVE)
        assert took_s == pytest.approx(WAIT_S, abs=SOON_S)
        assert made.opens(made.alice, first) == [0]
        await asyncio.sleep(2)
        assert made.opens(made.dave, first) == [0], "in time for his devices, and a moment too late for their keys"

    tell(story, known=False)


def test_where_nobody_else_would_read_it_the_only_server_is_waited_for() -> None:
    async def story(made: World) -> None:
        asyncio.get_running_loop().call_later(5.0, made.server.released.set)
        event, took_s = await made.say(0, MALLORY)
        assert took_s == pytest.approx(5.0, abs=SOON_S)
        assert made.opens(made.mallory, event) == [0]

    tell(story, known=False)


def test_a_changed_list_that_cannot_be_had_takes_the_key_from_nobody_and_gives_it_to_nobody_new() -> None:
    async def story(made: World) -> None:
        made.server.hanging = set()
        first, _ = await made.say(0, MALLORY, ALICE)
        await made.ours.lists.mark_outdated([MALLORY])
        made.server.hanging = {"evil.test"}
        second, took_s = await made.say(1, MALLORY, ALICE)
        assert took_s == pytest.approx(WAIT_S, abs=SOON_S)
        assert first["session_id"] == second["session_id"]
        assert made.opens(made.mallory, first, second) == [0, 1]
        await made.ours.lists.mark_outdated([MALLORY])
        other = await made.ours.outbound.encrypt(
            OTHER_ROOM, [PEER, ALICE, MALLORY], "m.call.answer", {"n": 2}, least=Trust.UNSIGNED
        )
        assert made.opens(made.mallory, other) == [], "the device may not be there any more"
        made.server.log_out(MALLORY)
        made.server.released.set()
        await made.work.idle()
        assert made.opens(made.mallory, other) == []
        third, _ = await made.say(3, MALLORY, ALICE)
        assert third["session_id"] != first["session_id"], "whoever is gone has it no more"

    tell(story, known=True)


def test_what_goes_to_one_device_waits_for_no_other_device_of_the_same_user() -> None:
    async def story(made: World) -> None:
        phone = made.alice.identity
        await made.ours.sender.send([phone], SIGNAL_TYPE, {"n": 0})
        made.server.hanging = {"example.org"}
        account = OwnAccount.new(ALICE, DeviceId("LAPTOP"), PICKLE_KEY)
        laptop = type(phone)(ALICE, account.device, account.ed25519, account.curve25519)
        waiting = asyncio.create_task(made.ours.sender.send([laptop], SIGNAL_TYPE, {"n": 1}))
        await asyncio.sleep(1)
        async with asyncio.timeout(SOON_S):
            await made.ours.sender.send([phone], SIGNAL_TYPE, {"n": 2})
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert made.alice.reads(made.server, made.ours) == [{"n": 0}, {"n": 2}]

    tell(story, known=True)


def test_many_servers_that_hang_keep_no_other_from_being_asked() -> None:
    async def story(made: World) -> None:
        crowd = [UserId(f"@m{n}:evil{n}.test") for n in range(2 * AT_ONCE)]
        made.server.hanging = {server_of(each) for each in crowd}
        said = [(await made.say(number, *crowd, DAVE, ALICE))[0] for number in range(3)]
        assert made.opens(made.alice, *said) == [0, 1, 2]
        assert made.opens(made.dave, *said) == [2], "all have had their turn by then"

    tell(story, known=False, beside=False)


def test_our_own_homeserver_that_refuses_is_said() -> None:
    async def story(made: World) -> None:
        made.server.refuses = True
        with pytest.raises(HomeserverError, match="away"):
            await made.say(0, ALICE, DAVE)

    tell(story, known=False)
