"""What the admin's command line asks of the running bridge: the commands of admins, with rows instead of sentences.

What is declared here exists at the bridge's machine only: what is compared must not pass through the homeserver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.core.bot.arguments import Arguments, Names, WrongError
from mxrtc_bridge.core.bot.commands import Effect, Mistake, command, commands_of
from mxrtc_bridge.core.bot.parser import parse_command
from mxrtc_bridge.core.bot.reply import Reply, answer, pages, say
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import LocalAdmin, UserId


def _identity(said: Arguments) -> tuple[UserId, str | None]:
    return said.user(), said.word("").rstrip("=") if said.words else None


def _comparison(said: Arguments) -> tuple[int | None, bool]:
    if not said.words:
        return None, False
    number, same = said.number("verification"), said.keyword("same")
    if not same and not said.keyword("different"):
        raise WrongError("Say whether both sides show the same.")
    return number, same


class AdminSocket:
    """See the head of this module.

    Args:
        admins: the commands of admins.
        verifications: that wait for an admin.
        names: what short names stand for.
        others: who has more commands.
    """

    def __init__(
        self,
        admins: AdminCommands,
        verifications: BridgeVerifications,
        names: Callable[[], Names],
        others: Sequence[object] = (),
    ) -> None:
        self._verifications = verifications
        self._names = names
        self._owners = {form: owner for owner in (admins, self, *others) for form in commands_of(type(owner))}

    async def handle(self, by: LocalAdmin, words: tuple[str, ...]) -> dict[str, object]:
        """Carry out a command; returns ``rows`` with their page, or what was ``said``.

        Raises:
            AdminError: it is no command, or cannot be done.
            StorageError: the database cannot be used.
        """
        said = parse_command(words, self._owners, self._names())
        if isinstance(said, Mistake):
            raise AdminError(said.problem + (f" Usage: {said.usage}" if said.usage else ""))
        reply = await said.form.carry_out(self._owners[said.form], by, *said.arguments)
        return dict(reply.rows or {"said": "\n".join(page.plain for page in pages(reply))})

    @command("trust @USER:SERVER [KEY]", "accept the identity that a user shows now", Effect.CONFIRMS, _identity)
    async def trust(self, by: LocalAdmin, user: UserId, key: str | None) -> Reply:
        return say(await self._verifications.trust(user, key, by=by))

    @command("verify [N same|different]", "say whether both sides show the same", Effect.CONFIRMS, _comparison)
    async def verify(self, by: LocalAdmin, number: int | None, same: bool) -> Reply:
        if number is not None:
            return say(await self._verifications.decide(number, same=same, by=by))
        rows = self._verifications.rows()
        return answer(rows={"page": 1, "pages": 1, "total": len(rows), "rows": rows})
