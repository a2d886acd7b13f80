"""How a command of ``mxrtc`` runs: what all share, and what its end means as an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import sys
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from typing import Concatenate, NoReturn, ParamSpec

import click

from mxrtc_bridge.cli.shutdown import SHUTDOWN
from mxrtc_bridge.cli.standard_streams import OutputError
from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.lending import Lending
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError, first_error
from mxrtc_bridge.system import run_loop

P = ParamSpec("P")


def in_loop(command: Callable[Concatenate[Context, P], Awaitable[None]]) -> Callable[P, NoReturn]:
    """Make a coroutine a command, whose first argument is what all commands share."""

    def run_to_its_end(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        context = click.get_current_context().find_object(Context)
        assert context is not None
        run(context.report, lambda: command(context, *args, **kwargs), context.lending)

    return update_wrapper(run_to_its_end, command)


def run(report: Report, work: Callable[[], Awaitable[None]], lending: Lending | None = None) -> NoReturn:
    """Run one command to its end and exit with its code.

    Args:
        report: where to say why it has failed.
        work: the command.
        lending: what it lends to other commands, which outlive a hang-up.
    """
    sys.exit(run_part(report, work, lending))


def run_part(report: Report, work: Callable[[], Awaitable[None]], lending: Lending | None = None) -> Exit:
    """Run what comes before a question to the person, which is asked without a loop; returns how it has ended.

    Args:
        report: as for :func:`run`.
        work: as for :func:`run`.
        lending: as for :func:`run`.
    """
    code = Exit.RETRY  # of a defect, whose traceback is shown
    with contextlib.ExitStack() as closing:

        async def to_the_end() -> None:
            nonlocal code
            try:
                code = await _supervised(report, work, lending or Lending())
            finally:
                # From here on the loop is closed, which waits for its threads.
                if (shutdown := SHUTDOWN.get()) is not None:
                    closing.enter_context(shutdown.bounded(lambda: code))

        try:
            run_loop(to_the_end())
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
    return code


async def _supervised(report: Report, work: Callable[[], Awaitable[None]], lending: Lending) -> Exit:
    """Run ``work`` so that a signal ends it like an error: in order, with everything closed."""
    task, loop = asyncio.ensure_future(work()), asyncio.get_running_loop()
    # The first thing that a command does is to load what it needs, a seventh faster so: see loading().
    gc.disable()
    loop.call_soon(_collect_again)
    shutdown = SHUTDOWN.get()
    with contextlib.ExitStack() as listening:
        if shutdown is not None:
            listening.enter_context(
                shutdown.cancelling(lambda: loop.call_soon_threadsafe(task.cancel), stays=lending.stay)
            )
        await asyncio.wait([task])
    if task.cancelled():
        return Exit.INTERRUPTED
    error = task.exception()
    if isinstance(error, BaseExceptionGroup):
        error = first_error(error)
    if isinstance(error, MxrtcError) and shutdown is not None and shutdown.told:
        return Exit.INTERRUPTED  # what came of it on the way out is of no interest
    return _outcome(report, error)


def _collect_again() -> None:
    # What was loaded stays as long as the program: to look through it would hold up the call that comes next.
    gc.freeze()
    gc.enable()


def _outcome(report: Report, error: BaseException | None) -> Exit:
    """Say why a command has failed, and with which code it ends.

    Raises:
        BaseException: a defect.
    """
    match error:
        case None:
            return Exit.DONE
        case ClientError(told=True):
            return error.code
        case ClientError():
            code, sentence = error.code, str(error)
        case HomeserverError():
            code, sentence = Exit.RETRY if error.retryable else Exit.USAGE, explain_refusal(error)
        case LocalError():
            code, sentence = Exit.USAGE, str(error)
        case MxrtcError():
            code, sentence = Exit.RETRY, str(error)
        case OutputError() | OSError(errno=errno.EPIPE):
            # Whoever read our output has had enough; anything else is said at the end.
            return Exit.RETRY if error.errno == errno.EPIPE else Exit.LOCAL
        case OSError():
            code, sentence = Exit.LOCAL, f"this machine refuses: {error.strerror or error}"
        case asyncio.CancelledError() | KeyboardInterrupt():
            return Exit.INTERRUPTED
        case _:
            raise error
    report.error(sentence, code=int(code))
    return code
