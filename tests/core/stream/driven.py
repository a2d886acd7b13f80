"""Drives a stream machine by hand, and names what the stories about it expect again and again."""

from __future__ import annotations

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.machine import StreamMachine
from tests.core.driven import Driven

KIB = 1024
CLOSE_CHANNEL = stream.CloseChannel()
RESET_SINK = stream.ResetSink()


class DrivenStream(Driven):
    def __init__(
        self, role: StreamRole, *, window: int = messages.DEFAULT_WINDOW, stream_id: str | None = None
    ) -> None:
        super().__init__(StreamMachine(role, window=window, stream_id=stream_id))


def say(text: str) -> stream.SendText:
    return stream.SendText(text)


def opener(**kwargs: object) -> DrivenStream:
    """An opener whose channel is open and whose sink is there."""
    driven = DrivenStream(StreamRole.OPENER, **kwargs)  # type: ignore[arg-type]
    driven.feed(stream.SinkConnected())
    driven.feed(stream.DataChannelOpened())
    return driven


def flowing_opener(window: int = messages.DEFAULT_WINDOW) -> DrivenStream:
    driven = opener(window=window)
    driven.hear('{"t":"ok","w":262144}')
    return driven


def flowing_acceptor(window: int = messages.DEFAULT_WINDOW) -> DrivenStream:
    driven = DrivenStream(StreamRole.ACCEPTOR, window=window)
    driven.feed(stream.SinkConnected())
    return driven


def finished(
    outcome: StreamOutcome, code: str, message: str, sent: int = 0, received: int = 0
) -> stream.StreamFinished:
    return stream.StreamFinished(outcome, code, message, sent, received)


CLEAN = "both directions ended"
RESET_BY_PEER = "the other side reset the stream"
LOST = finished(StreamOutcome.LOST, "closed", "the channel closed before the stream had ended")
