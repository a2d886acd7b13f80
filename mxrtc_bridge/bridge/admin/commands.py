"""The commands of admins, in a chat and at the bridge's machine; who is an admin is decided before.

What is declared here exists in both. Lists have their rows beside the lines that a chat gets, for programs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum

from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.service import PAGE_ROWS, AdminService, ListPage, SessionRow
from mxrtc_bridge.bridge.check import check
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.policy import Service, Subject
from mxrtc_bridge.core.access.requests import AccessRequest, Decision
from mxrtc_bridge.core.audit.chain import AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.bot.arguments import (
    grants_to_revoke,
    nothing,
    records_to_show,
    request_to_allow,
    sessions_to_kick,
)
from mxrtc_bridge.core.bot.commands import Effect, command
from mxrtc_bridge.core.bot.reply import Code, Line, MatrixLink, Reply, answer, item, say, text
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import Actor, ServiceName, UserId
from mxrtc_bridge.core.text.display import display, size_words
from mxrtc_bridge.core.text.durations import say_duration, say_rest
from mxrtc_bridge.storage.audit import AuditQuery

Check = Callable[[Config], Awaitable[list[Finding]]]

_WHO = "@user:server|server:name|guest-accounts:name|room:!id"


class AdminCommands:
    """See the head of this module. Each command may raise AdminError, with a sentence for its admin, or StorageError.

    Args:
        service: does what is asked for.
        requests: for access.
        config: the configuration in force.
        wall_ms: milliseconds since the epoch.
        check: looks at everything around the bridge.
    """

    def __init__(
        self,
        service: AdminService,
        requests: AccessRequests,
        *,
        config: CurrentConfig,
        wall_ms: Callable[[], int],
        check: Check = check,
    ) -> None:
        self._service = service
        self._requests = requests
        self._config = config
        self._wall_ms = wall_ms
        self._check_all = check

    # Requests

    @command("requests", "what waits for an answer", Effect.LOOKS, nothing, "requests")
    async def requests(self, _by: Actor) -> Reply:
        waiting = await self._requests.waiting()
        head = f"Requests that wait for an answer ({len(waiting)}):" if waiting else "No request waits for an answer."
        lines = (
            item(
                f"{each.number}: ",
                MatrixLink(each.user, each.user),
                f" asks for {self._peer(each.peer)}/{each.service} for {say_duration(each.for_s)}"
                + (f' "{display(each.because, 300)}"' if each.because else ""),
            )
            for each in waiting[:PAGE_ROWS]
        )
        rows = [_request(each) for each in waiting]
        return answer(text(head), *lines, rows={"page": 1, "pages": 1, "total": len(waiting), "rows": rows})

    async def _would_allow(self, number: int, once: bool, for_s: int | None) -> tuple[str, ...]:
        for request in await self._requests.waiting():
            if request.number == number:
                what = f"{request.peer}/{request.service}" + (", for one session" if once else "")
                return self._would(request.user, what, for_s or request.for_s, request.because)
        raise AdminError(f"There is no such request as {number}; requests lists those that wait.")

    @command(
        "allow N [once | for 2h]",
        "allow a request: for the time that was asked for, for one session, or for another time",
        Effect.GIVES,
        request_to_allow,
        "allow 12",
        "allow 12 once",
        "allow 12 for 30m",
        would_give=_would_allow,
    )
    async def allow(self, by: Actor, number: int, once: bool, for_s: int | None) -> Reply:
        decision = Decision.ALLOW_ONCE if once else Decision.ALLOW
        return say(await self._requests.answer(number, decision, by, for_s=for_s))

    @command(
        "deny N [because ...]",
        "refuse a request",
        Effect.ENDS,
        lambda said: (said.number("request"), said.because()),
        "deny 12",
        "deny 12 because it is Friday",
    )
    async def deny(self, by: Actor, number: int, because: str) -> Reply:
        return say(await self._requests.answer(number, Decision.DENY, by, why=because))

    # Grants

    @command(
        "grants [PAGE]",
        "what is granted to whom, until when, and by whom",
        Effect.LOOKS,
        lambda said: (said.page(),),
        "grants",
        "grants 2",
    )
    async def grants(self, _by: Actor, number: int) -> Reply:
        page, own = self._service.grants(number), len(self._config.in_force.grants)
        head = f"Given grants in force ({page.total}):" if page.total else "No grants have been given."
        lines = (item(f"{grant.number}: {self._line(grant)}") for grant in page.rows)
        in_config = text(f"The configuration has {own} grant{'s' * (own != 1)} of its own.")
        return answer(text(head), *lines, *_next(page, "grants"), in_config, rows=_rows(page, map(_grant, page.rows)))

    async def _would_grant(
        self, subject: Subject, peer: UserId, service: ServiceName, for_s: int, because: str
    ) -> tuple[str, ...]:
        return self._would(str(subject), f"{peer}/{service}", for_s, because)

    @command(
        f"grant {_WHO} PEER/SERVICE for 2h [because ...]",
        "give a right for a limited time",
        Effect.GIVES,
        lambda said: (said.subject(), *said.service(), said.time(), said.because()),
        "grant @bob:example.org build/ssh for 2h",
        "grant server:partner.org build/web for 3d",
        would_give=_would_grant,
    )
    async def grant(
        self, by: Actor, subject: Subject, peer: UserId, service: ServiceName, for_s: int, because: str
    ) -> Reply:
        given = await self._service.given.give(subject, Service(peer, service), for_s, by, reason=because)
        return say(f"Grant {given.number}: {self._line(given)}.")

    @command(
        f"revoke ID|{_WHO} [PEER/SERVICE] [because ...]",
        "take back grants, by id or by whom they name; live sessions end at once",
        Effect.TAKES,
        grants_to_revoke,
        "revoke 17",
        "revoke @bob:example.org",
        "revoke @bob:example.org build/ssh",
        once_more=True,
    )
    async def revoke(
        self, by: Actor, what: str | Subject, peer: UserId | None, service: ServiceName | None, because: str
    ) -> Reply:
        if not isinstance(what, str):
            gone = await self._service.given.revoke_all(what, peer, service, by, because)
            if not gone:
                raise AdminError(f"Nothing was given to {what}; grants lists what was given.")
            return say(f"Taken back: {', '.join(f'grant {grant.number}' for grant in gone)}.")
        if what.isdecimal():
            return say(f"Taken back: {self._line(await self._service.given.revoke(int(what), by, because))}.")
        if any(grant.id == what for grant in self._config.in_force.grants):
            raise AdminError(f"Grant {what} is one of the configuration; take it out there, then reload.")
        raise AdminError(f"There is no grant {what}; grants lists them.")

    # Sessions

    @command("who [PAGE]", "live sessions", Effect.LOOKS, lambda said: (said.page(),), "who")
    async def who(self, _by: Actor, number: int) -> Reply:
        page, paused = self._service.who(number), self._service.paused
        head = f"Live sessions ({page.total}):" if page.total else "There is no live session."
        lines = (
            item(
                f"{row.number}: ",
                MatrixLink(row.user, row.user),
                f" with {self._peer(row.peer)}, {f'device {row.device}, ' if row.device else ''}"
                f"{row.path or 'connecting'}, for {say_duration(row.age_s)}, "
                f"{row.streams} streams, {size_words(row.sent)} sent and {size_words(row.received)} received",
            )
            for row in page.rows
        )
        refused = [text("New sessions are refused (", Code("resume"), ").")] if paused else []
        rows = _rows(page, map(_fields, page.rows), paused=paused)
        return answer(text(head), *lines, *_next(page, "who"), *refused, rows=rows)

    @command(
        "kick SESSION|@user:server [because ...]",
        "end a session, or all of a user",
        Effect.TAKES,
        sessions_to_kick,
        "kick 4",
        "kick @bob:example.org because the backup starts",
    )
    async def kick(self, by: Actor, user: UserId | None, session: str, because: str) -> Reply:
        if user is not None:
            count = self._service.kick(by, user=user, reason=because)
            if not count:
                raise AdminError(f"{user} has no live session; who lists those that there are.")
            return say(f"Ended {count} session{'s' * (count != 1)} of {user}.")
        if not session.isdecimal() or not self._service.kick(by, number=int(session), reason=because):
            raise AdminError(f"There is no session {session}; who lists them.")
        return say(f"Ended session {session}.")

    # The bridge

    @command(
        "log [PEER|@user:server] [since 2h] [page N]",
        "who did what, newest first",
        Effect.LOOKS,
        records_to_show,
        "log",
        "log build since 3d",
        "log @bob:example.org",
    )
    async def log(
        self, _by: Actor, user: UserId | None, peer: UserId | None, since_s: int | None, number: int
    ) -> Reply:
        since_ms = None if since_s is None else self._wall_ms() - since_s * 1000
        page = await self._service.log(AuditQuery(user, peer, since_ms), number)
        head = f"Audit records ({page.total}), newest first:" if page.total else "No matching audit records."
        lines = (item(f"{at}, {_time(record.at_ms)}: {describe(record)}") for at, record in page.rows)
        about = "".join(f" {each}" for each in (user or peer,) if each)
        again = f"log{about}{'' if since_s is None else f' since {say_duration(since_s)}'} page"
        left_out = text(
            f"{page.left_out} records are not kept here any more; mxrtc-bridge audit export shows what the file has."
        )
        more = [left_out] if page.left_out else []
        rows = _rows(page, (_record(*row) for row in page.rows), left_out=page.left_out)
        return answer(text(head), *lines, *_next(page, again), *more, rows=rows)

    @command("check", "whether everything works", Effect.LOOKS, nothing)
    async def check(self, _by: Actor) -> Reply:
        findings = await self._check_all(self._config.in_force)
        wrong = [finding for finding in findings if finding.level is not Level.OK]
        if not wrong:
            return say(f"All is well: {len(findings)} checks.")
        # What to do about it names files and addresses, which have no place in a room.
        lines = [item(f"{each.level.value}: {each.what}") for each in wrong]
        remedy = text("On the bridge's machine, ", Code("mxrtc-bridge check"), " says what to do.")
        return answer(text(f"{len(wrong)} of {len(findings)} checks failed:"), *lines, remedy)

    @command("reload", "reload the configuration", Effect.TAKES, nothing)
    async def reload(self, by: Actor) -> Reply:
        outcome = await self._service.reload(by)
        rows = {"said": outcome.text, "done": outcome.done, "mistakes": outcome.mistakes}
        return answer(text(outcome.text), rows=rows)

    @command("pause", "accept no new sessions", Effect.TAKES, nothing)
    async def pause(self, by: Actor) -> Reply:
        self._service.set_paused(by, paused=True)
        return say("New sessions are refused now; live ones go on. ", Code("resume"), " accepts them again.")

    async def _would_resume(self) -> tuple[str, ...]:
        return ("New sessions would be accepted again.",)

    @command("resume", "accept new sessions again", Effect.GIVES, nothing, would_give=_would_resume)
    async def resume(self, by: Actor) -> Reply:
        self._service.set_paused(by, paused=False)
        return say("New sessions are accepted.")

    # Words

    def _would(self, who: str, what: str, for_s: int, because: str) -> tuple[str, ...]:
        until = _time(self._wall_ms() + for_s * 1000)
        # Each part has a limit of its own: none is cut off by what stands before it.
        return (
            who,
            " would get ",
            what,
            f", for {say_duration(for_s)}, until {until}",
            f' "{because}".' if because else ".",
        )

    def _line(self, grant: StoredGrant) -> str:
        left = say_rest((grant.until_ms - self._wall_ms()) / 1000)
        once = ", for one session" if grant.once else ""
        reason = f' "{grant.reason}"' if grant.reason else ""
        where = f"{self._peer(grant.service.peer)}/{grant.service.name}"
        return f"{grant.subject} may use {where} for {left} more{once}, by {grant.giver}{reason}"

    def _peer(self, peer: UserId) -> str:
        settings = self._config.in_force.peers.get(peer)
        return settings.name if settings is not None else peer


AnyPage = ListPage[StoredGrant] | ListPage[SessionRow] | ListPage[tuple[int, AuditRecord]]


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _next(page: AnyPage, verb: str) -> list[Line]:
    if page.pages == 1:
        return []
    return [
        text(f"Page {page.number} of {page.pages}; ", Code(f"{verb} {min(page.number + 1, page.pages)}"), " is next.")
    ]


# For programs


def _rows(page: AnyPage, rows: Iterable[dict[str, object]], **more: object) -> dict[str, object]:
    return {"page": page.number, "pages": page.pages, "total": page.total, "rows": list(rows), **more}


def _fields(value: SessionRow | AuditRecord) -> dict[str, object]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _grant(grant: StoredGrant) -> dict[str, object]:
    return {
        "number": grant.number,
        "subject": str(grant.subject),
        "peer": grant.service.peer,
        "service": grant.service.name,
        "giver": str(grant.giver),
        "since_ms": grant.since_ms,
        "until_ms": grant.until_ms,
        "once": grant.once,
        "reason": grant.reason,
    }


def _record(number: int, record: AuditRecord) -> dict[str, object]:
    values = {name: value for name, value in _fields(record).items() if value is not None}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    return {"number": number, **plain, "words": describe(record)}


def _request(request: AccessRequest) -> dict[str, object]:
    return {
        "number": request.number,
        "user": request.user,
        "peer": request.peer,
        "service": request.service,
        "for_s": request.for_s,
        "because": request.because,
        "asked_ms": request.asked_ms,
    }
