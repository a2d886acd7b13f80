from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import SINK_EVENTS, SinkState
from mxrtc_bridge.core.stream.raw_machine import RawChannelState, RawStreamMachine
from mxrtc_bridge.core.stream.windows import MAX_UNWRITTEN
from tests.core.driven import Driven
from tests.long import examples

KIB = 1024
CLOSE_CHANNEL = stream.CloseChannel()
BULK = bytes(64 * KIB)


class DrivenRaw(Driven):
    def __init__(self, role: StreamRole = StreamRole.ACCEPTOR, *, sink: bool = True) -> None:
        super().__init__(RawStreamMachine(role))
        if sink:
            self.feed(stream.SinkConnected())


def clean(message: str, sent: int = 0, received: int = 0) -> stream.StreamFinished:
    return stream.StreamFinished(StreamOutcome.CLEAN, "", message, sent, received)


def test_text_and_binary_are_the_same_bytes() -> None:
    driven = DrivenRaw()
    assert driven.feed(stream.TextReceived("grüß")) == [stream.WriteSink("grüß".encode())]
    assert driven.feed(stream.BinaryReceived(b"\x00\xff")) == [stream.WriteSink(b"\x00\xff")]


@pytest.mark.parametrize("event", [stream.TextReceived(""), stream.BinaryReceived(b"")])
def test_empty_message_is_ignored(event: stream.Event) -> None:
    assert DrivenRaw().feed(event) == []


def test_control_text_means_nothing_here() -> None:
    assert DrivenRaw().feed(stream.TextReceived('{"t":"fin","o":0}')) == [stream.WriteSink(b'{"t":"fin","o":0}')]


def test_bytes_hold_the_receive_window_until_the_sink_took_them() -> None:
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(bytes(100)))
    assert driven.consumed == 0
    driven.feed(stream.SinkWritten(60))
    assert driven.consumed == 60
    driven.feed(stream.SinkWritten(40))
    assert driven.consumed == 100
    assert driven.machine.unwritten == 0


def test_what_came_before_the_service_is_written_when_it_is_there() -> None:
    driven = DrivenRaw(sink=False)
    assert driven.feed(stream.BinaryReceived(b"a")) == []
    assert driven.feed(stream.TextReceived("b")) == []
    assert driven.feed(stream.SinkConnected()) == [stream.WriteSink(b"a"), stream.WriteSink(b"b")]


def test_service_that_cannot_be_had_closes_the_channel() -> None:
    driven = DrivenRaw(sink=False)
    driven.feed(stream.BinaryReceived(b"abc"))
    assert driven.feed(stream.SinkRefused("refused", "connection refused")) == [
        CLOSE_CHANNEL,
        stream.StreamFinished(StreamOutcome.REFUSED, "refused", "connection refused", 0, 3),
    ]
    assert driven.consumed == 3


def test_sink_is_sent_in_messages_of_at_most_16_kib_and_paused_at_64() -> None:
    driven = DrivenRaw()
    assert driven.feed(stream.SinkData(BULK)) == [stream.PauseSink(), stream.ReadyToSend(64 * KIB)]
    effects = driven.feed(stream.Turn(20 * KIB))
    assert effects == [
        stream.SendBinary(bytes(16 * KIB)),
        stream.SendBinary(bytes(4 * KIB)),
        stream.ReadyToSend(44 * KIB),
    ]
    assert driven.feed(stream.Turn(16 * KIB))[1:] == [stream.ResumeSink(), stream.ReadyToSend(28 * KIB)]


def test_opener_waits_for_its_channel() -> None:
    driven = DrivenRaw(StreamRole.OPENER)
    assert driven.feed(stream.SinkData(b"x")) == []
    assert driven.feed(stream.Turn(10)) == []
    assert driven.feed(stream.DataChannelOpened()) == [stream.ReadyToSend(1)]
    assert driven.feed(stream.DataChannelOpened()) == []


# Ends


def test_other_side_closes_and_everything_is_written_before_the_end() -> None:
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(b"last"))
    assert driven.feed(stream.DataChannelClosed()) == [stream.FinishSink(), stream.CloseSink()]
    assert driven.consumed == 0
    assert driven.feed(stream.SinkWritten(4)) == []
    assert driven.consumed == 4
    assert driven.feed(stream.SinkClosed(None)) == [clean("the channel ended", received=4)]


