"""The control channel of a session: the machine of ``ctl.v1.mxrtc``, both roles.

Everything that affects its transitions is in this file; docs/reference/protocol.md section 5 is its specification. The
machine greets, asks for a sign of life, lists services and says farewell. It decides nothing about streams and rights:
what a list may name is the engine's answer.

What it guards against: a dead peer that nobody notices; a peer that makes us answer without end (pings and lists are
counted, one list at a time); an answer that grows without end (1024 messages).

It ends exactly once, with one of three effects: ByeReceived (the other side takes its leave), Violated (it broke the
protocol) or Dead (nothing more comes from it); or with our own Farewell, which has none.

One file: everything that affects the transitions of one machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import assert_never

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import events, messages, silence
from mxrtc_bridge.core.stream.events import StreamRole
from mxrtc_bridge.core.stream.halves import consumed_by

HELLO_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 10.0
MIN_PING_GAP_S = 0.5
"""Between pings that our side asks for: keeps them well below what the other side allows."""
MAX_UNANSWERED_PINGS = 4
REQUEST_BURST = 32
REQUESTS_PER_S = 4.0
MAX_LIST_MESSAGES = 1024
SERVICES_PER_MESSAGE = 32
ENDING_SERVICES_PER_MESSAGE = 20
"""Where some have an end, which takes the same place again."""
"""Half of what a receiver must take: with the longest names, the message is still below 4 KiB."""

CAPS = (messages.PROTOCOL_CTL, messages.PROTOCOL_TCP, messages.PROTOCOL_RAW)

Entry = tuple[UserId, tuple[ServiceName, ...]]
"""One peer, and what may be used there."""
Kinds = Mapping[tuple[UserId, ServiceName], messages.ServiceKind]
States = Mapping[tuple[UserId, ServiceName], messages.ServiceState]


class ControlPhase(Enum):
    """Where the control channel is."""

    OPENING = "opening"
    GREETING = "greeting"
    """Open; the other side has not said hello yet."""
    GREETED = "greeted"
    ENDED = "ended"


# Events; with ChannelOpened, TextReceived, BinaryReceived, ChannelClosed and Tick of the streams.


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """Something came from the other side on another channel: a sign of life."""


@dataclass(frozen=True, slots=True)
class AskList:
    """Our side wants to know which services it may use; while an answer is on its way, that one serves."""

    states: bool = False
    """And which of them are up, which takes longer."""


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """The answer to ListRequested with this number."""

    number: int
    entries: tuple[Entry, ...]
    until: Mapping[tuple[UserId, ServiceName], int] = field(default_factory=dict)
    """When the right to some of them ends by itself, in wall-clock milliseconds since 1970."""
    kinds: Kinds = field(default_factory=dict)
    """What they are for; said of a part only if it is known of all in it."""
    states: States = field(default_factory=dict)
    """Whether they answer; empty where that was not asked for."""


@dataclass(frozen=True, slots=True)
class AskPing:
    """Our side wants a round trip measured soon; RoundTrip follows."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """Our side ends the session."""

    code: str
    message: str


ControlEvent = events.ChannelEvent | events.Tick | TrafficSeen | AskList | ListAnswer | AskPing | Farewell


# Effects; with SendText, CloseChannel and Consumed of the streams.


@dataclass(frozen=True, slots=True)
class Greeted:
    """The other side said hello."""

    version: int
    """What both sides speak."""
    caps: tuple[str, ...]
    """The protocols that the other side accepts."""


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """A ping came back after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ListRequested:
    """The other side asks for its services: feed a ListAnswer with this number, once."""

    number: int
    states: bool = False
    """Whether it asks too which of them are up."""


@dataclass(frozen=True, slots=True)
class ListReceived:
    """The whole answer to our AskList, one entry for each peer."""

    entries: tuple[Entry, ...]
    until: tuple[tuple[UserId, ServiceName, int], ...] = ()
    """When the right to some of them ends by itself, in wall-clock milliseconds since 1970."""
    kinds: Kinds = field(default_factory=dict)
    """What they are for, as far as it was said and is known to us."""
    states: States = field(default_factory=dict)
    """Whether they answer, as far as it was said."""


