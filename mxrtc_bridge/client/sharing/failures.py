"""Why there is no session, on its way from the command that called to the one that wants it."""

from __future__ import annotations

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError
from mxrtc_bridge.core.sharing.messages import Failed

HOMESERVER = 0
"""In the place of an exit code: the homeserver is why."""


def to_message(error: Exception) -> Failed:
    """Write an error, so that the other command ends as if it had called itself."""
    match error:
        case ClientError():
            return Failed(int(error.code), str(error), error.defect, 0, "", 0.0)
        case HomeserverError():
            return Failed(HOMESERVER, str(error), False, error.status, error.errcode[:255], min(error.wait_s, 1e9))
        case LocalError():
            return Failed(int(Exit.USAGE), str(error), False, 0, "", 0.0)
        case MxrtcError():
            return Failed(int(Exit.RETRY), str(error), False, 0, "", 0.0)
        case OSError():
            why = f"this machine refuses: {error.strerror or error}"
            return Failed(int(Exit.LOCAL), why, False, 0, "", 0.0)
    why = "the call has failed by a defect of the mxrtc command that has made it, which has shown it"
    return Failed(int(Exit.RETRY), why, True, 0, "", 0.0)


def to_error(failed: Failed) -> ClientError | HomeserverError:
    """Read it; a code that is none counts as one to try again."""
    if failed.code == HOMESERVER:
        return HomeserverError(failed.message, failed.status, failed.errcode, failed.wait_s)
    code = Exit(failed.code) if failed.code in set(Exit) else Exit.RETRY
    return ClientError(code, failed.message, defect=failed.defect)
