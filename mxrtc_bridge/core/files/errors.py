"""Why something with a file did not work: the one exception that may pass from a file system to the wire."""

from __future__ import annotations

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import FileCode


class FileError(LocalError):
    """One file, or one job, cannot go on; ``str`` is the sentence. It names no path of this machine."""

    def __init__(self, code: FileCode, message: str) -> None:
        super().__init__(message)
        self.code = code