def test_stream_counts_until_its_sink_has_ended_although_the_channel_has_closed() -> None:
    """Else whoever opens and closes channels has any number of sinks, each with a window of bytes."""
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(bytes(100)))
    driven.feed(stream.SinkData(b"unsent"))
    driven.feed(stream.DataChannelClosed())
    driven.now += 1000
    assert driven.feed(stream.Tick()) == driven.feed(stream.Turn(16384)) == driven.feed(stream.SinkEof()) == []
    assert driven.machine.channel_state is RawChannelState.CLOSED
    driven.feed(stream.SinkWritten(60))
    assert (driven.machine.unwritten, driven.consumed) == (40, 60)
    error = "the local side did not take the rest within 10 s"
    assert driven.feed(stream.SinkClosed(error)) == [
        stream.StreamFinished(StreamOutcome.RESET, "reset", error, 0, 100),
    ]
    assert driven.consumed == 100


def test_what_was_sent_before_the_channel_closed_is_left_to_the_sink_when_the_session_ends() -> None:
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(b"last"))
    driven.feed(stream.DataChannelClosed())
    reset = stream.Reset("unavailable", "the session has ended")
    assert driven.feed(reset) == [clean("the channel ended", received=4)]
    assert driven.consumed == 4


def test_sink_that_fails_after_it_has_taken_everything_is_a_clean_end() -> None:
    driven = DrivenRaw()
    driven.feed(stream.DataChannelClosed())
    assert driven.feed(stream.SinkClosed("reset by the local side")) == [clean("the channel ended")]


def test_line_that_was_sent_before_the_service_was_there_still_arrives() -> None:
    driven = DrivenRaw(sink=False)
    driven.feed(stream.BinaryReceived(b"line"))
    assert driven.feed(stream.DataChannelClosed()) == []
    assert driven.machine.channel_state is RawChannelState.CLOSED
    assert driven.feed(stream.SinkConnected()) == [
        stream.WriteSink(b"line"),
        stream.FinishSink(),
        stream.CloseSink(),
    ]
    driven.feed(stream.SinkWritten(4))
    assert driven.feed(stream.SinkClosed(None)) == [clean("the channel ended", received=4)]


def test_service_that_never_comes_is_waited_for_thirty_seconds() -> None:
    driven = DrivenRaw(sink=False)
    driven.feed(stream.BinaryReceived(b"line"))
    driven.feed(stream.DataChannelClosed())
    assert driven.machine.next_deadline() == 130.0
    driven.now = 130.0
    assert driven.feed(stream.Tick()) == [
        stream.StreamFinished(StreamOutcome.LOST, "timeout", "the local side was not there within 30 s", 0, 4)
    ]
    assert driven.consumed == 4


def test_channel_that_closes_before_anything_happened_is_lost() -> None:
    assert DrivenRaw(sink=False).feed(stream.DataChannelClosed()) == [
        stream.StreamFinished(StreamOutcome.LOST, "closed", "the channel closed before the local side was there", 0, 0)
    ]


def test_service_ends_and_its_last_words_are_sent_before_the_channel_closes() -> None:
    driven = DrivenRaw()
    driven.feed(stream.SinkData(b"page"))
    assert driven.feed(stream.SinkEof()) == []
    assert driven.feed(stream.Turn(16384)) == [stream.SendBinary(b"page"), CLOSE_CHANNEL]
    assert driven.machine.channel_state is RawChannelState.CLOSING
    assert driven.feed(stream.SinkEof()) == []
    assert driven.feed(stream.BinaryReceived(b"crossed")) == [stream.WriteSink(b"crossed")]
    assert driven.feed(stream.DataChannelClosed()) == [stream.FinishSink(), stream.CloseSink()]
    driven.feed(stream.SinkWritten(7))
    assert driven.feed(stream.SinkClosed(None)) == [clean("the channel ended", 4, 7)]


def test_other_side_that_does_not_answer_the_closing_is_not_waited_for() -> None:
    driven = DrivenRaw()
    assert driven.feed(stream.SinkEof()) == [CLOSE_CHANNEL]
    assert driven.machine.next_deadline() == 130.0
    driven.now = 129.9
    assert driven.feed(stream.Tick()) == []
    driven.now = 130.0
    assert driven.feed(stream.Tick()) == [stream.FinishSink(), stream.CloseSink(), clean("the local side ended")]


