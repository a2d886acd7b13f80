from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import ReceiveState, SendState
from mxrtc_bridge.core.stream.machine import StreamMachine, StreamPhase
from tests.core.stream.driven import (
    CLEAN,
    CLOSE_CHANNEL,
    KIB,
    LOST,
    RESET_BY_PEER,
    RESET_SINK,
    DrivenStream,
    finished,
    flowing_acceptor,
    flowing_opener,
    opener,
    say,
)

# Opening


def test_opener_says_its_id_and_its_window_when_the_channel_opens() -> None:
    driven = DrivenStream(StreamRole.OPENER, stream_id="s1")
    assert driven.feed(stream.SinkConnected()) == []
    assert driven.feed(stream.DataChannelOpened()) == [
        say('{"t":"open","s":"s1"}'),
        say('{"t":"ack","o":0,"w":262144}'),
    ]
    assert driven.machine.phase is StreamPhase.AWAITING_OK


@pytest.mark.parametrize("window", [messages.MIN_WINDOW, messages.INITIAL_CREDIT])
def test_opener_keeps_quiet_about_a_window_that_the_initial_credit_covers(window: int) -> None:
    driven = DrivenStream(StreamRole.OPENER, window=window)
    assert driven.feed(stream.DataChannelOpened()) == []


def test_opener_may_send_early_up_to_the_initial_credit() -> None:
    driven = opener()
    assert driven.feed(stream.SinkData(b"x" * (64 * KIB + 1))) == [stream.PauseSink(), stream.ReadyToSend(64 * KIB)]
    sent = driven.feed(stream.Turn(100 * KIB))
    assert [len(effect.data) for effect in sent if isinstance(effect, stream.SendBinary)] == [16 * KIB] * 4
    assert driven.machine.unsent == 1
    assert driven.hear('{"t":"ok","w":65536}') == [stream.Accepted()]
    assert driven.hear('{"t":"ack","o":65536,"w":1}') == [stream.ReadyToSend(1)]
    assert driven.feed(stream.Turn(10)) == [stream.SendBinary(b"x")]


def test_opener_holds_what_the_sink_says_before_the_channel_opens() -> None:
    driven = DrivenStream(StreamRole.OPENER, window=messages.MIN_WINDOW)
    driven.feed(stream.SinkConnected())
    assert driven.feed(stream.SinkData(b"hello")) == []
    assert driven.feed(stream.SinkEof()) == []
    assert driven.feed(stream.Turn(10)) == []
    assert driven.feed(stream.DataChannelOpened()) == [stream.ReadyToSend(5)]
    assert driven.feed(stream.Turn(16384)) == [stream.SendBinary(b"hello"), say('{"t":"fin","o":5}')]


def test_opener_takes_any_message_as_a_sign_that_the_channel_is_open() -> None:
    driven = DrivenStream(StreamRole.OPENER, window=messages.MIN_WINDOW)
    assert driven.hear('{"t":"ok","w":65536}') == [stream.Accepted()]
    assert driven.machine.phase is StreamPhase.FLOWING


def test_opener_waits_fifteen_seconds_for_the_answer() -> None:
    driven = opener()
    assert driven.machine.next_deadline() == 115.0
    driven.now = 114.9
    assert driven.feed(stream.Tick()) == []
    driven.now = 115.0
    assert driven.feed(stream.Tick()) == [
        say('{"t":"rst","c":"timeout"}'),
        CLOSE_CHANNEL,
        RESET_SINK,
        finished(StreamOutcome.RESET, "timeout", "the other side did not answer within 15 s"),
    ]


def test_opener_tells_why_it_was_refused() -> None:
    driven = opener()
    assert driven.hear('{"t":"err","c":"denied","m":"not you"}') == [
        CLOSE_CHANNEL,
        RESET_SINK,
        finished(StreamOutcome.REFUSED, "denied", "not you"),
    ]


