"""Who put what into a drop box: one line of JSON for each file, appended before the file gets its name.

That order makes the ledger a journal. After a crash, a line without its file was a publication that did not happen; a
file always has its line. A line counts as long as the file has the same inode and size, so that what the admin takes
away is neither counted nor taken for "already received".

A search by (sender, path, version) goes through an index in memory that holds 8 bytes of a hash and an offset for each
line; the line itself is read and compared. The index is bounded: beyond it the oldest lines are not found any more,
and a file that was received by one of them would be received again, under a new name.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mxrtc_bridge.config.private_files import open_private_file
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.system import files, sync_data

MAX_LINE_BYTES = 16 * 1024
MAX_INDEXED = 200_000

_BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """One file, or directory, that was put into the box."""

    time_ms: int
    sender: str
    path: str
    """As it was offered."""
    name: str
    """The path it was published under."""
    size: int
    digest: str
    """SHA-256 in hexadecimal; empty for a directory."""
    version: str
    inode: int

    @property
    def is_directory(self) -> bool:
        return not self.digest

    def matches(self, status: os.stat_result | None) -> bool:
        """Whether ``status`` is that of the file that was published then."""
        return status is not None and status.st_ino == self.inode and (self.is_directory or status.st_size == self.size)

    def is_of(self, identity: PartialFileKey) -> bool:
        """Whether this is the receipt of ``identity``."""
        return (self.sender, self.path, self.size, self.version) == (
            identity.sender,
            identity.path,
            identity.size,
            identity.version,
        )


def is_ours(status: os.stat_result) -> bool:
    """Whether a file may be one that we have published: what others own, or have another name for, they may change."""
    return stat.S_ISREG(status.st_mode) and files.is_trusted_owner(status.st_uid) and status.st_nlink == 1


_FIELDS = {
    "t": ("time_ms", int),
    "u": ("sender", str),
    "p": ("path", str),
    "n": ("name", str),
    "s": ("size", int),
    "h": ("digest", str),
    "v": ("version", str),
    "i": ("inode", int),
}


def encode(receipt: Receipt) -> bytes:
    """Return the line of a receipt."""
    fields = {key: getattr(receipt, name) for key, (name, _) in _FIELDS.items()}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Receipt | None:
    """Return the receipt of a line; None if it was torn by a crash, or is none."""
    try:
        fields = json.loads(line)
        values = {name: fields[key] for key, (name, _) in _FIELDS.items()}
    except (ValueError, TypeError, KeyError):
        return None
    if any(type(values[name]) is not kind for name, kind in _FIELDS.values()):
        return None
    return Receipt(**values)


def read_receipts(descriptor: int) -> Iterator[tuple[int, Receipt]]:
    """Yield the receipts of a ledger with the offset of their lines; lines that are none are left out.

    The descriptor stays the caller's. Memory is bounded by one block and one line.
    """
    offset = position = 0
    rest = b""
    skipping = False
    while block := files.pread(descriptor, _BLOCK, position):
        position += len(block)
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            receipt = None if skipping or len(line) > MAX_LINE_BYTES else decode(line)
            skipping = False
            if receipt is not None:
                yield offset, receipt
            offset += len(line) + 1
        if len(rest) > MAX_LINE_BYTES:
            offset += len(rest)
            rest, skipping = b"", True


class Receipts:
    """The open ledger of one box. All methods block; call them in one thread at a time.

    Args:
        directory: the descriptor of the directory that holds it.
        name: of the file.
        shown: how it is named in messages.

    Raises:
        LocalError: there is one that is not ours alone.
    """

    def __init__(self, directory: int, name: str, shown: str) -> None:
        self._directory = directory
        self._name = name
        self._shown = shown
        self._index: dict[int, int] = {}
        self.lines = 0
        """That were read or written."""
        self.descriptor = self._open(name)
        self._end = os.fstat(self.descriptor).st_size
        # A torn last line must not swallow the next one.
        if self._end and files.pread(self.descriptor, 1, self._end - 1) != b"\n":
            self._end += files.pwrite(self.descriptor, b"\n", self._end)

    def receipts(self) -> Iterator[Receipt]:
        """Yield all receipts, oldest first, and index them."""
        self.lines = 0
        for offset, receipt in read_receipts(self.descriptor):
            self._remember(receipt, offset)
            self.lines += 1
            yield receipt

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Write lines; they are not durable before :meth:`sync`.

        Raises:
            OSError: the disk does not take them; none of them counts.
        """
        offset = self._end
        data = bytearray()
        offsets: list[int] = []
        for receipt in receipts:
            offsets.append(offset + len(data))
            data += encode(receipt)
        done = 0
        try:
            while done < len(data):
                done += files.pwrite(self.descriptor, data[done:], offset + done)
        except OSError:
            os.ftruncate(self.descriptor, offset)
            raise
        self._end += len(data)
        self.lines += len(receipts)
        for receipt, at in zip(receipts, offsets, strict=True):
            self._remember(receipt, at)

    def sync(self) -> None:
        """Make durable what was appended."""
        sync_data(self.descriptor)

    def find(self, identity: PartialFileKey) -> Receipt | None:
        """Return the last receipt of ``identity``, if it can be found."""
        offset = self._index.get(_index_key(identity.sender, identity.path, identity.version))
        if offset is None:
            return None
        receipt = decode(files.pread(self.descriptor, MAX_LINE_BYTES, offset).partition(b"\n")[0])
        return receipt if receipt is not None and receipt.is_of(identity) else None

    def knows(self, identity: PartialFileKey) -> bool:
        """Whether :meth:`find` may find something; asks the memory only."""
        return _index_key(identity.sender, identity.path, identity.version) in self._index

    def is_last(self, receipt: Receipt, offset: int) -> bool:
        """Whether no later line is about the same version of the same file; True for what is not indexed any more."""
        return self._index.get(_index_key(receipt.sender, receipt.path, receipt.version), offset) == offset

    def rewrite(self, kept: Iterator[Receipt]) -> None:
        """Replace the ledger by ``kept``, in one step.

        Raises:
            OSError: the disk does not allow it; the ledger is as it was.
        """
        new_name = self._name + ".new"
        descriptor = self._open(new_name)
        try:
            os.ftruncate(descriptor, 0)
            self._index, old_index, end = {}, self._index, 0
            lines = 0
            try:
                for receipt in kept:
                    self._remember(receipt, end)
                    lines += 1
                    end += files.pwrite(descriptor, encode(receipt), end)
                os.fsync(descriptor)
                files.rename_at(new_name, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                files.sync_directory(self._directory)
            except OSError:
                self._index = old_index
                raise
        except OSError:
            os.close(descriptor)
            raise
        os.close(self.descriptor)
        self.descriptor, self._end, self.lines = descriptor, end, lines

    def close(self) -> None:
        """Let go; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _open(self, name: str) -> int:
        return open_private_file(self._directory, name, os.O_RDWR | os.O_CREAT, self._shown)

    def _remember(self, receipt: Receipt, offset: int) -> None:
        key = _index_key(receipt.sender, receipt.path, receipt.version)
        self._index.pop(key, None)
        self._index[key] = offset
        if len(self._index) > MAX_INDEXED:
            del self._index[next(iter(self._index))]


def _index_key(sender: str, path: str, version: str) -> int:
    text = f"{sender}\0{path}\0{version}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big", signed=True)
