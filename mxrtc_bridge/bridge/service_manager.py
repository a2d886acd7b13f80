"""What the service manager of systemd is told: ready, reloading, stopping, and that the loop still turns.

The protocol of sd_notify(3): datagrams of ``NAME=value`` lines to the socket of ``NOTIFY_SOCKET``. Nothing is sent
where that is not set. It is written here because it is a few lines, and a library for it would send in a blocking way.

Must never hold up or end the bridge: a manager that does not read, or is gone, costs its own messages only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from mxrtc_bridge.engine.set_within import set_within

log = logging.getLogger(__name__)

READY_AFTER_S = 45.0
"""When the bridge counts as started although it does not serve yet: it waits for its homeserver then, as it may for
hours, and whatever is ordered behind it shall not wait with it. Less than systemd's own patience (90 s)."""
MAX_PATH_BYTES = 107
"""``sun_path`` of unix(7) with the end of its text, and so much of an abstract name as well."""
MAX_WATCHDOG_USEC = 24 * 3600 * 1_000_000


class ServiceManager:
    """See the head of this module.

    Args:
        environ: the environment, from which what is meant for us alone is taken out; that of the process by default.
        monotonic_ns: the clock ``CLOCK_MONOTONIC``, which the manager compares with.
        ready_after_s: see :data:`READY_AFTER_S`.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str] | None = None,
        *,
        monotonic_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        ready_after_s: float = READY_AFTER_S,
    ) -> None:
        found = os.environ if environ is None else environ
        # What we start must not speak in our name.
        given, usec, pid = (found.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        self._address = _address(given)
        self._watchdog_s = _watchdog_s(usec, pid)
        self._monotonic_ns = monotonic_ns
        self._ready_after_s = ready_after_s
        self._ready = False
        self._serves = False
        self._stops = False
        self._status = "serving"
        self._complained = False
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def close(self) -> None:
        """Say nothing more; may be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def run(self, serving: asyncio.Event) -> None:
        """Say when the bridge is ready, and that the loop turns, until cancelled.

        Args:
            serving: set when the bridge serves.
        """
        async with asyncio.TaskGroup() as tasks:
            if self._watchdog_s is not None:
                tasks.create_task(self._watch(self._watchdog_s / 2), name="watchdog")
            if not await set_within(serving, self._ready_after_s):
                self._say_ready("waiting: it does not serve yet, and its log says why")
                await serving.wait()
            self._serves = True
            self._say_ready(self._status)

    def note(self, trouble: str) -> None:
        """What is wrong with a bridge that serves, in a few words, or nothing; said with "serving" from then on."""
        status = f"serving; {trouble}" if trouble else "serving"
        if status != self._status and self._serves and not self._stops:
            self._send(f"STATUS={status}")
        self._status = status

    def reload(self, *, begins: bool) -> None:
        """A reload begins or has ended; before the bridge is ready it says nothing."""
        if not self._ready:
            return
        if begins:
            # The time tells the manager which of several requests this is the answer to.
            self._send(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic_ns() // 1000}")
        else:
            self._send("READY=1")

    def stopping(self) -> None:
        """The bridge begins to stop."""
        self._ready, self._stops = False, True
        self._send("STOPPING=1\nSTATUS=stopping")

    async def _watch(self, every_s: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(every_s)

    def _say_ready(self, status: str) -> None:
        if self._stops:
            return
        self._ready = True
        self._send(f"READY=1\nSTATUS={status}")

    def _send(self, text: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("! the service manager was not told (%s): %s", text.partition("\n")[0], error.strerror)


def _address(text: str) -> bytes | None:
    """Where messages go: a path, or an abstract name; None where nobody is to be told."""
    if not text:
        return None
    name = os.fsencode(text)
    if name[:1] not in (b"/", b"@") or len(name) < 2 or len(name) > MAX_PATH_BYTES or b"\0" in name:
        log.warning("! NOTIFY_SOCKET is no path of a unix socket, so the service manager is told nothing")
        return None
    return b"\0" + name[1:] if name.startswith(b"@") else name


def _watchdog_s(usec: str, pid: str) -> float | None:
    """How long the manager waits for a sign of life; None where it does not, or waits for another process."""
    if pid and pid != str(os.getpid()):
        return None
    if not (usec.isascii() and usec.isdigit()) or not 0 < int(usec[:20]) <= MAX_WATCHDOG_USEC:
        return None
    return int(usec) / 1_000_000
