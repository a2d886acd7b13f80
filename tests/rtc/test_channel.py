"""A channel between a stream and its listener: what comes before somebody listens, and the order of events."""

from __future__ import annotations

from mxrtc_bridge.rtc.channel import MAX_EARLY_MESSAGES, DataChannel
from mxrtc_bridge.rtc.sctp_stream import StreamListener


class FakeStream:
    """Records what the channel asks of it."""

    label = "label"
    protocol = "protocol"

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.listener: StreamListener | None = None

    def set_listener(self, listener: StreamListener) -> None:
        self.listener = listener

    def send(self, message: str | bytes) -> None:
        self.calls.append(message)

    def close(self) -> None:
        self.calls.append("close")

    def consumed(self, size: int) -> None:
        self.calls.append(size)


class Recorder:
    def __init__(self) -> None:
        self.events: list[object] = []

    def channel_opened(self) -> None:
        self.events.append("opened")

    def text_received(self, text: str) -> None:
        self.events.append(("text", text))

    def binary_received(self, data: bytes) -> None:
        self.events.append(("binary", data))

    def channel_closed(self) -> None:
        self.events.append("closed")


def test_listener_gets_what_came_before_it_in_order() -> None:
    channel = DataChannel(FakeStream(), opened=True)
    channel.message_received("one")
    channel.message_received(b"two")
    channel.stream_closed()
    recorder = Recorder()
    channel.set_listener(recorder)
    assert recorder.events == ["opened", ("text", "one"), ("binary", b"two"), "closed"]


def test_events_pass_straight_through_afterwards() -> None:
    channel = DataChannel(FakeStream(), opened=False)
    recorder = Recorder()
    channel.set_listener(recorder)
    assert recorder.events == []
    channel.stream_opened()
    channel.message_received("")
    channel.message_received(b"")
    channel.stream_closed()
    assert recorder.events == ["opened", ("text", ""), ("binary", b""), "closed"]


def test_messages_without_a_listener_are_bounded() -> None:
    stream = FakeStream()
    channel = DataChannel(stream, opened=True)
    for _ in range(MAX_EARLY_MESSAGES):
        channel.message_received(b"x")
    assert stream.calls == []
    channel.message_received(b"one too many")
    assert stream.calls == ["close"]


def test_calls_reach_the_stream() -> None:
    stream = FakeStream()
    channel = DataChannel(stream, opened=True)
    channel.send("text")
    channel.consumed(7)
    channel.close()
    assert stream.calls == ["text", 7, "close"]
    assert (channel.label, channel.protocol) == ("label", "protocol")
    assert stream.listener is channel
