"""Which devices may have sessions, judged again while they last: by the policy, and by what is answered about them.

A session that was let in stays only as long as its device is there with the key that it had, its user shows the same
identity, and the policy would let it in. All callers are asked for together, every :data:`EVERY_S`. What cannot be
found out just now ends nothing, but for a policy that asks for more than was ever known of the device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from mxrtc_bridge.bridge.devices.lookups import DeviceLookups
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.live_sessions import LiveSessions
from mxrtc_bridge.engine.session import Session
from mxrtc_bridge.matrix.crypto.values import UserDevices

log = logging.getLogger(__name__)

EVERY_S = 15.0
"""With the time that the questions may take, a session ends within 30 s of what ends it."""
UNTRUSTED = "this bridge takes calls only from verified devices, and yours does not count as one any more"
GONE = "your homeserver does not list the device that has called any more: it was logged out, deleted or replaced"
CHANGED = "you show another identity than when you called, so this session ends"


class DevicePolicy:
    """See the head of this module.

    Args:
        lookups: asks for devices.
        sessions: the live sessions.
        sleep: waits until they are judged again.
    """

    def __init__(
        self,
        lookups: DeviceLookups,
        sessions: LiveSessions,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lookups = lookups
        self._sessions = sessions
        self._sleep = sleep

    async def run(self) -> None:
        """Judge all sessions again and again, until cancelled."""
        while True:
            await self._sleep(EVERY_S)
            try:
                await self.judge_again()
            except Exception:
                # Whatever it was, the next time must come: this is what ends the sessions of lost devices.
                log.exception("! the devices of live sessions were not judged")

    def policy_changed(self) -> None:
        """End what the policy in force does not let in whatever is answered; waits for nobody."""
        least = self._lookups.least
        self._end([session for session in self._sessions.sessions if _is_below(session.device, least)], UNTRUSTED)

    async def judge_again(self) -> None:
        """Ask for the devices of all sessions, and end those that would not be let in now."""
        self.policy_changed()
        by_pair: dict[tuple[UserId, UserId], list[Session]] = {}
        for session in self._sessions.sessions:
            if session.device is not None:
                by_pair.setdefault((session.local, session.remote), []).append(session)
        if not by_pair:
            return
        silent = set(by_pair)

        def heard(pair: tuple[UserId, UserId], seen: UserDevices) -> None:
            silent.discard(pair)
            for session in by_pair[pair]:
                why = self._why_not(session.device, seen)
                if why is not None:
                    self._end([session], why)

        await self._lookups.look_all(by_pair, heard)
        for pair in silent:
            for session in by_pair[pair]:
                if not self._was_trusted(session):
                    self._end([session], UNTRUSTED)

    def _why_not(self, caller: CallerDevice | None, seen: UserDevices) -> str | None:
        """Why a device would not be let in, by a fresh answer; None if it would."""
        assert caller is not None
        same = [each for each in seen.devices if (each.device, each.ed25519) == (caller.device, caller.ed25519)]
        if not same:
            return GONE
        if caller.master is not None and seen.master != caller.master:
            return CHANGED
        return None if same[0].trust.meets(self._lookups.least) else UNTRUSTED

    def _was_trusted(self, session: Session) -> bool:
        """Whether the policy is content with what was known of the device last, as nobody answers now."""
        caller, lists = session.device, self._lookups.lists_of(session.local)
        last = None if lists is None else lists.last(session.remote)
        assert caller is not None
        for each in () if last is None else last.devices:
            if (each.device, each.ed25519) == (caller.device, caller.ed25519):
                return each.trust.meets(self._lookups.least)
        return caller.trust.meets(self._lookups.least)

    def _end(self, sessions: Iterable[Session], message: str) -> None:
        chosen = set(sessions)
        for session in chosen:
            log.info("x session of %s with %s: %s", session.remote, session.local, message)
        if chosen:
            self._sessions.end_sessions(lambda session: session in chosen, message)


def _is_below(caller: CallerDevice | None, least: Trust) -> bool:
    """Whether nothing that could be answered would let it in: it has called from a room without encryption."""
    return caller is None and least is not Trust.UNSIGNED
