"""A channel between its association and its listener: what comes before somebody listens, and the order of events."""

from __future__ import annotations

from mxrtc_bridge.rtc.channel import MAX_EARLY_MESSAGES, DataChannel


class FakeAssociation:
    """Records what channels ask of it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def send_message(self, channel: DataChannel, message: str | bytes) -> None:
        self.calls.append((channel, message))

    def close_channel(self, channel: DataChannel) -> None:
        self.calls.append((channel, "close"))

    def credit(self, channel: DataChannel, size: int) -> None:
        self.calls.append((channel, size))

    def keep(self, size: int) -> None:
        self.calls.append(("keep", size))

    def give_back(self, size: int) -> None:
        self.calls.append(("give back", size))


def offered(association: FakeAssociation | None = None) -> DataChannel:
    return DataChannel(association or FakeAssociation(), "label", "protocol", 7)


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
    channel = offered()
    channel.message_received("one")
    channel.message_received(b"two")
    channel.ended()
    recorder = Recorder()
    channel.set_listener(recorder)
    assert recorder.events == ["opened", ("text", "one"), ("binary", b"two"), "closed"]


def test_events_pass_straight_through_afterwards() -> None:
    channel = DataChannel(FakeAssociation(), "label", "protocol")
    recorder = Recorder()
    channel.set_listener(recorder)
    assert recorder.events == []
    channel.opened()
    channel.message_received("")
    channel.message_received(b"")
    channel.ended()
    assert recorder.events == ["opened", ("text", ""), ("binary", b""), "closed"]


def test_messages_without_a_listener_are_bounded() -> None:
    association = FakeAssociation()
    channel = offered(association)
    for _ in range(MAX_EARLY_MESSAGES):
        channel.message_received(b"x")
    assert association.calls == []
    channel.message_received(b"one too many")
    assert association.calls == [(channel, "close")]


def test_calls_reach_the_association() -> None:
    association = FakeAssociation()
    channel = offered(association)
    channel.send("text")
    channel.consumed(7)
    channel.close()
    assert association.calls == [(channel, "text"), (channel, 7), (channel, "close")]
    assert (channel.label, channel.protocol) == ("label", "protocol")


def test_ended_channel_has_no_number_and_takes_nothing_more() -> None:
    channel = offered()
    channel.ended()
    assert (channel.number, channel.sendable) == (None, False)
