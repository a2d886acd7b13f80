"""Every kind of target that a stream can be piped to."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.core.access.targets import AppendTarget, ReadTarget, Target
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.sinks.connect import connect_socket
from mxrtc_bridge.sinks.files.stream_targets import open_append, open_read
from mxrtc_bridge.sinks.stream_sink import StreamSink


class TargetConnector:
    """Connects to sockets, opens files. Implements :class:`mxrtc_bridge.engine.ports.Connector`."""

    async def connect(self, target: Target) -> StreamSink:
        """Connect, or open, within ``target.connect_timeout_s``.

        Raises:
            TargetError: REFUSED, TIMEOUT or UNAVAILABLE, with a sentence that says what to check.
        """
        if not isinstance(target, AppendTarget | ReadTarget):
            return await connect_socket(target)
        try:
            async with asyncio.timeout(target.connect_timeout_s):
                return await (open_append if isinstance(target, AppendTarget) else open_read)(target.path)
        except TimeoutError as error:
            words = f"the file could not be opened within {target.connect_timeout_s:g} s; check its file system"
            raise TargetError(TargetFailure.TIMEOUT, words) from error
