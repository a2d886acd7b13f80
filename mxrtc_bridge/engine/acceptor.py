"""The bridge's side of a session: judges each channel that the caller opens, and joins it to the service behind.

Nothing of a channel is looked at before its protocol and label are; nothing is connected before the right is there;
and a right that ends resets the streams that lived by it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from mxrtc_bridge.core import control, stream, wire
from mxrtc_bridge.core.errors import EventError, TargetError
from mxrtc_bridge.core.ids import ServiceName, parse_service_name
from mxrtc_bridge.core.raw_stream import RawStreamMachine
from mxrtc_bridge.core.targets import Target
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.control_link import ControlLink, Listing
from mxrtc_bridge.engine.links import Links
from mxrtc_bridge.engine.pipe import Pipe
from mxrtc_bridge.engine.ports import Channel, Connector, Counters

log = logging.getLogger("mxrtc_bridge.streams")


@dataclass(frozen=True, slots=True)
class Grant:
    """A service that the caller may use now."""

    target: Target
    raw: bool
    max_streams: int = 64
    """Streams of this service that one session may have open."""
    idle_s: float | None = None
    """A stream without traffic for so long is reset; None for never."""


class ServiceGate(Protocol):
    """Decides about the services of one peer for one user, by the rules in force at the time of asking."""

    def open(self, service: ServiceName) -> Grant | None:
        """The service if the user may use it; None says nothing about whether it exists."""
        ...

    def listing(self) -> Listing:
        """All that this user may see from here."""
        ...


class AcceptorLinks(Links):
    """The bridge's side of a session.

    Args:
        gate: decides about services.
        connector: reaches them.
        clock: where time comes from.
        counters: what is counted.
        max_streams: streams that the caller may have open at a time.
    """

    def __init__(
        self, *, gate: ServiceGate, connector: Connector, clock: Clock, counters: Counters, max_streams: int = 256
    ) -> None:
        super().__init__(clock=clock, counters=counters, max_streams=max_streams)
        self._gate = gate
        self._connector = connector
        self._services: dict[Pipe, ServiceName] = {}

    def channel_offered(self, channel: Channel) -> None:
        if channel.protocol == wire.PROTOCOL_CTL:
            self._accept_control(channel)
            return
        if channel.protocol != wire.PROTOCOL_TCP and channel.protocol not in wire.RAW_PROTOCOLS:
            self._turn_away(channel, "unknown_protocol")
            return
        try:
            service = parse_service_name(channel.label)
        except EventError:
            self._turn_away(channel, "bad_label")
            return
        self._accept_stream(channel, service)

    def _accept_control(self, channel: Channel) -> None:
        if self._control is not None or self._ended:
            self._turn_away(channel, "second_control")
            return
        self._control = ControlLink(
            control.Role.ACCEPTOR,
            channel,
            clock=self._clock,
            listing=self._gate.listing,
            over=self._over,
        )

    def _accept_stream(self, channel: Channel, service: ServiceName) -> None:
        raw = channel.protocol in wire.RAW_PROTOCOLS
        grant = self._gate.open(service)
        if grant is not None and raw and not grant.raw:
            grant = None
        full = self._ended or len(self._pipes) >= self._max_streams
        if grant is not None and not full:
            full = sum(name == service for name in self._services.values()) >= grant.max_streams
        if grant is None or full:
            self._refuse(channel, raw=raw, code="denied" if grant is None else "limit")
        else:
            self._serve(channel, service, grant, raw=raw)

    def _refuse(self, channel: Channel, *, raw: bool, code: str) -> None:
        """Say no in the words of the stream's language; one without words is closed. Never tells what exists."""
        if raw:
            self._turn_away(channel, code)
            return
        self._counters.refusal(code)
        why = "too many streams" if code == "limit" else "no such service, or no right to it"
        self._add(stream.StreamMachine(stream.Role.ACCEPTOR), channel, lambda _how: None).refuse(code, why)

    def _serve(self, channel: Channel, service: ServiceName, grant: Grant, *, raw: bool) -> None:
        machine: stream.StreamMachine | RawStreamMachine
        machine = RawStreamMachine(stream.Role.ACCEPTOR) if raw else stream.StreamMachine(stream.Role.ACCEPTOR)
        pipe = self._add(
            machine,
            channel,
            lambda how: self._stream_ended(pipe, service, how),
            early=not raw,
            idle_s=grant.idle_s,
        )
        if pipe not in self._pipes:
            return  # what came early was a violation already
        self._services[pipe] = service
        if isinstance(machine, stream.StreamMachine):
            machine.set_window(self._budget.take(pipe))
        self._counters.stream("opened")
        assert self._spawn is not None
        self._spawn(self._connect(pipe, service, grant.target))

    async def _connect(self, pipe: Pipe, service: ServiceName, target: Target) -> None:
        try:
            sink = await self._connector.connect(target)
        except TargetError as error:
            log.warning("! service %s: %s", service, error)
            pipe.refuse(error.failure.value, "the service cannot be reached")
        else:
            self._budget.release_early(pipe)
            pipe.connect_sink(sink)

    def _stream_ended(self, pipe: Pipe, service: ServiceName, how: stream.Finished) -> None:
        self._services.pop(pipe, None)
        log.debug(
            "x stream %s %s %s, %d bytes out, %d in", service, how.outcome.value, how.code, how.sent, how.received
        )

    def judge_again(self) -> None:
        """Reset the streams whose service is not allowed any more."""
        for pipe, service in tuple(self._services.items()):
            if self._gate.open(service) is None:
                log.info("x stream to %s: right withdrawn", service)
                pipe.reset("denied", "your right to this service has ended")

    def say_bye(self, code: str, message: str) -> bool:
        """Tell the other side that the session ends; False where it has no control channel."""
        if self._control is None:
            return False
        self._control.say_bye(code, message)
        return True

    def _turn_away(self, channel: Channel, code: str) -> None:
        self._counters.refusal(code)
        channel.close()
