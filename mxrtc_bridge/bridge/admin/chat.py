"""Carries out what admins type in a chat, by :mod:`mxrtc_bridge.bridge.admin.service`; who is one is judged before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.service import PAGE_ROWS, AdminService, ListPage, SessionRow
from mxrtc_bridge.bridge.check import check
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config import Config, Finding, Level
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.policy import Service
from mxrtc_bridge.core.access.requests import AccessRequest, Decision
from mxrtc_bridge.core.audit.chain import AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.bot.commands import (
    AllowRequest,
    CheckBridge,
    Command,
    DenyRequest,
    GiveGrant,
    KickSession,
    KickUser,
    ListGrants,
    ListRequests,
    ListSessions,
    Pause,
    ReloadConfig,
    Resume,
    RevokeAccess,
    RevokeGrant,
    ShowLog,
)
from mxrtc_bridge.core.bot.reply import Code, Line, MatrixLink, Reply, answer, item, say, text
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import Actor, UserId
from mxrtc_bridge.core.text.display import display, size_words
from mxrtc_bridge.core.text.durations import say_duration
from mxrtc_bridge.storage.audit import AuditQuery

Check = Callable[[Config], Awaitable[list[Finding]]]

ADMINS_VERBS = frozenset(
    [
        "grants",
        "grant",
        "revoke",
        "who",
        "kick",
        "log",
        "check",
        "reload",
        "pause",
        "resume",
        "requests",
        "allow",
        "deny",
    ]
)
"""Verbs that are carried out here."""


class AdminCommands:
    """See the head of this module.

    Args:
        desk: does it.
        requests: for access.
        config: the configuration in force.
        wall_ms: milliseconds since the epoch.
        check: looks at everything around the bridge.
    """

    def __init__(
        self,
        desk: AdminService,
        requests: AccessRequests,
        *,
        config: CurrentConfig,
        wall_ms: Callable[[], int],
        check: Check = check,
    ) -> None:
        self._desk = desk
        self._requests = requests
        self._config = config
        self._wall_ms = wall_ms
        self._check_all = check

    async def carry_out(self, command: Command, by: Actor) -> Reply:
        """Do what an admin has said."""
        try:
            return await self.do(command, by)
        except AdminError as error:
            return say(str(error))

    async def do(self, command: Command, by: Actor) -> Reply:  # noqa: C901, PLR0911, PLR0912 - a table
        """Do it.

        Raises:
            AdminError: it cannot be done.
            StorageError: the database cannot be used.
        """
        match command:
            case ListGrants(page=page):
                return self._grants(self._desk.grants(page))
            case GiveGrant(subject=subject, peer=peer, service=service, for_s=for_s, because=because):
                given = await self._desk.give(subject, Service(peer, service), for_s, by, reason=because)
                return say(f"Grant {given.number}: {self._line(given)}.")
            case RevokeGrant(grant=name, because=_):
                return await self._revoke(name, by)
            case RevokeAccess(subject=subject, peer=peer_of, service=service_of):
                gone = await self._desk.revoke_all(subject, peer_of, service_of, by)
                if not gone:
                    raise AdminError(f"Nothing was given to {subject}.")
                return say(f"Taken back: {_numbers(gone)}.")
            case ListRequests():
                return self._waiting(await self._requests.waiting())
            case ListSessions(page=page):
                return self._who(self._desk.who(page))
            case KickSession(session=number, because=because):
                count = self._desk.kick(by, number=int(number), reason=because) if number.isdecimal() else 0
                if not count:
                    raise AdminError(f"There is no session {number}.")
                return say(f"Ended session {number}.")
            case KickUser(user=user, because=because):
                count = self._desk.kick(by, user=user, reason=because)
                if not count:
                    raise AdminError(f"{user} has no live session.")
                return say(f"Ended {count} of {user}.")
            case ShowLog(user=user_of, peer=peer_of, since_s=since_s, page=page):
                since_ms = None if since_s is None else self._wall_ms() - since_s * 1000
                return _log(await self._desk.log(AuditQuery(user_of, peer_of, since_ms), page), command)
            case CheckBridge():
                return await self._check()
            case Pause():
                self._desk.pause(by)
                return say("New sessions are refused now; live ones go on. ", Code("resume"), " takes them again.")
            case Resume():
                self._desk.resume(by)
                return say("New sessions are taken.")
            case ReloadConfig():
                return say(await self._desk.reload(by))
            case AllowRequest(number=number_of, once=once, for_s=length):
                decision = Decision.ALLOW_ONCE if once else Decision.ALLOW
                return say(await self._requests.answer(number_of, decision, by, for_s=length))
            case DenyRequest(number=number_of, because=because):
                return say(await self._requests.answer(number_of, Decision.DENY, by, why=because))
        raise AdminError("I do not do this here.")

    async def _revoke(self, name: str, by: Actor) -> Reply:
        if not name.isdecimal():
            if any(grant.id == name for grant in self._config.in_force.grants):
                raise AdminError(f"{name} is a grant of the configuration; take it out there, then reload.")
            raise AdminError(f"There is no grant {name}.")
        grant = await self._desk.revoke(int(name), by)
        return say(f"Taken back: {self._line(grant)}.")

    def _grants(self, page: ListPage[StoredGrant]) -> Reply:
        in_config = text(f"The configuration has {len(self._config.in_force.grants)} grants of its own.")
        if not page.total:
            return answer(text("No grants have been given."), in_config)
        lines = (item(f"{grant.number}: {self._line(grant)}") for grant in page.rows)
        return answer(text(f"Given grants in force ({page.total}):"), *lines, *_where(page, "grants"), in_config)

    def _waiting(self, requests: list[AccessRequest]) -> Reply:
        if not requests:
            return say("No request waits for an answer.")
        lines = (
            item(
                f"{each.number}: ",
                MatrixLink(each.user, each.user),
                f" asks for {self._peer(each.peer)}/{each.service} for {say_duration(each.for_s)}"
                + (f' "{display(each.because, 300)}"' if each.because else ""),
            )
            for each in requests[:PAGE_ROWS]
        )
        return answer(text(f"Requests that wait for an answer ({len(requests)}):"), *lines)

    def _who(self, page: ListPage[SessionRow]) -> Reply:
        paused = [text("New sessions are refused (", Code("resume"), ").")] if self._desk.paused else []
        if not page.total:
            return answer(text("There is no live session."), *paused)
        lines = (
            item(
                f"{row.number}: ",
                MatrixLink(row.user, row.user),
                f" with {self._peer(row.peer)}, {f'device {row.device}, ' if row.device else ''}"
                f"{row.path or 'connecting'}, for {say_duration(row.age_s)}, "
                f"{row.streams} streams, {size_words(row.sent)} given and {size_words(row.received)} taken",
            )
            for row in page.rows
        )
        return answer(text(f"Live sessions ({page.total}):"), *lines, *_where(page, "who"), *paused)

    async def _check(self) -> Reply:
        findings = await self._check_all(self._config.in_force)
        wrong = [finding for finding in findings if finding.level is not Level.OK]
        if not wrong:
            return say(f"All is well: {len(findings)} checks.")
        # What to do about it names files and addresses, which have no place in a room.
        lines = [item(f"{each.level.value}: {each.what}") for each in wrong]
        remedy = text("On the bridge's machine, ", Code("mxrtc-bridge check"), " says what to do.")
        return answer(text(f"{len(wrong)} of {len(findings)} checks failed:"), *lines, remedy)

    def _line(self, grant: StoredGrant) -> str:
        left = say_duration((grant.until_ms - self._wall_ms()) / 1000)
        once = ", for one session" if grant.once else ""
        reason = f' "{grant.reason}"' if grant.reason else ""
        where = f"{self._peer(grant.service.peer)}/{grant.service.name}"
        return f"{grant.subject} may use {where} for {left} more{once}, by {grant.giver}{reason}"

    def _peer(self, peer: UserId) -> str:
        settings = self._config.in_force.peers.get(peer)
        return settings.name if settings is not None else peer


def _numbers(grants: Iterable[StoredGrant]) -> str:
    return ", ".join(f"grant {grant.number}" for grant in grants)


def _log(page: ListPage[tuple[int, AuditRecord]], asked: ShowLog) -> Reply:
    left_out = f"{page.left_out} records are not kept here any more; mxrtc-bridge audit export shows what the file has."
    more = [text(left_out)] if page.left_out else []
    if not page.total:
        return answer(text("No matching audit records."), *more)
    lines = (item(f"{number}, {_time(record.at_ms)}: {describe(record)}") for number, record in page.rows)
    about = asked.user or asked.peer
    since = "" if asked.since_s is None else f" since {say_duration(asked.since_s)}"
    again = "log" + (f" {about}" if about else "") + since + " page"
    return answer(text(f"Written down ({page.total}), the newest first:"), *lines, *_where(page, again), *more)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _where(
    page: ListPage[StoredGrant] | ListPage[SessionRow] | ListPage[tuple[int, AuditRecord]], verb: str
) -> list[Line]:
    if page.pages == 1:
        return []
    return [
        text(f"Page {page.number} of {page.pages}; ", Code(f"{verb} {min(page.number + 1, page.pages)}"), " is next.")
    ]
