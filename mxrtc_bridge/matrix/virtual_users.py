"""Which virtual users are ours to use, and whose identity is ours to publish.

A homeserver gives an application service every account of its namespace, also one that a person made before the
registration was read, and its identity can be replaced without asking anybody. Both are done on purpose only. A user
is ours if this database remembers to have registered it, if it shows an identity that our key makes (a database was
lost), or if the admin has said so. A user whose identity is another one keeps it until the admin says otherwise; one
that is ours nevertheless can be used, and says by its device, which does not come up, that something is wrong.

:meth:`VirtualUsers.take` changes nothing about those that it refuses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mxrtc_bridge.core.errors import ConfigError, HomeserverError, MxrtcError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.crypto.cross_signing import ShownIdentity

log = logging.getLogger(__name__)

CONCURRENCY = 8
"""Users that are registered at the same time."""
MAX_NAMED = 10
"""Users that one sentence names."""
UNKNOWN_BEFORE = UserId("*")
"""Remembered by a database of a version that did not remember: who is there at the next start, is ours."""


class Memory(Protocol):
    """Outlives a restart; every method may raise StorageError."""

    async def all(self) -> Mapping[UserId, str]: ...

    async def remember(self, user: UserId, how: str, now_ms: int, /) -> None: ...

    async def forget(self, user: UserId, /) -> None: ...


class Identities(Protocol):
    """The identities of virtual users (client-server API, "Cross-signing")."""

    @property
    def key_place(self) -> str:
        """Where our key is kept, for people."""
        ...

    async def load(self) -> None:
        """Read the key, which may have been made since; comes before :meth:`expected`.

        Raises:
            ConfigError: it cannot be read.
        """
        ...

    def expected(self, user: UserId) -> str | None:
        """The master key that our key makes; None where there is no encryption."""
        ...

    async def shown(self, users: Collection[UserId]) -> Mapping[UserId, ShownIdentity]:
        """The identities that the homeserver shows of some users.

        Raises:
            HomeserverError: it does not say.
        """
        ...


@dataclass(frozen=True, slots=True)
class AdminConsent:
    """What the admin has said on purpose, for this start only."""

    adopt: frozenset[UserId] = frozenset()
    """Accounts that exist, and are to be the bridge's."""
    new_identity: bool = False
    """Whether identities may be replaced."""


class UserRefusal(Enum):
    """Why a user is not taken."""

    STRANGER = "exists, and was not made by this bridge"
    OTHER_IDENTITY = "shows another identity"


class UsersRefusedError(ConfigError):
    """Some of our users have accounts or identities that are not ours; the text says who, why, and what to do."""


