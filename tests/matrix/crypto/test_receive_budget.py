"""Strangers' servers hold up the reading for a small share of time, whatever they are called."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.receive_budget import ASK_S, BURST, SHARE, SILENT_S, ReceiveBudget
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from tests import virtual_time
from tests.matrix.crypto.device_world import ALICE, Sender, Server, answer_of, peer_at

OWN = "example.org"
NOTHING = st.just(0.0)
PAUSES = NOTHING | st.sampled_from([0.1, 1.0, 7.5, 30.0, 400.0]) | st.floats(0, 100)
TAKES = NOTHING | st.sampled_from([0.01, ASK_S / 2, ASK_S, 100.0]) | st.floats(0, 3)


async def _ask(budget: ReceiveBudget, user: str, takes_s: float) -> bool:
    """Whether the answer came in time."""
    try:
        async with budget.asking(UserId(user)):
            await asyncio.sleep(takes_s)
    except HomeserverError:
        return False
    return True


@given(
    st.lists(
        st.tuples(PAUSES, st.lists(st.tuples(st.integers(0, 6), TAKES, st.booleans()), min_size=1, max_size=8)),
        min_size=1,
        max_size=30,
    )
)
def test_foreign_servers_never_take_more_than_their_share(
    answers: list[tuple[float, list[tuple[int, float, bool]]]],
) -> None:
    async def story() -> list[tuple[float, float]]:
        loop, budget = asyncio.get_running_loop(), ReceiveBudget(OWN)
        taken: list[tuple[float, float]] = []
        for pause_s, messages in answers:
            await asyncio.sleep(pause_s)
            budget.begin()
            of_answer = 0.0
            for name, takes_s, tells in messages:
                user = f"@m:evil{name or len(taken)}.test"
                began_s = loop.time()
                if await _ask(budget, user, takes_s) and tells:
                    budget.heard(UserId(user))
                taken.append((began_s, loop.time()))
                of_answer += loop.time() - began_s
            assert of_answer <= 2 * ASK_S + 1e-6
        return taken

    taken = virtual_time.run(story())
    for start in range(len(taken)):
        spent = 0.0
        for began_s, ended_s in taken[start:]:
            spent += ended_s - began_s
            assert spent <= 2 * (ASK_S * BURST + SHARE * (ended_s - taken[start][0])) + 1e-6


def test_new_names_take_nothing_from_servers_that_have_answered() -> None:
    async def story() -> None:
        budget, number = ReceiveBudget(OWN), 0
        budget.heard(UserId("@carol:other.test"))
        for _ in range(100):
            budget.begin()
            for _ in range(5):
                number += 1
                assert not await _ask(budget, f"@m:evil{number}.test", 8.0)
            assert await _ask(budget, "@carol:other.test", 0.02)
            await asyncio.sleep(1)

    virtual_time.run(story())


def test_a_known_server_that_lets_us_wait_is_a_new_one_again() -> None:
    async def story() -> None:
        budget = ReceiveBudget(OWN)
        budget.heard(UserId("@m:evil.test"))
        assert not await _ask(budget, "@m:evil.test", 8.0)
        await asyncio.sleep(SILENT_S)
        for number in range(4):  # new names take what there is for new names
            budget.begin()
            await _ask(budget, f"@m:evil{number}.test", 8.0)
        budget.begin()
        assert not await _ask(budget, "@m:evil.test", 0.0), "it is one of the new ones, for whom nothing is left"
        budget.heard(UserId("@carol:other.test"))
        assert await _ask(budget, "@carol:other.test", 0.1)

    virtual_time.run(story())


def test_users_of_our_own_homeserver_are_asked_for_whatever_others_have_taken() -> None:
    async def story() -> None:
        budget = ReceiveBudget(OWN)
        for number in range(10):
            budget.begin()
            await _ask(budget, f"@m:evil{number}.test", 8.0)
        assert all([await _ask(budget, "@alice:example.org", 0.2) for _ in range(20)])

    virtual_time.run(story())


class Homeserver(Server):
    """Has a message of Alice for each question, behind those of strangers from servers that nobody has heard of."""

    def __init__(self, strangers: int, every_s: float) -> None:
        super().__init__()
        self.strangers, self.every_s = strangers, every_s
        self.number = 0
        self.sent_s: list[float] = []
        self.ours: CryptoDevice
        self.alice: Sender
        self.fallback: list[str] = []

    async def upload_keys(self, device: object, content: Mapping[str, Any]) -> int:
        self.fallback = self.fallback or [key["key"] for key in content.get("fallback_keys", {}).values()]
        return await super().upload_keys(device, content)

    async def sync(self, _device: object, **_how: object) -> dict[str, object]:
        await asyncio.sleep(self.every_s)
        messages = []
        for _ in range(self.strangers):
            self.number += 1
            self.hanging = {f"evil{self.number - each}.test" for each in range(self.strangers)}
            self.one_time += self.fallback
            messages.append(
                Sender(UserId(f"@m:evil{self.number}.test"), self, self.ours, proves=bool(self.number % 2)).says()
            )
        self.sent_s.append(asyncio.get_running_loop().time())
        return {"next_batch": f"s{self.number}", **answer_of(*messages, self.alice.says())}


async def _read_beside_strangers(strangers: int, every_s: float, answers: int) -> list[float]:
    """How late each message of Alice is, in seconds."""
    server = Homeserver(strangers, every_s)
    server.ours = await peer_at(server)
    server.alice = Sender(ALICE, server, server.ours, proves=False)
    read_s: list[float] = []
    enough = asyncio.Event()

    async def handle(_device: CryptoDevice, event: ToDeviceEvent) -> None:
        if event.sender == ALICE:
            read_s.append(asyncio.get_running_loop().time())
            if len(read_s) == answers:
                enough.set()

    reading = asyncio.create_task(DeviceSync(server, server.ours, handle).run())  # type: ignore[arg-type]
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert not reading.done(), reading.exception()
    reading.cancel()
    await asyncio.gather(reading, waiting, return_exceptions=True)
    return [read - sent for read, sent in zip(read_s, server.sent_s, strict=False)]


@pytest.mark.parametrize("strangers", [1, 3])
def test_new_names_with_each_answer_keep_others_waiting_for_a_small_share_of_time(strangers: int) -> None:
    """The real reading loop; each answer has messages of servers that nobody has heard of, and that never answer."""
    late_s = virtual_time.run(_read_beside_strangers(strangers, every_s=0.1, answers=300))
    assert len(late_s) == 300
    assert max(late_s) <= ASK_S + 0.01
    waited_s = sum(late_s)
    assert waited_s <= ASK_S * BURST + SHARE * (300 * 0.1 + waited_s) + 0.01
    assert sum(each > 0.01 for each in late_s) < 15, "nearly all come at once"
