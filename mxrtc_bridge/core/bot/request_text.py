"""What people are told about their requests: sentences for people, and beside them a field for programs.

Must never let a program decide by a sentence: ``mxrtc request`` reads the field alone,
and a notice without it, or with one that is not as it must be, tells of no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mxrtc_bridge.core.access.requests import AccessRequest, Decision, RequestState, said
from mxrtc_bridge.core.text.durations import say_duration

FIELD = "io.mxrtc.request"
"""Key in the content of a notice."""
MAX_NUMBER = 2**53 - 1
"""The largest whole number of canonical JSON (specification, appendices)."""
_NAMES = {
    RequestState.ASKED: "open",
    RequestState.ALLOWED: "allowed",
    RequestState.ALLOWED_ONCE: "allowed",
    RequestState.DENIED: "denied",
    RequestState.EXPIRED: "expired",
    RequestState.WITHDRAWN: "withdrawn",
}
_STATES = {name: state for state, name in _NAMES.items() if state is not RequestState.ALLOWED_ONCE}


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """How a request stands, as a program reads it; one session counts as allowed."""

    state: RequestState
    number: int | None
    """None where nothing had to be asked for, as it was allowed before."""


@dataclass(frozen=True, slots=True)
class RequestAnswer:
    """What a person is told, and the same for a program if it is about a request that exists."""

    text: str
    status: RequestStatus | None = None

    @property
    def fields(self) -> dict[str, object]:
        """What goes into the content of the notice beside its body."""
        return {} if self.status is None else status_fields(self.status)


def status_fields(status: RequestStatus) -> dict[str, object]:
    """Write the field, as a part of the content of a notice."""
    number = {} if status.number is None else {"number": status.number}
    return {FIELD: {**number, "state": _NAMES[status.state]}}


def read_status(content: Mapping[str, object]) -> RequestStatus | None:
    """Read the field of a notice; None if there is none or it is not as it must be. Further keys are ignored."""
    value = content.get(FIELD)
    if not isinstance(value, dict):
        return None
    name, number = value.get("state"), value.get("number")
    state = _STATES.get(name) if isinstance(name, str) else None
    if state is None:
        return None
    if number is None and "number" not in value and state is RequestState.ALLOWED:
        return RequestStatus(state, None)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= MAX_NUMBER:
        return None
    return RequestStatus(state, number)


ALREADY = RequestAnswer("You may use this already.", RequestStatus(RequestState.ALLOWED, None))


def asked_words(number: int) -> str:
    """A request was taken and shown to the admins."""
    return f"I have asked the admins (request {number}). You will be told here what they say."


def decided_words(request: AccessRequest, service: str, answer: Decision, for_s: int, why: str) -> str:
    """What became of a request.

    Args:
        request: as it was decided.
        service: what people call what was asked for.
        answer: what the admin said.
        for_s: seconds that the right lasts.
        why: the admin's own words, safe to show.
    """
    length = {
        Decision.ALLOW: f" for {say_duration(for_s)}.",
        Decision.ALLOW_ONCE: f", for one session within {say_duration(for_s)}.",
        Decision.DENY: ".",
    }[answer]
    outcome = said(request).partition(" by ")[0]
    return f"Your request {request.number} for {service} {outcome}{length}" + (f" {why}" if why else "")


def unanswered_words(request: AccessRequest, service: str) -> str:
    """Nobody has answered in time."""
    return f"Nobody has answered your request {request.number} for {service} in time."
