"""A data channel of an association, as the engine sees it (:class:`mxrtc_bridge.engine.ports.Channel`).

Keeps what arrives before somebody listens, within a limit, and delivers it in order. Before the association is up a
channel has no number; what is sent on it waits here, and the association counts it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from mxrtc_bridge.engine.ports import ChannelListener

log = logging.getLogger(__name__)

MAX_EARLY_MESSAGES = 256
"""Messages kept for a listener to come; their bytes are bounded by the receive window. More close the channel."""


class ChannelOwner(Protocol):
    """What a channel needs from its association."""

    def send_message(self, channel: DataChannel, message: str | bytes) -> None: ...

    def close_channel(self, channel: DataChannel) -> None: ...

    def credit(self, channel: DataChannel, size: int) -> None: ...

    def keep(self, size: int) -> None: ...

    def give_back(self, size: int) -> None: ...


class DataChannel:
    """One data channel.

    Args:
        owner: its association.
        label: what its opener calls it.
        protocol: the subprotocol that it carries.
        number: of its stream if it is open already, as one that the other side has opened.

    Attributes:
        number: of the stream in both directions; None before it is announced, and after it is closed.
        sendable: messages may still be sent.
        unannounced: what was sent before the association was up.
        closing: its close was asked for before the association was up.
        bulky_until: when its last large message will be so long ago that it counts as interactive.
    """

    def __init__(self, owner: ChannelOwner, label: str, protocol: str, number: int | None = None) -> None:
        self._owner = owner
        self.label = label
        self.protocol = protocol
        self.number = number
        self.sendable = True
        self.unannounced: list[str | bytes] = []
        self.closing = False
        self.bulky_until = 0.0
        self._listener: ChannelListener | None = None
        self._opened = number is not None
        self._closed = False
        self._kept = 0
        self._early: deque[str | bytes] = deque()

    def set_listener(self, listener: ChannelListener) -> None:
        """Attach the receiver; what came before is delivered now, in order."""
        self._listener = listener
        if self._opened:
            listener.channel_opened()
        while self._early:
            self.message_received(self._early.popleft())
        if self._closed:
            listener.channel_closed()

    def send(self, message: str | bytes) -> None:
        """Queue a message; does nothing on a channel that is closing or closed.

        Raises:
            StateError: the message is larger than 64 KiB, or than what the other side takes.
        """
        self._owner.send_message(self, message)

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received payload have left our memory; text counts by its UTF-8."""
        if not self._closed:
            self._owner.credit(self, size)
        elif size := min(size, self._kept):
            self._kept -= size
            self._owner.give_back(size)

    def keep(self, size: int) -> None:
        """Say, when the channel has closed, that so many bytes are not consumed yet; all others count as that."""
        if self._closed:
            self._kept += size
            self._owner.keep(size)

    def close(self) -> None:
        """Close after what was queued has been sent."""
        self._owner.close_channel(self)

    # Called by the association

    def opened(self) -> None:
        """The other side knows the channel."""
        self._opened = True
        if self._listener is not None:
            self._listener.channel_opened()

    def message_received(self, message: str | bytes) -> None:
        """Deliver a message, or keep it for the listener to come."""
        listener = self._listener
        if listener is None:
            if len(self._early) < MAX_EARLY_MESSAGES:
                self._early.append(message)
            else:
                log.debug("! channel closed: %d messages and nobody listens", MAX_EARLY_MESSAGES)
                self.close()
        elif isinstance(message, str):
            listener.text_received(message)
        else:
            listener.binary_received(message)

    def ended(self) -> None:
        """The channel is gone; nothing more is called."""
        self.sendable = False
        self.number = None
        self._closed = True
        if self._listener is not None:
            self._listener.channel_closed()
