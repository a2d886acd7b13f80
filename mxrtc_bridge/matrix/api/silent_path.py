"""Sockets to the homeserver that the system gives up when their path dies without a word.

A router that starts again, a NAT that has forgotten, a network that was left: no packet says so, and a long poll would
wait for its answer until its own time limit, a minute later. The system asks the other end's system instead, with
packets of no content that cost neither program anything, however many polls there are.

Where even our own address is gone, as from wifi to mobile, nobody needs to be asked: the next request ends what is left
of the old network, and takes a connection of its own.

A homeserver that is merely slow, or has nothing to say, answers them: that is not what this notices.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from mxrtc_bridge.engine.roaming import is_ours

GIVEN_UP_AFTER_S = 9
_ASKED_AFTER_S = 3
_ASKED_EVERY_S = 1
_QUESTIONS = 6
"""The last is asked a second before the end; on a path that loses every fifth packet, one of them is answered."""

_OPTIONS = (
    ("SOL_SOCKET", "SO_KEEPALIVE", 1),
    ("IPPROTO_TCP", "TCP_KEEPIDLE", _ASKED_AFTER_S),
    ("IPPROTO_TCP", "TCP_KEEPALIVE", _ASKED_AFTER_S),  # macOS calls it so
    ("IPPROTO_TCP", "TCP_KEEPINTVL", _ASKED_EVERY_S),
    ("IPPROTO_TCP", "TCP_KEEPCNT", _QUESTIONS),
    # Of what was sent and not acknowledged, of which no question is asked (RFC 5482); in milliseconds, Linux only.
    ("IPPROTO_TCP", "TCP_USER_TIMEOUT", GIVEN_UP_AFTER_S * 1000),
)


class Sockets:
    """Makes the sockets of one pool of connections, and knows them as long as they are open."""

    def __init__(self) -> None:
        self._open: WeakSet[socket.socket] = WeakSet()

    def make(self, address: Sequence[Any]) -> socket.socket:
        """Make the socket for a connection.

        Args:
            address: an entry of the answer of :func:`socket.getaddrinfo`.
        """
        made = make_socket(address)
        self._open.add(made)
        return made

    def end_moved(self) -> None:
        """End all whose own address this machine has no longer; whoever waits for an answer there learns it at once."""
        ours: dict[str, bool] = {}
        for each in list(self._open):
            with contextlib.suppress(OSError):
                own = str(each.getsockname()[0])  # of one that is not connected: that of all
                if not ours.setdefault(own, is_ours(own)):
                    each.shutdown(socket.SHUT_RDWR)


def make_socket(address: Sequence[Any]) -> socket.socket:
    """Make a socket that is given up when its path is silent; see :meth:`Sockets.make`."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    for level, option, value in _OPTIONS:
        if hasattr(socket, option):
            with contextlib.suppress(OSError):  # a system that knows the name and not the option: it waits longer
                made.setsockopt(getattr(socket, level), getattr(socket, option), value)
    return made
