"""The end of a transfer that has the files.

Everything that affects its transitions is in this file and in its frame, :mod:`mxrtc_bridge.core.files.machine`;
docs/reference/file-protocol.md is the specification.

What it guards against:
 - a receiver that reads what it was not offered: only open entries can be wanted, each once, from a possible offset;
 - memory without bounds: entries wait in the listing while 1024 are open; files are read ahead within two budgets;
 - a receiver that never answers: the transfer ends after a silence.

How it works: a pump with two stages. The listing is asked for more entries whenever few wait to be announced; wanted
files are read ahead in the order of asking. What is ready to be sent waits for turns, entries before payload: the
receiver can only ask for what it knows. The answers to wants (``end``, ``no``) follow the last payload at once.

One file: everything that affects the transitions of one machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from mxrtc_bridge.core.errors import StateError, WireError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.machine import (
    ALWAYS,
    BYE_TIMEOUT_S,
    OPENING_MESSAGES,
    Messages,
    TransferMachine,
    TransferPhase,
)
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, Get, Job, Ls, Put
from mxrtc_bridge.core.files.read_ahead import WantedFile, Wants
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamRole
from mxrtc_bridge.core.stream.halves import text_size
from mxrtc_bridge.core.stream.json_message import MAX_COUNT

LIST_ENTRIES = 128
"""How many entries are asked from the listing at a time; half as many wait before it is asked again."""

_ANSWERS: Mapping[type[Job], frozenset[type[file_messages.Message]]] = {
    Put: frozenset({file_messages.Want, file_messages.No, file_messages.Got, file_messages.FileAck}),
    Get: frozenset({file_messages.Want, file_messages.No, file_messages.Got, file_messages.FileAck}),
    Ls: frozenset({file_messages.Seen, file_messages.FileAck}),
}


def _messages(job: Job) -> Messages:
    return {
        **OPENING_MESSAGES,
        # A receiver that is the opener offers its window without waiting.
        TransferPhase.PREPARING: frozenset({file_messages.FileAck, file_messages.FileRst}),
        TransferPhase.FLOWING: _ANSWERS[type(job)] | ALWAYS,
        TransferPhase.LEAVING: frozenset({file_messages.FileAck, file_messages.FileBye}) | ALWAYS,
    }


class Listing(Enum):
    """What is known of the entries."""

    RESTING = "resting"
    ASKED = "asked"
    ENDED = "ended"
    """All are known."""
    ANNOUNCED = "announced"
    """The receiver knows that, too."""


@dataclass(slots=True)
class _Offer:
    """An open entry."""

    entry: FileEntry
    want: WantedFile | None = None


class SenderMachine(TransferMachine):
    """Gives files.

    Args:
        role: the opener of a ``put``, or the acceptor of a ``get`` or ``ls``.
        job: what the opener wants.

    Raises:
        StateError: the role does not fit the job.
    """

    def __init__(self, role: StreamRole, job: Job) -> None:
        if (role is StreamRole.OPENER) is not isinstance(job, Put):
            raise StateError(f"the {role.value} of {job} is not the source")
        super().__init__(role, job, _messages(job))
        self._listing = Listing.RESTING
        self._waiting: deque[tuple[FileEntry | None, str]] = deque()
        """Entries that are not announced yet, and the messages that will announce them; None: of what is skipped."""
        self._waiting_bytes = 0
        self._listed = 0
        """Entries that have got an index."""
        self._announced = 0
        """Entries that the receiver knows."""
        self._seen = 0
        self._skipped = 0
        self._hidden = 0
        self._offers: dict[int, _Offer] = {}
        self._path_bytes = 0
        self._wants = Wants()
        self._acked = 0
        self._limit = messages.INITIAL_CREDIT
        self._ready_for = 0
        """What the last Ready said, or 0 when no turn is due."""

    @property
    def open_entries(self) -> int:
        return len(self._offers)

    @property
    def buffered(self) -> int:
        """Bytes that are read and not sent."""
        return self._wants.buffered

    def _begin(self, window: int) -> None:
        self._limit = max(self._limit, window)
        self._advance()

    def _greet(self) -> None:
        """A source says nothing before it may announce."""

    def _offered_window(self) -> int:
        return 0

    def _is_working(self) -> bool:
        return self._listing is Listing.ASKED or self._wants.reading > 0

    def _lacks_nothing(self) -> bool:
        return self._listing is Listing.ANNOUNCED and not self._offers and not len(self._wants)

    def _release(self) -> None:
        for index in self._wants.still_open():
            self._emit(tx.CloseFile(index))
        self._wants = Wants()
        self._offers.clear()
        self._waiting.clear()
        self._waiting_bytes = 0

    def _binary_received(self, data: bytes) -> None:
        self._received += len(data)
        self._emit(stream.Consumed(len(data)))
        raise WireError("out_of_turn", "a receiver sends no payload")

    # What our own side reports

    def _handle_work(self, event: tx.Event) -> None:
        match event:
            case stream.Turn(limit=limit):
                self._ready_for = 0
                if self.phase is TransferPhase.FLOWING:
                    self._send_entries_and_payload(limit)
            case tx.EntriesListed():
                self._take_entries(event)
            case tx.ListFailed(code=code, message=message):
                self._check_listing(event)
                self._break(TransferOutcome.INTERRUPTED, code.value, message, code)
                return
            case tx.FileRead(index=index):
                if (want := self._reading_file(index)) is not None:
                    self._wants.add_data(want, event)
            case tx.FileFailed(index=index, code=code, message=message):
                if (want := self._reading_file(index)) is not None:
                    self._wants.fail(want, code, message)
            case _:
                raise StateError(f"{type(event).__name__} is no event for a source")
        self._advance()

    def _check_listing(self, event: tx.Event) -> None:
        if self._listing is not Listing.ASKED:
            raise StateError(f"{type(event).__name__} came, but no entries were asked for")

    def _take_entries(self, event: tx.EntriesListed) -> None:
        self._check_listing(event)
        if len(event.entries) > LIST_ENTRIES or len(event.skipped) > LIST_ENTRIES:
            raise StateError(f"at most {LIST_ENTRIES} entries were asked for")
        self._listing = Listing.ENDED if event.end else Listing.RESTING
        self._hidden += event.hidden
        for failure in event.skipped:
            self._skip(failure)
        for entry in event.entries:
            self._take_entry(entry)

    def _take_entry(self, entry: FileEntry) -> None:
        if self._progress.size + entry.size > MAX_COUNT:
            self._skip(tx.Failure(entry.path, FileCode.LIMIT, "all files together are larger than can be said"))
            return
        try:
            text = file_messages.encode(file_messages.Announce(self._listed, entry))
        except WireError as error:
            self._skip(tx.Failure(entry.path, FileCode.NAME, str(error)))
            return
        self._listed += 1
        self._progress.announce(entry)
        self._waiting.append((entry, text))
        self._waiting_bytes += text_size(text)

    def _skip(self, failure: tx.Failure) -> None:
        self._skipped += 1
        failure = replace(failure, here=True)
        self._progress.fail(failure)
        self._emit(tx.EntrySkipped(failure))
        # Whoever asked for something learns why it is not there; whom we give something to has no use for it.
        if isinstance(self.job, Put) or self._skipped > file_messages.MAX_TOLD_SKIPPED:
            return
        text = file_messages.encode(file_messages.Skipped(failure.path or ".", failure.code, failure.message))
        self._waiting.append((None, text))
        self._waiting_bytes += text_size(text)

    def _reading_file(self, index: int) -> WantedFile | None:
        """Return the file that an outcome is for, or None if nobody is interested any more."""
        want = self._wants.find(index)
        if want is None:
            if not 0 <= index < self._announced:
                raise StateError(f"entry {index} does not exist")
            return None
        if want.failure is not None:
            return None
        if want.reading is None:
            raise StateError(f"nothing was to be read for entry {index}")
        return want

    # What the receiver says

    def _message_received(self, message: file_messages.Message) -> None:
        match message:
            case file_messages.FileAck(offset=offset, window=window):
                self._acknowledged(offset, window)
            case file_messages.Want(index=index, offset=offset):
                self._wanted(index, offset)
            case file_messages.Got(index=index, name=name, sha256=sha256):
                self._got(index, name, sha256)
            case file_messages.No(index=index, code=code, message=reason):
                self._refused(index, code, reason)
            case file_messages.Seen(index=index):
                self._seen_up_to(index)
            case file_messages.FileBye():
                self._end_in_order(stream.CloseChannel())
                return
        if self.phase is TransferPhase.FLOWING:
            self._advance()

    def _acknowledged(self, offset: int, window: int) -> None:
        if not self._acked <= offset <= self._sent:
            raise WireError("bad_offset", f"ack of {offset}; {self._acked} to {self._sent} was possible")
        self._acked = offset
        self._limit = max(self._limit, offset + window)

    def _wanted(self, index: int, offset: int) -> None:
        offer = self._offer(index)
        entry = offer.entry
        if entry.kind is not EntryKind.FILE:
            raise WireError("bad_index", f"entry {index} is a directory and has no content")
        if offer.want is not None:
            raise WireError("bad_index", f"entry {index} was wanted before")
        if offset > entry.size or (offset % CHUNK_BYTES and offset != entry.size):
            raise WireError("bad_offset", f"entry {index} of {entry.size} bytes was wanted from {offset}")
        if self._wants.open >= file_messages.MAX_OPEN_WANTS:
            raise WireError("too_many", f"more than {file_messages.MAX_OPEN_WANTS} files were wanted at a time")
        offer.want = WantedFile(index, entry, offset, position=offset, asked=offset)
        self._wants.add(offer.want)
        self._progress.resume(offset)

    def _got(self, index: int, name: str, sha256: str) -> None:
        offer = self._offer(index)
        entry, want = offer.entry, offer.want
        if want is None:
            self._close_offer(index)
            self._progress.done(entry, kept=True)
            self._emit(tx.EntryDone(index, entry, name, sha256, kept=entry.kind is EntryKind.FILE))
            return
        if not want.answered or want.failure is not None:
            raise WireError("out_of_turn", f"entry {index} is not complete and cannot be there")
        self._close_offer(index)
        if sha256 not in {"", want.sha256}:
            self._failed(index, offer, FileCode.INTEGRITY, "the receiver has another content than was sent")
            return
        self._progress.done(entry, kept=False)
        self._emit(tx.EntryDone(index, entry, name, want.sha256, kept=False, grown_to=want.grown_to))

    def _refused(self, index: int, code: FileCode, reason: str) -> None:
        offer = self._offer(index)
        self._close_offer(index)
        want = offer.want
        ours = want is not None and want.failure is not None
        if want is not None and want.failure is not None:
            code, reason = want.failure  # The receiver repeats what we told it.
        self._failed(index, offer, code, reason, here=ours)
        if want is not None and not want.answered and want.failure is None:
            if want.is_open:
                self._emit(tx.CloseFile(index))
            self._wants.fail(want, FileCode.STOPPED, "the receiver does not want it any more")

    def _failed(self, index: int, offer: _Offer, code: FileCode, message: str, *, here: bool = False) -> None:
        want = offer.want
        moved, kept = (want.position, want.offset) if want is not None else (0, 0)
        failure = tx.Failure(offer.entry.path, code, message, here=here)
        self._progress.fail(failure, moved=moved, kept=kept)
        self._emit(tx.EntryFailed(index, offer.entry, code, message, here))

    def _seen_up_to(self, index: int) -> None:
        if not self._seen <= index < self._announced:
            raise WireError("bad_index", f"{index} was seen; {self._seen} to {self._announced - 1} was possible")
        for number in range(self._seen, index + 1):
            entry = self._offer(number).entry
            self._close_offer(number)
            self._progress.done(entry, kept=False)
        self._seen = index + 1

    def _offer(self, index: int) -> _Offer:
        offer = self._offers.get(index)
        if offer is None:
            raise WireError("bad_index", f"entry {index} is not open")
        return offer

    def _close_offer(self, index: int) -> None:
        offer = self._offers.pop(index)
        self._path_bytes -= text_size(offer.entry.path)
        if offer.want is not None:
            self._wants.close(offer.want)

    # The pump

    def _advance(self) -> None:
        """Do all that can be done without a turn."""
        if self.phase is not TransferPhase.FLOWING:
            return
        self._answer_wants()
        self._find_entries()
        self._effects.extend(self._wants.reads())
        if self._lacks_nothing():
            self.phase = TransferPhase.LEAVING
            self._answer_by = self._now + BYE_TIMEOUT_S
            self._progress.current = ""
            self._say(file_messages.FileBye())
        else:
            self._ask_for_turn()

    def _answer_wants(self) -> None:
        while (want := self._wants.head) is not None:
            if want.failure is not None:
                self._say(file_messages.No(want.index, *want.failure))
            elif want.is_complete:
                self._say(file_messages.FileEnd(want.index, want.entry.size, want.sha256, want.grown_to))
            else:
                self._progress.current = want.entry.path
                return
            self._wants.answer_head()
        self._progress.current = ""

    def _find_entries(self) -> None:
        if self._listing is Listing.RESTING and len(self._waiting) <= LIST_ENTRIES // 2:
            self._listing = Listing.ASKED
            self._emit(tx.ListNext(LIST_ENTRIES))
        elif self._listing is Listing.ENDED and not self._waiting:
            self._listing = Listing.ANNOUNCED
            self._progress.listed = True
            self._progress.hidden = self._hidden
            self._say(file_messages.AnnouncedAll(self._listed, self._progress.size, self._skipped, self._hidden))

    def _ask_for_turn(self) -> None:
        sendable = self._sendable()
        # Said again while it is less than one message, so that the scheduler knows a bulk stream.
        if sendable > self._ready_for and self._ready_for < messages.MAX_PAYLOAD_BYTES:
            self._ready_for = sendable
            self._emit(stream.ReadyToSend(sendable))

    def _sendable(self) -> int:
        entries = self._waiting_bytes if self._may_announce() else 0
        head = self._wants.head
        payload = min(self._wants.buffered, self._limit - self._sent) if head is not None and head.unsent else 0
        return entries + payload

    def _may_announce(self) -> bool:
        if not self._waiting or not self._offers or (entry := self._waiting[0][0]) is None:
            return bool(self._waiting)
        path_bytes = self._path_bytes + text_size(entry.path)
        return len(self._offers) < file_messages.MAX_OPEN_ENTRIES and path_bytes <= file_messages.MAX_OPEN_PATH_BYTES

    def _send_entries_and_payload(self, limit: int) -> None:
        while limit > 0 and self._may_announce():
            limit -= self._announce_next()
        while limit > 0 and (size := self._send_piece(limit)) > 0:
            limit -= size
            self._answer_wants()

    def _announce_next(self) -> int:
        entry, text = self._waiting.popleft()
        size = text_size(text)
        self._waiting_bytes -= size
        if entry is None:
            self._say_text(text)
            return size
        self._offers[self._announced] = _Offer(entry)
        self._path_bytes += text_size(entry.path)
        self._announced += 1
        self._say_text(text)
        return size

    def _send_piece(self, limit: int) -> int:
        want = self._wants.head
        if want is None:
            return 0
        size = want.piece(min(limit, self._limit - self._sent))
        if size <= 0:
            return 0
        data, chunk = self._wants.take(want, size)
        self._send(data)
        self._progress.bytes_done += size
        if chunk is not None:
            self._say(file_messages.ChunkEnd(want.index, chunk, want.chunk_digest()))
        return size
