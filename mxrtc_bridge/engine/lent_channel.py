"""A data channel of a session of ours whose messages another process reads and writes: a guest, or whoever sits there.

It counts as a stream of the session and takes turns with the others, so that a guest can neither starve our own streams
nor be starved. What comes from the peer is given back to the transport at once and waits with the guest, whose own
credit bounds it: a guest that stands still holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.halves import text_size
from mxrtc_bridge.engine.ports import Channel, ChannelListener


class LentChannel:
    """One data channel, lent; as a :class:`~mxrtc_bridge.engine.ports.ChannelListener` it hears what the peer sends.

    Args:
        service: what it leads to.
        protocol: what is spoken on it.
        borrower: told what happens on it; called from the loop, must not block and not raise.
        drained: told how many bytes of what the borrower has sent wait no longer here.
    """

    def __init__(
        self, service: ServiceName, protocol: str, borrower: ChannelListener, drained: Callable[[int], None]
    ) -> None:
        self.service = service
        self.protocol = protocol
        self.is_over = False
        """Whether nothing passes any more, in either direction."""
        self._borrower = borrower
        self._drained = drained
        self._channel: Channel | None = None
        self._ready: Callable[[LentChannel, int], None] = lambda _channel, _pending: None
        self._finished: Callable[[LentChannel, stream.StreamFinished], None] = lambda _channel, _how: None
        self._heard: Callable[[], None] = lambda: None
        self._waiting: deque[str | bytes] = deque()
        self._closing = False
        self._sent = 0
        self._received = 0

    @property
    def carried(self) -> tuple[int, int]:
        """Payload bytes sent and received so far."""
        return self._sent, self._received

    def attach(
        self,
        channel: Channel,
        *,
        ready: Callable[[LentChannel, int], None],
        finished: Callable[[LentChannel, stream.StreamFinished], None],
        heard: Callable[[], None],
    ) -> None:
        """The channel is there: what has waited for it goes out, in turn.

        Args:
            channel: not listened to yet.
            ready: called when there is something to be sent.
            finished: called once, at the end.
            heard: called for every message: a sign of life.
        """
        self._channel, self._ready, self._finished, self._heard = channel, ready, finished, heard
        channel.set_listener(self)
        self._go_on()

    # What the borrower does

    def send(self, message: str | bytes) -> None:
        """Queue a message of at most 64 KiB; does nothing at the end."""
        if self.is_over or self._closing:
            self._drained(_size(message))
            return
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._go_on()

    def close(self) -> None:
        """Close after what was queued has been sent."""
        self._closing = True
        self._go_on()

    def abandon(self) -> None:
        """The borrower is gone: drop what it has not sent. The other side sees no end, so it takes it for cut."""
        self._closing = True
        self._drop()
        if self._channel is None:
            self.is_over = True
        self._go_on()

    # What the session does

    def turn(self, limit: int) -> None:
        """It is this channel's turn to send about ``limit`` bytes of payload."""
        while self._waiting and limit > 0:
            limit -= self._send_first()
        self._go_on()

    def reset(self, code: str, message: str) -> None:  # noqa: ARG002 - as of every stream
        """End it at once: the session is over."""
        if self.is_over:
            return
        self._end()
        self._borrower.channel_closed()
        if self._channel is not None:
            self._channel.close()

    # ChannelListener

    def channel_opened(self) -> None:
        self._borrower.channel_opened()

    def text_received(self, text: str) -> None:
        self._heard()
        self._consumed(text_size(text))
        if not self.is_over:
            self._borrower.text_received(text)

    def binary_received(self, data: bytes) -> None:
        self._heard()
        self._consumed(len(data))
        self._received += len(data)
        if not self.is_over:
            self._borrower.binary_received(data)

    def channel_closed(self) -> None:
        if not self.is_over:
            self._end()
            self._borrower.channel_closed()

    # Inside

    def _go_on(self) -> None:
        if self._channel is None or self.is_over:
            return
        # Control does not wait for a turn, but for payload that was sent before it.
        while self._waiting and isinstance(self._waiting[0], str):
            self._send_first()
        if self._waiting:
            self._ready(self, max(len(self._waiting[0]), 1))
        elif self._closing:
            self._channel.close()

    def _send_first(self) -> int:
        assert self._channel is not None
        message = self._waiting.popleft()
        size = _size(message)
        self._channel.send(message)
        self._drained(size)
        if isinstance(message, bytes):
            self._sent += size
        return size

    def _consumed(self, size: int) -> None:
        assert self._channel is not None
        self._channel.consumed(size)

    def _drop(self) -> None:
        while self._waiting:
            self._drained(_size(self._waiting.popleft()))

    def _end(self) -> None:
        self.is_over = True
        self._drop()
        # How it has ended for a person is known to the borrower alone.
        self._finished(self, stream.StreamFinished(stream.StreamOutcome.CLEAN, "", "", self._sent, self._received))


def _size(message: str | bytes) -> int:
    return text_size(message) if isinstance(message, str) else len(message)