def test_service_that_is_gone_in_order_still_gets_its_last_words_sent() -> None:
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(b"nobody takes this"))
    driven.feed(stream.SinkData(b"bye"))
    assert driven.feed(stream.SinkClosed(None)) == []
    assert driven.consumed == 17
    assert driven.feed(stream.BinaryReceived(b"nor this")) == []
    assert driven.consumed == 25
    assert driven.feed(stream.Turn(16384)) == [
        stream.SendBinary(b"bye"),
        CLOSE_CHANNEL,
        clean("the local side ended", 3, 25),
    ]


def test_service_that_closes_after_its_end_finishes_the_stream() -> None:
    driven = DrivenRaw()
    driven.feed(stream.SinkEof())
    assert driven.feed(stream.SinkClosed(None)) == [clean("the local side ended")]


def test_service_that_breaks_closes_the_channel() -> None:
    assert DrivenRaw().feed(stream.SinkClosed("connection reset")) == [
        CLOSE_CHANNEL,
        stream.StreamFinished(StreamOutcome.RESET, "reset", "connection reset", 0, 0),
    ]


def test_local_reset_resets_the_sink() -> None:
    assert DrivenRaw().feed(stream.Reset("denied", "why")) == [
        CLOSE_CHANNEL,
        stream.ResetSink(),
        stream.StreamFinished(StreamOutcome.RESET, "denied", "why", 0, 0),
    ]


LATE: list[stream.Event] = [
    stream.DataChannelOpened(),
    stream.DataChannelClosed(),
    stream.TextReceived(""),
    stream.SinkData(b"late"),
    stream.SinkEof(),
    stream.SinkWritten(5),
    stream.SinkClosed("late"),
    stream.Turn(16384),
    stream.Reset("denied", "late"),
    stream.Tick(),
]


@pytest.mark.parametrize("event", LATE, ids=repr)
def test_late_event_does_nothing(event: stream.Event) -> None:
    driven = DrivenRaw()
    driven.feed(stream.DataChannelClosed())
    driven.feed(stream.SinkClosed(None))
    assert driven.feed(event) == []
    assert driven.machine.next_deadline() is None


def test_late_message_frees_the_receive_window_and_a_late_sink_is_reset() -> None:
    driven = DrivenRaw(sink=False)
    driven.feed(stream.DataChannelClosed())
    assert driven.feed(stream.BinaryReceived(b"12345")) == []
    assert driven.feed(stream.TextReceived("ü")) == []
    assert driven.consumed == 7
    assert driven.feed(stream.SinkConnected()) == [stream.ResetSink()]
    assert driven.feed(stream.SinkConnected()) == []


# Hostile


@pytest.mark.parametrize(("extra", "ends"), [(0, False), (1, True)])
@pytest.mark.parametrize("sink", [False, True])
def test_more_than_the_window_lets_in_closes_the_channel(extra: int, ends: bool, sink: bool) -> None:
    driven = DrivenRaw(sink=sink)
    for _ in range(MAX_UNWRITTEN // len(BULK)):
        driven.feed(stream.BinaryReceived(BULK))
    effects = driven.feed(stream.BinaryReceived(bytes(extra)))
    if not ends:
        assert effects == []
        assert driven.machine.channel_state is RawChannelState.OPEN
        return
    assert effects[0] == CLOSE_CHANNEL
    assert (stream.ResetSink() in effects) == sink
    assert isinstance(effects[-1], stream.StreamFinished)
    assert (effects[-1].outcome, effects[-1].code) == (StreamOutcome.VIOLATION, "over_limit")
    assert driven.consumed == MAX_UNWRITTEN + extra


def test_text_without_utf8_closes_the_channel() -> None:
    driven = DrivenRaw()
    effects = driven.feed(stream.TextReceived("\ud800"))
    assert isinstance(effects[-1], stream.StreamFinished)
    assert (effects[-1].outcome, effects[-1].code) == (StreamOutcome.VIOLATION, "not_utf8")
    assert driven.consumed == 3


@pytest.mark.parametrize("state", list(SinkState))
def test_sink_event_without_a_row_is_refused_and_changes_nothing(state: SinkState) -> None:
    events = {
        stream.SinkConnected: stream.SinkConnected(),
        stream.SinkRefused: stream.SinkRefused("refused", ""),
        stream.SinkData: stream.SinkData(b"x"),
        stream.SinkEof: stream.SinkEof(),
        stream.SinkWritten: stream.SinkWritten(1),
        stream.SinkClosed: stream.SinkClosed(None),
    }
    for kind, event in events.items():
        if kind in SINK_EVENTS[state]:
            continue
        driven = DrivenRaw(sink=state is not SinkState.ABSENT)
        if state is SinkState.GONE:
            driven.feed(stream.SinkData(b"unsent"))
            driven.feed(stream.SinkClosed(None))
        with pytest.raises(StateError, match=f"while the sink is {state.value}"):
            driven.feed(event)
        assert driven.machine.channel_state is RawChannelState.OPEN
        assert driven.machine.poll_effect() is None


def test_sink_must_not_contradict_itself() -> None:
    driven = DrivenRaw()
    driven.feed(stream.BinaryReceived(b"abc"))
    with pytest.raises(StateError, match="3 bytes are with the sink"):
        driven.feed(stream.SinkWritten(4))
    driven.feed(stream.SinkData(b"x"))
    driven.feed(stream.SinkEof())
    with pytest.raises(StateError, match="after SinkEof"):
        driven.feed(stream.SinkData(b"x"))


# Any order of things


SIZES = st.sampled_from([1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["hear", "hear text", "say", "take", "turn"]), SIZES),
        st.tuples(st.sampled_from(["connect", "open"]), st.just(0)),
        st.tuples(st.sampled_from(["eof", "close", "gone", "broken", "reset", "tick"]), st.integers(0, 4)),
    ),
    max_size=60,
)


