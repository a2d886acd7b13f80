"""Which rule decides about somebody, as the running bridge would decide at this moment.

The configuration alone knows neither what admins have given, nor who is in a room, nor what a policy list says.
For the bridge's machine only: who may use what is nothing for a room.
"""

from __future__ import annotations

from collections.abc import Callable

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.bot.arguments import Arguments
from mxrtc_bridge.core.bot.commands import Effect, command
from mxrtc_bridge.core.bot.reply import Reply, answer, text
from mxrtc_bridge.core.ids import LocalAdmin, ServiceName, UserId


def _question(said: Arguments) -> tuple[UserId, UserId, ServiceName | None]:
    return said.user(), *said.target()


class Explanations:
    """See the head of this module.

    Args:
        rights: the rules in force.
        config: the configuration in force.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(self, rights: Rights, config: CurrentConfig, wall_ms: Callable[[], int]) -> None:
        self._rights = rights
        self._wall_ms = wall_ms
        self._config = config

    @command("explain @USER:SERVER PEER[/SERVICE]", "which rule decides about a user", Effect.LOOKS, _question)
    async def explain(self, _by: LocalAdmin, user: UserId, peer: UserId, service: ServiceName | None) -> Reply:
        """Decide as for a call or a stream that would begin now."""
        config = self._config.in_force
        notes = [note] if (note := config.unknown(peer, service)) is not None else []
        if not await self._rights.confirm(user, peer):
            notes.append("Who is in a room that would decide cannot be found out now, so nobody is let in by it.")
        decision = self._rights.may_call(user, peer) if service is None else self._rights.decide(user, peer, service)[0]
        # By which whoever has the file sees whether it is the one in force.
        alone = config.decide(user, peer, service, self._wall_ms())
        row = {"allowed": isinstance(decision, Allow), "rule": decision.rule, "notes": notes, "alone": alone.rule}
        return answer(text(decision.rule), rows={"page": 1, "pages": 1, "total": 1, "rows": [row]})
