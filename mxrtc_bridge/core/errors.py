"""The exception tree.

    MxrtcError
    ├── LocalError               our own caller, configuration or machine: fix it here
    │   ├── ConfigError          the configuration cannot be used
    │   │   ├── InvalidConfigError   ... and here are all its mistakes
    │   │   ├── OtherIdentityError   a virtual user shows an identity that is not ours
    │   │   └── UsersRefusedError    virtual users have accounts or identities that are not ours
    │   ├── StateError           an operation that the object's state does not allow
    │   ├── StorageError         the database or the audit cannot take or give anything at the moment
    │   │   ├── RefusedStatementError  ... or works, and does not take this one thing
    │   │   ├── UnknownOutcomeError  ... and has perhaps stored it all the same
    │   │   └── AuditContradictionError  ... as it holds another line than the file
    │   ├── ResourceError        this machine has not what a call needs, for now
    │   ├── TargetError          a local service could not be reached
    │   ├── FileError            a local file or directory cannot be read or written
    │   └── NamingError          the name of a peer that cannot be one
    ├── RemoteError              the other side broke a rule; it is told ``code``, and only its own session suffers
    │   ├── EventError           the content of an event, or an identifier in it
    │   │   └── UnknownKeyError  ... which was encrypted with a key that we do not have
    │   ├── DescriptionError     an SDP description
    │   ├── CandidateError       a candidate
    │   ├── WireError            something on a data channel
    │   ├── FileNameError        the name of a file that is offered
    │   └── TransportError       ICE, DTLS or SCTP did not come up, or ended
    ├── HomeserverError          the homeserver said no, or nothing
    │   ├── AnswerTooLongError   ... or more than is read
    │   ├── FailedError          ... or a request failed on its way, or at what answers
    │   ├── StrangeKeysError     ... as it has other keys of our device than we have
    │   └── DirectRoomError      no room for two can be had with a peer
    ├── LoginError               logging in went wrong, or is not wanted
    │   └── OtherRedirectError   ... as a browser brought what is not the answer to our question
    ├── AdminError               what an admin asked for cannot be done
    │   └── GrantError           ... with a grant
    │       ├── SettledError     ... because it was done before
    │       └── UnwrittenError   ... or it is, but was not written down
    ├── ChainError               a line of the audit is not what the lines before it say
    └── ClientError              why a command of ``mxrtc`` ends, with its exit code
        ├── NoDeviceError        ... as a peer cannot be called by its device
        │   └── NoOwnDeviceError ... as ours cannot be used
        └── HolderGoneError      ... as the command that holds the account is gone, and another one can be asked

``str(error)`` is a complete sentence for a person; no caller needs the traceback to understand it.
"""

from __future__ import annotations

import errno
from enum import Enum, StrEnum


class MxrtcError(Exception):
    """Base of all errors that this package raises on purpose."""


class LocalError(MxrtcError):
    """Our own side cannot do what was asked."""


class ConfigError(LocalError):
    """The configuration cannot be used; all its problems are listed, one a line."""


class StateError(LocalError):
    """The operation is not allowed in the present state."""


class StorageError(LocalError):
    """The database cannot take or give anything at the moment; nothing of what was asked has been stored.

    But for :class:`UnknownOutcomeError`, which says so.
    """

    retryable = True
    """Whether the same may succeed later."""


class RefusedStatementError(StorageError):
    """The database works, and refuses what it was told: a text that it cannot hold, a number that is too large.

    Whose fault it is, it is the fault of this one thing: asked again the database would refuse again, and whatever
    else is asked of it is done.
    """

    retryable = False


class UnknownOutcomeError(StorageError):
    """The database was told to store something and has not answered: perhaps it is stored, perhaps it is not.

    Whoever gets this looks it up, or asks for the same again under the same key; it must not be told as "not done".
    """


class Lack(StrEnum):
    """What this machine has no more of; the value goes over the wire, to those only who have a right."""

    PORTS = "no_ports"
    FILES = "no_files"
    MEMORY = "no_memory"
    SOCKETS = "no_sockets"
    RELAY = "no_relay"


_LACKS = {errno.EMFILE: Lack.FILES, errno.ENFILE: Lack.FILES, errno.ENOMEM: Lack.MEMORY, errno.ENOBUFS: Lack.MEMORY}


def lack_of(error: BaseException | None) -> Lack | None:
    """What the system had no more of when it raised this; None where it is something else."""
    if isinstance(error, MemoryError):
        return Lack.MEMORY
    return _LACKS.get(error.errno or 0) if isinstance(error, OSError) else None


class ResourceError(LocalError):
    """This machine has not what a call needs, which may pass; never told as a lack of rights of the other side."""

    def __init__(self, lack: Lack, message: str) -> None:
        super().__init__(message)
        self.lack = lack


