"""How a command of ``mxrtc`` runs: what all share, and what its end means as an exit code."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from typing import Concatenate, NoReturn, ParamSpec

import click
import uvloop

from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError, first_error

P = ParamSpec("P")


def in_loop(command: Callable[Concatenate[Context, P], Awaitable[None]]) -> Callable[P, NoReturn]:
    """Make a coroutine a command, whose first argument is what all commands share."""

    def run_to_its_end(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        context = click.get_current_context().find_object(Context)
        assert context is not None
        run(context.report, lambda: command(context, *args, **kwargs))

    return update_wrapper(run_to_its_end, command)


def run(report: Report, work: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run one command to its end and exit with its code."""
    try:
        uvloop.run(_supervised(work))
    except ClientError as error:
        _fail(report, error.code, str(error))
    except HomeserverError as error:
        _fail(report, Exit.RETRY if error.retryable else Exit.USAGE, explain_refusal(error))
    except LocalError as error:
        _fail(report, Exit.USAGE, str(error))
    except MxrtcError as error:
        _fail(report, Exit.RETRY, str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # whoever read our output has had enough; click ends quietly
        _fail(report, Exit.LOCAL, f"this machine refuses: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    sys.exit(Exit.DONE)


def _fail(report: Report, code: Exit, sentence: str) -> NoReturn:
    report.error(sentence, code=int(code))
    sys.exit(code)


async def _supervised(work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` so that SIGTERM and SIGHUP end it like Ctrl-C does: in order, with everything closed."""
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored, and means it
        loop.add_signal_handler(signal.SIGHUP, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        raise first_error(group) from None
