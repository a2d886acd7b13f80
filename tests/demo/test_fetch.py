"""Downloads of the demonstration: what came whole is measured, anything else is an error and never a success."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from mxrtc_bridge.demo.fetch import Fetched, FetchError, fetch
from mxrtc_bridge.demo.website import FILE_PATH, PAGE, file_bytes, make_server


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[int]:
    """A server that answers whatever it is asked with ``pieces`` and hangs up; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def website(file: bytes) -> Iterator[int]:
    with make_server(file) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_000_000])
async def test_fetch_hashes_and_counts_what_the_website_has(size: int) -> None:
    file = file_bytes(size)
    seen: list[int] = []
    with website(file) as port:
        fetched = await fetch(port, FILE_PATH, limit=size, progress=seen.append)
    assert (fetched.size, fetched.sha256) == (size, hashlib.sha256(file).hexdigest())
    assert fetched.seconds > 0
    assert seen == sorted(seen)
    assert seen[-1:] == ([size] if size else [])


async def test_fetch_gets_the_page() -> None:
    with website(b"") as port:
        fetched = await fetch(port, "/", limit=10_000)
    assert fetched.sha256 == hashlib.sha256(PAGE.encode()).hexdigest()


async def test_fetch_refuses_what_is_not_there() -> None:
    with website(b"") as port, pytest.raises(FetchError, match=r"/other: the answer is .*404.* instead of a 200"):
        await fetch(port, "/other", limit=10_000)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((HEAD % 10, b"123456789"), "was cut off after 9 of 10 bytes"),
        ((HEAD % 11, b"12345678901"), "claims 11 bytes; the limit is 10"),
        ((b"HTTP/1.0 200 OK\r\n\r\n", b"123"), "does not say how long it is"),
        ((b"HTTP/1.0 20", b"0 OK\r\nContent-"), "cut off in its head"),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), "no HTTP answer"),
        ((b"HTTP/1.0 200 OK\r\nX: " + b"y" * 70_000,), "no HTTP answer"),
    ],
)
async def test_fetch_takes_a_bad_answer_for_a_failure(pieces: tuple[bytes, ...], message: str) -> None:
    async with answering(*pieces) as port:
        with pytest.raises(FetchError, match=message):
            await fetch(port, "/", limit=10)


async def test_fetch_says_that_nobody_listens() -> None:
    async with answering() as port:
        pass
    with pytest.raises(FetchError, match="the connection failed"):
        await fetch(port, "/", limit=10)


async def test_fetch_gives_up_in_time() -> None:
    """The limit is for everything: an answer that begins is not enough."""
    stop = asyncio.Event()

    async def begin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % 10)
        await stop.wait()
        writer.close()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        with pytest.raises(FetchError, match=r"did not come within 0\.05 s"):
            await fetch(server.sockets[0].getsockname()[1], "/", limit=10, timeout_s=0.05)
        stop.set()


def test_the_rate_is_in_megabytes_of_a_million_bytes() -> None:
    assert Fetched(64_000_000, "", 2.0).megabytes_a_second == 32
    assert Fetched(0, "", 0.0).megabytes_a_second == 0
