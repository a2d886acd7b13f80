"""Command-line values, read once and strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.lending import Lending
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.access.peer_names import PeerName, parse_peer_name
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import ServiceName, parse_service_name
from mxrtc_bridge.core.text.display import quoted
from mxrtc_bridge.core.webrtc.ice import IcePolicy

DEFAULT_BIND = "127.0.0.1"
DEFAULT_TIMEOUT_S = 15.0


class SignalBy(Enum):
    """How a call is signalled."""

    AUTO = "auto"
    """By a device, and by a room where the peer has none."""
    DEVICE = "device"
    """By a device only: nothing is left in a room."""
    ROOM = "room"
    """By events in the direct chat with the peer."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How to call."""

    policy: IcePolicy = IcePolicy.ALL
    interfaces: tuple[str, ...] = ()
    """Names of network interfaces, or networks; empty for all but loopback."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """How long silence may last: until the peer answers, and from then on until the connection is up."""
    signal: SignalBy = SignalBy.AUTO
    share: bool = True
    """Whether connections of other commands of this account are used, and ours lent to them."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all commands share."""

    state: StateFolder
    """Of the account that is used."""
    report: Report
    call: CallOptions = CallOptions()
    accounts: Accounts = field(default_factory=Accounts.default)
    lending: Lending = field(default_factory=Lending)


@dataclass(frozen=True, slots=True)
class Forward:
    """One ``-L``: where to listen, and for which service (None: the one named with the peer)."""

    host: str
    port: int | None
    """None for the one that is usual for a service of that name."""
    service: ServiceName | None


_FORWARD = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253}|\*):)?([0-9]{1,5})(?:=(.+))?")


def parse_forward(text: str) -> Forward:
    """Read ``[BIND:]PORT[=SERVICE]``.

    Raises:
        ClientError: with the form that is allowed.
    """
    match = _FORWARD.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ClientError(
            Exit.USAGE, f"-L {quoted(text)}: write [BIND:]PORT[=SERVICE], for example 2222, 127.0.0.1:8080 or 8080=web"
        )
    try:
        service = None if match[3] is None else parse_service_name(match[3])
    except EventError as error:
        raise ClientError(Exit.USAGE, f"-L {quoted(text)}: {error}") from error
    host = match[1] or DEFAULT_BIND
    # "*" listens for everybody on the network, so it has to be typed; nothing implies it.
    return Forward("0.0.0.0" if host == "*" else host.strip("[]"), int(match[2]), service)  # noqa: S104


def peer_name(login: Login, text: str) -> PeerName:
    """Read the name of a peer, perhaps with a service.

    Raises:
        EventError: it is no name.
    """
    return parse_peer_name(text, server=login.server, prefix=login.prefix)
