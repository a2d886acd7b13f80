"""The table of a stream number, and two ends of ours that live by it while reset requests and answers go astray."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import chunks, dcep
from mxrtc_bridge.sctp.channels import (
    ChannelClosed,
    ChannelEvent,
    ChannelMessage,
    ChannelOffered,
    ChannelOpened,
    DataChannels,
    NothingToTell,
)
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.events import Ended, Established, SendSpace
from mxrtc_bridge.sctp.settings import SctpSettings
from mxrtc_bridge.sctp.stream_states import STEPS, StreamAction, StreamInput, StreamState
from tests.long import examples
from tests.sctp.links import End
from tests.sctp.recorded import Recording, Replay, recordings
from tests.sctp.test_channels import Two


def test_every_state_has_a_step_for_every_input() -> None:
    assert set(STEPS) == set(product(StreamState, StreamInput))
    assert {step.state for step in STEPS.values()} == set(StreamState)
    assert {action for step in STEPS.values() for action in step.actions} == set(StreamAction)


def test_a_message_has_one_fate_and_the_end_of_a_channel_is_told_once() -> None:
    fates = {StreamAction.DELIVER, StreamAction.DROP, StreamAction.KEEP}
    for (state, happens), step in STEPS.items():
        if happens is StreamInput.MESSAGE:
            assert len(fates.intersection(step.actions)) == 1, state
        told = StreamAction.TELL_CLOSED in step.actions
        none = (StreamState.FREE, StreamState.OVER, StreamState.GIVEN_UP)
        gone = step.state in none and state not in none
        assert told == gone, (state, happens)


def test_our_direction_is_reset_once_before_it_has_ended() -> None:
    """From each state, whatever happens: a channel that is over has been reset by us exactly once."""
    for first in product(StreamInput, repeat=4):
        state, resets = StreamState.OPEN, 0
        for happens in first:
            state, actions = STEPS[state, happens]
            resets += actions.count(StreamAction.RESET)
            if state in (StreamState.OVER, StreamState.OPEN, StreamState.GIVEN_UP):
                break
        assert resets == (state is not StreamState.OPEN), first


def kinds(packet: bytes) -> set[int]:
    """Return the kinds of the parameters of all RE-CONFIG chunks of a packet: 13 is a request, 16 an answer."""
    found, position = set(), 12
    while position < len(packet):
        kind, _, length = chunks.CHUNK.unpack_from(packet, position)
        if kind == chunks.RE_CONFIG:
            body = packet[position + 4 : position + length]
            found |= {number for number, _ in chunks.parameters(body)}
        position += length + (-length & 3)
    return found


class Astray:
    """Loses, repeats and holds back what has a RE-CONFIG in it, one after the other as a list says."""

    def __init__(self, two: Two, fates: list[str]) -> None:
        self._two = two
        self._fates = fates
        self._late: list[tuple[End, bytes]] = []
        two.world.tap = self._see

    def _see(self, end: End, packet: bytes) -> bytes | None:
        if not self._fates or not kinds(packet):
            return packet
        fate = self._fates.pop(0)
        world = self._two.world
        if fate in ("late", "twice"):
            self._late.append((world.right if end is world.left else world.left, packet))
        return packet if fate in ("as it is", "twice") else None

    def deliver_late(self) -> None:
        late, self._late = self._late, []
        for end, packet in reversed(late):
            end.association.receive(self._two.now, packet)


def lives(events: list[ChannelEvent]) -> list[tuple[str, list[str | bytes]]]:
    """Return label and messages of each channel that was offered, in the order of their ends; others are still open."""
    offered: dict[int, tuple[str, list[str | bytes]]] = {}
    over = []
    for event in events:
        if isinstance(event, ChannelOffered):
            assert event.channel not in offered
            offered[event.channel] = (event.opened.label, [])
        elif isinstance(event, ChannelMessage):
            offered[event.channel][1].append(event.data)
        elif isinstance(event, ChannelClosed) and event.channel in offered:
            over.append(offered.pop(event.channel))
        assert not isinstance(event, Ended)
    assert not offered
    return over


FATES = st.lists(st.sampled_from(["as it is", "lost", "twice", "late"]), max_size=40)
ACTS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from([0.0, 0.005, 0.03, 0.4])), max_size=25)


@settings(max_examples=examples(120), deadline=None)
@given(ACTS, FATES)
def test_channels_live_and_end_in_order_whatever_becomes_of_requests_and_answers(
    acts: list[tuple[bool, int, float]], fates: list[str]
) -> None:
    """With two numbers for each side, so that each is used again and again."""
    # Nobody takes for gone whose answers are lost forty times.
    two = Two(settings=SctpSettings(max_streams=4, max_retransmissions=100))
    astray = Astray(two, fates)
    said: dict[bool, list[str]] = {True: [], False: []}

    def open_one(ends: DataChannels, by_left: bool) -> None:
        label = f"{len(said[by_left])}"
        try:
            number = ends.open(two.now, OpenMessage(label, ""))
        except StateError:
            return  # no number is free
        said[by_left].append(label)
        ends.send(two.now, number, label)

    for by_left, what, pause in acts:
        ends = two.left if by_left else two.right
        if what < 2:
            open_one(ends, by_left)
        else:
            ends.close(what - 2)
        two.run(pause)
        astray.deliver_late()
    two.run(1000)
    astray.deliver_late()
    for number in range(4):
        two.left.close(number)
    two.run(1000)
    assert (len(two.left), len(two.right)) == (0, 0)
    for by_left, events in ((True, two.right_events), (False, two.left_events)):
        mine = [event for event in events if not isinstance(event, ChannelOpened)]
        theirs = {number for number in range(4) if number % 2 == (0 if by_left else 1)}
        found = lives([event for event in mine if isinstance(event, Ended) or event.channel in theirs])
        assert sorted(found) == sorted((label, [label]) for label in said[by_left])


@pytest.mark.parametrize("count", [64, 65, 3000])
def test_next_channel_stands_for_an_answer_that_was_lost(count: int) -> None:
    """For the other side the number is free: it has carried out our reset, and its own was answered."""
    two = Two(settings=SctpSettings(max_streams=2))
    first = two.left.open(two.now, OpenMessage("first", ""))
    two.run(1)
    lost: list[bytes] = []

    def lose_the_answer(end: End, packet: bytes) -> bytes | None:
        if end is two.world.left and 16 in kinds(packet) and not lost:
            lost.append(packet)
            return None
        return packet

    two.world.tap = lose_the_answer
    two.left.close(first)
    two.world.flush()
    assert two.world.run(1, lambda: not len(two.left))
    assert lost
    assert two.left.open(two.now, OpenMessage("second", "")) == first
    for number in range(count):
        two.left.send(two.now, first, f"{number}")
    two.world.flush()
    # Before our request can be repeated.
    assert two.world.run(0.1, lambda: ChannelOpened(first) in two.left_events[2:])
    two.run(20)
    two.left.close(first)
    two.run(5)
    assert lives(two.right_events) == [("first", []), ("second", [f"{number}" for number in range(count)])]


def lived_through(recording: Recording, fates: list[str]) -> dict[int, list[ChannelEvent]]:
    """Live through a recording again, each RE-CONFIG of theirs repeated or held back; return each channel's events.

    It is held back until it has to be there: before the next one, and before our side does what it did then.
    """
    replay = Replay(recording)
    association = replay.association
    ours = next(line["stream"] for line in recording.lines if line["call"] == "send" and line["ppid"] == 50)
    ends = DataChannels(association, dtls_client=ours % 2 == 0)
    told: dict[int, list[ChannelEvent]] = {}
    late: list[str] = []

    def receive(now: float, packet: str) -> None:
        association.receive(now, bytes.fromhex(packet))
        while (event := ends.poll_event()) is not None:
            if isinstance(event, ChannelMessage):
                ends.consumed(event.channel, event.size)
            if not isinstance(event, Established | SendSpace | NothingToTell | Ended):
                told.setdefault(event.channel, []).append(event)

    for line in recording.lines:
        call, now, packet = line["call"], line.get("now", 0.0), line.get("packet", "")
        is_reset = bool(packet) and bool(kinds(bytes.fromhex(packet)))
        if late and (is_reset or call == "reset" or (call == "send" and line["ppid"] == 50)):
            receive(now, late.pop())
        if call == "send" and line["ppid"] == 50:
            opened = dcep.read(bytes.fromhex(line["data"]))
            assert opened is not None
            ends.open(now, opened, negotiated=line["stream"])
        fate = fates.pop(0) if is_reset and fates else "as it is"
        if fate in ("late", "lost"):  # what is lost comes again
            late.append(packet)
        elif call == "receive":
            for _ in range(2 if fate == "twice" else 1):
                receive(now, packet)
        elif call == "reset":
            ends.close(line["stream"])
        elif call not in ("reply", "consumed", "event", "message"):
            replay._do(**line)
    return told


@pytest.mark.parametrize("recording", recordings(), ids=lambda recording: recording.name)
def test_channels_of_others_live_and_end_alike_whatever_becomes_of_their_requests_and_answers(
    recording: Recording,
) -> None:
    plain = lived_through(recording, [])
    assert all(isinstance(events[-1], ChannelClosed) for events in plain.values())
    assert sum(isinstance(event, ChannelClosed) for events in plain.values() for event in events) >= 3

    @settings(max_examples=examples(20), deadline=None)
    @given(st.lists(st.sampled_from(["as it is", "twice", "late", "lost"]), max_size=40))
    def check(fates: list[str]) -> None:
        assert lived_through(recording, fates) == plain

    check()
