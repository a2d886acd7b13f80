"""A download over HTTP that measures and hashes what comes, and takes a cut answer for what it is."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import ClientError, ClientOSError, ClientPayloadError, ClientSession
from yarl import URL

from mxrtc_bridge.core.errors import LocalError

FETCH_TIMEOUT_S = 180.0
"""Seconds for one download: 64 MiB at less than half a megabyte a second would be a failure worth a look."""


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
    received, length = 0, None
    hasher = hashlib.sha256()
    try:
        async with (
            asyncio.timeout(timeout_s),
            ClientSession() as session,
            session.get(URL(f"http://127.0.0.1:{port}{path}", encoded=True), allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise FetchError(f"{path}: the answer is {answer.status} instead of a 200")
            length = answer.content_length
            if length is None:
                raise FetchError(f"{path}: the answer does not say how long it is")
            if length > limit:
                raise FetchError(f"{path} claims {length} bytes; the limit is {limit}")
            async for data in answer.content.iter_any():
                hasher.update(data)
                received += len(data)
                progress(received)
    except TimeoutError:
        raise FetchError(f"{path} did not come within {timeout_s:g} s") from None
    except ClientPayloadError:
        raise FetchError(f"{path} was cut off after {received} of {length} bytes") from None
    except ClientOSError as error:
        raise FetchError(f"{path}: the connection failed: {error.strerror or error}") from error
    except ClientError:
        raise FetchError(f"{path}: what came is no HTTP answer, or was cut off in its head") from None
    return Fetched(received, hasher.hexdigest(), time.perf_counter() - began)
