"""One data channel as the association keeps it: its number, its state, and who listens to it.

Before the association is up a stream has no number; what is sent on it waits here, and its owner counts it.
"""

from __future__ import annotations

from typing import Protocol


class StreamListener(Protocol):
    """Receives what happens on one stream; methods must not raise."""

    def stream_opened(self) -> None: ...

    def message_received(self, message: str | bytes) -> None: ...

    def stream_closed(self) -> None:
        """No more calls follow."""
        ...


class StreamOwner(Protocol):
    """What a stream needs from its association."""

    def send_message(self, stream: SctpStream, message: str | bytes) -> None: ...

    def close_stream(self, stream: SctpStream) -> None: ...

    def credit(self, stream: SctpStream, size: int) -> None: ...


class SctpStream:
    """A data channel of an association.

    Attributes:
        number: of the stream in both directions; None before it is announced, and after it is closed.
        sendable: messages may still be sent.
        early: what was sent before the association was up.
        closing: its close was asked for before the association was up.
        bulky_until: when its last large message will be so long ago that it counts as interactive.
    """

    __slots__ = ("_owner", "bulky_until", "closing", "early", "label", "listener", "number", "protocol", "sendable")

    def __init__(self, owner: StreamOwner, label: str, protocol: str) -> None:
        self._owner = owner
        self.label = label
        self.protocol = protocol
        self.listener: StreamListener | None = None
        self.number: int | None = None
        self.sendable = True
        self.early: list[str | bytes] = []
        self.closing = False
        self.bulky_until = 0.0

    def set_listener(self, listener: StreamListener) -> None:
        """Attach the listener; must happen before the first event can arrive."""
        self.listener = listener

    def send(self, message: str | bytes) -> None:
        """Queue a message; nothing happens on a stream that is closing or closed."""
        self._owner.send_message(self, message)

    def close(self) -> None:
        """Reset the stream after what was queued has been sent."""
        self._owner.close_stream(self)

    def consumed(self, size: int) -> None:
        """Give ``size`` bytes of received payload back to the receive window."""
        self._owner.credit(self, size)

    def tell_opened(self) -> None:
        if self.listener is not None:
            self.listener.stream_opened()

    def tell_closed(self) -> None:
        """Tell the listener that it is over, once."""
        self.sendable = False
        self.number = None
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.stream_closed()