class TargetFailure(Enum):
    """Why a local service could not be reached; the value goes over the wire."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"


class TargetError(LocalError):
    """A local service could not be reached."""

    def __init__(self, failure: TargetFailure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class RemoteError(MxrtcError):
    """The other side broke a rule of the protocol.

    Attributes:
        code: a short stable word, fit for a counter label and for the wire.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusalCode(StrEnum):
    """Why something that somebody else asked for or sent was refused or ignored.

    Whoever refuses takes one of these, so that it is counted under its own name (:mod:`mxrtc_bridge.metrics`). The
    values stand in metrics, logs and the audit.
    """

    # A call, a stream or a transfer, judged by the rules in force
    DENIED = "denied"
    PAUSED = "paused"
    AUDIT = "audit"
    UNAVAILABLE = "unavailable"
    UNCONFIRMED = "unconfirmed"
    ROOM = "room"
    DEVICE = "device"
    STALE_INVITE = "stale_invite"
    REPLAY = "replay"
    RATE = "rate"
    CALLS_LIMIT = "calls_limit"
    LIMIT = "limit"

    # Encryption
    PLAIN_IN_ENCRYPTED = "plain_in_encrypted"
    PLAIN_SIGNAL = "plain_signal"
    UNDECRYPTABLE = "undecryptable"
    BAD_KEY = "bad_key"

    # A channel
    BAD_LABEL = "bad_label"
    SECOND_CONTROL = "second_control"
    UNKNOWN_PROTOCOL = "unknown_protocol"

    # An event
    BAD_CONTENT = "bad_content"
    BAD_EVENT = "bad_event"
    BAD_ID = "bad_id"
    BAD_JSON = "bad_json"
    BAD_TYPE = "bad_type"
    BAD_VERSION = "bad_version"
    GAP = "gap"
    SDP_TOO_LARGE = "sdp_too_large"
    UNKNOWN_TYPE = "unknown_type"

    # A description of a call
    BAD_ATTRIBUTE = "bad_attribute"
    BAD_FINGERPRINT = "bad_fingerprint"
    BAD_LINE = "bad_line"
    BAD_SECTION = "bad_section"
    CONFLICTING_ATTRIBUTE = "conflicting_attribute"
    CONFLICTING_FINGERPRINTS = "conflicting_fingerprints"
    MANY_SECTIONS = "many_sections"
    MEDIA_REFUSED = "media_refused"
    SMALL_MESSAGES = "small_messages"
    MISSING_ATTRIBUTE = "missing_attribute"
    NO_DATA_SECTION = "no_data_section"
    NO_FINGERPRINT = "no_fingerprint"
    SECTION_REJECTED = "section_rejected"
    TOO_LARGE = "too_large"
    WEAK_FINGERPRINT = "weak_fingerprint"


class _RefusalError(RemoteError):
    """Something that is refused before it takes effect, and counted by its code.

    Attributes:
        code: why.
    """

    code: RefusalCode

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(code, message)

    @property
    def in_full(self) -> str:
        """The code, by which it is counted, and the sentence, which names the field, what was found and the limit."""
        return f"{self.code}: {self}"


class EventError(_RefusalError):
    """A call event whose content breaks the schema or a limit."""


class DescriptionError(_RefusalError):
    """An SDP description that we do not hand to the transport."""


class CandidateError(RemoteError):
    """A candidate that is malformed. It costs nothing but itself, so it is left out, and refuses nothing."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_candidate", message)


class WireError(RemoteError):
    """A message on a data channel that breaks the protocol or a limit."""


class TransportError(RemoteError):
    """The peer connection did not come up, or ended."""


class HomeserverError(MxrtcError):
    """A request to the homeserver failed.

    Attributes:
        status: the HTTP status, or 0 when the homeserver has not answered: nothing came, or a page that is none of
            Matrix, from a proxy or whatever else stands there for the moment.
        errcode: the Matrix error code (``M_FORBIDDEN``, ...), or an empty string.
        wait_s: for how many seconds it is to be left alone, as we ask too often; 0 where it does not say so.
    """

    def __init__(self, message: str, status: int = 0, errcode: str = "", wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.errcode = errcode
        self.wait_s = wait_s

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in {0, 429} or self.status >= 500

    @property
    def is_outside(self) -> bool:
        """Whether it says that whoever asks is not in the room, or that there is no such thing.

        One that does not know the request says neither: a proxy may have led it to the wrong server.
        """
        return self.is_refusal and self.status != 400

    @property
    def is_refusal(self) -> bool:
        """Whether it says no to just this. Anything else says nothing, and must not lead to one more room, say."""
        return self.status in {400, 403, 404} and self.errcode != "M_UNRECOGNIZED"


class AnswerTooLongError(HomeserverError):
    """The homeserver's answer is longer, or deeper, than any honest one: somebody has filled what was asked for."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of the errors that ended some tasks at the same time, the first; that a task was cancelled is none."""
    error: BaseException = group.subgroup(Exception) or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class LoginError(MxrtcError):
    """Logging in went wrong, or is not wanted; trying the same again is of no use."""


class AdminError(MxrtcError):
    """What was asked for cannot be done; the sentence is for the admin who asked."""
