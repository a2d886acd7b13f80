"""The one driver of all pure machines: feed one event, carry out every effect, wait for the next event or deadline.

An effect may cause another event at once (a socket that takes bytes while we write to it). Such an event waits in
line until the effects of the present one are done, so that a machine never sees itself half-changed.

What the machine of a data channel wants of its channel, and learns from it, is in :class:`ChannelDriver`, for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.engine.clock import Clock, Timer
from mxrtc_bridge.engine.ports import Channel

EventT = TypeVar("EventT")
EffectT = TypeVar("EffectT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)
EffectT_co = TypeVar("EffectT_co", covariant=True)


class Machine(Protocol[EventT_contra, EffectT_co]):
    """What every machine of the core looks like from here."""

    def handle(self, now: float, event: EventT_contra) -> None: ...

    def poll_effect(self) -> EffectT_co | None: ...

    def next_deadline(self) -> float | None: ...


class Driver(Generic[EventT, EffectT]):
    """Runs one machine.

    Args:
        machine: the machine to run.
        perform: carries out one effect; must not block and must not raise.
        tick: the event that tells the machine that its deadline has come.
        clock: where time comes from.
    """

    def __init__(
        self,
        machine: Machine[EventT, EffectT],
        *,
        perform: Callable[[EffectT], None],
        tick: EventT,
        clock: Clock,
    ) -> None:
        self._machine = machine
        self._perform = perform
        self._tick = tick
        self._clock = clock
        self._waiting: deque[EventT] = deque()
        self._running = False
        self._closed = False
        self._deadline: float | None = None
        self._timer: Timer | None = None

    def feed(self, event: EventT) -> None:
        """Hand ``event`` to the machine, now or right after the effects that are being carried out."""
        if self._closed:
            return
        self._waiting.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._waiting and not self._closed:
                self._machine.handle(self._clock.monotonic(), self._waiting.popleft())
                while (effect := self._machine.poll_effect()) is not None:
                    self._perform(effect)
        finally:
            self._running = False
        self._arm()

    def close(self) -> None:
        """Stop: no event is handled and no effect is carried out any more."""
        self._closed = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        deadline = None if self._closed else self._machine.next_deadline()
        if deadline == self._deadline and (self._timer is not None or deadline is None):
            return
        # A deadline that only moved later (with every acknowledgement) keeps its timer, which finds out when it fires.
        if (
            self._timer is not None
            and deadline is not None
            and self._deadline is not None
            and deadline > self._deadline
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = deadline
        if deadline is not None:
            self._timer = self._clock.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._deadline = None
        deadline = self._machine.next_deadline()
        if deadline is not None and deadline <= self._clock.monotonic():
            self.feed(self._tick)
        else:
            self._arm()


class ChannelDriver(ABC, Generic[EventT, EffectT]):
    """Runs the machine of a data channel, and is the channel's listener.

    Args:
        machine: a fresh machine.
        channel: the data channel; not listened to yet.
        clock: where time comes from.
        heard: called for every message: a sign of life.
    """

    def __init__(
        self,
        machine: Machine[stream.ChannelEvent | stream.Tick | EventT, stream.ChannelEffect | EffectT],
        channel: Channel,
        *,
        clock: Clock,
        heard: Callable[[], None],
    ) -> None:
        self.channel = channel
        self._clock = clock
        self._heard = heard
        self._driver: Driver[stream.ChannelEvent | stream.Tick | EventT, stream.ChannelEffect | EffectT] = Driver(
            machine, perform=self._perform, tick=stream.Tick(), clock=clock
        )

    def channel_opened(self) -> None:
        self._driver.feed(stream.DataChannelOpened())

    def text_received(self, text: str) -> None:
        self._heard()
        self._driver.feed(stream.TextReceived(text))

    def binary_received(self, data: bytes) -> None:
        self._heard()
        self._driver.feed(stream.BinaryReceived(data))

    def channel_closed(self) -> None:
        self._driver.feed(stream.DataChannelClosed())

    def _perform(self, effect: stream.ChannelEffect | EffectT) -> None:
        match effect:
            case stream.SendText(text=text):
                self.channel.send(text)
            case stream.SendBinary(data=data):
                self.channel.send(data)
            case stream.Consumed(size=size):
                self.channel.consumed(size)
            case stream.CloseChannel():
                self.channel.close()
            case _:
                self._perform_other(effect)

    @abstractmethod
    def _perform_other(self, effect: EffectT) -> None:
        """Carry out what is not done with the channel itself."""