def test_acceptor_holds_early_data_until_the_service_is_there() -> None:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    assert driven.hear('{"t":"open","s":"s1"}') == []
    assert driven.feed(stream.BinaryReceived(b"early")) == []
    text = len('{"t":"open","s":"s1"}')
    assert driven.consumed == text, "early data holds the receive window"
    assert driven.feed(stream.SinkConnected()) == [say('{"t":"ok","w":262144}'), stream.WriteSink(b"early")]
    assert driven.consumed == text + 5


def test_early_data_beyond_a_small_window_is_consumed_when_it_is_written() -> None:
    """The initial credit promised no place; only what the window covers is taken off the receive window at once."""
    driven = DrivenStream(StreamRole.ACCEPTOR, window=16 * KIB)
    for _ in range(4):
        driven.data(16 * KIB)
    driven.feed(stream.SinkConnected())
    assert driven.consumed == 16 * KIB
    driven.feed(stream.SinkWritten(10 * KIB))
    assert driven.consumed == 16 * KIB
    driven.feed(stream.SinkWritten(10 * KIB))
    assert driven.consumed == 36 * KIB, "the acknowledgement at 20 KiB promised 16 KiB more"


def test_acceptor_refuses_with_the_reason() -> None:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    driven.data(100)
    assert driven.feed(stream.SinkRefused("timeout", "the service did not answer")) == [
        say('{"t":"err","c":"timeout","m":"the service did not answer"}'),
        CLOSE_CHANNEL,
        finished(StreamOutcome.REFUSED, "timeout", "the service did not answer", received=100),
    ]
    assert driven.consumed == 100


def test_reset_before_the_answer_is_told_as_a_refusal_without_our_words() -> None:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    assert driven.feed(stream.Reset("denied", "rule 7 of the admin")) == [
        say('{"t":"err","c":"denied","m":""}'),
        CLOSE_CHANNEL,
        finished(StreamOutcome.RESET, "denied", "rule 7 of the admin"),
    ]


def test_sink_that_comes_after_the_end_is_reset_and_only_once() -> None:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    driven.feed(stream.DataChannelClosed())
    assert driven.feed(stream.SinkConnected()) == [RESET_SINK]
    assert driven.feed(stream.SinkConnected()) == []


def test_early_data_and_fin_reach_a_service_that_connects_later() -> None:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    driven.feed(stream.BinaryReceived(b"all"))
    driven.hear('{"t":"fin","o":3}')
    assert driven.feed(stream.SinkConnected()) == [
        say('{"t":"ok","w":262144}'),
        stream.WriteSink(b"all"),
        stream.FinishSink(),
    ]
    assert driven.feed(stream.SinkWritten(3)) == [say('{"t":"ack","o":3,"w":262144}')]


# Half-close, both orders


def test_remote_ends_first_and_the_rest_still_flows() -> None:
    driven = flowing_acceptor()
    driven.feed(stream.BinaryReceived(b"GET"))
    assert driven.hear('{"t":"fin","o":3}') == [stream.FinishSink()]
    assert driven.machine.receive_state is ReceiveState.DRAINING
    assert driven.feed(stream.SinkWritten(3)) == [say('{"t":"ack","o":3,"w":262144}')]
    assert driven.machine.receive_state is ReceiveState.DONE
    assert driven.feed(stream.SinkData(b"page")) == [stream.ReadyToSend(4)]
    assert driven.feed(stream.SinkEof()) == []
    assert driven.feed(stream.Turn(16384)) == [stream.SendBinary(b"page"), say('{"t":"fin","o":4}')]
    assert driven.hear('{"t":"ack","o":4,"w":0}') == [
        CLOSE_CHANNEL,
        stream.CloseSink(),
        finished(StreamOutcome.CLEAN, "", CLEAN, 4, 3),
    ]


def test_local_ends_first_and_the_rest_still_flows() -> None:
    driven = flowing_acceptor()
    assert driven.feed(stream.SinkEof()) == [say('{"t":"fin","o":0}')]
    assert driven.machine.send_state is SendState.FIN_SENT
    assert driven.hear('{"t":"ack","o":0,"w":65536}') == []
    assert driven.machine.send_state is SendState.DONE
    assert driven.feed(stream.BinaryReceived(b"late")) == [stream.WriteSink(b"late")]
    assert driven.hear('{"t":"fin","o":4}') == [stream.FinishSink()]
    assert driven.feed(stream.SinkWritten(4)) == [
        say('{"t":"ack","o":4,"w":262144}'),
        CLOSE_CHANNEL,
        stream.CloseSink(),
        finished(StreamOutcome.CLEAN, "", CLEAN, 0, 4),
    ]


