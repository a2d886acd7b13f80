"""What happens to a transfer, and what a transfer wants done: the values that the machines of ``file.v1.mxrtc`` share.

Only values. Which event leads to which effect is decided in :mod:`mxrtc_bridge.core.files.sender` and
:mod:`mxrtc_bridge.core.files.receiver`; the words of the wire are in :mod:`mxrtc_bridge.core.files.messages`. What
concerns the channel and its turns is the same as for a byte stream, and has the same names.

A *driver* is whoever owns a machine: it carries out the effects, in order, and reports what came of them as events.
No effect returns anything. The machine touches no file; it names each by the index of its entry. The rules for both:

 - For each ``ListNext``, ``OpenFile``, ``ReadFile``, ``CheckEntry``, ``WriteData`` and ``PublishFile`` the driver
   reports exactly one outcome. Outcomes of different files may come in any order, those of one file in the order of
   its effects.
 - ``FileFailed`` ends a file: what was still to be done for it is dropped and not reported.
 - So does the effect ``CloseFile``. An outcome that was on its way may still be reported; it is ignored.
 - Effects for one file that stand together in the queue may be carried out in one go (write, write, publish).

One file: values only, which several machines and their drivers share.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, Job
from mxrtc_bridge.core.stream import events as stream

MAX_FAILURES = 100
"""Failures that are kept with their reasons; of the others only the number is known."""


class TransferOutcome(Enum):
    """How a transfer ended."""

    CLEAN = "clean"
    """Everything that was offered is where it should be."""
    PARTIAL = "partial"
    """The job came to its end, but some entries failed or were refused."""
    INTERRUPTED = "interrupted"
    """The channel, the other side or our own side ended it early. The same job can be done again, and goes on."""
    REFUSED = "refused"
    """There never was a transfer: the acceptor said no."""
    VIOLATION = "violation"
    """The other side broke the protocol."""


# Values


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one entry was not transferred."""

    path: str
    """As the source named it. Not displayable as it is."""
    code: FileCode
    message: str
    """A sentence for a person. May quote the other side: make it displayable before showing it."""
    here: bool = False
    """Whether it is our side that could not do its part, or would not."""


@dataclass(slots=True)
class Progress:
    """How far a transfer is; sizes in bytes. Bounded whatever the other side announces."""

    files: int = 0
    """Files that were announced so far."""
    directories: int = 0
    size: int = 0
    """The sizes of these files together."""
    listed: bool = False
    """Whether this is all there is."""
    files_done: int = 0
    """Published, or found to be there already."""
    directories_done: int = 0
    bytes_done: int = 0
    """Of ``size``: moved over the channel, or there before."""
    bytes_kept: int = 0
    """Of ``bytes_done``: there before."""
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    """The first 100 of them."""
    untold: int = 0
    """Of ``failed``: what the source could not offer, and did not say what or why."""
    hidden: int = 0
    """Names that the source keeps to itself because they begin with a dot: no failure."""
    current: str = ""
    """The path of the file that is on the channel now, or an empty string. Not displayable as it is."""

    def announce(self, entry: FileEntry) -> None:
        """Count an entry that the source has."""
        if entry.kind is EntryKind.FILE:
            self.files += 1
            self.size += entry.size
        else:
            self.directories += 1

    def resume(self, offset: int) -> None:
        """The receiver has the first ``offset`` bytes of a file."""
        self.bytes_done += offset
        self.bytes_kept += offset

    def done(self, entry: FileEntry, *, kept: bool) -> None:
        """An entry is where it should be; its bytes were counted as they moved, unless it was there before."""
        if entry.kind is EntryKind.DIRECTORY:
            self.directories_done += 1
            return
        self.files_done += 1
        if kept:
            self.resume(entry.size)

    def fail(self, failure: Failure, *, moved: int = 0, kept: int = 0) -> None:
        """An entry was not transferred; ``moved`` bytes of it were counted as done, ``kept`` of them as kept."""
        self.bytes_done -= moved
        self.bytes_kept -= kept
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures += (failure,)


@dataclass(frozen=True, slots=True)
class FileWanted:
    """Receive the file from ``offset`` on: what is verified already, a multiple of 1 MiB, or the whole size."""

    offset: int


@dataclass(frozen=True, slots=True)
class Held:
    """It is there already: this version of the file was published before, or the directory exists (or was made)."""

    name: str
    """Under which name; told to the other side."""
    sha256: str = ""
    """Lower-case hex if it is known; always empty for a directory."""


@dataclass(frozen=True, slots=True)
class ReceiveRefused:
    """It will not be received."""

    code: FileCode
    message: str
    """Told to the other side: it must not name local paths or anything else that only the admin may know."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The entry of a listing was shown (the only verdict, and only allowed, when the job is ``Ls``)."""


Verdict = FileWanted | Held | ReceiveRefused | Listed


# Events: what happened


@dataclass(frozen=True, slots=True)
class ServiceReady:
    """Acceptor only: the job that was received is allowed and can begin."""


@dataclass(frozen=True, slots=True)
class ServiceRefused:
    """Acceptor only: there will be no transfer. ``message`` is told to the other side."""

    code: FileCode
    message: str


@dataclass(frozen=True, slots=True)
class EntriesListed:
    """Outcome of ``ListNext``: what there is next, parents before their children; at most as many as were asked for.

    An entry that cannot be put on the wire (its path is too long, or no Unicode) may be among them; the machine counts
    it as skipped. A tuple may be empty before the end.
    """

    entries: tuple[FileEntry, ...]
    end: bool
    """Nothing comes after these."""
    hidden: int = 0
    """With the end: names that begin with a dot and are not offered for that."""
    skipped: tuple[Failure, ...] = ()
    """What the source knows it cannot offer: unreadable, a link, a device. At most as many as were asked for."""


