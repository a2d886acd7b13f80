"""Whether the targets of services answer right now: looked at when somebody asks, and not more often.

Must never keep anybody waiting for a target that does not answer, and never knock on one again and again: a look takes
at most :data:`LOOK_S`, its result is kept for :data:`KEEP_S`, and people who ask at the same time share one look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.access.targets import AppendTarget, FilesTarget, ReadTarget, Target
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.errors import TargetError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.control_channel import States
from mxrtc_bridge.core.stream.messages import ServiceState
from mxrtc_bridge.engine.cancellation import is_told_to_end
from mxrtc_bridge.engine.control_channel import Listing
from mxrtc_bridge.engine.outside import in_one_thread
from mxrtc_bridge.engine.ports import Connector

LOOK_S = 1.5
KEEP_S = 15.0
AT_A_TIME = 8
MAX_LOOKS = 64
"""Targets that one question looks at; for others nothing is said."""
MAX_KEPT = 4096
LIST_S = 6.0
"""How long all looks of one list may take; the other side waits for 10 seconds."""

AnyTarget = Target | FilesTarget


@dataclass(slots=True)
class _Look:
    done: asyncio.Future[bool]
    until: float


class TargetStates:
    """Looks at targets.

    Args:
        connector: connects to those that are sockets.
        monotonic: seconds.
        look_s: see :data:`LOOK_S`; a disk that does not answer by then counts as down as well.
        list_s: see :data:`LIST_S`.
    """

    def __init__(
        self,
        connector: Connector,
        monotonic: Callable[[], float],
        *,
        look_s: float = LOOK_S,
        list_s: float = LIST_S,
    ) -> None:
        self._look_s = look_s
        self._list_s = list_s
        self._connector = connector
        self._monotonic = monotonic
        self._looks = Latest[AnyTarget, _Look](MAX_KEPT)
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def of(self, targets: Iterable[AnyTarget]) -> dict[AnyTarget, bool]:
        """Which of the targets are up; those beyond :data:`MAX_LOOKS` are left out."""
        wanted = list(dict.fromkeys(targets))[:MAX_LOOKS]
        async with asyncio.TaskGroup() as tasks:
            looks = {target: tasks.create_task(self._state(target)) for target in wanted}
        return {target: look.result() for target, look in looks.items()}

    async def of_services(
        self,
        listing: Listing,
        target_of: Callable[[UserId, ServiceName], AnyTarget | None],
        why_down: Callable[[UserId], str | None],
    ) -> States:
        """Which services answer; UNKNOWN for those that nobody has looked at, and for all where it takes too long.

        Args:
            listing: the services.
            target_of: where they lead.
            why_down: why a peer takes no calls, and so none of its services can be reached; None where it does.
        """
        down = {peer for peer, _ in listing if why_down(peer) is not None}
        targets = {(peer, name): target_of(peer, name) for peer, names in listing if peer not in down for name in names}
        try:
            async with asyncio.timeout(self._list_s):
                up = await self.of(target for target in targets.values() if target is not None)
        except TimeoutError:
            up = {}
        said = {True: ServiceState.UP, False: ServiceState.DOWN, None: ServiceState.UNKNOWN}
        found = {service: said[None if target is None else up.get(target)] for service, target in targets.items()}
        return found | {(peer, name): ServiceState.DOWN for peer, names in listing if peer in down for name in names}

    async def _state(self, target: AnyTarget) -> bool:
        now = self._monotonic()
        while (look := self._looks.get(target)) is not None and now < look.until and not look.done.cancelled():
            try:
                return await asyncio.shield(look.done)
            except asyncio.CancelledError:
                if is_told_to_end():
                    raise
                # Whoever looked has given up, and we have not.
        look = self._looks[target] = _Look(asyncio.get_running_loop().create_future(), now + KEEP_S)
        try:
            async with self._places:
                up = await self._answers(target)
        except BaseException:
            # Whoever waits for this look sees it cancelled; one of them, or the next one who asks, looks anew.
            look.done.cancel()
            raise
        look.done.set_result(up)
        return up

    async def _answers(self, target: AnyTarget) -> bool:
        try:
            async with asyncio.timeout(self._look_s):
                if isinstance(target, FilesTarget | AppendTarget | ReadTarget):
                    # Opened it would be made, or wake whoever waits at the other end of a FIFO.
                    return await in_one_thread(_is_there, target)
                sink = await self._connector.connect(target)
        except (TargetError, OSError, TimeoutError):
            return False
        sink.reset()
        return True


def _is_there(target: FilesTarget | AppendTarget | ReadTarget) -> bool:
    path = Path(target.path)
    if isinstance(target, AppendTarget):
        return path.exists() or path.parent.is_dir()
    return path.is_dir() if isinstance(target, FilesTarget) else path.exists()
