"""The files that a source was asked for, in the order of asking: what is read ahead, and what is sent next.

Accounts only; which event changes them is decided in :mod:`mxrtc_bridge.core.files.sender`.

Two budgets bound what is in memory. The file at the head, whose bytes are on the channel, is read in blocks while
others are sent, so that the disk and the link work at the same time. Of the files behind it only the first block is
read: it is all there is of a small one. They have a budget of their own, so that neither can starve the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileEntry
from mxrtc_bridge.core.stream import messages

BLOCK_BYTES = 256 * messages.KIB
"""What is read from a disk at a time."""
HEAD_BYTES = 4 * BLOCK_BYTES
"""Read and not yet sent, of the file that is being sent."""
AHEAD_BYTES = BLOCK_BYTES
"""The same, of all files behind it together."""
AHEAD_FILES = 32
"""Files that are open behind the first."""


@dataclass(slots=True, eq=False)
class WantedFile:
    """A file from the moment it is asked for until both sides have given their answer."""

    index: int
    entry: FileEntry
    offset: int
    """Where the receiver wants it from."""
    position: int
    """Up to where it is sent."""
    asked: int
    """Up to where it was asked from the disk."""
    held: int = 0
    """Bytes that are read and not sent, or asked from the disk."""
    unsent: bytearray = field(default_factory=bytearray)
    opened: bool = False
    reading: int | None = None
    """What the outstanding read may bring, or None when there is none."""
    sha256: str = ""
    grown_to: int = 0
    """The size that the file has by now, if that is more than was announced."""
    failure: tuple[FileCode, str] | None = None
    answered: bool = False
    """By us: ``end`` or ``no`` was sent."""
    closed: bool = False
    """By the receiver: ``got`` or ``no`` came."""
    chunk_digests: deque[str] = field(default_factory=deque)
    """Of chunks that are read and not completely sent, in order."""

    @property
    def is_complete(self) -> bool:
        """Everything is sent but ``end``."""
        return bool(self.sha256) and self.position == self.entry.size

    @property
    def is_open(self) -> bool:
        """Whether the driver has it open."""
        return self.opened and not self.sha256 and self.failure is None

    def next_block(self) -> int:
        return min(self.entry.size - self.asked, BLOCK_BYTES, CHUNK_BYTES - self.asked % CHUNK_BYTES)

    def fail(self, code: FileCode, message: str) -> None:
        self.failure = code, message
        self.unsent.clear()
        self.chunk_digests.clear()
        self.held = 0
        self.reading = None

    def take(self, size: int) -> tuple[bytes, int | None]:
        """Take ``size`` bytes to be sent, and the number of the chunk that they complete unless it is the last."""
        with memoryview(self.unsent) as view:
            data = bytes(view[:size])
        del self.unsent[:size]
        self.held -= size
        self.position += size
        if self.position % CHUNK_BYTES or self.position == self.entry.size:
            return data, None
        return data, self.position // CHUNK_BYTES - 1

    def chunk_digest(self) -> str:
        """Return the digest of the chunk that is complete."""
        return self.chunk_digests.popleft()

    def piece(self, limit: int) -> int:
        """Return how much of what is read can be one message of at most ``limit`` bytes."""
        to_boundary = CHUNK_BYTES - self.position % CHUNK_BYTES
        return min(limit, len(self.unsent), to_boundary, messages.MAX_PAYLOAD_BYTES)


class Wants:
    """The line of wanted files."""

    def __init__(self) -> None:
        self._line: deque[WantedFile] = deque()
        self._unopened: deque[WantedFile] = deque()
        self._by_index: dict[int, WantedFile] = {}
        self._reading = 0
        self.open = 0
        """Wants that lack an answer of either side."""
        self.buffered = 0
        """Bytes that are read and not sent."""

    def __len__(self) -> int:
        return len(self._line)

    @property
    def head(self) -> WantedFile | None:
        """The file that is being sent."""
        return self._line[0] if self._line else None

    @property
    def reading(self) -> int:
        """Reads that are outstanding."""
        return self._reading

    def add(self, want: WantedFile) -> None:
        self._line.append(want)
        self._unopened.append(want)
        self._by_index[want.index] = want
        self.open += 1

    def find(self, index: int) -> WantedFile | None:
        """Return a file that we have not answered yet."""
        return self._by_index.get(index)

    def answer_head(self) -> WantedFile:
        """Take the head from the line: we say our last word about it."""
        want = self._line.popleft()
        del self._by_index[want.index]
        want.answered = True
        if not want.opened:
            self._unopened.remove(want)
        self._settle(want)
        return want

    def close(self, want: WantedFile) -> None:
        """The receiver has said its last word."""
        want.closed = True
        self._settle(want)

    def fail(self, want: WantedFile, code: FileCode, message: str) -> None:
        self.buffered -= len(want.unsent)
        if want.reading is not None:
            self._reading -= 1
        want.fail(code, message)

    def add_data(self, want: WantedFile, event: tx.FileRead) -> None:
        """Take in what was read.

        Raises:
            StateError: it is not what was asked for; nothing has changed.
        """
        asked, size = want.reading, len(event.data)
        if asked is None:
            raise StateError(f"FileRead for entry {want.index}, but nothing was to be read")
        if size > asked or (asked > 0 and size == 0):
            raise StateError(f"FileRead of {size} bytes for entry {want.index}; 1 to {asked} were asked for")
        at_end = want.asked - (asked - size) == want.entry.size
        if at_end != bool(event.sha256):
            raise StateError(f"FileRead for entry {want.index} must have a digest exactly at the end of the file")
        if not at_end and (want.asked - (asked - size)) % CHUNK_BYTES == 0:
            if not event.chunk_sha256:
                raise StateError(f"FileRead for entry {want.index} must have the digest of the chunk that it ends")
            want.chunk_digests.append(event.chunk_sha256)
        want.asked -= asked - size
        want.held -= asked - size
        want.reading = None
        self._reading -= 1
        want.sha256, want.grown_to = event.sha256, event.grown_to
        want.unsent += event.data
        self.buffered += size

    def take(self, want: WantedFile, size: int) -> tuple[bytes, int | None]:
        self.buffered -= size
        return want.take(size)

    def reads(self) -> list[tx.OpenFile | tx.ReadFile]:
        """Return what is to be read now."""
        effects: list[tx.OpenFile | tx.ReadFile] = []
        head = self.head
        if head is None:
            return effects
        if head.is_open and head.reading is None and (size := head.next_block()) and head.held + size <= HEAD_BYTES:
            self._begin(head, size)
            effects.append(tx.ReadFile(head.index, size))
        if not self._unopened:
            return effects
        ahead, files = self._ahead()
        while self._unopened:
            want = self._unopened[0]
            size = want.next_block()
            if want is not head:
                if files >= AHEAD_FILES or ahead + size > AHEAD_BYTES:
                    break
                ahead += size
                files += 1
            self._unopened.popleft()
            want.opened = True
            if want.failure is not None:
                continue  # The receiver took it back before it was opened.
            self._begin(want, size)
            effects.append(tx.OpenFile(want.index, want.entry, want.offset, size))
        return effects

    def still_open(self) -> list[int]:
        """Return the files that the driver has open."""
        return [want.index for want in self._line if want.is_open]

    def _ahead(self) -> tuple[int, int]:
        """What the files behind the head hold, and how many of them were opened: the first of the line."""
        held = files = 0
        for position, want in enumerate(self._line):
            if not want.opened:
                break
            if position:
                held += want.held
                files += 1
        return held, files

    def _begin(self, want: WantedFile, size: int) -> None:
        want.reading = size
        want.asked += size
        want.held += size
        self._reading += 1

    def _settle(self, want: WantedFile) -> None:
        if want.answered and want.closed:
            self.open -= 1
