"""Why something with a file did not work, as a code for the other side and a sentence for people.

The sentences name no path of this machine: they may go over the wire.
"""

from __future__ import annotations

import errno
import os

from mxrtc_bridge.core.files.messages import FileCode, FileError

_DENIED = (FileCode.DENIED, "not permitted (owner, mode or a read-only file system)")
_SPACE = (FileCode.SPACE, "the disk is full; it can go on when there is room")
_NOT_PLAIN = (FileCode.DENIED, "it is not a plain file or directory, or lies behind a symbolic link")
_BUSY = (FileCode.UNAVAILABLE, "too many files are open at the moment")
_TABLE = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: (FileCode.SPACE, "the disk quota of the receiving account is used up; it can go on later"),
    errno.EFBIG: (FileCode.SPACE, "the file is larger than the file system or the process limit allows"),
    errno.ENOENT: (FileCode.GONE, "it does not exist (any more)"),
    errno.ESTALE: (FileCode.GONE, "it does not exist any more"),
    errno.EEXIST: (FileCode.EXISTS, "something of this name exists already"),
    errno.ENOTEMPTY: (FileCode.EXISTS, "a directory of this name exists already"),
    errno.EISDIR: (FileCode.EXISTS, "a directory of this name exists already"),
    errno.ENOTDIR: _NOT_PLAIN,
    errno.ELOOP: _NOT_PLAIN,
    errno.EXDEV: _NOT_PLAIN,
    errno.ENXIO: _NOT_PLAIN,
    errno.ENAMETOOLONG: (FileCode.NAME, "the name is too long for the file system"),
    errno.EILSEQ: (FileCode.NAME, "the file system cannot hold this name"),
    errno.EINVAL: (FileCode.NAME, "the file system cannot hold this name"),
    errno.EMFILE: _BUSY,
    errno.ENFILE: _BUSY,
    errno.ENOMEM: _BUSY,
}


def translated(error: OSError) -> FileError:
    """Return the failure that ``error`` means; raise it from ``error``."""
    code, sentence = _TABLE.get(error.errno or 0, (FileCode.IO, ""))
    return FileError(code, sentence or f"reading or writing failed ({os.strerror(error.errno or errno.EIO)})")