def test_fin_is_acknowledged_even_if_its_offset_was_acknowledged_before() -> None:
    driven = flowing_acceptor(window=16 * KIB)
    driven.data(16 * KIB)
    assert driven.feed(stream.SinkWritten(16 * KIB)) == [say('{"t":"ack","o":16384,"w":16384}')]
    assert driven.hear('{"t":"fin","o":16384}') == [stream.FinishSink(), say('{"t":"ack","o":16384,"w":16384}')]


def test_acknowledgement_that_crossed_the_fin_counts_for_it() -> None:
    driven = flowing_opener()
    driven.feed(stream.SinkData(b"abc"))
    driven.feed(stream.SinkEof())
    driven.feed(stream.Turn(3))
    driven.hear('{"t":"ack","o":3,"w":65536}')
    assert driven.machine.send_state is SendState.DONE
    assert driven.hear('{"t":"ack","o":3,"w":65536}') == []


def test_acknowledgement_of_a_part_does_not_count_for_the_fin() -> None:
    driven = flowing_opener()
    driven.feed(stream.SinkData(b"abc"))
    driven.feed(stream.SinkEof())
    driven.feed(stream.Turn(3))
    driven.hear('{"t":"ack","o":2,"w":65536}')
    assert driven.machine.send_state is SendState.FIN_SENT


def test_fin_waits_until_the_credit_let_everything_out() -> None:
    driven = opener()
    driven.feed(stream.SinkData(b"x" * (64 * KIB + 1)))
    driven.feed(stream.SinkEof())
    driven.feed(stream.Turn(64 * KIB))
    assert driven.machine.send_state is SendState.DRAINING
    driven.hear('{"t":"ok","w":65536}')
    driven.hear('{"t":"ack","o":0,"w":65537}')
    assert driven.feed(stream.Turn(16384)) == [stream.SendBinary(b"x"), say('{"t":"fin","o":65537}')]


def test_unacknowledged_fin_ends_the_stream_after_thirty_seconds() -> None:
    driven = flowing_opener()
    driven.feed(stream.SinkEof())
    assert driven.machine.next_deadline() == 130.0
    driven.now = 130.0
    assert driven.feed(stream.Tick())[0] == say('{"t":"rst","c":"timeout"}')


def test_slow_reader_at_the_other_end_is_no_reason_to_give_up() -> None:
    """While bytes are unacknowledged, the other sink may rest: no deadline, neither before nor after the fin."""
    driven = flowing_opener()
    driven.feed(stream.SinkData(b"x"))
    driven.feed(stream.Turn(1))
    assert driven.machine.next_deadline() is None
    driven.feed(stream.SinkEof())
    assert driven.machine.next_deadline() is None


def test_fin_sent_early_gets_its_deadline_when_the_answer_comes() -> None:
    driven = opener()
    driven.feed(stream.SinkEof())
    assert driven.machine.next_deadline() == 115.0
    driven.now = 110.0
    driven.hear('{"t":"ok","w":65536}')
    assert driven.machine.next_deadline() == 140.0


def test_end_of_the_sink_may_be_said_twice() -> None:
    driven = flowing_acceptor()
    driven.feed(stream.SinkEof())
    assert driven.feed(stream.SinkEof()) == []


# Credit


@pytest.mark.parametrize(
    ("window", "step"), [(16 * KIB, 16 * KIB), (messages.DEFAULT_WINDOW, 64 * KIB), (1024 * KIB, 64 * KIB)]
)
def test_writing_is_acknowledged_in_steps(window: int, step: int) -> None:
    """A quarter of the open credit (64 KiB at first, whatever the window) or 64 KiB."""
    driven = flowing_acceptor(window=window)
    for _ in range(4):
        driven.data(16 * KIB)
    assert driven.feed(stream.SinkWritten(step - 1)) == []
    assert driven.feed(stream.SinkWritten(1)) == [say(f'{{"t":"ack","o":{step},"w":{window}}}')]


