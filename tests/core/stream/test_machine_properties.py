"""Two stream machines joined by channels of any timing, with sinks of any manners, against a model made of bytes."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import json_message, messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import PAUSE_AT_BYTES
from mxrtc_bridge.core.stream.machine import StreamMachine, StreamPhase
from tests.long import examples

SIDES = st.sampled_from([StreamRole.OPENER, StreamRole.ACCEPTOR])
LIMITS = [1, 4 * 1024, messages.MAX_PAYLOAD_BYTES, 32 * 1024, messages.INITIAL_CREDIT]
SIZES = st.sampled_from(sorted({max(1, limit + delta) for limit in LIMITS for delta in (-1, 0, 1)}))
MAX_READ = messages.INITIAL_CREDIT + 1
WINDOWS = st.sampled_from(
    [
        messages.MIN_WINDOW,
        messages.MIN_WINDOW + 1,
        messages.INITIAL_CREDIT - 1,
        messages.INITIAL_CREDIT,
        messages.DEFAULT_WINDOW,
    ]
)
PATTERN = bytes(range(251)) * 1024
CLOSED = object()


def pattern(offset: int, size: int) -> bytes:
    """Bytes that tell where they belong: 251 is prime, no message or window is a multiple of it."""
    return PATTERN[offset % 251 : offset % 251 + size]


@dataclass
class End:
    """One side: its machine, its sink and what it has put on the line."""

    machine: StreamMachine
    line: deque[object] = field(default_factory=deque)
    effects: list[stream.Effect] = field(default_factory=list)
    finished: list[stream.StreamFinished] = field(default_factory=list)
    largest_window: int = 0
    produced: int = 0
    delivered: int = 0
    outstanding: int = 0
    arrived: int = 0
    consumed: int = 0
    ready: bool = False
    paused: bool = False
    sink_present: bool = False
    sink_eof: bool = False
    sink_finished: bool = False
    sink_gone: str = ""
    channel_closed: bool = False

    def feed(self, now: float, event: stream.Event) -> None:
        if isinstance(event, stream.BinaryReceived):
            self.arrived += len(event.data)
        elif isinstance(event, stream.TextReceived):
            self.arrived += len(event.text.encode())
        self.machine.handle(now, event)
        while (effect := self.machine.poll_effect()) is not None:
            self.perform(effect)

    def perform(self, effect: stream.Effect) -> None:
        match effect:
            case stream.SendText(text=text):
                assert len(text.encode()) <= json_message.MAX_CONTROL_BYTES
                self.put(text)
            case stream.SendBinary(data=data):
                assert 0 < len(data) <= messages.MAX_PAYLOAD_BYTES
                self.put(data)
            case stream.CloseChannel():
                self.put(CLOSED)
                self.channel_closed = True
            case stream.WriteSink(data=data):
                assert self.sink_present
                assert not self.sink_finished, "written after the end"
                assert not self.sink_gone
                assert data == pattern(self.delivered, len(data)), "not a prefix of what was sent"
                self.delivered += len(data)
                self.outstanding += len(data)
            case stream.FinishSink():
                assert not self.sink_finished
                self.sink_finished = True
            case stream.ResetSink():
                assert not self.sink_gone
                self.sink_gone = "reset"
            case stream.CloseSink():
                assert not self.sink_gone
                self.sink_gone = "closed"
            case stream.PauseSink():
                assert not self.paused
                self.paused = True
            case stream.ResumeSink():
                assert self.paused
                self.paused = False
            case stream.ReadyToSend(pending=pending):
                assert pending > 0
                self.ready = True
            case stream.Consumed(size=size):
                assert size > 0
                self.consumed += size
            case stream.StreamFinished():
                self.finished.append(effect)

    def put(self, message: object) -> None:
        assert not self.channel_closed, "sent after closing the channel"
        self.line.append(message)


class World:
    """Two ends, the lines between them, and what must hold at any time."""

    def __init__(self, opener_window: int, acceptor_window: int) -> None:
        self.now = 0.0
        self.broken = False
        self.opened = False
        self.ends = {
            StreamRole.OPENER: End(StreamMachine(StreamRole.OPENER, window=opener_window, stream_id="s1")),
            StreamRole.ACCEPTOR: End(StreamMachine(StreamRole.ACCEPTOR, window=acceptor_window)),
        }
        for role, window in ((StreamRole.OPENER, opener_window), (StreamRole.ACCEPTOR, acceptor_window)):
            self.ends[role].largest_window = window

    def other(self, side: StreamRole) -> End:
        return self.ends[StreamRole.ACCEPTOR if side is StreamRole.OPENER else StreamRole.OPENER]

    def connect_sink(self, side: StreamRole) -> None:
        end = self.ends[side]
        if not end.sink_present:
            end.sink_present = True
            end.feed(self.now, stream.SinkConnected())

    def open_channel(self) -> None:
        self.opened = True
        self.ends[StreamRole.OPENER].feed(self.now, stream.DataChannelOpened())

    def sink_says(self, side: StreamRole, size: int) -> None:
        end = self.ends[side]
        if end.sink_present and not (end.sink_eof or end.paused or end.sink_gone):
            data = pattern(end.produced, size)
            end.produced += size
            end.feed(self.now, stream.SinkData(data))

    def sink_ends(self, side: StreamRole) -> None:
        end = self.ends[side]
        if end.sink_present and not (end.sink_eof or end.sink_gone):
            end.sink_eof = True
            end.feed(self.now, stream.SinkEof())

    def sink_takes(self, side: StreamRole, size: int) -> None:
        end = self.ends[side]
        taken = min(size, end.outstanding)
        if taken and not end.sink_gone:
            end.outstanding -= taken
            end.feed(self.now, stream.SinkWritten(taken))

    def take_turn(self, side: StreamRole, limit: int) -> None:
        end = self.ends[side]
        if end.ready:
            end.ready = False
            end.feed(self.now, stream.Turn(limit))

    def deliver(self, side: StreamRole, count: int) -> None:
        line = self.other(side).line
        for _ in range(min(count, len(line) if self.opened else 0)):
            self.deliver_one(side)

    def deliver_one(self, side: StreamRole) -> None:
        end = self.ends[side]
        match self.other(side).line.popleft():
            case str() as text:
                end.feed(self.now, stream.TextReceived(text))
            case bytes() as data:
                end.feed(self.now, stream.BinaryReceived(data))
            case _:
                # The transport closes its own side in answer (RFC 8831 section 6.7).
                if not end.channel_closed:
                    end.put(CLOSED)
                    end.channel_closed = True
                end.feed(self.now, stream.DataChannelClosed())

    def set_window(self, side: StreamRole, window: int) -> None:
        end = self.ends[side]
        end.largest_window = max(end.largest_window, window)
        end.machine.set_window(window)

    def break_off(self, side: StreamRole, how: str) -> None:
        end = self.ends[side]
        if end.finished or not self.opened:
            return
        self.broken = True
        if how == "reset":
            end.feed(self.now, stream.Reset("denied", "the right was taken away"))
        elif how == "lost":
            for each in self.ends.values():
                each.line.clear()
                each.channel_closed = True
                each.feed(self.now, stream.DataChannelClosed())
        elif end.sink_present and not end.sink_gone:
            end.sink_gone = "itself"
            end.feed(self.now, stream.SinkClosed("reset by the program" if how == "sink" else None))

    def check(self) -> None:
        """Nothing is invented, nothing grows, nothing ends twice, and honest ends never call each other hostile."""
        for side, end in self.ends.items():
            assert end.delivered <= self.other(side).produced
            assert end.machine.unsent < PAUSE_AT_BYTES + MAX_READ
            assert end.machine.unwritten <= max(messages.INITIAL_CREDIT, end.largest_window)
            assert 0 <= end.consumed <= end.arrived
            assert len(end.finished) <= 1
            assert (end.machine.phase is StreamPhase.FINISHED) == bool(end.finished)
            assert all(how.outcome is not StreamOutcome.VIOLATION for how in end.finished)
            if end.finished:
                assert end.machine.next_deadline() is None
                assert end.consumed == end.arrived
                if end.finished[0].outcome is StreamOutcome.CLEAN:
                    assert self.other(side).delivered == end.produced
                    assert self.other(side).outstanding == 0, "called clean before the other sink had taken all"

    def run_to_the_end(self) -> None:
        """Let both sinks end and everything flow; then judge how it ended."""
        self.open_channel()
        for side in self.ends:
            self.connect_sink(side)
            self.sink_ends(side)
        while any(end.line or end.ready or (end.outstanding and not end.sink_gone) for end in self.ends.values()):
            for side in self.ends:
                self.take_turn(side, messages.MAX_PAYLOAD_BYTES)
                self.sink_takes(side, MAX_READ)
                self.deliver(side, 8)
        self.check()
        for side, end in self.ends.items():
            if not self.broken:
                assert end.finished == [
                    stream.StreamFinished(StreamOutcome.CLEAN, "", "both directions ended", end.produced, end.delivered)
                ]
            assert len(end.finished) == 1, "a stream that never ends"
            if end.finished[0].outcome is StreamOutcome.CLEAN:
                assert end.delivered == self.other(side).produced
                assert end.sink_finished
                assert end.sink_gone in {"closed", "itself"}
            else:
                assert end.sink_gone != "closed", "an orderly end of a stream that broke"


BREAKS = st.sampled_from(["reset", "sink", "orderly", "lost"])


class JoinedStreams(RuleBasedStateMachine):
    """Honest ends, whatever the order of things: hypothesis looks for the short stories."""

    @initialize(opener_window=WINDOWS, acceptor_window=WINDOWS)
    def begin(self, opener_window: int, acceptor_window: int) -> None:
        self.world = World(opener_window, acceptor_window)

    @rule(side=SIDES)
    def connect_sink(self, side: StreamRole) -> None:
        self.world.connect_sink(side)

    @rule()
    def open_channel(self) -> None:
        self.world.open_channel()

    @rule(side=SIDES, size=SIZES)
    def sink_says(self, side: StreamRole, size: int) -> None:
        self.world.sink_says(side, size)

    @rule(side=SIDES, unlikely=st.integers(0, 3))
    def sink_ends(self, side: StreamRole, unlikely: int) -> None:
        if unlikely == 3:
            self.world.sink_ends(side)

    @rule(side=SIDES, size=SIZES)
    def sink_takes(self, side: StreamRole, size: int) -> None:
        self.world.sink_takes(side, size)

    @rule(side=SIDES, limit=SIZES)
    def take_turn(self, side: StreamRole, limit: int) -> None:
        self.world.take_turn(side, limit)

    @rule(side=SIDES, count=st.integers(1, 8))
    def deliver(self, side: StreamRole, count: int) -> None:
        self.world.deliver(side, count)

    @rule(side=SIDES, window=WINDOWS)
    def set_window(self, side: StreamRole, window: int) -> None:
        self.world.set_window(side, window)

    @rule(side=SIDES, how=BREAKS, unlikely=st.integers(0, 9))
    def break_off(self, side: StreamRole, how: str, unlikely: int) -> None:
        if unlikely == 9:
            self.world.break_off(side, how)

    @invariant()
    def always(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run_to_the_end()


TestJoinedStreams = JoinedStreams.TestCase
TestJoinedStreams.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)


@dataclass(frozen=True)
class Manners:
    """How one side behaves, as weights and sizes of what it does next."""

    total: int
    reads: int
    takes: int
    laziness: int
    """How much rarer the sink takes something than anything else happens."""
    windows: tuple[int, ...]


MANNERS = st.builds(
    Manners,
    total=st.sampled_from([0, 65535, 65536, 65537, 262145, 800_000, 800_001]),
    reads=SIZES,
    takes=SIZES,
    laziness=st.sampled_from([1, 3, 10]),
    windows=st.permutations([messages.MIN_WINDOW, messages.INITIAL_CREDIT, messages.DEFAULT_WINDOW]).map(tuple),
)


@given(
    opener=MANNERS,
    acceptor=MANNERS,
    seed=st.integers(0, 2**32),
    broken=st.one_of(st.none(), st.none(), st.tuples(SIDES, BREAKS, st.integers(1, 400))),
)
@settings(max_examples=examples(60), deadline=None)
def test_long_streams_arrive_whole_whatever_the_timing(
    opener: Manners, acceptor: Manners, seed: int, broken: tuple[StreamRole, str, int] | None
) -> None:
    """Streams of several windows, with windows that change on the way, end as they should and hold what they may."""
    chance = random.Random(seed)
    manners = {StreamRole.OPENER: opener, StreamRole.ACCEPTOR: acceptor}
    world = World(opener.windows[0], acceptor.windows[0])
    world.connect_sink(StreamRole.OPENER)
    for step in range(1500):
        side = chance.choice([StreamRole.OPENER, StreamRole.ACCEPTOR])
        own, end = manners[side], world.ends[side]
        match chance.randrange(8):
            case 0 | 1 if end.produced < own.total:
                world.sink_says(side, min(own.reads, own.total - end.produced))
            case 0 | 1:
                world.sink_ends(side)
            case 2 | 3:
                world.take_turn(side, messages.MAX_PAYLOAD_BYTES)
            case 4 | 5 if world.opened:
                world.deliver(side, chance.randint(1, 4))
            case 4 | 5:
                world.open_channel()
            case 6 if chance.randrange(own.laziness) == 0:
                world.connect_sink(side)
                world.sink_takes(side, own.takes)
            case 7 if chance.randrange(5) == 0:
                world.set_window(side, chance.choice(own.windows))
        if broken is not None and step == broken[2]:
            world.break_off(broken[0], broken[1])
        world.check()
    world.run_to_the_end()


# A hostile other side

HOSTILE_TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from([-1, 0, 1, 100, 65536, 65537, 2**53 - 1]).flatmap(
        lambda number: st.sampled_from(
            [
                f'{{"t":"ok","w":{number}}}',
                f'{{"t":"ack","o":{number},"w":{number}}}',
                f'{{"t":"ack","o":0,"w":{number}}}',
                f'{{"t":"fin","o":{number}}}',
                '{"t":"rst","c":"x"}',
                '{"t":"err","c":"denied","m":"no"}',
                '{"t":"open","s":"a"}',
                '{"t":"x-trial"}',
                '{"t":"resume"}',
            ]
        )
    ),
)
HOSTILE_EVENTS = st.one_of(
    HOSTILE_TEXT.map(stream.TextReceived),
    st.sampled_from([0, 1, 100, 16384, 16385, 65536]).map(lambda size: stream.BinaryReceived(bytes(size))),
    st.sampled_from(
        [
            stream.DataChannelOpened(),
            stream.Turn(16384),
            stream.Turn(0),
            stream.Tick(),
            stream.SinkData(b"x" * 70_000),
            stream.SinkEof(),
        ]
    ),
    st.just(stream.SinkConnected()),
)


@given(
    role=SIDES,
    sink_first=st.booleans(),
    events=st.lists(st.tuples(HOSTILE_EVENTS, st.sampled_from([0.0, 1.0, 20.0])), max_size=40),
)
@settings(max_examples=examples(300), deadline=None)
def test_any_other_side_ends_at_most_its_own_stream(
    role: StreamRole, sink_first: bool, events: list[tuple[stream.Event, float]]
) -> None:
    """Whatever comes from the channel, the machine never raises, holds bounded memory and ends at most once."""
    end = HostileEnd(StreamMachine(role, window=messages.MIN_WINDOW))
    now = 0.0
    if sink_first:
        events = [(stream.SinkConnected(), 0.0), *events]
    for event, wait in [*events, (stream.DataChannelClosed(), 0.0)]:
        now += wait
        match event:
            case stream.SinkConnected() if end.sink_present:
                continue
            case stream.SinkConnected():
                end.sink_present = True
            case stream.SinkData() | stream.SinkEof() if end.sink_eof or not end.sink_present:
                continue
            case stream.SinkEof():
                end.sink_eof = True
        end.feed(now, event)
        assert end.machine.unwritten <= 65536 + messages.MAX_PAYLOAD_BYTES * 4 or end.finished
        assert end.consumed <= end.arrived
    assert len(end.finished) == 1
    assert end.consumed == end.arrived
    assert end.machine.unsent == 0


class HostileEnd(End):
    """The same end; what comes is no pattern, and only the rules for effects are checked."""

    def perform(self, effect: stream.Effect) -> None:
        if isinstance(effect, stream.WriteSink):
            assert self.sink_present
            assert not self.sink_gone
        elif isinstance(effect, stream.PauseSink | stream.ResumeSink):
            pass
        else:
            super().perform(effect)
