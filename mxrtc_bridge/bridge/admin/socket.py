"""What the admin's command line asks of the running bridge: the commands of a chat, with rows instead of sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import Enum

from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.chat import ADMINS_VERBS, AdminCommands
from mxrtc_bridge.bridge.admin.service import AdminService, ListPage, SessionRow
from mxrtc_bridge.bridge.devices.verification import BridgeVerifications
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.audit.chain import AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.bot.commands import ListGrants, ListRequests, ListSessions, Mistake, Names, ShowLog
from mxrtc_bridge.core.bot.parser import COMMANDS, parse_command
from mxrtc_bridge.core.bot.reply import pages
from mxrtc_bridge.core.errors import AdminError, EventError
from mxrtc_bridge.core.ids import LocalAdmin, parse_user_id
from mxrtc_bridge.storage.audit import AuditQuery

TRUST, VERIFY = "trust", "verify"
_OTHER_VERBS = frozenset(form.verb for form in COMMANDS) - ADMINS_VERBS


class AdminSocket:
    """See the head of this module.

    Args:
        desk: does what is asked for.
        admins: words what cannot be shown as rows.
        requests: for access.
        verifications: that wait for an admin.
        names: what short names stand for.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        desk: AdminService,
        admins: AdminCommands,
        requests: AccessRequests,
        verifications: BridgeVerifications,
        names: Callable[[], Names],
        wall_ms: Callable[[], int],
    ) -> None:
        self._desk = desk
        self._admins = admins
        self._requests = requests
        self._verifications = verifications
        self._names = names
        self._wall_ms = wall_ms
        # No commands of a chat: what is compared must not pass through the homeserver.
        self._only_here = {TRUST: self._trust, VERIFY: self._verify}

    async def handle(self, by: LocalAdmin, words: tuple[str, ...]) -> dict[str, object]:
        """Carry out a command; returns ``rows`` with their page, or what was ``said``.

        Raises:
            AdminError: it is no command, or cannot be done.
            StorageError: the database cannot be used.
        """
        if words and (only_here := self._only_here.get(words[0])) is not None:
            return await only_here(by, words[1:])
        command = parse_command(words, self._names(), admin=True, missing=_OTHER_VERBS)
        match command:
            case Mistake(problem=problem, usage=usage):
                raise AdminError(problem + (f" Usage: {usage}" if usage else ""))
            case ListSessions(page=page):
                found = self._desk.who(page)
                return {**_page(found), "rows": [_row(each) for each in found.rows], "paused": self._desk.paused}
            case ListGrants(page=page):
                given = self._desk.grants(page)
                return {**_page(given), "rows": [_grant(each) for each in given.rows]}
            case ShowLog(user=user, peer=peer, since_s=since_s, page=page):
                since_ms = None if since_s is None else self._wall_ms() - since_s * 1000
                log = await self._desk.log(AuditQuery(user, peer, since_ms), page)
                rows = [_record(number, record) for number, record in log.rows]
                return {**_page(log), "left_out": log.left_out, "rows": rows}
            case ListRequests():
                waiting = await self._requests.waiting()
                return {"page": 1, "pages": 1, "total": len(waiting), "rows": [_request(each) for each in waiting]}
        said = await self._admins.do(command, by)
        return {"said": "\n".join(page.plain for page in pages(said))}

    async def _trust(self, by: LocalAdmin, words: tuple[str, ...]) -> dict[str, object]:
        try:
            match words:
                case (user,):
                    return {"said": await self._verifications.trust(parse_user_id(user), None, by=by)}
                case user, key:
                    return {"said": await self._verifications.trust(parse_user_id(user), key.rstrip("="), by=by)}
        except EventError as error:
            raise AdminError(f"{error}; write the user like @alice:example.org") from error
        raise AdminError(f"Usage: {TRUST} @USER:SERVER [KEY]")

    async def _verify(self, by: LocalAdmin, words: tuple[str, ...]) -> dict[str, object]:
        match words:
            case ():
                rows = self._verifications.rows()
                return {"page": 1, "pages": 1, "total": len(rows), "rows": rows}
            case number, "same" | "different" as answer if number.isascii() and number.isdigit() and len(number) < 10:
                said = await self._verifications.decide(int(number), same=answer == "same", by=by)
                return {"said": said}
        raise AdminError(f"Usage: {VERIFY} [N same|different]")


def _page(page: ListPage[SessionRow] | ListPage[StoredGrant] | ListPage[tuple[int, AuditRecord]]) -> dict[str, object]:
    return {"page": page.number, "pages": page.pages, "total": page.total}


def _row(value: object) -> dict[str, object]:
    return {each.name: getattr(value, each.name) for each in fields(value)}  # type: ignore[arg-type]


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
    values = {name: value for name, value in _row(record).items() if value is not None}
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
