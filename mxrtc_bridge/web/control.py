"""The control socket: a unix socket that the admin's command line talks to.

Only the user that runs the bridge and root get an answer: the file is open to its owner alone, and the kernel says who
is at the other end (``SO_PEERCRED``), whatever became of the mode of the file.

One path, ``POST /v1/command`` with ``{"words": [...]}``: the words of a command as in a chat. The answer is an object;
with a status of 400 and above it has ``error``, a sentence.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
    UnixConnector,
    web,
)

from mxrtc_bridge.core.errors import LocalError, MxrtcError
from mxrtc_bridge.core.ids import LocalAdmin
from mxrtc_bridge.core.text.display import display, is_text, sentence
from mxrtc_bridge.core.text.foreign_json import read_foreign_json
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

MAX_BODY = 64 * 1024
MAX_WORDS = 200
MAX_WORD_CHARS = 4096
MAX_DEPTH = 8
"""Levels of a request; what is deeper, in fields that nobody knows, becomes null."""
MAX_ANSWER = 4 * 1024 * 1024
TIMEOUT_S = 60.0
SOCKET_MODE = 0o600
MAX_COMMANDS = 48
"""Carried out at the same time, fewer than the server has connections: at the limit the oldest gives way and is told
so, as what takes something away must never wait for what hangs."""
PATH = "/v1/command"
STARTING = "The bridge is starting, so nothing was done. Ask again in a moment; its log says what it waits for."
START_PATIENCE_S = 30.0
"""How long the command line waits for a bridge that starts."""
ASK_AGAIN_S = 0.5
ANSWER_S = TIMEOUT_S + 5
"""How long an answer is waited for: longer than the bridge lets a command take."""
TOLD_S = 2.0
"""When it is said that it is waited for."""

log = logging.getLogger(__name__)

Handle = Callable[[LocalAdmin, tuple[str, ...]], Awaitable[Mapping[str, object]]]


def peer_uid(request: web.Request) -> int | None:
    """Who is at the other end of the socket, by the system; None if it does not say."""
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is None:
        return None
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


class _Turns:
    """Carries out commands, each for a limited time, and :data:`MAX_COMMANDS` at the same time."""

    def __init__(self, handle: Handle, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s
        self._running: dict[asyncio.Timeout, None] = {}
        self._giving_way: set[asyncio.Timeout] = set()

    async def carry_out(self, by: LocalAdmin, words: tuple[str, ...]) -> web.Response:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                self._take_turn(limit)
                return web.json_response(await self._handle(by, words))
        except TimeoutError:
            why = f"It takes longer than {self._timeout_s:g} s"
            if limit in self._giving_way:
                why = f"It gave way to newer commands, as {MAX_COMMANDS} are being carried out"
            return _error(504, f"{why}; it may still be done. Look before you ask again.")
        finally:
            self._running.pop(limit, None)
            self._giving_way.discard(limit)

    def _take_turn(self, limit: asyncio.Timeout) -> None:
        self._running[limit] = None
        if len(self._running) > MAX_COMMANDS:
            oldest = next(iter(self._running))
            del self._running[oldest]
            self._giving_way.add(oldest)
            oldest.reschedule(asyncio.get_running_loop().time())


def control_application(
    handle: Handle,
    refusal: type[MxrtcError],
    *,
    ready: Callable[[], bool] = lambda: True,
    timeout_s: float = TIMEOUT_S,
    uid_of: Callable[[web.Request], int | None] = peer_uid,
) -> web.Application:
    """Make the application; serve it with :data:`SOCKET_MODE`.

    Args:
        handle: carries out words for somebody.
        refusal: what it raises with a sentence for whoever asked.
        ready: whether commands can be carried out yet; before, each is told to come again.
        timeout_s: how long a command may take.
        uid_of: who is at the other end of a request, or None if the system does not say.
    """
    seldom = RateLimitedLog(log)
    turns = _Turns(handle, timeout_s)

    async def command(request: web.Request) -> web.Response:  # noqa: PLR0911 - one row for each outcome
        uid = uid_of(request)
        if uid is None or uid not in (0, os.geteuid()):
            seldom.warning(uid or "", "! somebody else than the bridge's user or root was at the control socket")
            return _error(403, "This socket is for the user that runs the bridge, and for root.")
        try:
            words = _words(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"A command has at most {MAX_BODY} bytes.")
        if words is None:
            return _error(400, "This is not a list of words.")
        if not ready():
            return web.json_response({"error": STARTING, "starting": True}, status=503)
        try:
            return await turns.carry_out(LocalAdmin(_name(uid)), words)
        except refusal as error:
            return _error(409, str(error))
        except MxrtcError as error:
            return _error(503, sentence(str(error)))
        except Exception:
            log.exception("! a command at the control socket failed")
            return _error(500, "That did not work; the bridge's log says why.")

    application = web.Application(client_max_size=MAX_BODY)
    application.router.add_post(PATH, command)
    return application


async def ask_until_ready(
    path: str,
    words: tuple[str, ...],
    waits: Callable[[str], None],
    *,
    patience_s: float = START_PATIENCE_S,
    ask_again_s: float = ASK_AGAIN_S,
    told_s: float = TOLD_S,
    answer_s: float = ANSWER_S,
    shown: str | None = None,
) -> tuple[int, dict[str, object]]:
    """Like :func:`ask`; while the bridge starts, ask again.

    Args:
        path: of the socket.
        words: the command.
        waits: told once for what, if there is something to wait for.
        patience_s: how long to ask again.
        ask_again_s: the pause before.
        told_s: after how long it is said that there is no answer yet.
        answer_s: as of :func:`ask`.
        shown: how the path is named in messages, if another way.

    Raises:
        LocalError: no bridge answers there.
    """
    deadline = time.monotonic() + patience_s
    told = False

    def tell(what: str) -> None:
        nonlocal told
        if not told:
            told = True
            waits(what)

    silent = asyncio.get_running_loop().call_later(told_s, tell, "the bridge has not answered yet; waiting for it")
    try:
        while True:
            status, answer = await ask(path, words, shown=shown, answer_s=answer_s)
            if answer.get("starting") is not True or time.monotonic() >= deadline:
                return status, answer
            tell("the bridge is starting; waiting for it")
            await asyncio.sleep(ask_again_s)
    finally:
        silent.cancel()


async def ask(
    path: str,
    words: tuple[str, ...],
    *,
    shown: str | None = None,
    max_answer: int = MAX_ANSWER,
    answer_s: float = ANSWER_S,
) -> tuple[int, dict[str, object]]:
    """Have the running bridge carry out a command; returns the status and the answer.

    Args:
        path: of the socket.
        words: the command.
        shown: how the path is named in messages, if another way.
        max_answer: bytes of an answer that are read.
        answer_s: seconds until a silent bridge is given up.

    Raises:
        LocalError: no bridge answers there.
    """
    shown = path if shown is None else shown
    try:
        async with (
            ClientSession(connector=UnixConnector(path), timeout=ClientTimeout(total=answer_s)) as session,
            session.post(f"http://bridge{PATH}", json={"words": words}) as response,
        ):
            body = b""
            # One reading gives what has come so far, and a long answer comes in pieces.
            while len(body) <= max_answer and (piece := await response.content.read(max_answer)):
                body += piece
            answer = json.loads(body)
    except TimeoutError as error:
        raise LocalError(
            f"the bridge has not answered within {answer_s:g} seconds at {shown}: it hangs or was stopped; the command "
            "may still be carried out, so look before you ask again"
        ) from error
    except (ClientError, OSError, ValueError) as error:
        match error.__cause__ or error:
            case ServerDisconnectedError() | ClientPayloadError() | ConnectionResetError() | BrokenPipeError():
                why = (
                    f"the bridge has ended the connection at {shown} without an answer: it has stopped, or too many "
                    "wait there; the command may still be carried out, so look before you ask again"
                )
            case FileNotFoundError() | ConnectionRefusedError():
                why = f"the bridge is not running, or not with this configuration: nobody listens at {shown}"
            case PermissionError():
                why = f"{shown} is for the user that runs the bridge, and for root"
            case _:
                why = f"what answers at {shown} is no bridge: {type(error).__name__}"
        raise LocalError(why) from error
    if not isinstance(answer, dict):
        raise LocalError(f"what answers at {shown} is no bridge: {display(str(answer))}")
    return response.status, answer


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _words(body: bytes) -> tuple[str, ...] | None:
    try:
        content = read_foreign_json(body, MAX_DEPTH)
    except ValueError:
        return None
    words = content.get("words") if isinstance(content, dict) else None
    if not isinstance(words, list) or not 1 <= len(words) <= MAX_WORDS:
        return None
    if not all(isinstance(word, str) and len(word) <= MAX_WORD_CHARS and is_text(word) for word in words):
        return None
    return tuple(words)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
