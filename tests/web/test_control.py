"""The control socket: who is answered, and what is no command."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector

from mxrtc_bridge.config.values import UnixListen
from mxrtc_bridge.core.errors import LocalError, MxrtcError, StorageError
from mxrtc_bridge.core.ids import LocalAdmin
from mxrtc_bridge.web.control import (
    MAX_BODY,
    MAX_COMMANDS,
    MAX_WORD_CHARS,
    MAX_WORDS,
    SOCKET_MODE,
    ask,
    ask_until_ready,
    control_application,
)
from mxrtc_bridge.web.server import MAX_CONNECTIONS, Server
from tests.waiting import until


class RefusedError(MxrtcError):
    """What was asked for cannot be done."""


class Desk:
    def __init__(self) -> None:
        self.asked: list[tuple[LocalAdmin, tuple[str, ...]]] = []
        self.failure: BaseException | None = None
        self.answer: dict[str, object] = {"said": "done"}

    async def handle(self, by: LocalAdmin, words: tuple[str, ...]) -> Mapping[str, object]:
        self.asked.append((by, words))
        if self.failure is not None:
            raise self.failure
        return self.answer


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def path(tmp_path: Path, desk: Desk) -> AsyncIterator[str]:
    where = str(tmp_path / "control.sock")
    application = control_application(desk.handle, RefusedError)
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE):
        yield where


async def test_words_reach_the_desk_with_who_has_said_them(path: str, desk: Desk) -> None:
    assert await ask(path, ("grant", "@a:b", "x y")) == (200, {"said": "done"})
    ((by, words),) = desk.asked
    assert words == ("grant", "@a:b", "x y")
    assert isinstance(by, LocalAdmin)
    assert Path(path).stat().st_mode & 0o777 == 0o600


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end(path: str, desk: Desk) -> None:
    # As many requests as may wait, with long names and reasons: more than a socket holds at a time.
    desk.answer = {"rows": ["\u20ac" * 400] * 200}
    assert await ask(path, ("requests",)) == (200, desk.answer)


async def test_an_answer_without_an_end_is_no_answer(path: str, desk: Desk) -> None:
    desk.answer = {"rows": ["x" * 1000] * 2000}
    with pytest.raises(LocalError, match="no bridge"):
        await ask(path, ("requests",), max_answer=300_000)


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (RefusedError("There is no session 4."), 409, "There is no session 4."),
        (StorageError("the database is away"), 503, "The database is away."),
        (RuntimeError("a defect with a secret"), 500, "That did not work; the bridge's log says why."),
    ],
)
async def test_failures_are_sentences(path: str, desk: Desk, failure: Exception, status: int, text: str) -> None:
    desk.failure = failure
    assert await ask(path, ("who",)) == (status, {"error": text})


async def test_what_takes_too_long_is_given_up(path: str) -> None:
    async def slow(by: LocalAdmin, words: tuple[str, ...]) -> Mapping[str, object]:
        await asyncio.Event().wait()
        return {}

    where = path.replace("control", "slow")
    application = control_application(slow, RefusedError, timeout_s=0.01)
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE):
        status, _ = await ask(where, ("who",))
    assert status == 504


async def test_of_too_many_commands_that_take_long_the_oldest_give_way_and_are_told_so(tmp_path: Path) -> None:
    """What ends a right has its turn at once, whatever hangs before it, and nobody is told that there is no bridge."""
    asked, free = list[str](), asyncio.Event()

    async def handle(_by: LocalAdmin, words: tuple[str, ...]) -> Mapping[str, object]:
        asked.append(words[0])
        if words[0] != "revoke":
            await free.wait()
        return {"said": words[0]}

    path = str(tmp_path / "control.sock")
    async with Server(
        control_application(handle, RefusedError), UnixListen(path), max_connections=MAX_CONNECTIONS, look_s=0.01
    ):
        slow = []
        for number in range(100):
            slow.append(asyncio.create_task(ask(path, (str(number),))))
            await until(lambda number=number: str(number) in asked)  # type: ignore[misc]
        assert await ask(path, ("revoke",)) == (200, {"said": "revoke"})
        free.set()
        answers = await asyncio.gather(*slow)
    gave_way = 100 + 1 - MAX_COMMANDS
    why = f"It gave way to newer commands, as {MAX_COMMANDS} are being carried out; it may still be done. Look before"
    assert [status for status, _ in answers] == [504] * gave_way + [200] * (100 - gave_way)
    assert all(str(answer["error"]).startswith(why) for _, answer in answers[:gave_way])


async def test_a_bridge_that_ends_a_connection_without_an_answer_is_a_bridge(tmp_path: Path) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]}")
        writer.close()

    path = str(tmp_path / "control.sock")
    async with await asyncio.start_unix_server(end, path):
        with pytest.raises(LocalError, match=r"the bridge has ended the connection at .* the command may still be"):
            await ask(path, ("who",))


async def test_nothing_is_done_before_the_bridge_is_ready_and_whoever_asks_waits_for_it(
    tmp_path: Path, desk: Desk
) -> None:
    where, looks, waits = str(tmp_path / "control.sock"), iter([False, False, False, True]), list[str]()
    application = control_application(desk.handle, RefusedError, ready=lambda: next(looks))
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE):
        status, answer = await ask(where, ("reload",))
        assert (status, answer["starting"]) == (503, True)
        assert "nothing was done" in str(answer["error"])
        assert desk.asked == []
        answered = await ask_until_ready(where, ("reload",), waits.append, ask_again_s=0.01)
        assert answered == (200, {"said": "done"})
    assert (len(desk.asked), waits) == (1, ["the bridge is starting; waiting for it"])


async def test_patience_with_a_bridge_that_starts_has_an_end(tmp_path: Path, desk: Desk) -> None:
    where = str(tmp_path / "control.sock")
    application = control_application(desk.handle, RefusedError, ready=lambda: False)
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE):
        status, _ = await ask_until_ready(where, ("reload",), lambda _what: None, patience_s=0.0)
    assert (status, desk.asked) == (503, [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b"nonsense",
        b"[" * 20_000,
        json.dumps({"words": "who"}).encode(),
        json.dumps({"words": []}).encode(),
        json.dumps({"words": [1]}).encode(),
        json.dumps({"words": ["revoke", "7", "because", "caf\udce9"]}).encode(),
        json.dumps({"words": ["x"] * (MAX_WORDS + 1)}).encode(),
        json.dumps({"words": ["x" * (MAX_WORD_CHARS + 1)]}).encode(),
        b" " * (MAX_BODY + 1),
    ],
)
async def test_what_is_no_list_of_words_is_refused(path: str, desk: Desk, body: bytes) -> None:
    async with (
        ClientSession(connector=UnixConnector(path)) as session,
        session.post("http://x/v1/command", data=body) as answer,
    ):
        assert answer.status == (413 if len(body) > MAX_BODY else 400)
        assert (await answer.json())["error"]
    assert desk.asked == []


async def test_somebody_else_gets_no_answer(path: str, desk: Desk) -> None:
    for uid in (os.geteuid() + 1, None):
        where = path.replace("control", f"other{uid}")
        application = control_application(desk.handle, RefusedError, uid_of=lambda _request, uid=uid: uid)
        async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE):
            status, answer = await ask(where, ("pause",))
        assert (status, "for the user that runs the bridge" in str(answer["error"])) == (403, True)
    assert desk.asked == []


async def test_where_nobody_listens_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="the bridge is not running"):
        await ask(str(tmp_path / "nothing.sock"), ("who",))


async def test_a_bridge_that_hangs_is_waited_for_and_named_in_the_end(tmp_path: Path) -> None:
    """It takes connections, as the kernel does that for it, and says nothing."""
    where, told = tmp_path / "control.sock", list[str]()
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(where))
        hanging.listen()
        with pytest.raises(
            LocalError, match=r"has not answered within 0\.2 seconds at .*control\.sock: it hangs or was"
        ):
            await ask_until_ready(str(where), ("kick", "1"), told.append, told_s=0.01, answer_s=0.2)
    assert told == ["the bridge has not answered yet; waiting for it"]


@pytest.mark.parametrize("asks", [b"", b"POST /v1/command HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half"])
async def test_clients_that_hang_keep_no_admin_out_and_are_ended(asks: bytes, tmp_path: Path, desk: Desk) -> None:
    where = str(tmp_path / "control.sock")
    application = control_application(desk.handle, RefusedError)
    hanging: list[socket.socket] = []
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE, max_connections=3, look_s=0.01):
        for _ in range(10):
            client = socket.socket(socket.AF_UNIX)
            client.connect(where)
            client.sendall(asks)
            hanging.append(client)
        assert await ask(where, ("who",)) == (200, {"said": "done"})
        # The oldest first, and those that may stay are not touched.
        async with asyncio.timeout(20):
            for client in hanging[:7]:
                client.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        for client in hanging[8:]:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        for client in hanging:
            client.close()


async def test_a_client_that_does_not_read_its_answer_is_ended_like_one_that_says_nothing(
    tmp_path: Path, desk: Desk
) -> None:
    desk.answer = {"rows": ["x" * 1000] * 3000}
    where = str(tmp_path / "bounded.sock")
    application = control_application(desk.handle, RefusedError)
    body = json.dumps({"words": ["log"]}).encode()
    request = b"POST /v1/command HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with Server(application, UnixListen(where), unix_mode=SOCKET_MODE, max_connections=1, look_s=0.01):
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as other:
            seen = select.poll()
            seen.register(client, select.POLLIN | select.POLLRDHUP)
            client.connect(where)
            client.sendall(request)
            # Before it is answered, its end would be a reset, as its request was not read.
            await until(lambda: seen.poll(0))
            other.connect(where)
            await until(lambda: any(event & select.POLLRDHUP for _, event in seen.poll(0)))
            received = sum(map(len, iter(lambda: client.recv(65536), b"")))
        assert 0 < received < 3_000_000
