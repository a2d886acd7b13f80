"""The driver: one event at a time, every effect, one timer; and that of a data channel, which does all with it."""

from __future__ import annotations

from unittest.mock import Mock, call

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.engine.driver import ChannelDriver, Driver
from tests.fakes import FakeClock


class Echo:
    """A machine that answers each event with two effects and wants to be ticked when told to."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.handled: list[tuple[float, str]] = []
        self.deadline: float | None = None

    def handle(self, now: float, event: str) -> None:
        self.handled.append((now, event))
        if event == "tick":
            self.deadline = None
        if event.startswith("wake "):
            self.deadline = float(event[5:])
        self.effects += [f"{event}.1", f"{event}.2"]

    def poll_effect(self) -> str | None:
        return self.effects.pop(0) if self.effects else None

    def next_deadline(self) -> float | None:
        return self.deadline


def make(clock: FakeClock) -> tuple[Echo, list[str], Driver[str, str]]:
    machine = Echo()
    done: list[str] = []
    return machine, done, Driver(machine, perform=done.append, tick="tick", clock=clock)


def test_driver_carries_out_all_effects_in_order() -> None:
    _, done, driver = make(FakeClock())
    driver.feed("a")
    driver.feed("b")
    assert done == ["a.1", "a.2", "b.1", "b.2"]


def test_event_caused_by_an_effect_waits_for_the_other_effects() -> None:
    machine = Echo()
    done: list[str] = []

    def perform(effect: str) -> None:
        done.append(effect)
        if effect == "a.1":
            driver.feed("b")

    driver = Driver(machine, perform=perform, tick="tick", clock=FakeClock())
    driver.feed("a")
    assert done == ["a.1", "a.2", "b.1", "b.2"]


def test_driver_ticks_when_the_deadline_has_come() -> None:
    clock = FakeClock(now=0.0)
    machine, _, driver = make(clock)
    driver.feed("wake 5")
    clock.advance(4.9)
    assert [event for _, event in machine.handled] == ["wake 5"]
    clock.advance(0.1)
    assert machine.handled[-1] == (5.0, "tick")
    assert clock.armed == 0


def test_deadline_that_moves_later_is_kept_and_the_old_time_does_not_tick() -> None:
    clock = FakeClock(now=0.0)
    machine, _, driver = make(clock)
    driver.feed("wake 5")
    driver.feed("wake 9")
    assert clock.armed == 1
    clock.advance(8.0)
    assert [event for _, event in machine.handled] == ["wake 5", "wake 9"]
    clock.advance(1.0)
    assert machine.handled[-1] == (9.0, "tick")


def test_deadline_that_moves_earlier_ticks_earlier() -> None:
    clock = FakeClock(now=0.0)
    machine, _, driver = make(clock)
    driver.feed("wake 9")
    driver.feed("wake 2")
    clock.advance(2.0)
    assert machine.handled[-1] == (2.0, "tick")


def test_closed_driver_handles_nothing_and_leaves_no_timer() -> None:
    clock = FakeClock(now=0.0)
    machine, done, driver = make(clock)
    driver.feed("wake 5")
    driver.close()
    driver.feed("late")
    clock.advance(10.0)
    assert [event for _, event in machine.handled] == ["wake 5"]
    assert done == ["wake 5.1", "wake 5.2"]
    assert clock.armed == 0


def test_close_from_within_an_effect_stops_what_waits() -> None:
    machine = Echo()
    done: list[str] = []

    def perform(effect: str) -> None:
        done.append(effect)
        driver.feed("next")
        if effect == "a.2":
            driver.close()

    driver = Driver(machine, perform=perform, tick="tick", clock=FakeClock())
    driver.feed("a")
    assert done == ["a.1", "a.2"]


class Repeater:
    """A machine of a data channel that notes its events, and wants with each what is prepared."""

    def __init__(self, *effects: stream.Effect) -> None:
        self.handled: list[stream.Event] = []
        self._effects = list(effects)

    def handle(self, _now: float, event: stream.Event) -> None:
        self.handled.append(event)

    def poll_effect(self) -> stream.Effect | None:
        return self._effects.pop(0) if self._effects else None

    def next_deadline(self) -> float | None:
        return None


class Line(ChannelDriver[stream.Event, stream.OtherEffect]):
    def __init__(self, machine: Repeater, channel: Mock, heard: Mock) -> None:
        super().__init__(machine, channel, clock=FakeClock(), heard=heard)
        self.others: list[stream.OtherEffect] = []

    def _perform_other(self, effect: stream.OtherEffect) -> None:
        self.others.append(effect)


def test_machine_of_a_channel_learns_all_that_happens_to_it_and_messages_are_a_sign_of_life() -> None:
    machine, heard = Repeater(), Mock()
    line = Line(machine, Mock(), heard)
    line.channel_opened()
    assert heard.call_count == 0
    line.text_received("text")
    line.binary_received(b"data")
    assert heard.call_count == 2
    line.channel_closed()
    assert heard.call_count == 2
    assert machine.handled == [
        stream.DataChannelOpened(),
        stream.TextReceived("text"),
        stream.BinaryReceived(b"data"),
        stream.DataChannelClosed(),
    ]


def test_what_is_wanted_of_the_channel_is_done_with_it_in_order_and_the_rest_by_whoever_knows_it() -> None:
    channel = Mock()
    machine = Repeater(
        stream.SendText("text"),
        stream.ReadyToSend(7),
        stream.SendBinary(b"data"),
        stream.Consumed(4),
        stream.Accepted(),
        stream.CloseChannel(),
    )
    line = Line(machine, channel, Mock())
    line.channel_opened()
    assert channel.mock_calls == [call.send("text"), call.send(b"data"), call.consumed(4), call.close()]
    assert line.others == [stream.ReadyToSend(7), stream.Accepted()]
