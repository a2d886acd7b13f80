"""Messages of devices that are not known: they wait here until their sender was looked up, outside of the order.

Whoever reads messages waits for no server, neither for ours nor for others. A device that nobody knows is asked for in
turns (:mod:`mxrtc_bridge.engine.fair_work`), fair by right, server and sender: whoever has a right gets their message
heard whatever strangers send. What comes from the same device meanwhile waits behind it, in order. Must not hold much,
nor for long. What waits is stored, and waits again after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import HomeserverError, MxrtcError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.engine.retries import ask_until_done
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.opened_messages import OpenedMessage
from mxrtc_bridge.matrix.crypto.outbound import Later
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How long one device is asked for; our homeserver waits 8 seconds for others."""
PROVEN_S = 1.0
"""The same where the message proves its device by itself: then it is heard without an answer."""
AGAIN_S = 2.0
"""A homeserver that is away for a moment is asked once more after this time."""
DATABASE_S = 0.5
"""A database that is busy is asked again after this time, and later after longer ones."""
LINE_S = 120.0
"""After this time a line counts as lost, with the task that should have looked after it."""
MESSAGES_OF_DEVICE = 1000
"""As many as one answer brings; a call of a client with many addresses has some twenty."""
CHARS_OF_DEVICE = 1024 * 1024
ALL_CHARS = 8 * 1024 * 1024
"""Of the plain text that waits, of one device and of all; beyond it a message is dropped."""

Sender = tuple[UserId, str, str]
"""A user, and both keys of the device."""


@dataclass(slots=True)
class _Line:
    until_s: float
    messages: deque[tuple[OpenedMessage, int]] = field(default_factory=deque)
    chars: int = 0


class LateSenders:
    """See the head of this module.

    Args:
        lists: asked for devices.
        later: does it while others are read.
        hand_on: given a message with the device that has sent it, None where nobody lists it.
        ended: told of each message that waits no more.
        line_ended: called when a device has nothing waiting any more.
    """

    def __init__(
        self,
        lists: DeviceLists,
        later: Later,
        hand_on: Callable[[UserId, OlmMessage, DeviceIdentity | None], Awaitable[None]],
        ended: Callable[[OpenedMessage], None],
        line_ended: Callable[[], Awaitable[None]],
        seldom: RateLimitedLog,
    ) -> None:
        self._lists = lists
        self._later = later
        self._hand_on = hand_on
        self._ended = ended
        self._line_ended = line_ended
        self._lines: dict[Sender, _Line] = {}
        self._chars = 0
        self._seldom = seldom.of(log)

    def holds(self, sender: UserId, message: OlmMessage) -> bool:
        """Whether messages of this device wait, so that the next one must wait behind them."""
        line = self._lines.get(_name(sender, message))
        return line is not None and asyncio.get_running_loop().time() < line.until_s

    def put(self, sender: UserId, opened: OpenedMessage) -> bool:
        """Let a message wait until its device was asked for; False, and it is dropped, without a place for it."""
        message = opened.message()
        name, chars, now_s = _name(sender, message), message.chars, asyncio.get_running_loop().time()
        line = self._lines.get(name)
        if line is None or now_s >= line.until_s:
            line = _Line(now_s + LINE_S)
            if self._chars + chars > ALL_CHARS or not self._later(sender, lambda: self._work(name, line)):
                return False
            self._give_up(self._lines.get(name))
            self._lines[name] = line
        elif (
            len(line.messages) >= MESSAGES_OF_DEVICE
            or line.chars + chars > CHARS_OF_DEVICE
            or self._chars + chars > ALL_CHARS
        ):
            self._seldom.warning(sender, "! a message of %s is dropped: too many wait for its device", sender)
            return False
        opened.waits = True
        line.messages.append((opened, chars))
        line.chars += chars
        self._chars += chars
        return True

    async def _work(self, name: Sender, line: _Line) -> None:
        try:
            device = await self._look(name, proven=line.messages[0][0].message().device_keys is not None)
            while line.messages:
                # It stays in front until it is handled: what comes meanwhile is put behind it.
                opened, _ = line.messages[0]
                await self._deliver(name[0], opened.message(), device)
                if line.messages and line.messages[0][0] is opened:
                    self._take_out(line)
            with contextlib.suppress(StorageError):  # it is forgotten with what is stored next
                await self._line_ended()
        finally:
            self._give_up(line)
            if self._lines.get(name) is line:
                del self._lines[name]

    def _give_up(self, line: _Line | None) -> None:
        while line is not None and line.messages:
            self._take_out(line)

    def _take_out(self, line: _Line) -> None:
        opened, chars = line.messages.popleft()
        self._chars -= chars
        self._ended(opened)

    async def _look(self, name: Sender, *, proven: bool) -> DeviceIdentity | None:
        for last in (proven, True):
            try:
                async with asyncio.timeout(PROVEN_S if proven else LOOK_S):
                    return await ask_until_done(lambda: self._lists.look_for(*name), pause_s=DATABASE_S)
            except (MxrtcError, TimeoutError) as error:
                self._seldom.info(name[0], "the devices of %s could not be asked for: %s", name[0], error)
                if last or not isinstance(error, HomeserverError) or not error.retryable:
                    return None
            await asyncio.sleep(AGAIN_S)
        return None

    async def _deliver(self, sender: UserId, message: OlmMessage, device: DeviceIdentity | None) -> None:
        try:
            async with asyncio.timeout(LINE_S):
                await ask_until_done(lambda: self._hand_on(sender, message, device), pause_s=DATABASE_S)
        except (MxrtcError, TimeoutError) as error:
            self._seldom.info(sender, "x a message of %s is ignored: %s", sender, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this message, and no other
            self._seldom.exception(sender, "! a message of %s was not handled", sender, error=error)


def _name(sender: UserId, message: OlmMessage) -> Sender:
    return sender, message.curve25519, message.ed25519