def test_window_that_grew_does_not_delay_the_acknowledgement_of_a_small_one() -> None:
    driven = flowing_acceptor(window=16 * KIB)
    for _ in range(4):
        driven.data(16 * KIB)
    driven.feed(stream.SinkWritten(64 * KIB))
    driven.machine.set_window(256 * KIB)
    driven.data(4 * KIB)
    assert driven.feed(stream.SinkWritten(4 * KIB)) == [say('{"t":"ack","o":69632,"w":262144}')]


def test_window_that_shrank_takes_no_credit_back() -> None:
    driven = flowing_acceptor(window=256 * KIB)
    driven.machine.set_window(16 * KIB)
    for _ in range(16):
        driven.data(16 * KIB)
    assert driven.machine.phase is StreamPhase.FLOWING
    assert driven.machine.unwritten == 256 * KIB


@pytest.mark.parametrize("window", [messages.MIN_WINDOW - 1, messages.MAX_WINDOW + 1, 0, -1])
def test_window_out_of_range_is_refused(window: int) -> None:
    with pytest.raises(StateError, match="window"):
        StreamMachine(StreamRole.OPENER, window=window)
    with pytest.raises(StateError, match="window"):
        StreamMachine(StreamRole.OPENER).set_window(window)


def test_smaller_acknowledgement_does_not_move_the_limit_back() -> None:
    driven = flowing_opener()
    driven.hear('{"t":"ack","o":0,"w":0}')
    assert driven.feed(stream.SinkData(bytes(200 * KIB))) == [stream.PauseSink(), stream.ReadyToSend(200 * KIB)]


def test_sink_rests_at_64_kib_and_goes_on_below_32() -> None:
    driven = flowing_opener()
    assert driven.feed(stream.SinkData(bytes(64 * KIB - 1))) == [stream.ReadyToSend(64 * KIB - 1)]
    assert driven.feed(stream.SinkData(b"x")) == [stream.PauseSink()]
    effects = driven.feed(stream.Turn(16 * KIB)) + driven.feed(stream.Turn(16 * KIB))
    assert stream.ResumeSink() not in effects
    assert driven.feed(stream.Turn(1)) == [
        stream.SendBinary(b"\0"),
        stream.ResumeSink(),
        stream.ReadyToSend(32 * KIB - 1),
    ]


def test_growing_message_is_announced_again_until_it_is_a_full_one() -> None:
    driven = flowing_opener()
    assert driven.feed(stream.SinkData(b"a")) == [stream.ReadyToSend(1)]
    assert driven.feed(stream.SinkData(bytes(20 * KIB))) == [stream.ReadyToSend(20 * KIB + 1)]
    assert driven.feed(stream.SinkData(bytes(20 * KIB))) == []


def test_turn_without_need_does_nothing() -> None:
    assert flowing_opener().feed(stream.Turn(16384)) == []


# Ends out of order


def test_reset_by_the_other_side_resets_the_sink() -> None:
    driven = flowing_acceptor()
    assert driven.hear('{"t":"rst","c":"closed"}') == [
        CLOSE_CHANNEL,
        RESET_SINK,
        finished(StreamOutcome.RESET, "closed", RESET_BY_PEER),
    ]


def test_channel_that_closes_without_fin_resets_the_sink() -> None:
    assert flowing_acceptor().feed(stream.DataChannelClosed()) == [RESET_SINK, LOST]


def test_channel_that_closes_with_our_fin_unacknowledged_resets_the_sink() -> None:
    driven = flowing_acceptor()
    driven.hear('{"t":"fin","o":0}')
    driven.feed(stream.SinkEof())
    assert driven.feed(stream.DataChannelClosed()) == [RESET_SINK, LOST]


