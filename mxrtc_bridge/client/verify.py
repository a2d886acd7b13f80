"""``mxrtc verify``: two people, or one with two sessions, compare what both sides show.

Must never take anybody for verified without the word "yes" from our person, nor wait without end for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, peer_name
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.sharing.messages import DeviceRequest, DeviceTask
from mxrtc_bridge.core.text.display import display

MAX_ANSWER_BYTES = 256
YES, NO = ("y", "yes"), ("n", "no")


async def verify(context: Context, peer: str | None) -> None:
    """Verify our device with another session of ours, or the identity of a peer.

    Raises:
        ClientError: nothing was verified; says why.
        HomeserverError: the homeserver refuses us, or is away.
    """
    login = context.state.load_login()
    whose = login.user_id if peer is None else peer_name(login, peer).peer
    asks = DeviceRequest(DeviceTask.VERIFY, whose, None, context.call.timeout_s)
    async with Calls(context, login) as calls:
        await calls.ask_device(asks, Terminal(context.report))


class Terminal:
    """The person in front of this command; implements :class:`mxrtc_bridge.client.report.Person`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._line: asyncio.Future[str] | None = None
        """What is being read of standard input, which nothing can interrupt."""

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        self._report.say(kind, sentence, **fields)

    def data(self, kind: str, line: str, **fields: object) -> None:
        self._report.data(kind, line, **fields)

    async def compare(self, user: UserId, device: str, code: ShortCode) -> bool:
        """Show the code, and read yes or no.

        Raises:
            ClientError: standard input has ended, or an empty line was written.
        """
        self._show(user, device, code)
        while True:
            self._line = self._line or _read_line()
            said = (await asyncio.shield(self._line)).strip().lower()
            self._line = None
            if said in (*YES, *NO):
                return said in YES
            if not said:
                raise ClientError(Exit.USAGE, "there was no answer; write yes or no on standard input")
            print('Write "yes" or "no": ', end="", file=sys.stderr, flush=True)  # noqa: T201 - a question

    def _show(self, user: UserId, device: str, code: ShortCode) -> None:
        numbers = list(code.decimals)
        self._report.say("compare", "", user=user, device=device, emoji=code.names, numbers=numbers)
        if self._report.as_json:
            return
        who = display(f"{user}, device {device}")
        question = f"{who}\n\n    {code}\n\nDoes the other side show the same? [yes/no] "
        # Also with --quiet: a question that nobody reads has no answer.
        print(question, end="", file=sys.stderr, flush=True)  # noqa: T201


def _read_line() -> asyncio.Future[str]:
    """Read a line of standard input, which nothing can interrupt: in a thread that the end of the program ends."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        data = b""
        with contextlib.suppress(OSError):
            while len(data) < MAX_ANSWER_BYTES and not data.endswith(b"\n") and (more := os.read(0, 1)):
                data += more
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(line.set_result, data.decode(errors="replace"))

    threading.Thread(target=read, name="answer", daemon=True).start()
    return line
