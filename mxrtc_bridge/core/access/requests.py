"""Requests for access: asked once, answered once.

    state         leaves it by
    ASKED         an admin allows, allows once or denies; the person withdraws; nobody answers in time
    ALLOWED       (end) a grant for the time that was decided
    ALLOWED_ONCE  (end) a grant for one session
    DENIED        (end)
    EXPIRED       (end) nobody answered
    WITHDRAWN     (end)

Must never be decided twice, by whomever or however fast, and never by anybody whom the configuration does not name as
an admin: a power level in a room means nothing here. A person has at most one open request for a service, few in all,
and after a refusal has to wait; so a queue of requests is bounded by the number of people who may ask, and in total.

Pure: time is an argument, numbers are given by the store, and what comes of a decision is carried out elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from mxrtc_bridge.core.ids import Actor, EventId, LocalAdmin, RoomId, ServiceName, UserId, folded
from mxrtc_bridge.core.text.durations import say_duration


class RequestState(Enum):
    """Where a request stands; the values are stored."""

    ASKED = "asked"
    ALLOWED = "allowed"
    ALLOWED_ONCE = "allowed_once"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Decision(Enum):
    """What an admin can say, and the reaction that says it."""

    ALLOW = "\u2705"
    ALLOW_ONCE = "1\ufe0f\u20e3"
    DENY = "\u274c"


def answer_of(reaction: object) -> Decision | None:
    """The answer that a reaction's key gives; clients differ in whether they send the variation selector."""
    if not isinstance(reaction, str) or len(reaction) > 16:
        return None
    plain = reaction.replace("\ufe0f", "")
    return next((answer for answer in Decision if answer.value.replace("\ufe0f", "") == plain), None)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of requests."""

    open_per_user: int = 3
    open_total: int = 200
    answer_within_ms: int = 24 * 3600 * 1000
    """A request that nobody answers ends by itself."""
    cool_down_ms: int = 10 * 60 * 1000
    """After a refusal, before the same user may ask for the same service again."""
    per_day: int = 20
    """Requests of one user in a day, whatever became of them."""


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One request."""

    number: int
    """Given by the store, shown to people; 0 before it is stored."""
    user: UserId
    peer: UserId
    service: ServiceName
    for_s: int
    """Seconds asked for."""
    because: str
    room: RoomId
    """Where it was asked, and where the answer goes."""
    asked_ms: int
    state: RequestState = RequestState.ASKED
    decided_by: Actor | None = None
    decided_ms: int | None = None
    notice: EventId | None = None
    """The notice in the admin room that reactions answer to."""

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return self.state is RequestState.ASKED


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """Why something cannot be done with requests; a sentence for the person who tried."""

    reason: str


_ENDS = {
    Decision.ALLOW: RequestState.ALLOWED,
    Decision.ALLOW_ONCE: RequestState.ALLOWED_ONCE,
    Decision.DENY: RequestState.DENIED,
}
_SAID = {
    RequestState.ALLOWED: "was allowed",
    RequestState.ALLOWED_ONCE: "was allowed once",
    RequestState.DENIED: "was denied",
    RequestState.EXPIRED: "was not answered in time",
    RequestState.WITHDRAWN: "was withdrawn",
}


def ask(
    wanted: AccessRequest, earlier: Iterable[AccessRequest], open_total: int, limits: RequestLimits
) -> AccessRequest | RequestRefused:
    """Judge a new request; returns it when it may be stored.

    Args:
        wanted: the request, with number 0.
        earlier: the requests of the same user in the last day at least, open ones of any age included.
        open_total: open requests of everybody.
        limits: the bounds.
    """
    now_ms = wanted.asked_ms
    mine = [request for request in earlier if request.user == wanted.user]
    same = [request for request in mine if (request.peer, request.service) == (wanted.peer, wanted.service)]
    for request in same:
        if request.is_open and now_ms < request.asked_ms + limits.answer_within_ms:
            return RequestRefused(f"You have asked for this already: request {request.number} waits for an answer.")
        if request.state is RequestState.DENIED and request.decided_ms is not None:
            left_ms = request.decided_ms + limits.cool_down_ms - now_ms
            if 0 < left_ms <= limits.cool_down_ms:
                return RequestRefused(
                    f"This was denied a short while ago; ask again in {say_duration(-(-left_ms // 1000))}."
                )
    waiting = sum(request.is_open for request in mine)
    if waiting >= limits.open_per_user:
        return RequestRefused(f"{waiting} of your requests wait already; that is the limit. withdraw N takes one back.")
    if sum(now_ms - request.asked_ms < 24 * 3600 * 1000 for request in mine) >= limits.per_day:
        return RequestRefused(f"You have asked {limits.per_day} times today; that is the limit. Ask an admin directly.")
    if open_total >= limits.open_total:
        return RequestRefused("Too many requests wait for an answer here; ask an admin directly.")
    return wanted


def decide(
    request: AccessRequest,
    answer: Decision,
    by: Actor,
    now_ms: int,
    *,
    admins: Collection[UserId],
    limits: RequestLimits,
) -> AccessRequest | RequestRefused:
    """Take an admin's answer; returns the decided request, to be stored only if it is still open there.

    Args:
        request: as it is stored.
        answer: what was said.
        by: who said it.
        now_ms: when.
        admins: by the configuration, folded; whoever is at the machine could write themselves into it as well.
        limits: the bounds.
    """
    if not isinstance(by, LocalAdmin) and folded(by) not in admins:
        return RequestRefused("Only admins answer requests.")
    if not request.is_open:
        return RequestRefused(f"Request {request.number} {said(request)} already.")
    if now_ms >= request.asked_ms + limits.answer_within_ms:
        return RequestRefused(f"Request {request.number} is too old to be answered; {request.user} can ask again.")
    return replace(request, state=_ENDS[answer], decided_by=by, decided_ms=now_ms)


def withdraw(request: AccessRequest, by: UserId, now_ms: int) -> AccessRequest | RequestRefused:
    """Take a request back; only the one who asked can."""
    if request.user != by:
        # The same words as for a number that does not exist: others' requests are nobody's business.
        return RequestRefused(f"You have no request {request.number}; status lists those that you have.")
    if not request.is_open:
        return RequestRefused(f"Request {request.number} {said(request)} already.")
    return replace(request, state=RequestState.WITHDRAWN, decided_by=by, decided_ms=now_ms)


def expired(request: AccessRequest, now_ms: int, limits: RequestLimits) -> AccessRequest | None:
    """The ended request, if nobody has answered in time."""
    if not request.is_open or now_ms < request.asked_ms + limits.answer_within_ms:
        return None
    return replace(request, state=RequestState.EXPIRED, decided_ms=now_ms)


def said(request: AccessRequest) -> str:
    """What became of a request, for a sentence about it."""
    by = f" by {request.decided_by}" if request.decided_by not in (None, request.user) else ""
    return _SAID.get(request.state, "waits for an answer") + by
