"""Why there is no session is the same at both ends of the socket."""

from __future__ import annotations

import errno

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.sharing.failures import to_error, to_message
from mxrtc_bridge.core.errors import ConfigError, HomeserverError, MxrtcError, TransportError
from mxrtc_bridge.core.sharing.messages import Failed


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (ClientError(Exit.DENIED, "refused"), Exit.DENIED, "refused"),
        (ConfigError("no such interface"), Exit.USAGE, "no such interface"),
        (TransportError("lost", "it has ended"), Exit.RETRY, "it has ended"),
        (MxrtcError("something"), Exit.RETRY, "something"),
        (OSError(errno.EMFILE, "Too many open files"), Exit.LOCAL, "this machine refuses: Too many open files"),
        (
            ZeroDivisionError("ours"),
            Exit.RETRY,
            "the call has failed by a defect of the mxrtc command that has made it",
        ),
    ],
)
def test_an_error_ends_the_other_command_as_it_would_have_ended_this_one(
    error: Exception, code: Exit, why: str
) -> None:
    read = to_error(to_message(error))
    assert isinstance(read, ClientError)
    assert read.code is code
    assert str(read).startswith(why)
    assert read.defect is isinstance(error, ZeroDivisionError)


def test_what_the_homeserver_said_stays_what_the_homeserver_said() -> None:
    read = to_error(to_message(HomeserverError("too often", 429, "M_LIMIT_EXCEEDED", 2.5)))
    assert isinstance(read, HomeserverError)
    assert (str(read), read.status, read.errcode, read.wait_s) == ("too often", 429, "M_LIMIT_EXCEEDED", 2.5)


def test_a_code_that_is_none_counts_as_one_to_try_again() -> None:
    read = to_error(Failed(99, "strange", False, 0, "", 0.0))
    assert isinstance(read, ClientError)
    assert read.code is Exit.RETRY
