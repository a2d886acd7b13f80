"""Drives a stream machine by hand, and names what the stories about it expect again and again."""

from __future__ import annotations

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.machine import StreamMachine

KIB = 1024
CLOSE_CHANNEL = stream.CloseChannel()
RESET_SINK = stream.ResetSink()


class Driven:
    """A machine, fed one event at a time; each feed returns all effects but those that only count bytes."""

    def __init__(
        self, role: StreamRole, *, window: int = messages.DEFAULT_WINDOW, stream_id: str | None = None
    ) -> None:
        self.machine = StreamMachine(role, window=window, stream_id=stream_id)
        self.now = 100.0
        self.consumed = 0

    def feed(self, event: stream.Event) -> list[stream.Effect]:
        self.machine.handle(self.now, event)
        effects: list[stream.Effect] = []
        while (effect := self.machine.poll_effect()) is not None:
            if isinstance(effect, stream.Consumed):
                self.consumed += effect.size
            else:
                effects.append(effect)
        return effects

    def hear(self, text: str) -> list[stream.Effect]:
        return self.feed(stream.TextReceived(text))

    def data(self, size: int) -> list[stream.Effect]:
        return self.feed(stream.BinaryReceived(bytes(size)))


def say(text: str) -> stream.SendText:
    return stream.SendText(text)


def opener(**kwargs: object) -> Driven:
    """An opener whose channel is open and whose sink is there."""
    driven = Driven(StreamRole.OPENER, **kwargs)  # type: ignore[arg-type]
    driven.feed(stream.SinkConnected())
    driven.feed(stream.DataChannelOpened())
    return driven


def flowing_opener(window: int = messages.DEFAULT_WINDOW) -> Driven:
    driven = opener(window=window)
    driven.hear('{"t":"ok","w":262144}')
    return driven


def flowing_acceptor(window: int = messages.DEFAULT_WINDOW) -> Driven:
    driven = Driven(StreamRole.ACCEPTOR, window=window)
    driven.feed(stream.SinkConnected())
    return driven


def finished(
    outcome: StreamOutcome, code: str, message: str, sent: int = 0, received: int = 0
) -> stream.StreamFinished:
    return stream.StreamFinished(outcome, code, message, sent, received)


CLEAN = "both directions ended"
RESET_BY_PEER = "the other side reset the stream"
LOST = finished(StreamOutcome.LOST, "closed", "the channel closed before the stream had ended")
