"""What people are told about their requests, and how a program reads it: both in one place, so that they fit.

The sentences are for people. ``mxrtc request`` reads them as well; what it does not understand (a bridge of another
version) it shows and takes for no decision.
"""

from __future__ import annotations

import re

from mxrtc_bridge.core.access.requests import AccessRequest, Decision, RequestState, said
from mxrtc_bridge.core.text.durations import say_duration

ALREADY = "You may use this already."
_ASKED = re.compile(r"I have asked the admins \(request (\d{1,15})\)")
_DECIDED = re.compile(r"Your request (\d{1,15}) for \S+ was (allowed|denied)\b")
_UNANSWERED = re.compile(r"Nobody has answered your request (\d{1,15}) ")


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


def read_asked(text: str) -> int | None:
    """The number of the request, if ``text`` says that one was taken."""
    found = _ASKED.match(text)
    return None if found is None else int(found[1])


def read_decided(text: str, number: int) -> RequestState | None:
    """What became of request ``number``, if ``text`` says it."""
    found = _DECIDED.match(text)
    if found is not None and int(found[1]) == number:
        return RequestState.ALLOWED if found[2] == "allowed" else RequestState.DENIED
    found = _UNANSWERED.match(text)
    return RequestState.EXPIRED if found is not None and int(found[1]) == number else None
