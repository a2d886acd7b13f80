"""How a command of ``mxrtc`` runs: what all share, and what its end means as an exit code."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

import uvloop

from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.options import CallOptions
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError


@dataclass(frozen=True, slots=True)
class Context:
    """Options that all commands share."""

    state: StateFolder
    as_json: bool
    quiet: bool
    call: CallOptions

    def report(self, *, data_on_stdout: bool = False) -> Report:
        return Report(as_json=self.as_json, quiet=self.quiet, data_on_stdout=data_on_stdout)


def run(report: Report, work: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run one command to its end and exit with its code."""
    try:
        uvloop.run(_supervised(work))
    except ClientError as error:
        report.error(str(error), code=int(error.code))
        sys.exit(error.code)
    except HomeserverError as error:
        code = Exit.RETRY if error.retryable else Exit.USAGE
        report.error(explain_refusal(error), code=int(code))
        sys.exit(code)
    except LocalError as error:
        report.error(str(error), code=int(Exit.USAGE))
        sys.exit(Exit.USAGE)
    except MxrtcError as error:
        report.error(str(error), code=int(Exit.RETRY))
        sys.exit(Exit.RETRY)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # whoever read our output has had enough; click ends quietly
        report.error(f"this machine refuses: {error.strerror or error}", code=int(Exit.LOCAL))
        sys.exit(Exit.LOCAL)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    sys.exit(Exit.DONE)


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
        raise _first_leaf(group) from None


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person should read of those that ended a command at the same time."""
    for error in group.exceptions:
        leaf = _first_leaf(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(leaf, asyncio.CancelledError):
            return leaf
    return group