@dataclass(frozen=True, slots=True)
class ListFailed:
    """Outcome of ``ListNext``: nobody knows what else there is. Ends the transfer as interrupted."""

    code: FileCode
    message: str


@dataclass(frozen=True, slots=True)
class FileRead:
    """Outcome of ``OpenFile`` and ``ReadFile``: the next bytes of a file.

    At least one byte if any was asked for, never more than were asked for. The driver vouches that these are the bytes
    of the announced version, or of one that differs only in what was appended; else it reports ``FileFailed`` with
    ``changed``.
    """

    index: int
    data: bytes
    sha256: str = ""
    """Of the whole file, from its first byte on, lower-case hex. Given exactly with the bytes that reach the announced
    size; the driver then closes the file by itself."""
    chunk_sha256: str = ""
    """Of the chunk that these bytes end, if they end one; no read goes beyond a chunk."""
    grown_to: int = 0
    """At the end, of a file that has only grown: the size that it has by now; otherwise 0."""


@dataclass(frozen=True, slots=True)
class EntryChecked:
    """Outcome of ``CheckEntry``."""

    index: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class DataWritten:
    """Outcome of ``WriteData``: the bytes take no memory any more. They need not be on the disk yet."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class FilePublished:
    """Outcome of ``PublishFile``: the file is whole, verified, synced, and has its name."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class FileFailed:
    """Outcome of any effect for a file, and of ``VerifyChunk``: it cannot go on. ``message`` is told to the other side.

    What is verified may be kept for the next attempt: that is the driver's decision.
    """

    index: int
    code: FileCode
    message: str


Outcome = EntriesListed | ListFailed | FileRead | EntryChecked | DataWritten | FilePublished | FileFailed
"""What became of an operation."""
Event = stream.ChannelEvent | stream.Turn | stream.Reset | stream.Tick | ServiceReady | ServiceRefused | Outcome


# Effects: what is to be done, in this order


@dataclass(frozen=True, slots=True)
class JobReceived:
    """Acceptor only: the opener asks for this. Answer with ``ServiceReady`` or ``ServiceRefused``."""

    job: Job


@dataclass(frozen=True, slots=True)
class ListNext:
    """Source: find up to ``limit`` more entries. Never asked again before it was answered."""

    limit: int


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Source: open the file, go to ``offset``, read up to ``size`` bytes.

    ``size`` is 0 when nothing is left to be read (an empty file, or the receiver has all of it): the outcome then has
    no data, only the SHA-256. The bytes before ``offset`` are hashed but not reported.
    """

    index: int
    entry: FileEntry
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Source: read up to ``size`` more bytes of an open file, at least 1. Never asked again before it was answered."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class CheckEntry:
    """Receiver: judge name, size, quota, and what there is of it already. Up to 1024 may be outstanding."""

    index: int
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class WriteData:
    """Receiver: write the bytes. They follow one another without a gap, from the offset of the verdict on."""

    index: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class VerifyChunk:
    """Receiver: all of chunk ``number`` (from 0, of 1 MiB each) was given; its SHA-256 must be this.

    If it is, the next attempt may begin behind it. If not, report ``FileFailed`` with ``integrity``; nothing else is
    reported. The last chunk of a file, even a full one, has no digest of its own.
    """

    index: int
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PublishFile:
    """Receiver: all bytes were given. Check the SHA-256 of the whole file, sync it, give it its name.

    If the digest differs, what was received is worth nothing: ``FileFailed`` with ``integrity``.
    """

    index: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CloseFile:
    """Both: the file is not needed any more; drop what is not written yet, keep what is verified."""

    index: int


@dataclass(frozen=True, slots=True)
class EntryDone:
    """Both, for the record: the entry is where it should be."""

    index: int
    entry: FileEntry
    name: str
    """Under which the receiver has it. May come from the other side: make it displayable before showing it."""
    sha256: str
    """Lower-case hex; empty for a directory, and if nobody computed it."""
    kept: bool
    """It was there before."""
    grown_to: int = 0
    """The size that the source file has by now, if it has grown; what has arrived is what was announced."""


@dataclass(frozen=True, slots=True)
class EntryFailed:
    """Both, for the record: the entry was not transferred."""

    index: int
    entry: FileEntry
    code: FileCode
    message: str
    """May quote the other side: make it displayable before showing it."""
    here: bool = False
    """Whether it is our side that could not do its part, or would not."""


@dataclass(frozen=True, slots=True)
class EntrySkipped:
    """Both, for the record: the source could not offer something; as a receiver we know it by the other side's word."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class TransferFinished:
    """The transfer has ended; said exactly once. Only Consumed may follow."""

    outcome: TransferOutcome
    code: str
    """A short word: the code of the wire or of the violation; empty after a clean end."""
    message: str
    """A sentence for a person. May quote the other side: make it displayable before showing it."""
    sent: int
    """Payload bytes sent."""
    received: int
    """Payload bytes received."""
    progress: Progress


Operation = ListNext | OpenFile | ReadFile | CheckEntry | WriteData | VerifyChunk | PublishFile
"""Work on files: the first three for a source, the others for a receiver."""
EntryEnd = EntryDone | EntryFailed | EntrySkipped
OtherEffect = stream.ReadyToSend | stream.Accepted | JobReceived | Operation | CloseFile | EntryEnd | TransferFinished
"""What is not done with the channel itself."""
Effect = stream.ChannelEffect | OtherEffect
