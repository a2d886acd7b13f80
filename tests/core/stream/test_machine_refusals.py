"""What a stream machine refuses: from the other side as a violation, from our own driver as an error."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import SINK_EVENTS, SinkState
from mxrtc_bridge.core.stream.machine import MESSAGES, StreamPhase
from tests.core.stream.driven import (
    CLOSE_CHANNEL,
    KIB,
    RESET_SINK,
    DrivenStream,
    flowing_acceptor,
    flowing_opener,
    opener,
    say,
)

# Violations

ACK, FIN, OK, ERR = '{"t":"ack","o":0,"w":0}', '{"t":"fin","o":0}', '{"t":"ok","w":1}', '{"t":"err","c":"limit","m":""}'
OPEN = '{"t":"open","s":"a"}'

OUT_OF_TURN = [
    ("payload before ok", opener, [stream.BinaryReceived(b"x")]),
    ("ack before ok", opener, [ACK]),
    ("fin before ok", opener, [FIN]),
    ("open from the acceptor", opener, [OPEN]),
    ("second ok", flowing_opener, [OK]),
    ("err after ok", flowing_opener, [ERR]),
    ("ok from the opener", flowing_acceptor, [OK]),
    ("err from the opener", flowing_acceptor, [ERR]),
    ("second open", flowing_acceptor, [OPEN, OPEN]),
    ("open after payload", flowing_acceptor, [stream.BinaryReceived(b"x"), OPEN]),
    ("payload after fin", flowing_acceptor, [FIN, stream.BinaryReceived(b"x")]),
    ("fin after fin", flowing_acceptor, [FIN, FIN]),
]


@pytest.mark.parametrize(("story", "start", "events"), OUT_OF_TURN, ids=[story for story, _, _ in OUT_OF_TURN])
def test_message_out_of_turn_is_a_violation(story: str, start: object, events: list[object]) -> None:
    driven: DrivenStream = start()  # type: ignore[operator]
    for event in events[:-1]:
        driven.feed(stream.TextReceived(event) if isinstance(event, str) else event)  # type: ignore[arg-type]
        assert driven.machine.phase is not StreamPhase.FINISHED
    last = events[-1]
    effects = driven.feed(stream.TextReceived(last) if isinstance(last, str) else last)  # type: ignore[arg-type]
    assert effects[:3] == [say('{"t":"rst","c":"violation"}'), CLOSE_CHANNEL, RESET_SINK]
    assert isinstance(effects[3], stream.StreamFinished)
    assert (effects[3].outcome, effects[3].code) == (StreamOutcome.VIOLATION, "out_of_turn")
    assert len(effects) == 4


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"t":"fin","o":11}', "bad_offset"),
        ('{"t":"fin","o":9}', "bad_offset"),
        ('{"t":"ack","o":4,"w":0}', "bad_offset"),
        ('{"t":"ack","o":1,"w":0}', "bad_offset"),
        ('{"t":"nonsense"}', "unknown_message"),
        ("", "not_json"),
    ],
)
def test_wrong_offset_or_message_is_a_violation(text: str, code: str) -> None:
    """Ten bytes were received; three were sent, of which two are acknowledged."""
    driven = flowing_acceptor()
    driven.data(10)
    driven.feed(stream.SinkData(b"abc"))
    driven.feed(stream.Turn(3))
    driven.hear('{"t":"ack","o":2,"w":0}')
    effects = driven.hear(text)
    assert isinstance(effects[-1], stream.StreamFinished)
    assert (effects[-1].outcome, effects[-1].code) == (StreamOutcome.VIOLATION, code)


@pytest.mark.parametrize("connected", [False, True])
def test_one_byte_beyond_the_credit_is_a_violation(connected: bool) -> None:
    driven = flowing_acceptor(window=16 * KIB) if connected else DrivenStream(StreamRole.ACCEPTOR, window=256 * KIB)
    for _ in range(4):
        driven.data(16 * KIB)
        assert driven.machine.phase is not StreamPhase.FINISHED
    effects = driven.data(1)
    assert isinstance(effects[-1], stream.StreamFinished)
    assert (effects[-1].outcome, effects[-1].code) == (StreamOutcome.VIOLATION, "over_credit")
    assert driven.consumed == 64 * KIB + 1


@pytest.mark.parametrize(("size", "outcome"), [(16 * KIB, None), (16 * KIB + 1, StreamOutcome.VIOLATION)])
def test_payload_message_of_more_than_16_kib_is_a_violation(size: int, outcome: StreamOutcome | None) -> None:
    effects = flowing_acceptor().data(size)
    assert [effect.outcome for effect in effects if isinstance(effect, stream.StreamFinished)] == (
        [outcome] if outcome else []
    )


def test_empty_message_and_trial_are_ignored() -> None:
    driven = flowing_acceptor()
    assert driven.feed(stream.BinaryReceived(b"")) == []
    assert driven.hear('{"t":"x-later","o":-1}') == []


# Sink events that our own driver must not send


def sink_event(kind: type[stream.Event]) -> stream.Event:
    return {
        stream.SinkConnected: stream.SinkConnected(),
        stream.SinkRefused: stream.SinkRefused("refused", ""),
        stream.SinkData: stream.SinkData(b"x"),
        stream.SinkEof: stream.SinkEof(),
        stream.SinkWritten: stream.SinkWritten(1),
        stream.SinkClosed: stream.SinkClosed(None),
    }[kind]  # type: ignore[index]


def in_sink_state(state: SinkState) -> DrivenStream:
    driven = DrivenStream(StreamRole.ACCEPTOR)
    if state is not SinkState.ABSENT:
        driven.feed(stream.SinkConnected())
        driven.feed(stream.SinkData(b"unsent"))
    if state is SinkState.GONE:
        driven.hear('{"t":"fin","o":0}')
        driven.feed(stream.SinkClosed(None))
    return driven


ALL_SINK_EVENTS = set().union(*SINK_EVENTS.values())


@pytest.mark.parametrize(
    ("state", "kind"),
    [(state, kind) for state in SinkState for kind in sorted(ALL_SINK_EVENTS - SINK_EVENTS[state], key=str)],
)
def test_sink_event_without_a_row_is_refused_and_changes_nothing(state: SinkState, kind: type[stream.Event]) -> None:
    driven = in_sink_state(state)
    machine = driven.machine
    before = (machine.phase, machine.send_state, machine.receive_state, machine.unsent, machine.next_deadline())
    with pytest.raises(StateError, match=f"{kind.__name__} is not allowed while the sink is {state.value}"):
        driven.feed(sink_event(kind))
    after = (machine.phase, machine.send_state, machine.receive_state, machine.unsent, machine.next_deadline())
    assert before == after
    assert machine.poll_effect() is None


def test_sink_data_after_its_end_is_refused() -> None:
    driven = flowing_acceptor()
    driven.feed(stream.SinkEof())
    with pytest.raises(StateError, match="after SinkEof"):
        driven.feed(stream.SinkData(b"x"))


@pytest.mark.parametrize("size", [0, 6, -1])
def test_sink_cannot_take_more_than_it_was_given(size: int) -> None:
    driven = flowing_acceptor()
    driven.data(5)
    with pytest.raises(StateError, match="5 bytes are with the sink"):
        driven.feed(stream.SinkWritten(size))


def test_message_table_has_a_row_for_every_phase_that_reads() -> None:
    unseen = {
        (StreamRole.OPENER, StreamPhase.CONNECTING),
        (StreamRole.ACCEPTOR, StreamPhase.OPENING),
        (StreamRole.ACCEPTOR, StreamPhase.AWAITING_OK),
    }
    rows = {(role, phase) for role in StreamRole for phase in StreamPhase if phase is not StreamPhase.FINISHED}
    assert set(MESSAGES) == rows - unseen
    assert set(SINK_EVENTS) == set(SinkState)
