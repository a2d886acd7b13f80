"""Listens on 127.0.0.1 for what a browser brings back from logging in (RFC 8252, section 7.3).

Only this machine can reach the port, but everybody on it can, and every page that the browser shows. So a request is
read up to a size and a time, few at a time, and what is not the answer to our question is refused and changes nothing:
the answer is still waited for. Whoever opens connections and says nothing keeps nobody out: the oldest of them ends
when there are too many, and a browser says at once what it wants.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from html import escape
from typing import TypeVar

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.redirect import MAX_TARGET_CHARS, PATH, OtherRedirectError

_T = TypeVar("_T")

HOST = "127.0.0.1"
MAX_HEAD_BYTES = MAX_TARGET_CHARS + 16 * 1024
REQUEST_S = 10.0
MAX_AT_ONCE = 16
"""Browsers open some connections before they need them."""
_PAGE = (
    "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>mxrtc</title><body style='font-family:sans-serif;margin:3em'><p>{words}</p>"
)
_HEADERS = (
    "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nConnection: close\r\n"
)


class LoopbackListener:
    """One answer of a browser; see :func:`listening`."""

    def __init__(self, port: int, answer: asyncio.Future[str]) -> None:
        self.address = f"http://{HOST}:{port}{PATH}"
        """Where the browser is to be sent."""
        self._answer = answer

    async def answer(self, wait_s: float) -> str:
        """Wait for what the browser brings.

        Raises:
            LoginError: it says that we are refused, or nothing came in time.
        """
        try:
            async with asyncio.timeout(wait_s):
                return await self._answer
        except TimeoutError:
            raise LoginError(f"nobody has logged in within {wait_s / 60:g} minutes; try again") from None


@contextlib.asynccontextmanager
async def listening(read: Callable[[str], str], *, request_s: float = REQUEST_S) -> AsyncIterator[LoopbackListener]:
    """Listen while the context lasts, for one answer.

    Args:
        read: takes the answer out of the target of a request; raises OtherRedirectError for what is none, and another
            LoginError for one that refuses us.
        request_s: how long a request may take to arrive.

    Raises:
        OSError: there is no port to listen on.
    """
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    host = ""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(serving) >= MAX_AT_ONCE:
                oldest = next(iter(serving))
                serving.pop(oldest).transport.abort()
            serving[task] = writer
            async with asyncio.timeout(request_s):
                head = await reader.readuntil(b"\r\n\r\n")
                status, words = _respond(head, host, read, answer)
                writer.write(_response(status, words))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever it was, they get no answer
        finally:
            serving.pop(task, None)
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0, limit=MAX_HEAD_BYTES)
    port = server.sockets[0].getsockname()[1]
    host = f"{HOST}:{port}"
    try:
        yield LoopbackListener(port, answer)
    finally:
        server.close()
        # The page that says how it went is on its way to the person.
        tasks = list(serving)
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if answer.done() and not answer.cancelled():
            answer.exception()  # also where nobody has waited for it


def _respond(head: bytes, host: str, read: Callable[[str], str], answer: asyncio.Future[str]) -> tuple[str, str]:
    """Take one request; returns the status and the sentence for whoever looks at the page."""
    lines = head.decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.partition(" ")
    hosts = [line.partition(":")[2].strip() for line in lines[1:] if line.lower().startswith("host:")]
    # A page that has its own name lead to this port (DNS rebinding) says that name here.
    if method != "GET" or not version.startswith("HTTP/1.") or hosts != [host]:
        return "400 Bad Request", "This is not what mxrtc waits for."
    if answer.done():
        return "410 Gone", "mxrtc has its answer already. You can close this page."
    try:
        answer.set_result(read(target))
    except OtherRedirectError:
        return "404 Not Found", "This is not what mxrtc waits for."
    except LoginError as error:
        answer.set_exception(error)
        return "200 OK", f"mxrtc is not logged in: {error}. You can close this page."
    return "200 OK", "mxrtc goes on in the terminal. You can close this page."


def _response(status: str, words: str) -> bytes:
    page = _PAGE.format(words=escape(words)).encode()
    return f"HTTP/1.1 {status}\r\n{_HEADERS}Content-Length: {len(page)}\r\n\r\n".encode() + page
