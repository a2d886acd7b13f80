"""Associations whose every call is written down, and those that live through it again.

A recording is a file of JSON lines in ``captures``. The first line holds the random values of our side, each other
line one call: what arrived from the other implementation, what our application did, and when. As the machine has no
other inputs, the calls bring the same story back, as long as it cuts messages into the same packets; when that changes,
record again with ``python -m tests.rtc.capture``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxrtc_bridge.sctp.association import Association
from mxrtc_bridge.sctp.congestion import CongestionControl
from mxrtc_bridge.sctp.events import Ended, Event, MessageReceived
from mxrtc_bridge.sctp.handshake import RandomValues
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.newreno import NewReno

FOLDER = Path(__file__).parent / "captures"

_RECORDED = ("packet_size", "packet_size_floor", "packet_size_ceiling", "max_message")
"""Settings that decide how messages are cut; what a recording does not name is as it is by default."""


class RecordedAssociation(Association):
    """Writes its calls down. Its clock starts at 100, whatever time it is called with."""

    def __init__(self, settings: SctpSettings, drawn: RandomValues, congestion: CongestionControl) -> None:
        super().__init__(settings, drawn, congestion)
        self._offset: float | None = None
        head = {"tag": drawn.tag, "initial_tsn": drawn.initial_tsn, "cookie_key": drawn.cookie_key.hex()}
        self.lines: list[dict[str, Any]] = [{**head, **{name: getattr(settings, name) for name in _RECORDED}}]

    def _at(self, now: float) -> float:
        if self._offset is None:
            self._offset = now - 100.0
        return round(now - self._offset, 6)

    def _note(self, call: str, **values: Any) -> None:
        self.lines.append({"call": call, **values})

    def start(self, now: float) -> None:
        now = self._at(now)
        self._note("start", now=now)
        super().start(now)

    def receive(self, now: float, packet: bytes) -> None:
        now = self._at(now)
        self._note("receive", now=now, packet=packet.hex())
        super().receive(now, packet)

    def handle_timeout(self, now: float) -> None:
        now = self._at(now)
        self._note("handle_timeout", now=now)
        super().handle_timeout(now)

    def datagrams(self, now: float, limit: int = 64) -> list[bytes]:
        now = self._at(now)
        packets = super().datagrams(now, limit)
        probes = [] if self._probe is None else [self._probe]
        self._note("datagrams", now=now, limit=limit, packets=[packet.hex() for packet in packets + probes])
        return packets

    def next_deadline(self) -> float | None:
        deadline = super().next_deadline()
        # Later than asked for by less than the rounding of the time.
        return None if deadline is None else deadline + (self._offset or 0.0) + 1e-6

    def send(self, now: float, stream: int, ppid: int, data: bytes, **options: Any) -> None:
        now = self._at(now)
        self._note("send", now=now, stream=stream, ppid=ppid, data=data.hex())
        super().send(now, stream, ppid, data, **options)

    def reply(self, stream: int, ppid: int, data: bytes) -> None:
        self._note("reply", stream=stream, ppid=ppid, data=data.hex())
        super().reply(stream, ppid, data)

    def reset(self, stream: int) -> None:
        self._note("reset", stream=stream)
        super().reset(stream)

    def consumed(self, size: int) -> None:
        self._note("consumed", size=size)
        super().consumed(size)

    def poll_event(self) -> Event | None:
        event = super().poll_event()
        if isinstance(event, MessageReceived):
            self._note("message", stream=event.stream, ppid=event.ppid, data=event.data.hex())
        elif event is not None:
            self._note("event", kind=type(event).__name__)
        return event


@dataclass
class Recording:
    """What was written down of one association."""

    name: str
    head: dict[str, Any]
    lines: list[dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> Recording:
        head, *lines = map(json.loads, path.read_text().splitlines())
        return cls(path.stem, head, lines)

    @property
    def theirs(self) -> list[bytes]:
        """The packets of the other implementation."""
        return [bytes.fromhex(line["packet"]) for line in self.lines if line["call"] == "receive"]

    @property
    def ours(self) -> list[bytes]:
        return [bytes.fromhex(p) for line in self.lines if line["call"] == "datagrams" for p in line["packets"]]

    @property
    def messages(self) -> list[tuple[int, int, bytes]]:
        """Stream, payload protocol identifier and content of each message that arrived."""
        found = [line for line in self.lines if line["call"] == "message"]
        return [(line["stream"], line["ppid"], bytes.fromhex(line["data"])) for line in found]

    def association(self) -> Association:
        head = self.head
        settings = SctpSettings(
            **{name: head[name] for name in _RECORDED if name in head},
            max_remote_message=head["max_message"],
            heartbeat_interval=0,
        )
        drawn = RandomValues(head["tag"], head["initial_tsn"], bytes.fromhex(head["cookie_key"]))
        return Association(settings, drawn, NewReno(settings.packet_size))


@dataclass
class Replay:
    """Lives through a recording again, one call at a time."""

    recording: Recording
    association: Association = field(init=False)
    messages: list[tuple[int, int, bytes]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    ended: Ended | None = None

    def __post_init__(self) -> None:
        self.association = self.recording.association()

    def run(self, until: int | None = None) -> Replay:
        """Do the first ``until`` calls, or all."""
        for line in self.recording.lines[:until]:
            self._do(**line)
            self.drain()
        return self

    def _do(self, call: str, **values: Any) -> None:
        for name in ("packet", "data"):
            if name in values:
                values[name] = bytes.fromhex(values[name])
        if call == "datagrams":
            self.sent += self.association.datagrams(values["now"], values["limit"])
            probe = self.association.take_probe()
            if probe is not None:
                self.sent.append(probe)
        elif call not in ("message", "event"):
            getattr(self.association, call)(**values)

    def drain(self) -> None:
        while (event := self.association.poll_event()) is not None:
            if isinstance(event, MessageReceived):
                self.messages.append((event.stream, event.ppid, event.data))
                continue
            self.events.append(type(event).__name__)
            if isinstance(event, Ended):
                self.ended = event


def recordings() -> list[Recording]:
    return [Recording.load(path) for path in sorted(FOLDER.glob("*.jsonl"))]
