"""Data channels of a session that another process has: the guest's end of what its holder lends.

To the streams and transfers of this process it is the transport and the control channel of a session, so that they run
here as they do beside a peer connection of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from mxrtc_bridge.core.errors import StateError, TransportError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.stream.messages import ServiceKind, ServiceState
from mxrtc_bridge.engine.ports import ChannelListener

MAX_SERVICES = 100_000
"""Of one list, as it comes one by one."""

_Listing = asyncio.Future[dict[UserId, tuple[ServiceName, ...]]]


class HolderPort(Protocol):
    """The way to the process that has the session; each method returns at once, and is without effect at its end."""

    def ask(self, message: messages.GuestMessage) -> None: ...

    def send(self, channel: int, message: str | bytes) -> None: ...

    def close(self, channel: int) -> None:
        """Close a channel after what was sent on it."""
        ...

    def can_send(self) -> bool:
        """Whether little waits to be taken by the holder."""
        ...


class BorrowedChannel:
    """One data channel; implements :class:`mxrtc_bridge.engine.ports.Channel`."""

    def __init__(self, holder: HolderPort, number: int, label: str, protocol: str) -> None:
        self.label = label
        self.protocol = protocol
        self._holder = holder
        self._number = number
        self._closed = False
        self._listener: ChannelListener | None = None

    def set_listener(self, listener: ChannelListener) -> None:
        """Attach the receiver; to be done before anything can come."""
        self._listener = listener

    def send(self, message: str | bytes) -> None:
        if not self._closed:
            self._holder.send(self._number, message)

    def consumed(self, size: int) -> None:
        """Nothing to do: the holder has given it back to the transport."""

    def keep(self, size: int) -> None:
        """Nothing to do, for the same reason."""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._holder.close(self._number)

    # Called by the transport

    def opened(self) -> None:
        if self._listener is not None:
            self._listener.channel_opened()

    def received(self, message: str | bytes) -> None:
        if self._listener is None:
            return
        if isinstance(message, str):
            self._listener.text_received(message)
        else:
            self._listener.binary_received(message)

    def ended(self) -> None:
        self._closed = True
        if self._listener is not None:
            self._listener.channel_closed()


class BorrowedTransport:
    """Opens data channels at the holder; implements :class:`mxrtc_bridge.engine.ports.ChannelOpener`."""

    def __init__(self, holder: HolderPort) -> None:
        self._holder = holder
        self._channels: dict[int, BorrowedChannel] = {}
        self._next = 1
        self._over = False

    def open_channel(self, label: str, protocol: str) -> BorrowedChannel:
        """Open a channel to a service.

        Raises:
            StateError: the session is over.
        """
        if self._over:
            raise StateError("the session has ended")
        number = self._next
        self._next += 1
        channel = self._channels[number] = BorrowedChannel(self._holder, number, label, protocol)
        self._holder.ask(messages.OpenChannel(number, ServiceName(label), protocol))
        return channel

    def can_send(self) -> bool:
        return self._holder.can_send()

    def channel(self, number: int) -> BorrowedChannel | None:
        """One that is open; None for any other, as it may just have been closed."""
        return self._channels.get(number)

    def closed(self, number: int) -> None:
        """The holder says that a channel has been closed."""
        channel = self._channels.pop(number, None)
        if channel is not None:
            channel.ended()

    def end(self) -> None:
        """Close all channels: nothing comes any more."""
        self._over = True
        for number in tuple(self._channels):
            self.closed(number)


class BorrowedControl:
    """Asks the peer by the holder; implements :class:`mxrtc_bridge.engine.client_channels.ClientControl`."""

    def __init__(self, holder: HolderPort) -> None:
        self.bye: tuple[str, str] | None = None
        self.expiries: Mapping[tuple[UserId, ServiceName], int] = {}
        self.kinds: Mapping[tuple[UserId, ServiceName], ServiceKind] = {}
        self.states: Mapping[tuple[UserId, ServiceName], ServiceState] = {}
        self._holder = holder
        self._number = 0
        self._lists: dict[int, tuple[_Listing, list[messages.ListEntry]]] = {}
        self._pings: dict[int, asyncio.Future[float]] = {}
        self._over = False

    def list_services(self, *, states: bool = False) -> _Listing:
        """Ask which services we may use; fails with TransportError when the session ends first."""
        answer: _Listing = asyncio.get_running_loop().create_future()
        self._number += 1
        self._lists[self._number] = answer, []
        self._ask(messages.ListRequest(self._number, states))
        return answer

    def ping(self) -> asyncio.Future[float]:
        """Measure a round trip, in seconds; fails with TransportError when the session ends first."""
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._number += 1
        self._pings[self._number] = answer
        self._ask(messages.PingRequest(self._number))
        return answer

    def traffic(self) -> None:
        """Nothing to do: the holder sees it too."""

    def close(self) -> None:
        """Whoever waits for an answer learns that there will be none."""
        self._over = True
        self._fail("the session has ended")

    def answered(
        self, message: messages.ListEntry | messages.ListDone | messages.PingReply | messages.Unanswered
    ) -> None:
        """Take an answer of the holder; one that nobody waits for any more is dropped."""
        match message:
            case messages.ListEntry(number=number):
                waiting = self._lists.get(number)
                if waiting is not None and len(waiting[1]) < MAX_SERVICES:
                    waiting[1].append(message)
            case messages.ListDone(number=number):
                self._listed(number)
            case messages.PingReply(number=number, seconds=seconds):
                ping = self._pings.pop(number, None)
                if ping is not None and not ping.done():
                    ping.set_result(seconds)
            case messages.Unanswered(number=number, message=why):
                waiting = self._lists.pop(number, None)
                _fail(waiting[0] if waiting is not None else self._pings.pop(number, None), why)

    def _listed(self, number: int) -> None:
        waiting = self._lists.pop(number, None)
        if waiting is None:
            return
        answer, services = waiting
        self.expiries = {(each.peer, each.service): each.until_ms for each in services if each.until_ms is not None}
        self.kinds = {(each.peer, each.service): each.kind for each in services if each.kind is not None}
        self.states = {(each.peer, each.service): each.state for each in services if each.state is not None}
        found: dict[UserId, tuple[ServiceName, ...]] = {}
        for each in services:
            found[each.peer] = (*found.get(each.peer, ()), each.service)
        if not answer.done():
            answer.set_result(found)

    def _ask(self, message: messages.GuestMessage) -> None:
        if self._over:
            self._fail("the session has ended")
        else:
            self._holder.ask(message)

    def _fail(self, why: str) -> None:
        for answer, _ in self._lists.values():
            _fail(answer, why)
        for ping in self._pings.values():
            _fail(ping, why)
        self._lists.clear()
        self._pings.clear()


def _fail(waiting: _Listing | asyncio.Future[float] | None, why: str) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_exception(TransportError("lost", why))
