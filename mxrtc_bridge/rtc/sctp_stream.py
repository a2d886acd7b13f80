"""One SCTP stream pair as a data channel: its state, its unread bytes, and who listens to it.

Takes the place of aiortc's ``RTCDataChannel`` towards the association, whose method names (``readyState``,
``_setReadyState``) it therefore keeps. It has no event emitter: one listener, called in order.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def post(self, call: Callable[[], None]) -> None:
        """Run ``call`` soon, after those posted before it."""
        ...


class SctpStream:
    """A data channel of an association.

    Attributes:
        unread: bytes of binary payload that were delivered and not yet reported as consumed. Text is not counted: it
            carries control messages, which are small and handled on arrival.
    """

    negotiated = False

    def __init__(self, owner: StreamOwner, label: str, protocol: str) -> None:
        self._owner = owner
        self._listener: StreamListener | None = None
        self.label = label
        self.protocol = protocol
        self.id: int | None = None
        self.readyState = "connecting"
        self.unread = 0

    def set_listener(self, listener: StreamListener) -> None:
        """Attach the listener; must happen before the first event can arrive."""
        self._listener = listener

    @property
    def live(self) -> bool:
        """Whether messages may still be sent."""
        return self.readyState in ("connecting", "open")

    def send(self, message: str | bytes) -> None:
        """Queue a message; nothing happens on a stream that is closing or closed."""
        self._owner.send_message(self, message)

    def close(self) -> None:
        """Reset the stream after what was queued has been sent."""
        self._owner.close_stream(self)

    def consumed(self, size: int) -> None:
        """Give ``size`` bytes of received payload back to the receive window."""
        self._owner.credit(self, size)

    def deliver(self, message: str | bytes) -> None:
        """Hand a received message to the listener, in its turn."""
        if isinstance(message, bytes):
            self.unread += len(message)
        self._owner.post(lambda: self._tell(message))

    def _tell(self, message: str | bytes) -> None:
        if self._listener is not None:
            self._listener.message_received(message)
        else:
            self._owner.credit(self, len(message))  # nobody wanted the channel

    def _tell_opened(self) -> None:
        if self._listener is not None:
            self._listener.stream_opened()

    def _tell_closed(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stream_closed()

    def _setReadyState(self, state: str) -> None:  # noqa: N802 - called by the base class of the association
        if state == self.readyState:
            return
        self.readyState = state
        if state == "closed":
            self._owner.credit(self, self.unread)
            self._owner.post(self._tell_closed)
        elif state == "open":
            self._owner.post(self._tell_opened)
