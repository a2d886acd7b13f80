"""Exit codes of ``mxrtc``: a script can tell "try again" from "never" (docs/reference/exit-codes.md)."""

from __future__ import annotations

from enum import IntEnum

from mxrtc_bridge.core.errors import HomeserverError, MxrtcError


class Exit(IntEnum):
    """What the exit code says."""

    DONE = 0
    """Done."""
    RETRY = 1
    """Network or homeserver trouble: the same command may work later."""
    USAGE = 2
    """The command line or the login is wrong: never works unchanged."""
    DENIED = 3
    """No right, or no such service: do not retry."""
    OFFLINE = 4
    """The peer does not answer: the bridge may be down."""
    NO_PATH = 5
    """Signalling works, but no packets pass between the two sides."""
    INTEGRITY = 6
    """Data arrived that is not what was sent, or a stream was cut."""
    LOCAL = 7
    """A local file, socket or port could not be used."""
    INTERRUPTED = 130
    """Ended by a signal."""


NO_SERVICE = "there is no such service, or you have no right to it"
"""Both are one answer: who may not use a service is not told whether there is one."""
RIGHT_ENDED = "your right to it has ended"


class ClientError(MxrtcError):
    """Something the user should know; ends the command with ``code``."""

    def __init__(self, code: Exit, message: str, *, defect: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.defect = defect
        """Whether it comes of a mistake in this program, which calling again does not mend."""
        self.told = False
        """Whether the user has been told already."""


_REFUSALS = {
    "M_USER_LOCKED": "the account is locked; ask the administrator of the homeserver",
    "M_USER_SUSPENDED": "the account is suspended; ask the administrator of the homeserver",
    "M_USER_DEACTIVATED": "the account has been deactivated",
}


def explain_refusal(error: HomeserverError) -> str:
    """The homeserver's sentence, with the remedy where there is one that we know."""
    if error.errcode in _REFUSALS:
        return f"{error}; {_REFUSALS[error.errcode]}"
    if error.errcode in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"):
        return f"{error}; the login is not valid any more, log in again with 'mxrtc login'"
    return str(error)
