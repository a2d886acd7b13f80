"""Two transfer machines with model disks behind them, and a line between them that can be cut anywhere."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.acceptor import AcceptedTransfer, opened_transfer
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, Get, Job, Put
from mxrtc_bridge.core.files.read_ahead import AHEAD_BYTES, HEAD_BYTES
from mxrtc_bridge.core.files.receiver import ReceiverMachine
from mxrtc_bridge.core.files.sender import SenderMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import json_message

Machine = SenderMachine | ReceiverMachine | AcceptedTransfer
Operation = tx.Effect
KIB = 1024


def content(seed: object, size: int) -> bytes:
    """Bytes that no other file has."""
    return random.Random(repr(seed)).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class SourceDisk:
    """What the source has; files may change at any time, and their version with them."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.directories: list[str] = []
        self.skipped: list[tx.Failure] = []

    def put(self, path: str, data: bytes) -> None:
        revision = int(self.files[path][1].partition("-")[0]) + 1 if path in self.files else 0
        self.files[path] = data, f"{revision}-{len(data)}"

    def entries(self) -> Iterator[FileEntry]:
        for path in self.directories:
            yield FileEntry(path, EntryKind.DIRECTORY, modified_ms=1)
        for path, (data, version) in list(self.files.items()):
            yield FileEntry(path, EntryKind.FILE, len(data), 2, version)


class ReceiverDisk:
    """What the receiver has, with the promises of a real one: names appear only for what is whole."""

    def __init__(self) -> None:
        self.published: dict[str, bytes] = {}
        self.publications = 0
        self.directories: set[str] = set()
        self.records: dict[tuple[str, str], str] = {}
        self.partial: dict[tuple[str, str], bytes] = {}
        self.refuse: Callable[[FileEntry], tx.ReceiveRefused | None] = lambda _entry: None
        self.room: int | None = None
        self.resumed = 0

    def judge(self, entry: FileEntry) -> tx.Verdict:
        if (refusal := self.refuse(entry)) is not None:
            return refusal
        if entry.kind is EntryKind.DIRECTORY:
            self.directories.add(entry.path)
            return tx.Held(entry.path)
        identity = (entry.path, entry.version)
        if identity in self.records:
            name = self.records[identity]
            return tx.Held(name, sha256(self.published[name]))
        verified = len(self.partial.get(identity, b""))
        self.resumed += verified
        return tx.FileWanted(verified)

    def publish(self, entry: FileEntry, data: bytes) -> str:
        name, number = entry.path, 1
        while name in self.published:
            number += 1
            name = f"{entry.path} ({number})"
        self.published[name] = data
        self.publications += 1
        self.records[entry.path, entry.version] = name
        self.partial.pop((entry.path, entry.version), None)
        return name


class SourceDriver:
    """Carries out what a source machine asks for."""

    def __init__(self, disk: SourceDisk) -> None:
        self.disk = disk
        self.listing = disk.entries()
        self.skipped = iter(disk.skipped)
        self.positions: dict[int, tuple[FileEntry, int]] = {}
        self.closed_twice = False

    def work(self, operation: Operation) -> tx.Event | None:
        match operation:
            case tx.ListNext(limit=limit):
                entries = tuple(islice(self.listing, limit))
                if len(entries) == limit:
                    return tx.EntriesListed(entries, end=False)
                return tx.EntriesListed(entries, end=True, skipped=tuple(self.skipped))
            case tx.OpenFile(index=index, entry=entry, offset=offset, size=size):
                assert index not in self.positions
                self.positions[index] = entry, offset
                return self._read(index, size)
            case tx.ReadFile(index=index, size=size):
                assert size > 0
                return self._read(index, size)
            case tx.CloseFile(index=index):
                self.positions.pop(index, None)  # It may not have been opened yet.
                return None
        raise AssertionError(operation)

    def _read(self, index: int, size: int) -> tx.Event:
        entry, offset = self.positions[index]
        data, version = self.disk.files.get(entry.path, (b"", ""))
        if version != entry.version:
            del self.positions[index]
            return tx.FileFailed(index, FileCode.CHANGED if version else FileCode.GONE, "it is another one now")
        piece = data[offset : offset + size]
        end = offset + len(piece)
        if end == len(data):
            del self.positions[index]
            return tx.FileRead(index, piece, sha256(data))
        self.positions[index] = entry, end
        chunk = data[end - CHUNK_BYTES : end] if piece and end % CHUNK_BYTES == 0 else None
        return tx.FileRead(index, piece, chunk_sha256=sha256(chunk) if chunk is not None else "")


