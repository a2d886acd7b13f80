"""From the name of a socket to the command that holds the account, if that is one which can be asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError
from mxrtc_bridge.client.sharing.guest import HolderLink
from mxrtc_bridge.client.sharing.heartbeat import BEAT_S
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.sinks.frame_socket import FrameSocket, connect

HELLO_S = 1.0
"""How long the other command may take to say that it is there."""


class UnreachableError(Exception):
    """The command that holds the account does not answer; it may just have ended, or hang."""


class StrangerError(Exception):
    """The command that holds the account cannot be asked: it is of another version or login, or has enough guests."""


async def reach(
    folder: int, path: Path, login: Login, *, hello_s: float = HELLO_S, beat_s: float = BEAT_S
) -> HolderLink:
    """Reach the command that holds the account.

    Args:
        folder: the descriptor of the folder that its socket is in.
        path: of the socket.
        login: as whom: sessions of anybody else, who was logged in before, are not used.
        hello_s: see :data:`HELLO_S`.
        beat_s: see :data:`~mxrtc_bridge.client.sharing.heartbeat.BEAT_S`.

    Raises:
        UnreachableError: nobody answers there.
        StrangerError: somebody does, who cannot be asked.
    """
    links: list[HolderLink] = []

    def listen(socket: FrameSocket) -> HolderLink:
        links.append(HolderLink(socket, beat_s))
        return links[0]

    socket = None
    try:
        async with asyncio.timeout(hello_s):
            socket = await connect(folder, path, listen)
            hello = await links[0].hello
    except (OSError, TimeoutError, ClientError) as error:
        if socket is not None:
            socket.abort()
        raise UnreachableError(str(error)) from error
    except BaseException:
        if socket is not None:
            socket.abort()
        raise
    try:
        _check_hello(hello, login)
    except StrangerError:
        socket.abort()
        raise
    return links[0]


def _check_hello(hello: messages.HolderHello, login: Login) -> None:
    """Find out whether who has said this can be asked for anything.

    Raises:
        StrangerError: with what a person should know of it.
    """
    who = f"the mxrtc command that holds the account (process {hello.pid})"
    if hello.version != messages.VERSION:
        raise StrangerError(f"{who} is of another version; started anew, it would share its connections")
    if (hello.user, hello.device) != (login.user_id, login.device_id):
        raise StrangerError(f"{who} still runs by the login before this one; end it, as it cannot call any more")
    if not hello.has_room:
        raise StrangerError(f"{who} has as many guests as it takes")
