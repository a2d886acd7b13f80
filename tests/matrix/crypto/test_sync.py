"""The long poll of one device: what happens when the homeserver or the database is away, and when a handler fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from mxrtc_bridge.core.errors import EventError, HomeserverError, RefusedStatementError, StorageError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.sync import FULL_ANSWER, LONG_POLL_S, LONGEST_PAUSE_S, WAKE_POLL_S, DeviceSync
from mxrtc_bridge.matrix.crypto.sync_answer import envelope
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from tests.waiting import until

ALICE = UserId("@alice:example.org")


class Device:
    """Counts what a device is told, in order."""

    user = UserId("@rtc_build:example.org")
    device_id = DeviceId("DEVICE")
    sync_token: str | None = None

    def __init__(self) -> None:
        self.story: list[str] = []
        self.refusals = 0
        self.doubts = 0
        self.seldom = RateLimitedLog(logging.getLogger(__name__))

    def deliver_to(self, _handler: object) -> None: ...

    def doubt_identity(self) -> None:
        self.doubts += 1

    async def receive_sync(self, answer: dict[str, Any]) -> tuple[ToDeviceEvent, ...]:
        return tuple(ToDeviceEvent(name, ALICE, {}, None) for name in answer.get("names", ()))

    async def settle(self, token: str, answer: dict[str, Any]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StorageError("the database is away")
        self.sync_token = token
        self.story.append(f"settled {token}")


class Server:
    """Gives prepared answers, then stops the poll."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str | None, float]] = []

    async def sync(self, device: DeviceId, *, since: str | None, wait_s: float, timeout_s: float) -> dict[str, Any]:
        assert timeout_s > wait_s
        self.asked.append((since, wait_s))
        if not self.answers:
            raise asyncio.CancelledError
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def run(
    server: Server, device: Device, handler: Callable[[str], None] | None = None, *, pauses: list[float] | None = None
) -> None:
    async def handle(_: Any, event: ToDeviceEvent) -> None:
        device.story.append(event.type)
        if handler is not None:
            handler(event.type)

    async def sleep(pause: float) -> None:
        if pauses is not None:
            pauses.append(pause)

    sync = DeviceSync(server, device, handle, sleep=sleep, jitter=lambda: 0.5)  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await sync.run()


async def test_token_advances_after_its_messages_were_handled() -> None:
    device, server = Device(), Server({"next_batch": "s1", "names": ["a", "b"]}, {"next_batch": "s2", "names": ["c"]})
    await run(server, device)
    assert device.story == ["a", "b", "settled s1", "c", "settled s2"]
    assert server.asked == [(None, 0), ("s1", LONG_POLL_S), ("s2", LONG_POLL_S)]


async def test_handler_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        if name == "a":
            raise KeyError("a defect")

    device = Device()
    await run(Server({"next_batch": "s1", "names": ["a", "b"]}), device, fail)
    assert device.story == ["a", "b", "settled s1"]
    assert "was not handled" in caplog.text


async def test_database_that_refuses_has_the_messages_come_again() -> None:
    device, answer = Device(), {"next_batch": "s1", "names": ["a"]}
    device.refusals = 1
    server = Server(answer, answer)
    await run(server, device)
    assert device.story == ["a", "a", "settled s1"]
    assert [since for since, _ in server.asked] == [None, None, "s1"]


async def test_handler_that_the_database_refuses_has_the_whole_answer_again() -> None:
    failures = [StorageError("busy"), StorageError("busy")]

    def fail(name: str) -> None:
        if name == "b" and failures:
            raise failures.pop()

    device, answer = Device(), {"next_batch": "s1", "names": ["a", "b"]}
    await run(Server(answer, answer, answer), device, fail)
    assert device.story == ["a", "b", "a", "b", "a", "b", "settled s1"]


async def test_what_the_database_refuses_for_good_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        if name == "a":
            raise RefusedStatementError("not this")

    device = Device()
    await run(Server({"next_batch": "s1", "names": ["a", "b"]}), device, fail)
    assert device.story == ["a", "b", "settled s1"]
    assert "Traceback" not in caplog.text


async def test_outage_is_waited_out_with_growing_pauses_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pauses: list[float] = []
    away = [HomeserverError("away", status) for status in (0, 502, 429, *[503] * 6)]
    away[7].wait_s = 90.0
    device, server = Device(), Server({"next_batch": "s1"}, *away, {"next_batch": "s2"})
    await run(server, device, pauses=pauses)
    assert device.story == ["settled s1", "settled s2"]
    assert device.doubts == 9, "what comes back may have been put back from a copy"
    assert pauses == [0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, 90.0, LONGEST_PAUSE_S]
    assert caplog.text.count("no messages for") == 1
    assert [wait for _, wait in server.asked[2:-1]] == [0] * 9, "after an outage nothing is waited for"