@dataclass(frozen=True, slots=True)
class ServiceListFailed:
    """The answer to our AskList did not come in time; a late one is dropped."""


@dataclass(frozen=True, slots=True)
class ByeReceived:
    """The other side ends the session; both fields are its own words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Violated:
    """The other side broke the protocol: end the session."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Nothing more comes from the other side: end the session. The code is ``timeout``, ``no_hello`` or ``closed``."""

    code: str
    message: str


_ListEffect = ListRequested | ListReceived | ServiceListFailed
_End = ByeReceived | Violated | Dead
OtherEffect = Greeted | PingAnswered | _ListEffect | _End
"""What is not done with the channel itself."""
ControlEffect = events.SendText | events.CloseChannel | events.Consumed | OtherEffect

MESSAGES: Mapping[ControlPhase, frozenset[type[messages.Message]]] = {
    ControlPhase.OPENING: frozenset(),  # never read: any message means that the channel is open
    ControlPhase.GREETING: frozenset({messages.Hello, messages.Bye}),
    ControlPhase.GREETED: frozenset(
        {messages.Ping, messages.Pong, messages.List, messages.PeerServices, messages.ListEnd, messages.Bye}
    ),
    ControlPhase.ENDED: frozenset(),
}
"""What the other side may send."""


class ControlMachine:
    """The control channel of one session.

    Args:
        role: which side of the channel we are; both do the same, but an acceptor's channel is open from the start.
    """

    def __init__(self, role: StreamRole) -> None:
        self.role = role
        self.phase = ControlPhase.OPENING
        self._hello_by: float | None = None
        self._quiet_s = silence.QUIET_S if role is StreamRole.OPENER else silence.ACCEPTOR_QUIET_S
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._wanted_ping_at = inf
        """When a ping is due for another reason than silence."""
        self._asked_at = float("-inf")
        """When the last ping was due that our side has asked for."""
        self._pings: dict[int, float] = {}
        self._next_number = 1
        self._tokens = float(REQUEST_BURST)
        self._tokens_at = 0.0
        self._answering: int | None = None
        self._list_wanted: AskList | None = None
        self._list_number: int | None = None
        self._list_by: float | None = None
        self._list_messages = 0
        self._listed: dict[UserId, tuple[ServiceName, ...]] = {}
        self._listed_until: list[tuple[UserId, ServiceName, int]] = []
        self._listed_kinds: dict[tuple[UserId, ServiceName], messages.ServiceKind] = {}
        self._listed_states: dict[tuple[UserId, ServiceName], messages.ServiceState] = {}
        self._effects: deque[ControlEffect] = deque()

    def poll_effect(self) -> ControlEffect | None:
        """Return the next thing to be done, or None."""
        return self._effects.popleft() if self._effects else None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        if self.phase in {ControlPhase.OPENING, ControlPhase.ENDED}:
            return None
        deadlines = (self._hello_by, self._ping_at, self._list_by, self._heard_at + silence.DEAD_S)
        return min(deadline for deadline in deadlines if deadline is not None)

    @property
    def _ping_at(self) -> float:
        if self.phase is not ControlPhase.GREETED:
            return inf
        return min(self._wanted_ping_at, max(self._heard_at, self._pinged_at) + self._quiet_s)

    def handle(self, now: float, event: ControlEvent) -> None:
        """Take in what happened; then poll all effects. Never raises for what the other side does.

        Args:
            now: monotonic seconds.
            event: what happened.
        """
        self._effects.extend(consumed_by(event))
        if self.phase is ControlPhase.ENDED:
            return
        try:
            self._dispatch(now, event)
        except WireError as error:
            self._say(messages.Bye("violation", ""))
            self._end(events.CloseChannel(), Violated(error.code, str(error)))

    def _dispatch(self, now: float, event: ControlEvent) -> None:  # noqa: C901, PLR0912 - one row for each event
        match event:
            case events.DataChannelOpened():
                self._open(now)
            case events.TextReceived(text=text):
                self._open(now)
                self._heard_at = now
                self._text_received(now, text)
            case events.BinaryReceived(data=data):
                self._open(now)
                if data:
                    raise WireError("out_of_turn", "payload came on the control channel")
            case events.DataChannelClosed():
                self._end(Dead("closed", "the other side closed the control channel"))
            case TrafficSeen():
                self._heard_at = now
            case AskList():
                self._list_wanted = event
                self._ask_list(now)
            case ListAnswer():
                self._answer_list(event)
            case AskPing():
                if self.phase is ControlPhase.GREETED and not self._pings:
                    due = max(now, self._asked_at + MIN_PING_GAP_S)
                    if due <= self._ping_at:
                        self._wanted_ping_at = self._asked_at = due
            case Farewell(code=code, message=message):
                if self.phase is not ControlPhase.OPENING:
                    self._say(messages.Bye(code if messages.is_code(code) else "done", message))
                self._end(events.CloseChannel())
            case events.Tick():
                pass
            case _:
                assert_never(event)
        self._act_on_time(now)

    def _open(self, now: float) -> None:
        if self.phase is not ControlPhase.OPENING:
            return
        self.phase = ControlPhase.GREETING
        self._heard_at = self._tokens_at = now
        self._hello_by = now + HELLO_TIMEOUT_S
        self._say(messages.Hello(messages.CTL_VERSION, CAPS))

    # What the other side says

    def _text_received(self, now: float, text: str) -> None:  # noqa: C901 - one row for each message
        message = messages.CTL.decode(text)
        if message is None:
            return
        if type(message) not in MESSAGES[self.phase]:
            raise WireError("out_of_turn", f"{type(message).__name__.lower()} came while {self.phase.value}")
        match message:
            case messages.Hello(version=version, caps=caps):
                self._greeted(now, version, caps)
            case messages.Ping(number=number):
                self._count_request(now)
                self._say(messages.Pong(number))
            case messages.Pong(number=number):
                if (sent_at := self._pings.pop(number, None)) is not None:
                    self._emit(PingAnswered(now - sent_at))
            case messages.List(number=number, states=states):
                self._count_request(now)
                if self._answering is not None:
                    raise WireError("out_of_turn", "list came before the last one was answered")
                self._answering = number
                self._emit(ListRequested(number, states))
            case messages.PeerServices():
                self._peer_listed(message)
            case messages.ListEnd(number=number):
                self._list_ended(number)
            case messages.Bye(code=code, message=reason):
                self._end(events.CloseChannel(), ByeReceived(code, reason))

    def _greeted(self, now: float, version: int, caps: tuple[str, ...]) -> None:
        self.phase = ControlPhase.GREETED
        self._hello_by = None
        self._wanted_ping_at = now
        self._emit(Greeted(min(version, messages.CTL_VERSION), caps))
        self._ask_list(now)

    def _count_request(self, now: float) -> None:
        # The answers wait in our memory if the other side does not acknowledge them: it may not order any number.
        refill = max(0.0, now - self._tokens_at) * REQUESTS_PER_S
        self._tokens = min(float(REQUEST_BURST), self._tokens + refill)
        self._tokens_at = now
        if self._tokens < 1:
            raise WireError("rate", f"more than {REQUESTS_PER_S:.0f} requests a second")
        self._tokens -= 1

    # Lists

    def _ask_list(self, now: float) -> None:
        wanted = self._list_wanted
        if wanted is None or self.phase is not ControlPhase.GREETED:
            return
        self._list_wanted = None
        if self._list_number is None:
            self._list_number = self._new_number()
            self._list_by = now + LIST_TIMEOUT_S
            self._say(messages.List(self._list_number, wanted.states))
        elif self._list_by is None:
            # Too late already, and another one may not be sent before its end.
            self._emit(ServiceListFailed())

    def _peer_listed(self, message: messages.PeerServices) -> None:
        if message.number != self._list_number:
            raise WireError("out_of_turn", "peer came without a list that asked for it")
        self._list_messages += 1
        if self._list_messages > MAX_LIST_MESSAGES:
            raise WireError("too_long", f"an answer of more than {MAX_LIST_MESSAGES} messages")
        self._listed[message.peer] = self._listed.get(message.peer, ()) + message.services
        self._listed_until += [(message.peer, name, until_ms) for name, until_ms in message.until]
        for name, kind in zip(message.services, message.kinds, strict=False):  # of none, if it is not said
            if kind is not None:
                self._listed_kinds[message.peer, name] = kind
        for name, state in zip(message.services, message.states, strict=False):
            self._listed_states[message.peer, name] = state

    def _list_ended(self, number: int) -> None:
        if number != self._list_number:
            raise WireError("out_of_turn", "end came without a list that asked for it")
        if self._list_by is not None:
            entries, until = tuple(self._listed.items()), tuple(self._listed_until)
            self._emit(ListReceived(entries, until, self._listed_kinds, self._listed_states))
        self._list_number = self._list_by = None
        self._list_messages = 0
        self._forget_listed()

    def _forget_listed(self) -> None:
        self._listed = {}
        self._listed_until = []
        self._listed_kinds = {}
        self._listed_states = {}

    def _answer_list(self, answer: ListAnswer) -> None:
        if answer.number != self._answering:
            return
        self._answering = None
        parts: list[messages.PeerServices] = []
        for peer, services in answer.entries:
            ends = {name: answer.until[peer, name] for name in services if (peer, name) in answer.until}
            size = ENDING_SERVICES_PER_MESSAGE if ends else SERVICES_PER_MESSAGE
            for start in range(0, len(services), size):
                part = services[start : start + size]
                until = tuple((name, ends[name]) for name in part if name in ends)
                kinds = tuple(answer.kinds[peer, name] for name in part if (peer, name) in answer.kinds)
                said = kinds if len(kinds) == len(part) else ()
                states = tuple(answer.states.get((peer, name), messages.ServiceState.UNKNOWN) for name in part)
                parts.append(
                    messages.PeerServices(answer.number, peer, part, until, said, states if answer.states else ())
                )
        for message in parts[:MAX_LIST_MESSAGES]:
            self._say(message)
        self._say(messages.ListEnd(answer.number))

    # Time

    def _act_on_time(self, now: float) -> None:
        if self.phase in {ControlPhase.OPENING, ControlPhase.ENDED}:
            return
        if self._hello_by is not None and now >= self._hello_by:
            message = f"the other side did not say hello within {HELLO_TIMEOUT_S:.0f} s"
            self._end(events.CloseChannel(), Dead("no_hello", message))
        elif now >= self._heard_at + silence.DEAD_S:
            message = f"nothing came from the other side for {silence.DEAD_S:.0f} s"
            self._end(events.CloseChannel(), Dead("timeout", message))
        else:
            if self._list_by is not None and now >= self._list_by:
                self._list_by = None
                self._emit(ServiceListFailed())
            if now >= self._ping_at:
                self._ping(now)

    def _ping(self, now: float) -> None:
        number = self._new_number()
        if len(self._pings) >= MAX_UNANSWERED_PINGS:
            del self._pings[next(iter(self._pings))]
        self._pings[number] = now
        self._pinged_at, self._wanted_ping_at = now, inf
        self._say(messages.Ping(number))

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _end(self, *effects: ControlEffect) -> None:
        self.phase = ControlPhase.ENDED
        self._forget_listed()
        self._pings = {}
        for effect in effects:
            self._emit(effect)

    def _say(self, message: messages.CtlMessage) -> None:
        self._emit(events.SendText(messages.CTL.encode(message)))

    def _emit(self, effect: ControlEffect) -> None:
        self._effects.append(effect)
