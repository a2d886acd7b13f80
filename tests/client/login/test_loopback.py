"""The port that waits for the browser: one answer, ours, from this machine, in time."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from mxrtc_bridge.client.login.loopback import HOST, MAX_AT_ONCE, MAX_HEAD_BYTES, LoopbackListener, listening
from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.redirect import code_of
from tests.waiting import turns

STATE = "s" * 43
OURS = f"/callback?code=c&state={STATE}"


def read(target: str) -> str:
    return code_of(target, state=STATE, issuer="https://auth.example.org")


def port_of(listener: LoopbackListener) -> int:
    return int(listener.address.rpartition(":")[2].partition("/")[0])


async def ask(listener: LoopbackListener, target: str, *, method: str = "GET", host: str | None = None) -> str:
    reader, writer = await asyncio.open_connection(HOST, port_of(listener))
    host = f"{HOST}:{port_of(listener)}" if host is None else host
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


async def test_answer_is_taken_and_the_person_told() -> None:
    async with listening(read) as listener:
        page = await ask(listener, OURS)
        assert page.startswith("HTTP/1.1 200 OK\r\n")
        assert "goes on in the terminal" in page
        assert ("Cache-Control: no-store" in page, "Referrer-Policy: no-referrer" in page) == (True, True)
        assert await listener.answer(1) == "c"
        # One answer, and no other in its place.
        assert (await ask(listener, OURS.replace("code=c", "code=d"))).startswith("HTTP/1.1 410 Gone")
        assert await listener.answer(1) == "c"
    with pytest.raises(ConnectionRefusedError):
        await ask(listener, OURS)


@pytest.mark.parametrize(
    ("target", "method", "host"),
    [
        ("/", "GET", None),
        ("/callback?code=c&state=other", "GET", None),
        (OURS, "POST", None),
        (OURS, "GET", "evil.test"),
        (OURS, "GET", "localhost:1"),
        (OURS, "GET", ""),
        (OURS, "", None),
    ],
)
async def test_what_is_not_the_answer_changes_nothing(target: str, method: str, host: str | None) -> None:
    async with listening(read) as listener:
        assert (await ask(listener, target, method=method, host=host)).split()[1] in ("400", "404")
        assert "goes on" in await ask(listener, OURS)
        assert await listener.answer(1) == "c"


async def test_refusal_is_told_to_the_person_and_escaped() -> None:
    async with listening(read) as listener:
        page = await ask(listener, f"/callback?error=x&error_description=%3Cscript%3E&state={STATE}")
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        with pytest.raises(LoginError, match="does not let us log in: <script>"):
            await listener.answer(1)


async def test_refusal_that_nobody_waits_for_is_no_defect() -> None:
    async with listening(read) as listener:
        await ask(listener, f"/callback?error=access_denied&state={STATE}")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1", b"\r\n\r\n", b"\x16\x03\x01" * 100, b"x" * (MAX_HEAD_BYTES + 9)]
)
async def test_whatever_is_sent_ends_and_the_answer_is_still_taken(sent: bytes) -> None:
    async with listening(read) as listener:
        reader, writer = await asyncio.open_connection(HOST, port_of(listener))
        writer.write(sent)
        writer.write_eof()
        assert b"goes on" not in await reader.read()
        writer.close()
        assert "goes on" in await ask(listener, OURS)


async def test_connections_that_say_nothing_end() -> None:
    async with listening(read, request_s=0.2) as listener:
        idle = [await asyncio.open_connection(HOST, port_of(listener)) for _ in range(MAX_AT_ONCE)]
        assert [await each.read() for each, _ in idle] == [b""] * MAX_AT_ONCE
        for _, writer in idle:
            writer.close()
        assert "goes on" in await ask(listener, OURS)


async def test_whoever_holds_many_connections_keeps_nobody_out() -> None:
    """Everybody on this machine can open them."""
    async with listening(read) as listener:
        idle = [await asyncio.open_connection(HOST, port_of(listener)) for _ in range(MAX_AT_ONCE)]
        await turns()
        assert "goes on" in await ask(listener, OURS)
        assert await listener.answer(1) == "c"
        # The oldest has ended for it, and no other.
        with contextlib.suppress(ConnectionError):
            assert await idle[0][0].read() == b""
        await turns()
        assert [reader.at_eof() for reader, _ in idle] == [True] + [False] * (MAX_AT_ONCE - 1)
        for _, writer in idle:
            writer.close()


async def test_nobody_is_waited_for_for_ever() -> None:
    async with listening(read) as listener:
        with pytest.raises(LoginError, match=r"within 0\.001 minutes"):
            await listener.answer(0.06)


async def test_only_this_machine_can_reach_it() -> None:
    async with listening(read) as listener:
        local = f"{127 | 0 << 8 | 0 << 16 | 1 << 24:08X}:{port_of(listener):04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ports = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port_of(listener):04X}")]
        assert ports == [local]
