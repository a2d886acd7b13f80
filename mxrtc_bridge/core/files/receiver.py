"""The end of a transfer that wants the files.

Everything that affects its transitions is in this file and in its frame, :mod:`mxrtc_bridge.core.files.machine`;
docs/reference/file-protocol.md is the specification.

What it guards against:
 - bytes that nobody asked for, more of them than were announced, or at another place: each is a violation;
 - files that the opener has not asked for: they are refused before any of their bytes;
 - memory without bounds: entries, wants and payload are counted before they are kept;
 - a file that is taken for whole and is not: ``got`` follows the publication, and that the digest of the whole file;
 - one bad file that spoils the others: it is refused, and the rest of the job goes on.

How it works: each entry has a state, from the announcement until both sides have said their last word about it. The
driver judges entries in any order; what it wants is asked for at once, up to 256 files at a time, and the files that
were asked for form a line. Payload belongs to the first of it; an answer of the source takes it from there. A file
that we have given up keeps its place in the line until the source has noticed.

One file: everything that affects the transitions of one machine.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.machine import (
    ALWAYS,
    OPENING_MESSAGES,
    Messages,
    TransferMachine,
    TransferPhase,
)
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, Get, Job, Ls, Put
from mxrtc_bridge.core.files.patterns import Asked
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamRole
from mxrtc_bridge.core.stream.halves import ReceiveHalf, checked_window, text_size
from mxrtc_bridge.core.stream.json_message import MAX_COUNT

MAX_ENTRIES = 1_000_000
"""Entries of one job that are received, unless the driver says otherwise."""
GATHER_BYTES = 512 * messages.KIB
"""Payload that is kept back so that the disk is given much at a time: each call of it costs as much as many
messages."""
SEEN_EVERY = file_messages.MAX_OPEN_ENTRIES // 4
"""Entries of a listing that are taken before the source is told."""

_ENTRIES = frozenset({file_messages.Announce, file_messages.AnnouncedAll, file_messages.Skipped, file_messages.FileBye})
_CONTENT = frozenset({file_messages.ChunkEnd, file_messages.FileEnd, file_messages.No})


def _messages(job: Job) -> Messages:
    return {
        **OPENING_MESSAGES,
        TransferPhase.PREPARING: frozenset({file_messages.FileRst}),
        TransferPhase.FLOWING: _ENTRIES | ALWAYS | (frozenset() if isinstance(job, Ls) else _CONTENT),
    }


class ItemState(Enum):
    """Where an entry is."""

    CHECKING = "checking"
    """Our side judges it."""
    WAITING = "waiting"
    """It is wanted, but 256 others are, too."""
    WANTED = "wanted"
    """The source was asked for it."""
    PUBLISHING = "publishing"
    """All of it came."""
    CLOSED = "closed"
    """We have said our last word, ``got`` or ``no``."""


@dataclass(slots=True, eq=False)
class _Item:
    index: int
    entry: FileEntry
    state: ItemState = ItemState.CHECKING
    offset: int = 0
    """From where it is received."""
    position: int = 0
    """Up to where it has come."""
    verified: int = 0
    """The end of the last chunk whose digest came."""
    gathered: list[bytes] = field(default_factory=list)
    """Payload that the driver was not given yet."""
    gathered_bytes: int = 0
    given: int = 0
    """Payload bytes that the driver was given, or will be."""
    written: int = 0
    sha256: str = ""
    grown_to: int = 0
    in_line: bool = False
    """The source was asked for it and has not answered."""
    taken: bool = False
    """Of a listing: it was shown."""

    @property
    def chunk_is_due(self) -> bool:
        """Whether a chunk is complete whose digest must come next."""
        return self.position % CHUNK_BYTES == 0 and self.verified < self.position < self.entry.size


class ReceiverMachine(TransferMachine):
    """Takes files.

    Args:
        role: the opener of a ``get`` or ``ls``, or the acceptor of a ``put``.
        job: what the opener wants.
        window: the credit that we offer, in bytes, 16 KiB to 16 MiB.
        max_entries: further ones are refused; in a listing they end it.

    Raises:
        StateError: the role does not fit the job, or the job cannot be sent, or ``window`` is out of range.
    """

    def __init__(
        self, role: StreamRole, job: Job, *, window: int = messages.DEFAULT_WINDOW, max_entries: int = MAX_ENTRIES
    ) -> None:
        if (role is StreamRole.OPENER) is isinstance(job, Put):
            raise StateError(f"the {role.value} of {job} is not the receiver")
        super().__init__(role, job, _messages(job))
        self._half = ReceiveHalf(checked_window(window))
        self._max_entries = max_entries
        self._asked = Asked(job.patterns) if isinstance(job, Get) else None
        self._items: dict[int, _Item] = {}
        """Open entries: we have not said our last word."""
        self._line: deque[_Item] = deque()
        """What the source was asked for and has not answered, in this order."""
        self._waiting: deque[_Item] = deque()
        self._path_bytes = 0
        self.open_wants = 0
        self._gathered = 0
        """Payload of all files that the driver was not given yet."""
        self._working = 0
        """Entries that are checked or published by our side."""
        self._announced = 0
        self._told_seen = 0
        self._told_skipped = 0
        self._seen = 0

    @property
    def open_entries(self) -> int:
        return len(self._items)

    @property
    def unwritten(self) -> int:
        """Payload bytes that came and were not reported as written yet."""
        return self._half.received - self._half.written

    def set_window(self, window: int) -> None:
        """Offer ``window`` bytes from the next acknowledgement on; credit that was given is never taken back.

        Raises:
            StateError: ``window`` is out of range.
        """
        self._half.window = checked_window(window)

    def _greet(self) -> None:
        self._half.promise()
        self._say(file_messages.FileAck(0, self._half.window))

    def _offered_window(self) -> int:
        self._half.promise()
        return self._half.window

    def _begin(self, window: int) -> None:
        """The source announces by itself."""

    def _is_working(self) -> bool:
        return self._working > 0 or self._half.given - self._gathered > self._half.written

    def _lacks_nothing(self) -> bool:
        return self._progress.listed and not self._items and not self._line

    def _release(self) -> None:
        for item in self._items.values():
            if item.state is not ItemState.CHECKING and item.entry.kind is EntryKind.FILE:
                self._emit(tx.CloseFile(item.index))
        self._items.clear()
        self._gathered = 0
        self._line.clear()
        self._waiting.clear()
        self._report_consumed(self._half.received)

    # What our own side reports

    def _handle_work(self, event: tx.Event) -> None:
        match event:
            case tx.EntryChecked(index=index, verdict=verdict):
                if (item := self._find(index)) is not None:
                    self._checked(item, verdict)
            case tx.DataWritten(index=index, size=size):
                if (item := self._find(index)) is not None:
                    self._written(item, size)
            case tx.FilePublished(index=index, name=name):
                if (item := self._find(index)) is not None:
                    self._published(item, name)
            case tx.FileFailed(index=index, code=code, message=message):
                if (item := self._find(index)) is not None:
                    self._fail(item, code, message)
            case stream.Turn():
                pass  # A receiver has nothing to send that must wait for one.
            case _:
                raise StateError(f"{type(event).__name__} is no event for a receiver")

    def _find(self, index: int) -> _Item | None:
        """Return an open entry, or None if we have said our last word about it."""
        if not 0 <= index < self._announced:
            raise StateError(f"entry {index} does not exist")
        return self._items.get(index)

    def _checked(self, item: _Item, verdict: tx.Verdict) -> None:
        _check_verdict(item, verdict, listing=isinstance(self.job, Ls))
        match verdict:
            case tx.FileWanted(offset=offset):
                self._working -= 1
                item.offset = item.position = item.verified = offset
                item.state = ItemState.WAITING
                self._progress.resume(offset)
                self._waiting.append(item)
                self._ask_for_files()
            case tx.Held(name=name, sha256=sha256):
                self._close(item)
                self._succeed(item, name, sha256, kept=item.entry.kind is EntryKind.FILE)
            case tx.ReceiveRefused(code=code, message=message):
                self._fail(item, code, message)
            case tx.Listed():
                item.taken = True
                self._move_seen()

    def _written(self, item: _Item, size: int) -> None:
        outstanding = item.given - item.gathered_bytes - item.written
        if not 0 < size <= outstanding:
            raise StateError(f"DataWritten({size}), but {outstanding} bytes of it are outstanding")
        item.written += size
        self._count_written(size)

    def _published(self, item: _Item, name: str) -> None:
        if item.state is not ItemState.PUBLISHING or item.given > item.written:
            raise StateError(f"entry {item.index} is {item.state.value} and cannot be published")
        self._close(item)
        self._succeed(item, name, item.sha256, kept=False)

    def _succeed(self, item: _Item, name: str, sha256: str, *, kept: bool) -> None:
        # A name that cannot be said (only a driver that keeps longer paths than the wire has could have one) must
        # not undo what is safe on the disk.
        said = name if file_messages.path_refusal(name) is None else item.entry.path
        self._say(file_messages.Got(item.index, said, sha256))
        self._progress.done(item.entry, kept=kept)
        self._emit(tx.EntryDone(item.index, item.entry, name, sha256, kept, item.grown_to))
        self._ask_for_files()

    def _fail(self, item: _Item, code: FileCode, message: str, *, here: bool = True) -> None:
        """Say our last word: no. What is outstanding of the file is dropped, and counts as written."""
        outstanding = item.given - item.written
        failure = tx.Failure(item.entry.path, code, message, here=here)
        self._progress.fail(failure, moved=item.position, kept=item.offset)
        self._close(item)
        self._say(file_messages.No(item.index, code, message))
        self._emit(tx.EntryFailed(item.index, item.entry, code, message, here))
        if outstanding:
            item.written = item.given
            self._count_written(outstanding)
        self._ask_for_files()

    def _close(self, item: _Item) -> None:
        del self._items[item.index]
        self._gathered -= item.gathered_bytes
        item.gathered.clear()
        item.gathered_bytes = 0
        self._path_bytes -= text_size(item.entry.path)
        if item.state in {ItemState.CHECKING, ItemState.PUBLISHING}:
            self._working -= 1
        if item.state is ItemState.WAITING:
            self._waiting.remove(item)
        elif item.state is not ItemState.CHECKING and not item.in_line:
            self.open_wants -= 1
        item.state = ItemState.CLOSED

    def _ask_for_files(self) -> None:
        while self._waiting and self.open_wants < file_messages.MAX_OPEN_WANTS:
            item = self._waiting.popleft()
            item.state = ItemState.WANTED
            item.in_line = True
            self.open_wants += 1
            self._line.append(item)
            self._say(file_messages.Want(item.index, item.offset))
        self._name_current()

    def _name_current(self) -> None:
        self._progress.current = self._line[0].entry.path if self._line else ""

    def _move_seen(self) -> None:
        while (item := self._items.get(self._seen)) is not None and item.taken:
            self._close(item)
            self._progress.done(item.entry, kept=False)
            self._seen += 1
        if self._seen - self._told_seen >= SEEN_EVERY or (self._seen > self._told_seen and not self._items):
            self._told_seen = self._seen
            self._say(file_messages.Seen(self._seen - 1))

    # What the source says

    def _message_received(self, message: file_messages.Message) -> None:
        match message:
            case file_messages.Announce(index=index, entry=entry):
                self._entry_announced(index, entry)
            case file_messages.Skipped(path=path, code=code, message=reason):
                self._source_skipped(tx.Failure(path, code, reason))
            case file_messages.AnnouncedAll():
                self._all_announced(message)
            case file_messages.ChunkEnd():
                self._chunk_ended(message)
            case file_messages.FileEnd():
                self._file_ended(message)
            case file_messages.No(index=index, code=code, message=reason):
                self._source_refused(index, code, reason)
            case file_messages.FileBye():
                if not self._lacks_nothing():
                    raise WireError("out_of_turn", "bye came before everything was answered")
                self._say(file_messages.FileBye())
                self._end_in_order(stream.CloseChannel())

    def _entry_announced(self, index: int, entry: FileEntry) -> None:
        if self._progress.listed or index != self._announced:
            raise WireError("bad_index", f"entry {index} was announced after {self._announced} entries")
        if self._progress.size + entry.size > MAX_COUNT:
            raise WireError("bad_field", f"the sizes add up to more than {MAX_COUNT} bytes")
        path_bytes = self._path_bytes + text_size(entry.path)
        if len(self._items) >= file_messages.MAX_OPEN_ENTRIES or (
            self._items and path_bytes > file_messages.MAX_OPEN_PATH_BYTES
        ):
            raise WireError("too_many", f"{len(self._items)} entries with {self._path_bytes} bytes of paths are open")
        self._announced += 1
        self._progress.announce(entry)
        item = self._items[index] = _Item(index, entry)
        self._path_bytes = path_bytes
        self._working += 1
        if self._asked is not None and not self._asked.means(entry.path):
            # A source that names something else would choose what appears on our disk.
            self._fail(item, FileCode.NAME, "this was not asked for")
        elif index < self._max_entries:
            self._emit(tx.CheckEntry(index, entry))
        elif isinstance(self.job, Ls):
            message = f"there are more than {self._max_entries} entries"
            self._break(TransferOutcome.INTERRUPTED, FileCode.LIMIT.value, message, FileCode.LIMIT)
        else:
            self._fail(item, FileCode.LIMIT, f"a job may have {self._max_entries} entries")

    def _all_announced(self, message: file_messages.AnnouncedAll) -> None:
        if self._progress.listed:
            raise WireError("out_of_turn", "fend came twice")
        if (message.count, message.size) != (self._announced, self._progress.size):
            raise WireError("bad_field", f"fend counts {message.count} entries; {self._announced} came")
        self._progress.listed = True
        # Of the others we know nothing but their number.
        self._progress.untold = max(message.skipped - self._told_skipped, 0)
        self._progress.failed += self._progress.untold
        self._progress.hidden = message.hidden

    def _source_skipped(self, failure: tx.Failure) -> None:
        if self._progress.listed:
            raise WireError("out_of_turn", "something was skipped after the end of the entries")
        if self._told_skipped >= file_messages.MAX_TOLD_SKIPPED:
            return
        self._told_skipped += 1
        self._progress.fail(failure)
        self._emit(tx.EntrySkipped(failure))

    def _head(self, index: int) -> _Item:
        if not self._line or self._line[0].index != index:
            raise WireError("bad_index", f"entry {index} is not what must come now")
        return self._line[0]

    def _binary_received(self, data: bytes) -> None:
        half, size = self._half, len(data)
        self._received += size
        half.received += size
        if size > messages.MAX_PAYLOAD_BYTES:
            raise WireError("too_long", f"payload of {size} bytes; the limit is {messages.MAX_PAYLOAD_BYTES}")
        if self.phase is not TransferPhase.FLOWING or not self._line:
            raise WireError("out_of_turn", "payload came that nobody asked for")
        if half.received > half.limit:
            raise WireError("over_credit", f"payload up to {half.received}; the credit ended at {half.limit}")
        item = self._line[0]
        if item.position + size > item.entry.size:
            raise WireError("bad_size", f"entry {item.index} has more than the announced {item.entry.size} bytes")
        if item.chunk_is_due or item.position % CHUNK_BYTES + size > CHUNK_BYTES:
            raise WireError("out_of_turn", f"payload of entry {item.index} goes beyond its chunk")
        item.position += size
        half.given += size
        if item.state is ItemState.CLOSED:
            self._count_written(size)
            return
        item.given += size
        self._progress.bytes_done += size
        self._gather(item, data)
        self._report_consumed(min(half.received, max(half.promised, half.written)))

    def _gather(self, item: _Item, data: bytes) -> None:
        """Keep ``data`` back until there is enough of it, or no more can come."""
        item.gathered.append(data)
        item.gathered_bytes += len(data)
        self._gathered += len(data)
        # A quarter of the open credit, so that what is kept back never keeps an acknowledgement back.
        enough = min(GATHER_BYTES, (self._half.limit - self._half.acked) // 4)
        if item.gathered_bytes < enough and item.position % CHUNK_BYTES and item.position < item.entry.size:
            return
        offset, together = item.position - item.gathered_bytes, b"".join(item.gathered)
        self._gathered -= item.gathered_bytes
        item.gathered.clear()
        item.gathered_bytes = 0
        self._emit(tx.WriteData(item.index, offset, together))

    def _chunk_ended(self, message: file_messages.ChunkEnd) -> None:
        item = self._head(message.index)
        if not item.chunk_is_due or message.number != item.position // CHUNK_BYTES - 1:
            raise WireError("bad_offset", f"chunk {message.number} of entry {item.index} does not end here")
        item.verified = item.position
        if item.state is not ItemState.CLOSED:
            self._emit(tx.VerifyChunk(item.index, message.number, message.sha256))

    def _file_ended(self, message: file_messages.FileEnd) -> None:
        item = self._head(message.index)
        if message.size != item.entry.size or item.position != item.entry.size:
            raise WireError("bad_size", f"entry {item.index} ends at {item.position} of {item.entry.size} bytes")
        self._leave_line(item)
        if item.state is not ItemState.CLOSED:
            item.sha256, item.grown_to = message.sha256, message.grown_to
            item.state = ItemState.PUBLISHING
            self._working += 1
            self._emit(tx.PublishFile(item.index, message.sha256))
        self._ask_for_files()

    def _source_refused(self, index: int, code: FileCode, reason: str) -> None:
        item = self._head(index)
        self._leave_line(item)
        if item.state is not ItemState.CLOSED:
            self._emit(tx.CloseFile(index))
            self._fail(item, code, reason, here=False)
        self._ask_for_files()

    def _leave_line(self, item: _Item) -> None:
        self._line.popleft()
        item.in_line = False
        if item.state is ItemState.CLOSED:
            self.open_wants -= 1

    # The credit

    def _count_written(self, size: int) -> None:
        half = self._half
        half.written += size
        if half.ack_due:
            half.promise()
            self._say(file_messages.FileAck(half.acked, half.window))
        self._report_consumed(min(half.received, max(half.promised, half.written)))

    def _report_consumed(self, offset: int) -> None:
        if (size := offset - self._half.consumed) > 0:
            self._half.consumed = offset
            self._emit(stream.Consumed(size))


def _check_verdict(item: _Item, verdict: tx.Verdict, *, listing: bool) -> None:
    if item.state is not ItemState.CHECKING or item.taken:
        raise StateError(f"entry {item.index} was checked before")
    if listing is not isinstance(verdict, tx.Listed):
        raise StateError(f"{type(verdict).__name__} is no verdict about an entry of this job")
    if isinstance(verdict, tx.FileWanted):
        size, offset = item.entry.size, verdict.offset
        possible = 0 <= offset <= size and (offset % CHUNK_BYTES == 0 or offset == size)
        if item.entry.kind is not EntryKind.FILE or not possible:
            raise StateError(f"entry {item.index} of {size} bytes cannot be wanted from {offset}")