@pytest.mark.parametrize("failure", [HomeserverError("no", 401, "M_UNKNOWN_TOKEN"), HomeserverError("odd", 200)])
async def test_refusal_for_good_ends_the_poll(failure: HomeserverError) -> None:
    sync = DeviceSync(Server(failure), Device(), lambda *_: asyncio.sleep(0))  # type: ignore[arg-type]
    with pytest.raises(HomeserverError):
        await sync.run()


@pytest.mark.parametrize("token", [None, 5, "", "x" * 5000])
async def test_answer_without_a_token_is_refused(token: object) -> None:
    sync = DeviceSync(Server({"next_batch": token}), Device(), lambda *_: asyncio.sleep(0))  # type: ignore[arg-type]
    with pytest.raises(HomeserverError, match="next_batch"):
        await sync.once(0)


async def test_the_first_answer_says_that_we_hear_and_the_homeserver_does_not_wait_with_it() -> None:
    device, server, heard = Device(), Server({"next_batch": "b"}, {"next_batch": "c"}), asyncio.Event()
    device.sync_token = "a"

    async def handle(*_: object) -> None: ...

    sync = DeviceSync(server, device, handle, heard=heard)  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await sync.run()
    assert server.asked == [("a", 0), ("b", LONG_POLL_S), ("c", LONG_POLL_S)]
    assert heard.is_set()


async def test_by_wakeups_it_asks_once_and_then_only_after_a_wakeup() -> None:
    device, server = Device(), Server(*({"next_batch": f"s{number}"} for number in range(1, 5)))
    sync = DeviceSync(server, device, lambda *_: asyncio.sleep(0))  # type: ignore[arg-type]
    sync.listen(by_wakeups=True)
    running = asyncio.ensure_future(sync.run())
    await until(lambda: len(device.story) == 2)
    assert server.asked == [(None, 0), ("s1", WAKE_POLL_S)], "the first answer of a device, then what may wait already"
    for _ in range(3):
        sync.wake()  # three wake-ups while nothing is asked are one
    await until(lambda: len(device.story) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(server.asked) == 3
    sync.listen(by_wakeups=False)
    await asyncio.gather(running, return_exceptions=True)
    assert server.asked[3:] == [("s3", WAKE_POLL_S), ("s4", LONG_POLL_S)]


async def test_a_full_answer_is_followed_by_another_question() -> None:
    device = Device()
    # Keys of rooms, say, which the device keeps: none of them is handed on.
    full = {"next_batch": "s2", "to_device": {"events": [{}] * FULL_ANSWER}}
    server = Server({"next_batch": "s1"}, full, {"next_batch": "s3"}, {"next_batch": "s4"})
    sync = DeviceSync(server, device, lambda *_: asyncio.sleep(0), unasked_s=1e9)  # type: ignore[arg-type]
    sync.listen(by_wakeups=True)
    running = asyncio.ensure_future(sync.run())
    await until(lambda: len(server.asked) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [since for since, _ in server.asked] == [None, "s1", "s2"], "and none after one that was not full"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_a_sign_it_asks_after_a_while() -> None:
    device, server = Device(), Server(*({"next_batch": f"s{number}"} for number in range(1, 4)))
    sync = DeviceSync(server, device, lambda *_: asyncio.sleep(0), jitter=lambda: 0.5, unasked_s=0.01)  # type: ignore[arg-type]
    sync.listen(by_wakeups=True)
    with pytest.raises(asyncio.CancelledError):
        await sync.run()
    assert server.asked == [(None, 0), ("s1", WAKE_POLL_S), ("s2", 0), ("s3", 0)]


@pytest.mark.parametrize(
    "odd",
    [
        [],
        "x",
        {},
        {"type": 1, "sender": "@a:b.c", "content": {}},
        {"type": "t" * 256, "sender": "@a:b.c", "content": {}},
        {"type": "t", "sender": "@a:b.c", "content": []},
        {"type": "t", "sender": "a", "content": {}},
        {"type": "t", "content": {}},
    ],
)
def test_what_is_no_message_is_refused(odd: object) -> None:
    with pytest.raises(EventError):
        envelope(odd)
