"""A command of mxrtc ends with the exit code of why it has failed, and says why in one sentence."""

from __future__ import annotations

import asyncio
import errno
import gc

import pytest

from mxrtc_bridge.cli.client.runner import run
from mxrtc_bridge.cli.standard_streams import OutputError
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError


def said_before() -> ClientError:
    error = ClientError(Exit.OFFLINE, "said before")
    error.told = True
    return error


def ended(capsys: pytest.CaptureFixture[str], failure: BaseException | None) -> tuple[int, str]:
    async def work() -> None:
        if failure is not None:
            raise failure

    with pytest.raises(SystemExit) as left:
        run(Report(), work)
    assert isinstance(left.value.code, int)
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (None, Exit.DONE, ""),
        (ClientError(Exit.DENIED, "not you"), Exit.DENIED, "not you"),
        (said_before(), Exit.OFFLINE, ""),
        (HomeserverError("away", 502), Exit.RETRY, "away"),
        (HomeserverError("no", 403), Exit.USAGE, "no"),
        (LocalError("the folder is missing"), Exit.USAGE, "the folder is missing"),
        (MxrtcError("busy"), Exit.RETRY, "busy"),
        (BaseExceptionGroup("", [LocalError("in a group")]), Exit.USAGE, "in a group"),
        (OSError(errno.EPIPE, "Broken pipe"), Exit.RETRY, ""),
        (OSError(errno.EMFILE, "Too many open files"), Exit.LOCAL, "this machine refuses: Too many open files"),
        (OutputError(errno.ENOSPC, "No space left on device"), Exit.LOCAL, ""),
        (OutputError(errno.EPIPE, "Broken pipe"), Exit.RETRY, ""),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_failure_has_its_code_and_its_sentence(
    capsys: pytest.CaptureFixture[str], failure: BaseException | None, code: Exit, said: str
) -> None:
    found, words = ended(capsys, failure)
    assert found == code
    assert said.lower() in words.lower()
    assert bool(words) == bool(said)


def test_a_defect_has_its_traceback() -> None:
    async def work() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run(Report(), work)


def test_nothing_is_collected_while_a_command_loads_what_it_needs() -> None:
    """It does so before it waits for anything for the first time."""
    collects = []

    async def work() -> None:
        collects.append(gc.isenabled())
        await asyncio.sleep(0)
        collects.append(gc.isenabled())
        kept.append(gc.get_freeze_count())

    kept = [gc.get_freeze_count()]
    try:
        with pytest.raises(SystemExit):
            run(Report(), work)
    finally:
        gc.unfreeze()
    assert collects == [False, True]
    assert kept[1] > kept[0], "what was loaded is not looked through during the call"
