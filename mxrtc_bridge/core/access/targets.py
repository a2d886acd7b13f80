"""Where a service leads: values that only the configuration can make, never a peer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.core.files.names import NamePolicy
from mxrtc_bridge.core.files.patterns import NamePattern
from mxrtc_bridge.core.webrtc.address_policy import IpNetwork

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A TCP service."""

    host: str
    port: int
    expect: tuple[IpNetwork, ...] = ()
    """Networks that the resolved address must lie in; empty means any (a name may be rebound, a network may not)."""
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A unix stream socket."""

    path: str
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class AppendTarget:
    """A file or FIFO that takes what a caller sends; nothing comes back."""

    path: str
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        return f"append:{self.path}"


@dataclass(frozen=True, slots=True)
class ReadTarget:
    """A file or FIFO that is given to its end; the caller may send nothing."""

    path: str
    connect_timeout_s: float = 10.0

    def __str__(self) -> str:
        return f"read:{self.path}"


Target = TcpTarget | UnixTarget | AppendTarget | ReadTarget
"""Where streams of bytes lead."""


class Direction(Enum):
    """What callers may do with the files of a directory; seen from the bridge."""

    RECEIVE = "receive"
    """Put files into it: a drop box."""
    SEND = "send"
    """List and get what is in it: a share."""
    BOTH = "both"

    @property
    def receives(self) -> bool:
        return self is not Direction.SEND

    @property
    def sends(self) -> bool:
        return self is not Direction.RECEIVE


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What a directory takes from callers. Sizes in bytes; None means no limit."""

    file_bytes: int | None = 16 * GIB
    """The largest file."""
    user_bytes: int | None = 64 * GIB
    """All files of one user that are there, the unfinished ones included."""
    total_bytes: int | None = None
    """Everything in it, whoever put it there."""
    free_floor_bytes: int = GIB
    """What the file system must have left after every file that has begun."""
    partial_age_s: float = 7 * 86400.0
    """When an unfinished file that nobody goes on with is removed."""
    user_files: int | None = 100_000
    """All files and directories of one user that are there."""
    total_files: int | None = 1_000_000
    """The same, of all users."""
    user_receptions: int = 4096
    """Files of one user that may be under way at a time."""
    receptions: int = 16384
    """The same, of all users."""
    user_partials: int = 256
    """Unfinished files that are kept for one user; beyond it the oldest is removed."""


@dataclass(frozen=True, slots=True)
class FilesTarget:
    """A directory for the file protocol."""

    path: str
    """Absolute."""
    direction: Direction
    names: NamePolicy = NamePolicy.KEEP
    """What becomes of the names of what arrives."""
    announce: bool = True
    """Tell people what has arrived."""
    allowed: tuple[NamePattern, ...] = ()
    """Names of files that are taken; empty means all."""
    limits: FileLimits = field(default_factory=FileLimits)
    hidden: bool = False
    """Offer files and directories whose names begin with a dot."""
    mode: int | None = None
    """Of files that arrive; None for the owner's alone, unless the directory says something else."""
    group: str | None = None
    """Of what arrives, by name or number; None for the one that the system gives."""

    def __str__(self) -> str:
        return f"files:{self.path} ({self.direction.value})"
