"""A file that has not fully arrived, and what is known of it.

    NAME.part    the bytes from the beginning
    NAME.map     one line of JSON that says what it will be, then the SHA-256 of each verified chunk, 32 bytes each

The digest of a chunk is written to the map as soon as the chunk is verified, and made durable after the chunk itself.
When a transfer goes on, every chunk on the disk is hashed again and compared with its digest: a digest whose chunk did
not reach the disk before a power failure counts for nothing, and neither does a torn end. Hence nothing needs to be
written in a certain order to be *correct*; the syncs only decide how much is lost.

All methods block; call them in a thread, one at a time. Only :meth:`PartialFile.sync` may run beside those that write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

from mxrtc_bridge.config.private_files import open_private_file, take_lock
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.sinks.files.os_errors import translated
from mxrtc_bridge.system import files, sync_data

_MAP_SUFFIX = ".map"
_DIGEST_SIZE = hashlib.sha256().digest_size
_MAX_HEADER_BYTES = 16 * 1024
_READ_SIZE = 256 * 1024
_MAX_UNVERIFIED_CHUNKS = 64
_HOLE_BYTES = 64 * 1024
_ZEROS = bytes(_HOLE_BYTES)


@dataclass(frozen=True)  # without slots: the hashes are computed once
class PartialFileKey:
    """What a partial file belongs to."""

    sender: str
    path: str
    size: int
    mtime_ms: int
    version: str

    @cached_property
    def place(self) -> str:
        """The same for all versions of one file of one sender; fit for a file name."""
        return _name_of(f"{self.sender}\0{self.path}", 32)

    @cached_property
    def key(self) -> str:
        """Place and version: the same in every session."""
        version = f"{self.size}\0{self.mtime_ms}\0{self.version}"
        return f"{self.place}-{_name_of(version, 16)}"

    @property
    def part_name(self) -> str:
        """The name of the bytes on the disk."""
        return self.key + ".part"

    @property
    def map_name(self) -> str:
        """The name of what is known of them."""
        return self.key + _MAP_SUFFIX


class PartialFile:
    """One partial file, open and locked.

    Args:
        directory: the descriptor of the directory of partial files.
        identity: what is being received.
        resume: go on with what is there; otherwise begin anew.

    Raises:
        FileError: another process is receiving the same, or the disk does not allow it.
    """

    def __init__(self, directory: int, identity: PartialFileKey, *, resume: bool = True) -> None:
        self._directory = directory
        self.identity = identity
        self.name = identity.part_name
        self.offset = 0
        """Bytes written."""
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._unverified: list[bytes] = []
        self._verified = 0
        self.descriptor = self._map = -1
        try:
            self.descriptor = _open_locked(directory, self.name)
            self._map = _open_locked(directory, identity.map_name)
            if not resume or not self._take_up():
                self._begin_anew()
        except OSError as error:
            self.close()
            raise translated(error) from error
        except FileError:
            self.close()
            raise

    @property
    def verified(self) -> int:
        """Bytes up to the end of the last verified chunk."""
        return min(self._verified * CHUNK_BYTES, self.identity.size)

    def write(self, data: bytes) -> None:
        """Write the next bytes.

        Raises:
            FileError: there are more than were announced, or the disk does not take them.
        """
        if self.offset + len(data) > self.identity.size:
            raise FileError(FileCode.VIOLATION, f"more than the announced {self.identity.size} bytes came")
        try:
            _write_sparsely(self.descriptor, data, self.offset)
        except OSError as error:
            self._forget_unverified()
            raise translated(error) from error
        self._whole.update(data)
        at = 0
        while at < len(data):
            piece = data[at : at + CHUNK_BYTES - (self.offset % CHUNK_BYTES)]
            self._chunk.update(piece)
            self.offset += len(piece)
            at += len(piece)
            if self.offset % CHUNK_BYTES == 0 or self.offset == self.identity.size:
                self._end_chunk()

    def verify_chunk(self, number: int, digest: bytes) -> None:
        """Compare the ``number``-th chunk with what the source says; from now on it counts.

        Raises:
            FileError: it differs, it is not its turn, or the disk does not take the digest.
        """
        if number != self._verified or not self._unverified:
            raise FileError(FileCode.VIOLATION, f"chunk {number} was named out of its turn")
        if self._unverified.pop(0) != digest:
            self._forget_unverified()
            raise FileError(FileCode.INTEGRITY, f"chunk {number} is not what the source sent (SHA-256 differs)")
        try:
            end = os.fstat(self._map).st_size
            _write_all(self._map, digest, end)
        except OSError as error:
            self._forget_unverified()
            raise translated(error) from error
        self._verified += 1

    def sync(self) -> None:
        """Make durable what was verified so far: the bytes first, then their digests.

        Raises:
            FileError: the disk did not take it.
        """
        try:
            sync_data(self.descriptor)
            sync_data(self._map)
        except OSError as error:
            raise translated(error) from error

    def digest(self) -> str:
        """Return the SHA-256 of all that was written, in hexadecimal."""
        return self._whole.hexdigest()

    def discard(self) -> None:
        """Remove it, and close."""
        for name in (self.name, self.identity.map_name):
            _unlink(self._directory, name)
        self.close()

    def forget_map(self) -> None:
        """Remove what was known, the file having been published; and close."""
        _unlink(self._directory, self.identity.map_name)
        self.close()

    def close(self) -> None:
        """Let go; a second call does nothing."""
        for descriptor in (self.descriptor, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._map = -1

    def _end_chunk(self) -> None:
        if len(self._unverified) >= _MAX_UNVERIFIED_CHUNKS:
            raise FileError(FileCode.VIOLATION, f"{_MAX_UNVERIFIED_CHUNKS} chunks came without their hashes")
        self._unverified.append(self._chunk.digest())
        self._chunk = hashlib.sha256()

    def _forget_unverified(self) -> None:
        """After a failure this object is of no more use but to be closed; what was verified stays on the disk."""
        self._unverified.clear()

    def _begin_anew(self) -> None:
        header = json.dumps(asdict(self.identity), separators=(",", ":")).encode() + b"\n"
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self._map, 0)
        _write_all(self._map, header, 0)

    def _take_up(self) -> bool:
        """Find how far the bytes on the disk are those that were verified."""
        known = read_header(self._map)
        if known is None or known[0] != self.identity:
            return False
        start = known[1]
        available = min(os.fstat(self.descriptor).st_size, self.identity.size)
        while self.verified < available:
            digest = files.pread(self._map, _DIGEST_SIZE, start + self._verified * _DIGEST_SIZE)
            size = min(CHUNK_BYTES, self.identity.size - self.verified)
            if len(digest) < _DIGEST_SIZE or available - self.verified < size:
                break
            whole = self._whole.copy()
            if hash_range(self.descriptor, self.verified, size, whole.update) != digest:
                break
            self._whole = whole
            self._verified += 1
        self.offset = self.verified
        os.ftruncate(self.descriptor, self.offset)
        os.ftruncate(self._map, start + self._verified * _DIGEST_SIZE)
        return True


def is_map_name(name: str) -> bool:
    """Whether it may be the name of a map; whose, its header says."""
    return name.endswith(_MAP_SUFFIX)


def read_header(descriptor: int) -> tuple[PartialFileKey, int] | None:
    """Return what the map belongs to and where its digests begin; None if it is not a map."""
    line, end, _ = files.pread(descriptor, _MAX_HEADER_BYTES, 0).partition(b"\n")
    if not end:
        return None
    try:
        fields = json.loads(line)
        identity = PartialFileKey(**fields)
    except (ValueError, TypeError):
        return None
    texts = (identity.sender, identity.path, identity.version)
    numbers = (identity.size, identity.mtime_ms)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        return None
    return identity, len(line) + 1


def hash_range(descriptor: int, offset: int, size: int, also: Callable[[bytes], None]) -> bytes:
    """Return the SHA-256 of a range of a file, giving each piece to ``also``."""
    chunk = hashlib.sha256()
    end = offset + size
    while offset < end:
        piece = files.pread(descriptor, min(_READ_SIZE, end - offset), offset)
        if not piece:
            break
        chunk.update(piece)
        also(piece)
        offset += len(piece)
    return chunk.digest()


def _name_of(text: str, length: int) -> str:
    # A path from the wire may hold half a surrogate pair; it is data here, and never a name itself.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = files.pwrite(descriptor, view, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]
        offset += written


def _write_sparsely(descriptor: int, data: bytes, offset: int) -> None:
    """Write at the end of a file, and leave a hole for what is nothing but zeros: disk images and the like."""
    end, at = offset + len(data), offset
    while at < end:
        # In blocks of the file, so that the same content takes the same room however it comes.
        block_end = min(end, at - at % _HOLE_BYTES + _HOLE_BYTES)
        block = data[at - offset : block_end - offset]
        if block != _ZEROS[: len(block)]:
            _write_all(descriptor, block, at)
        elif block_end == end:
            os.ftruncate(descriptor, end)
        at = block_end


def _open_locked(directory: int, name: str) -> int:
    try:
        descriptor = open_private_file(directory, name, os.O_RDWR | os.O_CREAT, "the unfinished file")
    except LocalError as error:
        raise FileError(FileCode.DENIED, str(error)) from error
    if not take_lock(descriptor):
        os.close(descriptor)
        raise FileError(FileCode.UNAVAILABLE, "another process is receiving this file at the moment")
    return descriptor


def _unlink(directory: int, name: str) -> None:
    try:
        files.unlink_at(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise translated(error) from error
