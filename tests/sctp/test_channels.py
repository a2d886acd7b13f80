"""Channels between two ends of ours, and against a peer that breaks their rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import chunks, dcep
from mxrtc_bridge.sctp.channels import (
    ChannelClosed,
    ChannelClosing,
    ChannelEvent,
    ChannelMessage,
    ChannelOffered,
    ChannelOpened,
    ChannelRefused,
    DataChannels,
    NothingToTell,
)
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.events import Ended, Established, SendSpace
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.hostile import THEIR_TSN, Puppet
from tests.sctp.links import Path, World, pair


class Two:
    """Two sets of channels over a simulated path."""

    def __init__(self, path: Path | None = None, settings: SctpSettings | None = None, limit: int = 512) -> None:
        self.world: World = pair(1, path, settings)
        self.left = DataChannels(self.world.left.association, dtls_client=True, max_channels=limit)
        self.right = DataChannels(self.world.right.association, dtls_client=False, max_channels=limit)
        self.left_events: list[ChannelEvent] = []
        self.right_events: list[ChannelEvent] = []
        self.world.left.drain = drain(self.left, self.left_events)  # type: ignore[method-assign]
        self.world.right.drain = drain(self.right, self.right_events)  # type: ignore[method-assign]
        self.world.start()
        self.run(5 if path else 1)

    @property
    def now(self) -> float:
        return self.world.now

    def run(self, seconds: float) -> None:
        self.world.flush()
        self.world.run(seconds)


def drain(channels: DataChannels, events: list[ChannelEvent]) -> Callable[[], None]:
    def take() -> None:
        while (event := channels.poll_event()) is not None:
            if isinstance(event, ChannelMessage):
                channels.consumed(event.channel, event.size)
            if not isinstance(event, Established | SendSpace | NothingToTell):
                events.append(event)

    return take


def test_numbers_follow_the_dtls_role_and_both_may_open_at_once() -> None:
    two = Two()
    ours = [two.left.open(two.now, OpenMessage(f"l{index}", "p")) for index in range(3)]
    theirs = [two.right.open(two.now, OpenMessage(f"r{index}", "")) for index in range(3)]
    two.run(1)
    assert (ours, theirs) == ([0, 2, 4], [1, 3, 5])
    assert [event.opened.label for event in two.right_events if isinstance(event, ChannelOffered)] == ["l0", "l1", "l2"]
    assert [event for event in two.left_events if isinstance(event, ChannelOpened)] == [ChannelOpened(n) for n in ours]


def test_text_binary_and_empty_arrive_distinct_and_in_order() -> None:
    two = Two()
    number = two.left.open(two.now, OpenMessage("a", ""))
    sent: list[str | bytes] = ["", b"", "snow \u2603", b"\0", "", b"x" * 9000]
    for message in sent:
        two.left.send(two.now, number, message)
    two.run(1)
    assert [event.data for event in two.right_events if isinstance(event, ChannelMessage)] == sent


def test_unordered_messages_do_not_overtake_the_open() -> None:
    for seed in range(10):
        two = Two(Path(loss=0.1, reorder=0.5, hold=0.05))
        number = two.left.open(two.now, OpenMessage("u", "", ordered=False, max_retransmissions=5))
        for index in range(20):
            two.left.send(two.now, number, bytes([index]))
        two.run(20)
        got = sum(isinstance(event, ChannelMessage) for event in two.right_events)
        assert 18 <= got <= 20, f"seed {seed}"


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_close_delivers_what_was_queued_and_ends_both_directions(loss: float) -> None:
    two = Two(Path(loss=loss))
    number = two.left.open(two.now, OpenMessage("a", ""))
    two.run(3)
    two.right.send(two.now, number, b"their last")
    for _ in range(5):
        two.left.send(two.now, number, bytes(20_000))
    two.left.close(number)
    with pytest.raises(StateError, match="closed"):
        two.left.send(two.now, number, b"late")
    two.run(60)
    kinds = [type(event).__name__ for event in two.right_events]
    assert kinds == ["ChannelOffered", *["ChannelMessage"] * 5, "ChannelClosing", "ChannelClosed"]
    assert [type(event).__name__ for event in two.left_events] == ["ChannelOpened", "ChannelMessage", "ChannelClosed"]
    assert (len(two.left), len(two.right)) == (0, 0)


def test_both_may_close_at_once() -> None:
    two = Two()
    number = two.left.open(two.now, OpenMessage("a", ""))
    two.run(1)
    two.left.close(number)
    two.right.close(number)
    two.run(2)
    assert two.left_events[-1] == two.right_events[-1] == ChannelClosed(number)


def test_five_hundred_channels_open_talk_and_close_and_their_numbers_rest() -> None:
    two = Two(Path(loss=0.01))
    for turn in range(2):
        numbers = [two.left.open(two.now, OpenMessage(f"c{index}", "")) for index in range(500)]
        for number in numbers:
            two.left.send(two.now, number, number.to_bytes(2, "big") * 500)
        two.run(30)
        for number in numbers:
            two.left.close(number)
        two.run(60)
        got = [event for event in two.right_events if isinstance(event, ChannelMessage)]
        assert len(got) == 500 * (turn + 1)
        assert all(event.data == event.channel.to_bytes(2, "big") * 500 for event in got)
        assert (len(two.left), len(two.right)) == (0, 0)
    assert {event.channel for event in two.left_events if isinstance(event, ChannelOpened)} == set(range(0, 1024, 2))


def test_number_is_used_again_when_all_have_been_and_it_has_rested_longest() -> None:
    two = Two(settings=SctpSettings(max_streams=8))
    numbers = [two.left.open(two.now, OpenMessage("a", "")) for _ in range(4)]
    with pytest.raises(StateError, match="the other side takes 8"):
        two.left.open(two.now, OpenMessage("a", ""))
    for number in (4, 0, 6):
        two.left.close(number)
        two.run(1)
    again = []
    for _ in range(5):
        again.append(two.left.open(two.now, OpenMessage("a", "")))
        two.left.close(again[-1])
        two.run(1)
    assert (numbers, again) == ([0, 2, 4, 6], [4, 0, 6, 4, 0])
    assert not any(isinstance(event, Ended) for event in two.left_events + two.right_events)


def test_number_may_be_used_again_at_once_whatever_gets_lost() -> None:
    """The next OPEN may overtake the answer to our reset."""
    for seed in range(15):
        two = Two(Path(loss=0.25, reorder=0.3, hold=0.05), SctpSettings(max_streams=2))
        for turn in range(6):
            number = two.left.open(two.now, OpenMessage(f"t{turn}", ""))
            two.left.send(two.now, number, f"message {turn}")
            two.left.close(number)
            two.world.flush()
            for _ in range(400):
                two.world.run(0.1)
                if not len(two.left):
                    break
        two.run(60)
        texts = [event.data for event in two.right_events if isinstance(event, ChannelMessage)]
        assert texts == [f"message {turn}" for turn in range(6)], f"seed {seed}"
        assert not any(isinstance(event, Ended) for event in two.left_events + two.right_events)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_channels_beyond_the_limit_are_reset_at_once(count: int) -> None:
    two = Two(limit=4)
    two.left._max_channels = 100
    for index in range(count):
        two.left.open(two.now, OpenMessage(f"c{index}", ""))
    two.run(3)
    assert sum(isinstance(event, ChannelOffered) for event in two.right_events) == min(count, 4)
    assert sum(isinstance(event, ChannelClosed) for event in two.left_events) == max(0, count - 4)
    while len(two.right) < 4:
        two.right.open(two.now, OpenMessage("mine", ""))
    with pytest.raises(StateError, match="that is the limit"):
        two.right.open(two.now, OpenMessage("one more", ""))


def test_bytes_that_nobody_consumed_are_given_back_when_a_channel_closes() -> None:
    two = Two(settings=SctpSettings(receive_window=64 * 1024))

    def only_poll() -> None:
        while two.right.poll_event() is not None:
            pass

    two.world.right.drain = only_poll  # type: ignore[method-assign]
    number = two.left.open(two.now, OpenMessage("a", ""))
    two.left.send(two.now, number, bytes(40_000))
    two.run(1)
    receiver = two.world.right.association._receiver
    assert receiver is not None
    assert receiver.reassembly.unconsumed == 40_000
    two.left.close(number)
    two.run(2)
    assert receiver.reassembly.unconsumed == 0


def hostile_channels(limit: int = 4) -> tuple[Puppet, DataChannels, list[ChannelEvent]]:
    puppet = Puppet()
    channels = DataChannels(puppet.association, dtls_client=True, max_channels=limit)
    events: list[ChannelEvent] = []
    puppet.end.drain = drain(channels, events)  # type: ignore[method-assign]
    return puppet, channels, events


OPEN = dcep.format_open(OpenMessage("x", ""))


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([(1, 50, b"")], None),
        ([(number, 50, OPEN) for number in range(1, 20, 2)], "faster than refusals"),
        ([(number, 50, b"\x07") for number in range(1, 20, 2)], "faster than refusals"),
        ([(1, 50, dcep.ACK), (9, 53, b"nobody"), (9, 51, b"\xff")], None),
        ([(1, 50, OPEN), (1, 52, b"old"), (1, 54, b"old"), (1, 0, b"none")], None),
    ],
)
def test_channel_rules_hold_against_any_peer(messages: list[tuple[int, int, bytes]], complaint: str | None) -> None:
    """What breaks them ends the association; what concerns no channel is dropped, and uses up no window."""
    puppet, _, events = hostile_channels()
    sequences: dict[int, int] = {}
    for tsn, (stream, ppid, data) in enumerate(messages):
        sequence = sequences.get(stream, 0)
        sequences[stream] = sequence + 1
        if data:
            puppet.send(puppet.data(tsn, data, stream=stream, sequence=sequence, ppid=ppid))
    ended = [event for event in events if isinstance(event, Ended)]
    if complaint is None:
        assert not ended
        assert puppet.held == 0
    else:
        assert [event.code for event in ended] == ["violation"]
        assert complaint in ended[0].reason
        assert chunks.ABORT in dict(puppet.answers())


NAMES = dcep.format_open(OpenMessage("label", "protocol"))
ODD_MESSAGES = [
    (b"\x07", "neither OPEN nor ACK"),
    (b"\x00", "neither OPEN nor ACK"),
    (NAMES[:11], "neither OPEN nor ACK"),
    (NAMES[:-1], "names of"),
    (NAMES + b"!", "names of"),
    (dcep.format_open(OpenMessage("l" * 2000, "")), "names of"),
    (dcep.format_open(OpenMessage("", "p" * 3000)), "names of"),
    (NAMES[:1] + b"\x03" + NAMES[2:], "unknown type 3"),
    (NAMES[:1] + b"\xff" + NAMES[2:], "unknown type 255"),
    (NAMES.replace(b"label", b"l\xffbel"), "not UTF-8"),
    (NAMES.replace(b"protocol", b"pr\xfftocol"), "not UTF-8"),
]


ODD = [
    *((50, odd, reason, number) for odd, reason in ODD_MESSAGES for number in (3, 4, 5)),
    (50, OPEN, "not free", 3),
    (50, OPEN, "not free", 4),
    (51, b"\xff\xfe", "not UTF-8", 3),
]


@pytest.mark.parametrize(("ppid", "odd", "reason", "number"), ODD, ids=range(len(ODD)))
def test_odd_message_closes_its_channel_only(ppid: int, odd: bytes, reason: str, number: int) -> None:
    """On a channel (3), on a stream that only we could open (4), and on a free one (5)."""
    puppet, channels, events = hostile_channels()
    for tsn, stream in enumerate((1, 3)):
        puppet.send(puppet.data(tsn, OPEN, stream=stream, ppid=50))
    puppet.answers()
    events.clear()
    sequence = int(number == 3)
    for again in range(2):
        puppet.send(puppet.data(2 + again, odd, stream=number, sequence=sequence + again, ppid=ppid))
    puppet.send(puppet.data(4, b"goes on", stream=1, sequence=1))
    *told, refused, message = events
    assert told == ([ChannelClosing(3)] if number == 3 else [])
    assert isinstance(refused, ChannelRefused)
    assert refused.channel == number
    assert reason in refused.reason
    assert message == ChannelMessage(1, b"goes on", 7)
    resets = [body for kind, body in puppet.answers() if kind == chunks.RE_CONFIG]
    assert [body[16:18] for body in resets] == [number.to_bytes(2, "big")]
    assert puppet.held == 0
    with pytest.raises(StateError, match="is closed"):
        channels.send(puppet.now, number, "x")


def test_refused_channel_is_gone_when_both_directions_are_reset() -> None:
    two = Two()
    two.world.left.association.send(two.now, 8, 50, b"\x07")
    two.run(1)
    assert [type(event) for event in two.right_events] == [ChannelRefused, ChannelClosed]
    assert (len(two.left), len(two.right)) == (0, 0)


def test_odd_opening_on_a_number_of_ours_that_rests_keeps_nothing() -> None:
    two = Two()
    number = two.right.open(two.now, OpenMessage("x", ""))
    two.run(1)
    two.right.close(number)
    two.run(1)
    two.right_events.clear()
    two.world.left.association.send(two.now, number, 50, OPEN)
    two.run(1)
    assert two.right_events == []
    assert two.right.open(two.now, OpenMessage("y", "")) == number + 2


@pytest.mark.parametrize("number", [1, 2047, 2049, 65_533])
def test_a_channel_may_have_any_number(number: int) -> None:
    """Some never use a number twice, so that the highest are reached after 32,767 channels."""
    puppet, channels, events = hostile_channels()
    puppet.send(puppet.data(0, OPEN, stream=number, ppid=50))
    puppet.send(puppet.data(1, b"hello", stream=number, sequence=1))
    assert events == [ChannelOffered(number, OpenMessage("x", "")), ChannelMessage(number, b"hello", 5)]
    channels.close(number)
    assert chunks.RE_CONFIG in dict(puppet.answers())


def test_what_comes_before_the_number_is_free_waits_in_the_window() -> None:
    """From a side that did not wait for our reset: we have not even sent it, as more is queued before it."""
    puppet, channels, events = hostile_channels()
    receiver = puppet.association._receiver
    assert receiver is not None
    before = receiver.window
    puppet.send(puppet.data(0, OPEN, stream=1, ppid=50))
    for _ in range(20):
        channels.send(puppet.now, 1, bytes(60_000))
    puppet.answers()
    reset = b"\0\x0d\0\x12" + THEIR_TSN.to_bytes(4, "big") + bytes(4) + THEIR_TSN.to_bytes(4, "big") + b"\0\1"
    puppet.send(chunks.chunk(chunks.RE_CONFIG, reset))
    puppet.send(puppet.data(1, OPEN, stream=1, ppid=50))
    count = 70_000
    for first in range(0, count, 50):
        numbers = range(first, min(first + 50, count))
        puppet.send(*[puppet.data(2 + number, b"x", stream=1, sequence=1 + number) for number in numbers])
        puppet.answers()
    taken = receiver.cumulative - THEIR_TSN - 1
    assert events[1:] == [ChannelClosing(1)]
    assert receiver.window == 0
    assert 64_000 < taken < 67_000  # 64 bytes for each, beyond its own
    # Everything is acknowledged, so the reset is asked for, and answered.
    while not any(kind == chunks.RE_CONFIG and body[:2] == b"\0\x0d" for kind, body in puppet.wait(0.1)):
        last = puppet.association._sender.flight.next_tsn - 1
        puppet.send(chunks.sack(last & 0xFFFFFFFF, 1 << 20, (), ()))
    answer = b"\0\x10\0\x0c" + (puppet.their_tsn).to_bytes(4, "big") + b"\0\0\0\1"
    puppet.send(chunks.chunk(chunks.RE_CONFIG, answer))
    assert events[2:4] == [ChannelClosed(1), ChannelOffered(1, OpenMessage("x", ""))]
    assert events[4:] == [ChannelMessage(1, b"x", 1)] * (taken + 1)  # one was withheld while the window was closed
    assert receiver.window == before


def request(number: int, last_tsn: int, *streams: int) -> bytes:
    """Their reset request with a number that counts from 0, as the TSN up to which it holds."""
    head = (THEIR_TSN + number).to_bytes(4, "big") + bytes(4) + (THEIR_TSN + last_tsn).to_bytes(4, "big")
    ids = b"".join(stream.to_bytes(2, "big") for stream in streams)
    return chunks.chunk(chunks.RE_CONFIG, b"\0\x0d" + (16 + len(ids)).to_bytes(2, "big") + head + ids)


def answer(puppet: Puppet, number: int = 0) -> bytes:
    """Their answer to our request with a number that counts from 0: carried out."""
    wire = puppet.their_tsn + number & 0xFFFFFFFF
    return chunks.chunk(chunks.RE_CONFIG, b"\0\x10\0\x0c" + wire.to_bytes(4, "big") + b"\0\0\0\1")


def reconfigurations(answers: list[tuple[int, bytes]]) -> list[bytes]:
    """Return the RE-CONFIGs among what was sent: of answers the last field, of requests the streams."""
    bodies = [body for kind, body in answers if kind == chunks.RE_CONFIG]
    return [body[8:12] if body[:2] == b"\0\x10" else body[16:] for body in bodies]


def half_closed() -> tuple[Puppet, DataChannels, list[ChannelEvent]]:
    """A channel that we have closed, and the other side has not."""
    puppet, channels, events = hostile_channels(limit=1)
    puppet.send(puppet.data(0, OPEN, stream=1, ppid=50))
    channels.close(1)
    puppet.answers()
    puppet.send(answer(puppet))
    events.clear()
    return puppet, channels, events


def test_channel_that_the_other_side_never_closes_ends_after_silence_and_gives_its_place_back() -> None:
    puppet, channels, events = half_closed()
    puppet.wait(29)
    puppet.send(puppet.data(1, b"not yet", stream=1, sequence=1))
    puppet.wait(29.9)
    assert (events, len(channels)) == ([ChannelMessage(1, b"not yet", 7)], 1)
    puppet.wait(0.2)
    assert (events[1:], len(channels)) == ([ChannelClosed(1)], 0)
    puppet.send(puppet.data(2, b"too late", stream=1, sequence=2))
    puppet.send(puppet.data(3, OPEN, stream=3, ppid=50))
    assert events[2:] == [ChannelOffered(3, OpenMessage("x", ""))]
    assert puppet.held == 0
    puppet.wait(1)
    # Their reset comes after all, and the number begins again.
    puppet.send(request(0, 3, 1))
    channels.close(3)
    puppet.answers()
    puppet.send(answer(puppet, 1))
    puppet.send(request(1, 3, 3))
    puppet.send(puppet.data(4, OPEN, stream=1, ppid=50))
    assert events[3:] == [ChannelClosed(3), ChannelOffered(1, OpenMessage("x", ""))]


def test_number_of_ours_that_was_given_up_is_not_used_again_before_its_end() -> None:
    puppet = Puppet(streams=2)
    channels = DataChannels(puppet.association, dtls_client=True)
    events: list[ChannelEvent] = []
    puppet.end.drain = drain(channels, events)  # type: ignore[method-assign]
    channels.close(channels.open(puppet.now, OpenMessage("x", "")))
    puppet.answers()
    puppet.send(chunks.sack(puppet.their_tsn, 1 << 20, (), ()), answer(puppet))
    puppet.wait(31)
    assert events == [ChannelClosed(0)]
    with pytest.raises(StateError, match="no stream is free"):
        channels.open(puppet.now, OpenMessage("y", ""))
    puppet.send(request(0, -1, 0))
    assert channels.open(puppet.now, OpenMessage("y", "")) == 0


def test_request_ahead_of_one_that_was_lost_is_carried_out_when_that_has_come() -> None:
    """As pion sends several at once, takes an error for the end of one, and repeats them in any order."""
    puppet, channels, events = hostile_channels()
    for tsn, stream in enumerate((1, 3, 5)):
        puppet.send(puppet.data(tsn, OPEN, stream=stream, ppid=50))
    puppet.answers()
    events.clear()
    puppet.send(request(2, 2, 5))
    puppet.send(request(1, 2, 3))
    puppet.send(request(2, 2, 5))
    assert (events, reconfigurations(puppet.answers())) == ([], [])
    puppet.send(request(0, 2, 1))
    done = b"\0\0\0\1"
    assert reconfigurations(puppet.answers())[:3] == [done] * 3
    assert events == [ChannelClosing(1), ChannelClosing(3), ChannelClosing(5)]
    puppet.send(request(3 + 1025, 2, 7))
    assert reconfigurations(puppet.answers()) == [b"\0\0\0\5"]
    assert len(channels) == 3


def test_requests_ahead_that_wait_for_messages_are_carried_out_behind_them() -> None:
    puppet, _, events = hostile_channels()
    for tsn, stream in enumerate((1, 3)):
        puppet.send(puppet.data(tsn, OPEN, stream=stream, ppid=50))
    puppet.answers()
    events.clear()
    puppet.send(request(1, 3, 3))
    puppet.send(request(0, 2, 1))
    assert (events, reconfigurations(puppet.answers())) == ([], [b"\0\0\0\6"])
    puppet.send(puppet.data(3, b"b", stream=3, sequence=1))
    puppet.send(puppet.data(2, b"a", stream=1, sequence=1))
    assert events == [ChannelMessage(3, b"b", 1), ChannelMessage(1, b"a", 1), ChannelClosing(1), ChannelClosing(3)]


def test_requests_that_are_kept_are_few() -> None:
    puppet, channels, _ = hostile_channels()
    for number in range(200, 0, -1):
        puppet.send(request(number, -1, 2 * number + 1))
    puppet.send(request(0, -1, 1))
    assert len(channels) == 1


@pytest.mark.parametrize("number", [0, 5, 100, 1022, 1023, 65_534])
def test_channel_that_only_the_other_side_knows_of_is_reset_when_it_is_used(number: int) -> None:
    """As with ``negotiated: true`` on one side alone: with numbers of either side."""
    puppet, channels, events = hostile_channels()
    for tsn, ppid in enumerate((53, 51, 57)):
        puppet.send(puppet.data(tsn, b"lost", stream=number, sequence=tsn, ppid=ppid))
    (refused,) = events
    assert isinstance(refused, ChannelRefused)
    assert "agree on beforehand" in refused.reason
    assert reconfigurations(puppet.answers()) == [number.to_bytes(2, "big")]
    puppet.send(answer(puppet))
    puppet.send(request(0, 2, number))
    assert events[1:] == [ChannelClosed(number)]
    assert (len(channels), puppet.held) == (0, 0)
    opened = [channels.open(puppet.now, OpenMessage("x", "")) for _ in range(4)]
    assert opened == [0, 2, 4, 6]


@pytest.mark.parametrize("number", [0, 5, 1022])
def test_channel_that_only_the_other_side_knows_of_can_be_closed(number: int) -> None:
    puppet, channels, events = hostile_channels()
    puppet.send(request(0, -1, number))
    assert set(reconfigurations(puppet.answers())) == {b"\0\0\0\1", number.to_bytes(2, "big")}
    puppet.send(answer(puppet))
    assert (len(channels), events) == (0, [ChannelClosed(number)])


@pytest.mark.parametrize("number", [1, 5, 1022])
def test_reset_that_is_asked_for_again_is_not_answered_by_one_of_ours(number: int) -> None:
    """As str0m does at the end of each channel, and for each reset that it gets: the next channel would end by it."""
    puppet, channels, events = hostile_channels()
    if number % 2:
        puppet.send(puppet.data(0, OPEN, stream=number, ppid=50))
        puppet.answers()
    last = -1 + number % 2
    puppet.send(request(0, last, number))
    asked = number.to_bytes(2, "big")
    assert set(reconfigurations(puppet.answers())) == {b"\0\0\0\1", asked}
    puppet.send(request(1, last, number))  # before they answer ours
    puppet.send(answer(puppet))
    puppet.send(request(2, last, number))  # and after
    assert reconfigurations(puppet.answers()) == [b"\0\0\0\1"] * 2
    assert (len(channels), events[-1]) == (0, ChannelClosed(number))
    events.clear()
    puppet.send(puppet.data(last + 1, b"of one that only they know of", stream=number, sequence=0))
    assert reconfigurations(puppet.answers()) == [asked]
    assert len(events) == 1


def test_next_channel_of_a_number_begins_behind_a_reset_that_is_asked_for_again() -> None:
    puppet, channels, events = hostile_channels()
    puppet.send(puppet.data(0, OPEN, stream=1, ppid=50))
    puppet.send(request(0, 0, 1))
    puppet.answers()
    events.clear()
    puppet.send(request(1, 0, 1))
    puppet.send(answer(puppet))
    puppet.send(puppet.data(1, OPEN, stream=1, ppid=50))
    assert events == [ChannelClosed(1), ChannelOffered(1, OpenMessage("x", ""))]
    assert reconfigurations(puppet.answers()) == [b"\0\0\0\1"]
    assert len(channels) == 1


def test_channels_that_nobody_knows_of_are_reset_only_while_there_are_places() -> None:
    puppet, channels, events = hostile_channels(limit=4)
    for tsn in range(100):
        puppet.send(puppet.data(tsn, b"x", stream=3 * tsn))
    puppet.send(request(0, 99, *range(1001, 1500)))
    assert (len(channels), len(events), puppet.held) == (4, 4, 0)
    (numbers, *_) = [found for found in reconfigurations(puppet.answers()) if found != b"\0\0\0\1"]
    assert len(numbers) == 2 * 4


def test_number_of_ours_that_they_use_is_left_out_until_they_have_ended_it() -> None:
    puppet, channels, events = hostile_channels()
    puppet.send(puppet.data(0, b"x", stream=2))
    puppet.answers()
    puppet.send(answer(puppet))
    puppet.wait(31)
    assert events[1:] == [ChannelClosed(2)]
    assert [channels.open(puppet.now, OpenMessage("x", "")) for _ in range(2)] == [0, 4]
