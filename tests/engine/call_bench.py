"""A call manager with everything around it faked, for tests of what it does with calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from mxrtc_bridge.core.access.policy import Allow, Decision, Deny
from mxrtc_bridge.core.call.events import (
    CallEvent,
    CallMessage,
    CandidateLine,
    Invite,
    Version,
)
from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.errors import HomeserverError, Lack, ResourceError, TransportError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.ice import Path, PathKind
from mxrtc_bridge.core.webrtc.sdp import Description, DescriptionType, Fingerprint, Setup, format_description
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from mxrtc_bridge.engine.call_manager import CallManager, CallSettings
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.context_log import ContextLog
from mxrtc_bridge.engine.file_operations import Spawn
from mxrtc_bridge.engine.ports import CallRecord, PeerConnection
from mxrtc_bridge.engine.session import Session
from tests.engine.test_session_channels import Connector, Gate, NoFiles
from tests.fakes import FakePeer, RecordingCounters, joined_peers

PEER = UserId("@rtc_build:example.org")
ALICE = UserId("@alice:example.org")
BOB = UserId("@bob:example.org")
ROOM = RoomId("!room:example.org")

DESCRIPTION = Description(
    mid="0",
    ufrag="ufrag",
    password="p" * 24,
    ice_lite=False,
    fingerprints=(Fingerprint("sha-256", ":".join(["AB"] * 32)),),
    setup=Setup.ACTPASS,
    sctp_port=5000,
    max_message_size=65536,
    candidates=(),
    end_of_candidates=True,
)
OFFER = format_description(DESCRIPTION, DescriptionType.OFFER, session_id=1)


class Peer(FakePeer):
    """A peer connection that comes up at once, unless told otherwise."""

    def __init__(self, fate: str) -> None:
        super().__init__(joined_peers()[2])
        self.fate = fate
        self.closed = False
        self.late = [(CandidateLine("candidate:late", "0", 0),)] if fate.startswith("late") else []

    async def create_answer(self, _offer: Description) -> str:
        if self.fate == "no ports":
            raise ResourceError(Lack.PORTS, "no free UDP port within 5000-5001")
        if self.fate == "no files":
            raise OSError(errno.EMFILE, "Too many open files")
        if self.fate == "no memory":
            raise MemoryError
        return format_description(replace(DESCRIPTION, setup=Setup.ACTIVE), DescriptionType.ANSWER, session_id=2)

    async def late_candidates(self) -> tuple[CandidateLine, ...]:
        return self.late.pop(0) if self.late else ()

    def gathering_is_over(self) -> bool:
        return self.fate != "late, and perhaps more"

    def add_candidates(self, _candidates: object) -> None: ...

    async def connect(self) -> Path:
        if self.fate == "fails":
            raise TransportError("ice_failed", "no pair works")
        if self.fate == "raises":
            raise RuntimeError("a defect")
        if self.fate == "hangs" or self.fate.startswith("late"):
            await asyncio.Event().wait()
        return Path(PathKind.DIRECT, "host", "host", "ipv4")

    async def close(self) -> None:
        self.closed = True


class Channels(BridgeChannels):
    """Channels that tell what tasks of their session are started with."""

    def attach(self, peer: PeerConnection, *, spawn: Spawn, call_log: ContextLog) -> None:
        self.spawn = spawn
        super().attach(peer, spawn=spawn, call_log=call_log)


class Bridge:
    """A manager with everything around it faked; it is its own signaller, directory, rights and rooms."""

    def __init__(self, **settings: object) -> None:
        self.clock = LoopClock()
        self.sent: list[CallMessage] = []
        self.homeserver_down = False
        self.refused: tuple[type[CallMessage], ...] = ()
        self.denied: set[UserId] = set()
        self.room_members: dict[RoomId, frozenset[UserId]] = {ROOM: frozenset({PEER, ALICE})}
        self.unconfirmed: set[UserId] = set()
        """Whose membership cannot be found out."""
        self.confirming = asyncio.Event()
        """Cleared while the answer is waited for."""
        self.confirming.set()
        self.asked: list[UserId] = []
        self.claimed: set[tuple[object, ...]] = set()
        self.open: dict[CallId, CallRecord] = {}
        self.ended: dict[CallId, str] = {}
        self.told: list[UserId] = []
        self.told_why: list[str | None] = []
        self.durable = True
        self.over: list[CallId] = []
        self.decided: list[tuple[UserId, bool, str]] = []
        self.audited_ends: list[tuple[UserId, str]] = []
        self.peers: list[Peer] = []
        self.channels: list[Channels] = []
        self.fate = "works"
        self.numbered = 6
        self.changes_at: int | None = None
        self.counters = RecordingCounters()
        self.gate = Gate()
        self.manager = CallManager(
            settings=CallSettings(addresses=AddressPolicy(private=True), **settings),  # type: ignore[arg-type]
            rights=self,
            rooms=self,
            directory=self,
            signaller=self,
            peers=self,
            make_links=self.make_channels,
            auditor=self,
            call_over=self.call_over,
            refused=self.say_refused,
            new_party_id=lambda: PartyId("ours"),
            new_number=self.new_number,
            counters=self.counters,
            clock=self.clock,
        )

    def make_channels(self, _local: UserId, _remote: UserId) -> Channels:
        self.channels.append(self.new_channels())
        return self.channels[-1]

    def new_channels(self) -> Channels:
        return Channels(
            gate=self.gate, connector=Connector(), files=NoFiles(), clock=self.clock, counters=self.counters
        )

    async def new_number(self) -> int:
        return await self.next_number()

    async def next_number(self) -> int:
        self.numbered += 1
        return self.numbered

    async def send(self, _room: RoomId, _sender: UserId, message: CallMessage, *, step: str) -> None:
        if self.homeserver_down or isinstance(message, self.refused):
            raise HomeserverError("the homeserver is away")
        self.sent.append(message)

    async def create(self, _local: UserId) -> Peer:
        self.peers.append(Peer(self.fate))
        return self.peers[-1]

    def may_call(self, user: UserId, _local: UserId) -> Decision:
        return Deny("test") if user in self.denied else Allow("test")

    async def confirm(self, user: UserId, _local: UserId) -> bool:
        self.asked.append(user)
        await self.confirming.wait()
        return user not in self.unconfirmed

    async def call_decided(self, session: Session, *, allowed: bool, rule: str) -> bool:
        self.decided.append((session.remote, allowed, rule))
        return self.durable

    async def call_over(self, record: CallRecord) -> None:
        self.over.append(record.call_id)

    def session_ended(self, session: Session, reason: str) -> None:
        self.audited_ends.append((session.remote, reason))

    def next_change_s(self) -> float | None:
        return None if self.changes_at is None else (self.changes_at - self.clock.wall_ms()) / 1000

    def members(self, room: RoomId) -> frozenset[UserId] | None:
        return self.room_members.get(room)

    def is_own(self, user: UserId) -> bool:
        return user.startswith("@rtc_")

    async def claim(self, record: CallRecord, event_id: EventId, _now_ms: int) -> bool:
        keys = {("call", record.route, record.call_id, record.local), ("event", event_id)}
        if keys & self.claimed:
            return False
        self.claimed |= keys
        self.open[record.call_id] = record
        return True

    async def end(self, record: CallRecord, reason: str, _now_ms: int) -> None:
        self.open.pop(record.call_id, None)
        self.ended.setdefault(record.call_id, reason)

    async def open_calls(self) -> list[CallRecord]:
        return list(self.open.values())

    async def say_refused(self, _room: RoomId, _local: UserId, user: UserId, reason: str | None) -> None:
        self.told.append(user)
        self.told_why.append(reason)

    # What a test does

    async def invite(
        self, call_id: str = "c1", *, sender: UserId = ALICE, room: CallRoute = ROOM, **changes: object
    ) -> None:
        invite = replace(
            Invite(CallId(call_id), PartyId("theirs"), Version.V1, OFFER, 60_000),
            **{key: value for key, value in changes.items() if key not in ("event_id", "age_ms")},  # type: ignore[arg-type]
        )
        sent_at = self.clock.wall_ms() - int(changes.get("age_ms", 0))  # type: ignore[call-overload]
        event_id = EventId(str(changes.get("event_id", f"$invite-{call_id}")))
        await self.manager.receive(CallEvent(room, event_id, sender, sent_at, invite), PEER)

    async def message(self, message: CallMessage, sender: UserId = ALICE) -> None:
        event = CallEvent(ROOM, EventId(f"${id(message)}"), sender, self.clock.wall_ms(), message)
        await self.manager.receive(event, PEER)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until something is so; far more turns than anything here needs."""
        for _ in range(500):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"not so in 500 turns; sent {self.sent}, ended {self.ended}")

    def refusals(self) -> list[str]:
        return [code for kind, code in self.counters.counted if kind == "refusal"]


@contextlib.asynccontextmanager
async def running(bridge: Bridge) -> AsyncIterator[Bridge]:
    task = asyncio.create_task(bridge.manager.run())
    await asyncio.sleep(0)
    yield bridge
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(peer.closed for peer in bridge.peers), "no peer connection outlives its session"


def connected(bridge: Bridge) -> Callable[[], bool]:
    return lambda: bool(bridge.manager.live.sessions) and bridge.manager.live.sessions[-1].connected_at is not None