@given(role=st.sampled_from(StreamRole), steps=STEPS)
@settings(max_examples=examples(200), deadline=None)
def test_every_byte_keeps_its_place_whatever_happens(role: StreamRole, steps: list[tuple[str, int]]) -> None:
    """Written is a prefix of what was heard and sent of what was said, all is consumed, and the end comes once."""
    machine = RawStreamMachine(role)
    heard, said, written, sent = bytearray(), bytearray(), bytearray(), bytearray()
    finished: list[stream.StreamFinished] = []
    sink = "absent"
    outstanding = consumed = now = 0
    eof = closed = False

    def feed(event: stream.Event) -> None:
        nonlocal consumed, outstanding, closed, sink
        machine.handle(now, event)
        while (effect := machine.poll_effect()) is not None:
            match effect:
                case stream.WriteSink(data=data):
                    assert sink == "present"
                    written.extend(data)
                    outstanding += len(data)
                case stream.SendBinary(data=data):
                    assert not closed
                    assert 0 < len(data) <= messages.MAX_PAYLOAD_BYTES
                    sent.extend(data)
                case stream.CloseChannel():
                    assert not closed
                    closed = True
                case stream.Consumed(size=size):
                    consumed += size
                case stream.CloseSink() | stream.ResetSink():
                    assert sink == "present"
                    sink = "closing"
                case stream.StreamFinished():
                    finished.append(effect)

    channel_gone = False
    for action, size in [*steps, ("reset", 0)]:
        now += 7
        data = bytes((len(heard) + len(said) + index) % 251 for index in range(size)) if size > 4 else b"z" * size
        match action:
            case "hear" | "hear text" if not channel_gone:
                text = action == "hear text"
                data = b"t" * size if text else data
                heard += data
                feed(stream.TextReceived(data.decode()) if text else stream.BinaryReceived(data))
            case "say" if sink == "present" and not eof:
                said += data
                feed(stream.SinkData(data))
            case "take" if sink in ("present", "closing") and outstanding and not finished:
                taken = min(size, outstanding)
                outstanding -= taken
                feed(stream.SinkWritten(taken))
            case "turn":
                feed(stream.Turn(size))
            case "connect" if sink == "absent":
                sink = "present"
                feed(stream.SinkConnected())
            case "open":
                feed(stream.DataChannelOpened())
            case "eof" if sink == "present" and size == 0:
                eof = True
                feed(stream.SinkEof())
            case "close" if size == 0:
                channel_gone = closed = True
                feed(stream.DataChannelClosed())
            case "gone" | "broken" if sink in ("present", "closing") and size == 0:
                sink = "gone"
                feed(stream.SinkClosed(None if action == "gone" else "broken"))
            case "reset" if size == 0:
                feed(stream.Reset("unavailable", "over"))
            case "tick":
                feed(stream.Tick())
        assert heard.startswith(written)
        assert said.startswith(sent)
        assert consumed <= len(heard)
        assert len(finished) <= 1
    assert len(finished) == 1
    assert finished[0].outcome is not StreamOutcome.VIOLATION
    assert (finished[0].sent, consumed) == (len(sent), len(heard))
    assert sink != "present"