class ReceiverDriver:
    """Carries out what a receiver machine asks for."""

    def __init__(self, disk: ReceiverDisk) -> None:
        self.disk = disk
        self.entries: dict[int, FileEntry] = {}
        self.data: dict[int, bytearray] = {}

    def work(self, operation: Operation) -> tx.Event | None:
        match operation:
            case tx.CheckEntry(index=index, entry=entry):
                assert index not in self.entries
                self.entries[index] = entry
                verdict = self.disk.judge(entry)
                if isinstance(verdict, tx.FileWanted):
                    self.data[index] = bytearray(self.disk.partial.get((entry.path, entry.version), b""))
                return tx.EntryChecked(index, verdict)
            case tx.WriteData(index=index, offset=offset, data=data):
                held = self.data[index]
                assert offset == len(held), "a gap, or bytes twice"
                if self.disk.room is not None:
                    if len(data) > self.disk.room:
                        return tx.FileFailed(index, FileCode.SPACE, "the disk is full")
                    self.disk.room -= len(data)
                held += data
                return tx.DataWritten(index, len(data))
            case tx.VerifyChunk(index=index, number=number, sha256=digest):
                held, entry = self.data[index], self.entries[index]
                end = (number + 1) * CHUNK_BYTES
                if sha256(held[end - CHUNK_BYTES : end]) != digest:
                    return tx.FileFailed(index, FileCode.INTEGRITY, "a chunk is not what was sent")
                self.disk.partial[entry.path, entry.version] = bytes(held[:end])
                return None
            case tx.PublishFile(index=index, sha256=digest):
                held, entry = bytes(self.data.pop(index)), self.entries[index]
                assert len(held) == entry.size
                if sha256(held) != digest:
                    self.disk.partial.pop((entry.path, entry.version), None)
                    return tx.FileFailed(index, FileCode.INTEGRITY, "the file is not what was sent")
                return tx.FilePublished(index, self.disk.publish(entry, held))
            case tx.CloseFile():
                return None
        raise AssertionError(operation)


@dataclass
class End:
    """One side: machine, driver, what it has to do and what it has put on the line."""

    machine: Machine
    source: SourceDisk
    receiver: ReceiverDisk
    driver: SourceDriver | ReceiverDriver | None = None
    refusal: tx.ServiceRefused | None = None
    line: deque[str | bytes | None] = field(default_factory=deque)
    operations: dict[int, deque[Operation]] = field(default_factory=dict)
    effects: list[tx.Effect] = field(default_factory=list)
    finished: tx.TransferFinished | None = None
    ready: bool = False
    channel_closed: bool = False
    arrived: int = 0
    consumed: int = 0

    def feed(self, now: float, event: tx.Event) -> None:
        if isinstance(event, stream.BinaryReceived):
            self.arrived += len(event.data)
        elif isinstance(event, stream.TextReceived):
            self.arrived += len(event.text.encode())
        self.machine.handle(now, event)
        while (effect := self.machine.poll_effect()) is not None:
            assert self.finished is None or isinstance(effect, stream.Consumed), "something came after the end"
            self.perform(now, effect)
        self.check_bounds()

    def perform(self, now: float, effect: tx.Effect) -> None:
        if not isinstance(effect, (stream.Consumed, stream.SendBinary, tx.WriteData)):
            self.effects.append(effect)
        match effect:
            case stream.SendText(text=text):
                assert not self.channel_closed
                assert len(text.encode()) <= json_message.MAX_CONTROL_BYTES
                self.line.append(text)
            case stream.SendBinary(data=data):
                assert not self.channel_closed
                assert 0 < len(data) <= 16 * KIB
                self.line.append(data)
            case stream.CloseChannel():
                self.line.append(None)
                self.channel_closed = True
            case stream.ReadyToSend(pending=pending):
                assert pending > 0
                self.ready = True
            case stream.Consumed(size=size):
                assert size > 0
                self.consumed += size
            case tx.JobReceived():
                # The answer is an operation of its own: it takes its time like the others.
                self.operations.setdefault(-1, deque()).append(effect)
            case tx.TransferFinished():
                self.finished = effect
                self.operations.clear()
            case tx.CloseFile(index=index):
                self.operations.pop(index, None)
                if isinstance(self.driver, SourceDriver):
                    self.driver.work(effect)
            case stream.Accepted() | tx.EntryDone() | tx.EntryFailed() | tx.EntrySkipped():
                pass
            case tx.ListNext():
                self.operations.setdefault(-1, deque()).append(effect)
            case _:
                self.operations.setdefault(effect.index, deque()).append(effect)

    def work(self, now: float, index: int) -> None:
        """Carry out the next operation for one file and report it."""
        queue = self.operations[index]
        operation = queue.popleft()
        if not queue:
            del self.operations[index]
        if isinstance(operation, tx.JobReceived):
            self.feed(now, self.refusal or tx.ServiceReady())
            return
        if self.driver is None:
            source = isinstance(self.end_machine, SenderMachine)
            self.driver = SourceDriver(self.source) if source else ReceiverDriver(self.receiver)
        outcome = self.driver.work(operation)
        if isinstance(outcome, tx.FileFailed):
            self.operations.pop(index, None)
        if outcome is not None:
            self.feed(now, outcome)

    @property
    def end_machine(self) -> SenderMachine | ReceiverMachine | None:
        return self.machine.machine if isinstance(self.machine, AcceptedTransfer) else self.machine

    def check_bounds(self) -> None:
        match self.end_machine:
            case SenderMachine() as source:
                assert source.open_entries <= file_messages.MAX_OPEN_ENTRIES
                assert source.buffered <= HEAD_BYTES + AHEAD_BYTES
            case ReceiverMachine() as receiver:
                assert receiver.open_entries <= file_messages.MAX_OPEN_ENTRIES
                assert receiver.open_wants <= file_messages.MAX_OPEN_WANTS
                assert receiver.unwritten <= 256 * KIB


