"""A download over HTTP that measures and hashes what comes, and takes a cut answer for what it is.

The standard library's client blocks its thread; this one ends at once when the demonstration is interrupted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from mxrtc_bridge.core.errors import LocalError

FETCH_TIMEOUT_S = 180.0
"""Seconds for one download: 64 MiB at less than half a megabyte a second would be a failure worth a look."""

_MAX_HEAD_BYTES = 16 << 10
_READ_BYTES = 256 << 10
_LENGTH = re.compile(rb"^content-length: *(\d{1,15})\r$", re.IGNORECASE | re.MULTILINE)


class FetchError(LocalError):
    """The answer did not come, or not as it should."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a download brought."""

    size: int
    """Bytes of the body."""
    sha256: str
    seconds: float
    """From connecting to the last byte, hashing included."""

    @property
    def megabytes_a_second(self) -> float:
        """The rate in units of 1 000 000 bytes."""
        return self.size / 1e6 / max(self.seconds, 1e-6)


async def fetch(
    port: int,
    path: str,
    *,
    limit: int,
    progress: Callable[[int], None] = lambda _: None,
    timeout_s: float = FETCH_TIMEOUT_S,
) -> Fetched:
    """Get ``http://127.0.0.1:PORT/PATH``.

    Args:
        port: where to connect on loopback.
        path: the path, as it goes over the wire.
        limit: the largest body that is accepted, in bytes.
        progress: told the number of bytes so far, after each piece.
        timeout_s: seconds for everything.

    Raises:
        FetchError: no connection, not a 200, too large, cut off, or too slow.
    """
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MAX_HEAD_BYTES)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                length = _length(await reader.readuntil(b"\r\n\r\n"), path)
                if length > limit:
                    raise FetchError(f"{path} claims {length} bytes; the limit is {limit}")
                digest = await _read_body(reader, length, path, progress)
            finally:
                writer.close()
    except TimeoutError:
        raise FetchError(f"{path} did not come within {timeout_s:g} s") from None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise FetchError(f"{path}: what came is no HTTP answer, or was cut off in its head") from None
    except OSError as error:
        raise FetchError(f"{path}: the connection failed: {error.strerror or error}") from error
    return Fetched(length, digest, time.perf_counter() - began)


def _length(head: bytes, path: str) -> int:
    status = head.partition(b"\r\n")[0].decode("ascii", "replace")
    if not re.match(r"HTTP/1\.[01] 200( |$)", status):
        raise FetchError(f"{path}: the answer is {status[:80]!a} instead of a 200")
    found = _LENGTH.search(head)
    if found is None:
        raise FetchError(f"{path}: the answer does not say how long it is")
    return int(found[1])


async def _read_body(reader: asyncio.StreamReader, length: int, path: str, progress: Callable[[int], None]) -> str:
    hasher = hashlib.sha256()
    received = 0
    while received < length:
        data = await reader.read(min(_READ_BYTES, length - received))
        if not data:
            raise FetchError(f"{path} was cut off after {received} of {length} bytes")
        hasher.update(data)
        received += len(data)
        progress(received)
    return hasher.hexdigest()