class VirtualUsers:
    """See the head of this module; :meth:`load` comes first.

    Args:
        homeserver: registers users.
        memory: who is ours.
        identities: of virtual users.
        consent: what the admin has said.
        wall_ms: milliseconds since the epoch.
        taken_over: told in words what was done to a user on the admin's word; must not block.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        memory: Memory,
        identities: Identities,
        *,
        consent: AdminConsent,
        wall_ms: Callable[[], int],
        taken_over: Callable[[UserId, str], None],
    ) -> None:
        self._homeserver = homeserver
        self._memory = memory
        self._identities = identities
        self._consent = consent
        self._wall_ms = wall_ms
        self._taken_over = taken_over
        self._ours: dict[UserId, str] = {}
        self._fit: set[UserId] = set()
        """Taken in this run, and in use since."""
        self._refused: dict[UserId, UserRefusal] = {}
        """Those of the rest that were looked at last."""
        self._key_is_other = False
        """Whether users of ours show identities, and none of them one that our key makes."""

    async def load(self) -> None:
        """Read who is ours.

        Raises:
            StorageError: the database cannot be read.
        """
        self._ours = dict(await self._memory.all())

    def is_ours(self, user: UserId) -> bool:
        """Whether we may act as ``user``: one that is in the namespace only may be a person."""
        return user in self._ours

    def is_fit(self, user: UserId) -> bool:
        """Whether ``user`` can be used: it was taken in this run, or is ours and shows another identity."""
        return user in self._fit or (self.is_ours(user) and self.shows_other(user))

    def shows_other(self, user: UserId) -> bool:
        """Whether ``user`` was refused when it was looked at last, because of its identity."""
        return self._refused.get(user) is UserRefusal.OTHER_IDENTITY

    def why_unfit(self, user: UserId) -> str | None:
        """Why ``user`` cannot be used, in words that go on after its name; None if it can, or was not looked at."""
        return None if self.is_fit(user) or user not in self._refused else self._refused[user].value

    def nobody_serves(self, bot: UserId, peers: Collection[UserId]) -> bool:
        """Whether a bridge would be of no use to anybody with those that were refused when they were looked at last.

        So it is where no peer is left, where the bot, as which all questions are asked, would be a person or another
        bridge, and where it is the key that is wrong: a new peer would get an identity by it that nobody can take back.
        """
        wrong = self._key_is_other or (bot in self._refused and not self.is_fit(bot))
        return wrong or (bool(peers) and all(peer in self._refused for peer in peers))

    def may_replace_identity(self, user: UserId) -> bool:
        """Whether another identity of ``user`` may be replaced by ours."""
        return self._consent.new_identity or self._ours.get(user) == "adopting"

    async def refusals(self, users: Collection[UserId]) -> dict[UserId, UserRefusal]:
        """Who could not be taken, as far as looking tells; changes nothing.

        Raises:
            ConfigError: the key of the identities cannot be read.
            HomeserverError: it does not answer.
        """
        await self._identities.load()
        shown = await self._identities.shown(users)
        self._note_key(shown)
        found = {}
        for user in users:
            if self._is_proven(user, shown):
                if self._is_other(user, shown) and self._ours.get(user) != "adopting":
                    found[user] = UserRefusal.OTHER_IDENTITY
            elif await self._exists(user):
                of_a_bridge = user in shown and shown[user].of_a_bridge
                found[user] = UserRefusal.OTHER_IDENTITY if of_a_bridge else UserRefusal.STRANGER
        self._refused = found
        return found

    def _note_key(self, shown: Mapping[UserId, ShownIdentity]) -> None:
        seen = [user for user in shown if self._is_proven(user, shown)]
        self._key_is_other = bool(seen) and all(self._is_other(user, shown) for user in seen)

    async def take(self, users: Iterable[UserId]) -> None:
        """See to it that the users are registered and ours; to be called before anything else is done with them.

        Those that are fit can be used afterwards, also when others were refused. One that was taken before stays so;
        the refused are looked at again by the next call.

        Raises:
            UsersRefusedError: some were refused.
            ConfigError: the key of the identities cannot be read.
            HomeserverError: a user could not be registered; the others were gone through all the same.
            StorageError: it could not be written down.
        """
        wanted = sorted(set(users) - self._fit)
        await self._identities.load()
        shown = await self._identities.shown(wanted)
        self._note_key(shown)
        refused: dict[UserId, UserRefusal] = {}
        failures: list[MxrtcError] = []
        unsettled: list[UserId] = []
        todo = iter(wanted)

        async def work() -> None:
            for user in todo:
                try:
                    refusal = await self._take_one(user, shown)
                except (HomeserverError, StorageError) as error:
                    failures.append(error)
                    if isinstance(error, StorageError) or error.retryable:
                        unsettled.append(user)
                    continue
                if refusal is None:
                    self._fit.add(user)
                else:
                    refused[user] = refusal

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        await self._end_unknown([*refused, *unsettled])
        # Of whom nothing was found out now, what was known counts.
        unknown = set(wanted).difference(self._fit, refused)
        self._refused = refused | {user: why for user, why in self._refused.items() if user in unknown}
        # First what may pass: it is done again then, and the refused are looked at with the others.
        if failures:
            raise _with_remedy(failures[0])
        if refused:
            raise UsersRefusedError(self.explain(refused))

    async def _end_unknown(self, left: Iterable[UserId]) -> None:
        """Let :data:`UNKNOWN_BEFORE` count for this time only, whatever came of it: who is there later may be a person.

        Those who are left, because of another identity or a failure that says nothing, are ours by it all the same.
        """
        if UNKNOWN_BEFORE not in self._ours:
            return
        for user in left:
            if user not in self._ours:
                await self._note(user, "before")
        await self._forget(UNKNOWN_BEFORE)

    def explain(self, refused: Mapping[UserId, UserRefusal]) -> str:
        """Say who was refused, why, and what to do."""
        sentences = []
        if users := sorted(user for user, why in refused.items() if why is UserRefusal.STRANGER):
            adopt = " ".join(f"--adopt {user}" for user in users[:MAX_NAMED])
            sentences.append(
                f"{_names(users)} exists at the homeserver already, and this bridge has not made it: it is a person's "
                "account, or another bridge's. Nothing about it was changed. Give the peer or the bot another name in "
                "the configuration. Or, if the account is to be the bridge's, which logs everybody out of it and "
                f"replaces its identity, start once with: mxrtc-bridge run {adopt}"
            )
        if users := sorted(user for user, why in refused.items() if why is UserRefusal.OTHER_IDENTITY):
            sentences.append(
                f"{_names(users)} shows another identity at the homeserver than the key in "
                f"{self._identities.key_place} makes: the key was replaced or lost, somebody else has given it "
                "another, or this is a second bridge for the same users. Nothing was changed. Put the old key back. "
                "Or, if it is lost, start once with: mxrtc-bridge run --new-identity. Then the old identities are gone "
                "for good, and everybody who knows a peer by its devices reads that its identity has changed, and has "
                "to accept it (mxrtc trust) or compare it anew"
            )
        return "\n".join(sentences)

    async def _take_one(self, user: UserId, shown: Mapping[UserId, ShownIdentity]) -> UserRefusal | None:
        how = self._ours.get(user)
        if not self._is_proven(user, shown):
            # Another bridge's, which may have been this one before it lost all that it knew.
            of_a_bridge = user in shown and shown[user].of_a_bridge
            if user not in self._consent.adopt and not (of_a_bridge and self._consent.new_identity):
                if of_a_bridge:
                    return UserRefusal.OTHER_IDENTITY
                return None if await self._register(user) else UserRefusal.STRANGER
            self._report(user, "the account was adopted, as was said at the start")
            how = "adopting"
        await self._homeserver.register_user(user)
        if self._is_other(user, shown):
            if how != "adopting" and not self._consent.new_identity:
                return UserRefusal.OTHER_IDENTITY
            self._report(user, "its identity is replaced, as was said at the start")
            how = how or "before"
        elif how in (None, "registering"):
            how = "registered" if how is not None else "identity" if user in shown else "before"
        elif how == "adopting" and (user in shown or self._identities.expected(user) is None):
            # Ours is there; or there is none, and the word must not wait for an identity that is somebody's later.
            how = "adopted"
        if how != self._ours.get(user):
            await self._note(user, how)
        return None

    async def _register(self, user: UserId) -> bool:
        """Register a user that nobody has; False if somebody has it."""
        # Noted before, where the homeserver has said that there is nobody: the bridge may be killed in between.
        is_new = await self._exists(user) is False
        if is_new:
            await self._note(user, "registering")
        try:
            made = await self._homeserver.register_user(user)
        except HomeserverError as error:
            # Refused for certain, as where the name is in no namespace of ours: next time it may be a person's.
            if is_new and not error.retryable:
                await self._forget(user)
            raise
        if made:
            await self._note(user, "registered")
        elif is_new:
            await self._forget(user)
        return made

    async def _forget(self, user: UserId) -> None:
        self._ours.pop(user, None)
        await self._memory.forget(user)

    def _is_proven(self, user: UserId, shown: Mapping[UserId, ShownIdentity]) -> bool:
        shows_ours = user in shown and not self._is_other(user, shown) and self._identities.expected(user) is not None
        return user in self._ours or UNKNOWN_BEFORE in self._ours or shows_ours

    def _is_other(self, user: UserId, shown: Mapping[UserId, ShownIdentity]) -> bool:
        """Whether ``user`` shows another identity than ours."""
        mine = self._identities.expected(user)
        return mine is not None and user in shown and shown[user].master != mine

    async def _exists(self, user: UserId) -> bool | None:
        """Whether there is such a user; None where the homeserver does not tell."""
        try:
            await self._homeserver.displayname(user)
        except HomeserverError as error:
            if error.retryable or error.status < 400:
                raise
            return False if error.status == 404 and error.is_outside else None
        return True

    async def _note(self, user: UserId, how: str) -> None:
        await self._memory.remember(user, how, self._wall_ms())
        self._ours[user] = how

    def _report(self, user: UserId, what: str) -> None:
        log.warning("! %s: %s", user, what)
        self._taken_over(user, what)


NOT_OUR_NAMES = (
    "the registration that the homeserver has read was made for another bot or peer_prefix: write it anew "
    "(mxrtc-bridge registration), give it to the homeserver and restart that, or take back the change of "
    "appservice.bot or peer_prefix"
)


def _with_remedy(error: MxrtcError) -> MxrtcError:
    if isinstance(error, HomeserverError) and error.errcode == "M_EXCLUSIVE":
        return HomeserverError(f"{error}; {NOT_OUR_NAMES}", error.status, error.errcode)
    return error


def _names(users: Sequence[UserId]) -> str:
    more = len(users) - MAX_NAMED
    return ", ".join(users[:MAX_NAMED]) + (f" and {more} more (each of them)" if more > 0 else "")