class World:
    """A job, from the opening of its channel to its end or to a cut."""

    def __init__(self, job: Job, source: SourceDisk, receiver: ReceiverDisk, *, window: int = 64 * KIB) -> None:
        self.now = 1000.0
        self.opener = End(opened_transfer(job, window=window), source, receiver)
        self.acceptor = End(AcceptedTransfer(window=window), source, receiver)
        self.messages: list[tuple[str, str | bytes | None]] = []
        self.opener.feed(self.now, stream.DataChannelOpened())
        self.acceptor.feed(self.now, stream.DataChannelOpened())

    @property
    def ends(self) -> tuple[End, End]:
        return self.opener, self.acceptor

    def actions(self) -> list[Callable[[], None]]:
        """Everything that could happen next."""
        found: list[Callable[[], None]] = []
        for sender, hearer, name in ((self.opener, self.acceptor, "opener"), (self.acceptor, self.opener, "acceptor")):
            if sender.line:
                found.append(lambda s=sender, h=hearer, n=name: self.deliver(s, h, n))  # type: ignore[misc]
            if sender.ready:
                found.append(lambda s=sender: self.turn(s))  # type: ignore[misc]
            found.extend(lambda s=sender, i=index: s.work(self.now, i) for index in list(sender.operations))  # type: ignore[misc]
        return found

    def deliver(self, sender: End, hearer: End, name: str) -> None:
        message = sender.line.popleft()
        self.messages.append((name, message))
        match message:
            case str():
                hearer.feed(self.now, stream.TextReceived(message))
            case bytes():
                hearer.feed(self.now, stream.BinaryReceived(message))
            case None:
                hearer.feed(self.now, stream.DataChannelClosed())

    def turn(self, end: End, limit: int = 16 * KIB) -> None:
        end.ready = False
        end.feed(self.now, stream.Turn(limit))

    def run(self, *, stop_before: int | None = None, chooser: random.Random | None = None) -> None:
        """Let everything happen, in a fair order or any, until nothing more happens or a message is about to come."""
        turn_of = 0
        while actions := self.actions():
            if stop_before is not None and len(self.messages) >= stop_before:
                return
            if chooser is not None:
                chooser.choice(actions)()
            else:
                turn_of += 1
                actions[turn_of % len(actions)]()

    def cut(self) -> None:
        """The link is gone: what is under way is lost, and both sides learn of it."""
        for end in self.ends:
            end.line.clear()
            if end.finished is None:
                end.feed(self.now, stream.DataChannelClosed())

    def outcomes(self) -> tuple[tx.TransferOutcome | None, tx.TransferOutcome | None]:
        return tuple(end.finished.outcome if end.finished else None for end in self.ends)  # type: ignore[return-value]

    def check_accounts(self) -> None:
        """Everything that came was given back to the transport."""
        for end in self.ends:
            assert end.finished is not None
            assert end.consumed == end.arrived


PUT = Put()
GET = Get(("*",))


def transfer(source: SourceDisk, receiver: ReceiverDisk, job: Job = PUT, **kwargs: int) -> World:
    """Do a job to its end."""
    world = World(job, source, receiver, **kwargs)
    world.run()
    world.check_accounts()
    return world


def check_disks(source: SourceDisk, receiver: ReceiverDisk) -> None:
    """The receiver has exactly what the source has, once."""
    assert receiver.published == {path: data for path, (data, _) in source.files.items()}
    assert receiver.publications == len(source.files)
    assert receiver.directories == set(source.directories)
