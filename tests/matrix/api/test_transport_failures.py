"""Whatever a server answers, and whatever stands in the way: no exception but HomeserverError leaves the transport."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPMethod as Method
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.login import discover
from mxrtc_bridge.matrix.api.transport import Repeat, RequestPolicy, RetryPolicy, Transport
from tests.certificates import make_certificate
from tests.long import examples

TRIES: list[float] = []


@asynccontextmanager
async def answering(
    answer: bytes, context: ssl.SSLContext | None = None, reset: bool = False, after: bytes = b"\r\n\r\n"
) -> AsyncIterator[int]:
    """A server that sends the same bytes to everybody who has sent ``after``, and then ends the connection."""

    open_ones: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await reader.readuntil(after)
                writer.write(answer)
                await writer.drain()
        finally:
            if reset:
                writer.transport.abort()
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
            open_ones.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in set(open_ones):
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)


async def ask(url: str, redirects: bool = False) -> dict[str, object]:
    """Ask once, or as often as another attempt could help."""
    TRIES.clear()

    async def sleep(seconds: float) -> None:
        TRIES.append(seconds)

    transport = Transport(
        url, policy=RequestPolicy(RetryPolicy(total_s=3), timeout_s=5), clock=lambda: sum(TRIES), sleep=sleep
    )
    if redirects:
        transport.follow_redirects()
    try:
        return await transport.request("ask", Method.GET, "x", repeat=Repeat.ALWAYS)
    finally:
        await transport.close()


async def failure_of(url: str, redirects: bool = False) -> Exception | None:
    """What is raised, if it may be; None if there is an object for an answer."""
    try:
        assert isinstance(await ask(url, redirects), dict)
    except (ConfigError, HomeserverError) as error:
        return error
    return None


HEADS = st.sampled_from(
    [
        b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", b"HTTP/1.1 500 no\r\n",
        b"HTTP/1.0 200\r\n", b"HTTP/9.9 200 OK\r\n", b"HTTP/1.1 99999 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n", b"HTTP/1.1 302 Found\r\nLocation: //a..b/\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n", b"HTTP/1.1 308 x\r\n", b"SSH-2.0-x\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ]
)  # fmt: skip
FIELDS = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: x",
            b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Content-Encoding: br",
            b"Content-Encoding: deflate",
            b"Set-Cookie: \xff=\xfe", b"Content-Type: text/html; charset=none", b"Retry-After: 1e9", b"X: \x00",
            b"X: " + b"y" * 9000, b"no colon", b": no name", b"Connection: upgrade\r\nUpgrade: websocket",
        ]
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"{}",
            b'{"a":',
            b"[1]",
            b"5\r\n{}\r\n0\r\n\r\n",
            b"zz\r\n",
            b"ffffffffffffffffffff\r\n",
            b"\x1f\x8b\x08",
            b"\xff",
        ]
    ),
)


@given(head=HEADS, fields=FIELDS, body=BODIES, reset=st.booleans(), redirects=st.booleans())
@settings(max_examples=examples(150))
def test_whatever_is_answered_is_an_object_or_a_homeserver_error(
    head: bytes, fields: list[bytes], body: bytes, reset: bool, redirects: bool
) -> None:
    async def run() -> None:
        lines = b"".join(field + b"\r\n" for field in fields)
        async with answering(head + lines + b"\r\n" + body, reset=reset) as port:
            failure = await failure_of(f"http://127.0.0.1:{port}", redirects)
            assert failure is None or str(failure).startswith("could not ask: ")
            assert "127.0.0.1" not in str(failure)

    asyncio.run(run())


@pytest.mark.parametrize("ended", [False, True])
async def test_a_certificate_that_is_not_believed_is_told_at_once_and_may_be_mended_later(
    tmp_path: Path, ended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(b"", make_certificate(tmp_path / "server.pem", ended=ended)) as port:
        with pytest.raises(HomeserverError, match=r"cannot be reached: its certificate is not accepted: \w") as caught:
            await ask(f"https://127.0.0.1:{port}")
    assert TRIES == [], "a person waits"
    assert caught.value.retryable, "what runs goes on and asks again"
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_tls_where_none_is_and_none_where_it_is(tmp_path: Path) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n{}", after=b"\x16") as port:
        with pytest.raises(HomeserverError, match=r"TLS failed|without an answer"):
            await ask(f"https://127.0.0.1:{port}")
    async with answering(b"", make_certificate(tmp_path / "server.pem")) as port:
        with pytest.raises(HomeserverError, match="cannot be reached"):
            await ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "host", ["example..org", "a" * 64 + ".org", ".", "xn--a.example", "a_b.invalid", "%zz", "a\u0301.invalid"]
)
async def test_a_name_that_no_host_has_is_refused_in_words(host: str) -> None:
    with pytest.raises((ConfigError, HomeserverError), match=r"must look like|cannot be reached"):
        await ask(f"http://{host}:9")


@pytest.mark.parametrize("server", ["example..org", "a" * 64 + ".org"])
async def test_discovery_of_such_a_name_says_what_to_do(server: str) -> None:
    with pytest.raises(HomeserverError, match="no name of a host; give the address of the homeserver instead"):
        await discover(UserId(f"@alice:{server}"))


@given(host=st.text(st.characters(exclude_characters="/?#@\\"), min_size=1, max_size=70))
@settings(max_examples=examples(20))
def test_any_text_as_a_host_is_refused_in_words(host: str) -> None:
    assert asyncio.run(failure_of(f"http://{host}.invalid:9")) is not None, "nobody is there"


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX: y", "\x00", "caf\u00e9", "\ud800", "\x7f"])
async def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="access token holds a character") as caught:
        Transport("http://127.0.0.1:9", token)
    assert token not in str(caught.value)


async def test_what_nobody_has_thought_of_is_a_homeserver_error_and_is_written_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(*_: object, **__: object) -> None:
        raise RuntimeError("a defect of a library")

    monkeypatch.setattr("aiohttp.ClientSession.request", odd)
    with pytest.raises(HomeserverError, match="could not ask: the homeserver cannot be reached: RuntimeError"):
        await ask("http://127.0.0.1:9")
    assert "in a way that is not known" in caplog.text