def test_channel_that_closes_while_only_our_sink_is_busy_lets_it_finish() -> None:
    driven = flowing_acceptor()
    driven.feed(stream.SinkEof())
    driven.hear('{"t":"ack","o":0,"w":0}')
    driven.data(10)
    driven.hear('{"t":"fin","o":10}')
    assert driven.feed(stream.DataChannelClosed()) == [
        stream.CloseSink(),
        finished(StreamOutcome.CLEAN, "", CLEAN, 0, 10),
    ]


def test_sink_that_breaks_is_told_as_a_reset() -> None:
    driven = flowing_acceptor()
    driven.data(10)
    driven.feed(stream.SinkData(b"unsent"))
    assert driven.feed(stream.SinkClosed("connection reset")) == [
        say('{"t":"rst","c":"reset"}'),
        CLOSE_CHANNEL,
        finished(StreamOutcome.RESET, "reset", "connection reset", received=10),
    ]
    assert driven.machine.unsent == 0


def test_sink_that_takes_nothing_is_told_by_its_own_code() -> None:
    assert flowing_acceptor().feed(stream.SinkClosed(messages.GIVES_ONLY)) == [
        say('{"t":"rst","c":"read_only"}'),
        CLOSE_CHANNEL,
        finished(StreamOutcome.RESET, "read_only", messages.GIVES_ONLY),
    ]


def test_sink_that_closes_in_order_but_too_soon_is_told_as_a_reset() -> None:
    driven = flowing_acceptor()
    assert driven.feed(stream.SinkClosed(None))[0] == say('{"t":"rst","c":"closed"}')


def test_sink_that_closes_after_it_took_all_still_gets_its_last_words_sent() -> None:
    driven = flowing_acceptor()
    driven.hear('{"t":"fin","o":0}')
    driven.feed(stream.SinkData(b"bye"))
    assert driven.feed(stream.SinkClosed(None)) == []
    assert driven.feed(stream.Turn(16384)) == [stream.SendBinary(b"bye"), say('{"t":"fin","o":3}')]
    assert driven.hear('{"t":"ack","o":3,"w":0}') == [CLOSE_CHANNEL, finished(StreamOutcome.CLEAN, "", CLEAN, 3, 0)]


@pytest.mark.parametrize(("code", "told"), [("denied", "denied"), ("Not A Code", "internal")])
def test_local_reset_is_told_with_its_code(code: str, told: str) -> None:
    assert flowing_opener().feed(stream.Reset(code, "why")) == [
        say(f'{{"t":"rst","c":"{told}"}}'),
        CLOSE_CHANNEL,
        RESET_SINK,
        finished(StreamOutcome.RESET, code, "why"),
    ]


def test_local_reset_before_the_channel_is_open_sends_nothing() -> None:
    driven = DrivenStream(StreamRole.OPENER)
    driven.feed(stream.SinkConnected())
    effects = driven.feed(stream.Reset("unavailable", "why"))
    assert effects == [CLOSE_CHANNEL, RESET_SINK, finished(StreamOutcome.RESET, "unavailable", "why")]


LATE: list[stream.Event] = [
    stream.DataChannelOpened(),
    stream.TextReceived('{"t":"fin","o":0}'),
    stream.TextReceived("garbage"),
    stream.BinaryReceived(b""),
    stream.BinaryReceived(b"late"),
    stream.DataChannelClosed(),
    stream.SinkRefused("refused", "late"),
    stream.SinkData(b"late"),
    stream.SinkEof(),
    stream.SinkWritten(5),
    stream.SinkClosed("late"),
    stream.SinkClosed(None),
    stream.Turn(16384),
    stream.Reset("denied", "late"),
    stream.Tick(),
]


@pytest.mark.parametrize("event", LATE, ids=repr)
def test_late_event_does_nothing_but_free_the_receive_window(event: stream.Event) -> None:
    driven = flowing_acceptor()
    driven.feed(stream.Reset("denied", "over"))
    before = driven.consumed
    driven.now += 1000
    assert driven.feed(event) == []
    size = len(event.data) if isinstance(event, stream.BinaryReceived) else 0
    size += len(event.text) if isinstance(event, stream.TextReceived) else 0
    assert driven.consumed - before == size
    assert driven.machine.next_deadline() is None
