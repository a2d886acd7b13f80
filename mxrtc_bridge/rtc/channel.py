"""A data channel as the engine sees it (:class:`mxrtc_bridge.engine.ports.Channel`).

Keeps what arrives before somebody listens, within a limit, and delivers it in order. Knows nothing of SCTP.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from mxrtc_bridge.engine.ports import ChannelListener
from mxrtc_bridge.rtc.sctp_stream import StreamListener

log = logging.getLogger(__name__)

MAX_EARLY_MESSAGES = 256
"""Messages kept for a listener to come; their bytes are bounded by the receive window. More close the channel."""


class Stream(Protocol):
    """What a channel needs from the transport below it."""

    @property
    def label(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    def set_listener(self, listener: StreamListener) -> None: ...

    def send(self, message: str | bytes) -> None: ...

    def close(self) -> None: ...

    def consumed(self, size: int) -> None: ...


class DataChannel:
    """One data channel.

    Args:
        stream: the transport's side of it.
        opened: whether it is open already, as one that the other side has opened.
    """

    def __init__(self, stream: Stream, *, opened: bool) -> None:
        self._stream = stream
        self._listener: ChannelListener | None = None
        self._opened = opened
        self._closed = False
        self._early: deque[str | bytes] = deque()
        stream.set_listener(self)

    @property
    def label(self) -> str:
        return self._stream.label

    @property
    def protocol(self) -> str:
        return self._stream.protocol

    def set_listener(self, listener: ChannelListener) -> None:
        """Attach the receiver; what came before is delivered now, in order."""
        self._listener = listener
        if self._opened:
            listener.channel_opened()
        while self._early:
            self._dispatch(listener, self._early.popleft())
        if self._closed:
            listener.channel_closed()

    def send(self, message: str | bytes) -> None:
        """Queue a message; does nothing on a channel that is closing or closed.

        Raises:
            StateError: the message is larger than 64 KiB, or than what the other side takes.
        """
        self._stream.send(message)

    def consumed(self, size: int) -> None:
        """Say that ``size`` bytes of received payload have left our memory; text counts by its UTF-8."""
        self._stream.consumed(size)

    def close(self) -> None:
        """Close after what was queued has been sent."""
        self._stream.close()

    # StreamListener

    def stream_opened(self) -> None:
        self._opened = True
        if self._listener is not None:
            self._listener.channel_opened()

    def message_received(self, message: str | bytes) -> None:
        if self._listener is not None:
            self._dispatch(self._listener, message)
        elif len(self._early) < MAX_EARLY_MESSAGES:
            self._early.append(message)
        else:
            log.debug("! channel closed: %d messages and nobody listens", MAX_EARLY_MESSAGES)
            self._stream.close()

    def stream_closed(self) -> None:
        self._closed = True
        if self._listener is not None:
            self._listener.channel_closed()

    @staticmethod
    def _dispatch(listener: ChannelListener, message: str | bytes) -> None:
        if isinstance(message, str):
            listener.text_received(message)
        else:
            listener.binary_received(message)
