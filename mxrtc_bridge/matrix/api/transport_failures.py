"""Why a request to the homeserver has failed, in one sentence, and whether another attempt can help.

It must never repeat an address, nor more than a bounded printable part of what the other side has said, and it takes
no attribute of a foreign exception for granted. Each failure is a :class:`FailedError`, which stays among the files
that send requests; whoever asked gets what :func:`explained` makes of it.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus

from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientResponseError,
    InvalidURL,
    ServerDisconnectedError,
    TooManyRedirects,
)

from mxrtc_bridge.core.errors import AnswerTooLongError, HomeserverError
from mxrtc_bridge.core.text.display import presentable
from mxrtc_bridge.engine.certificate_faults import certificate_fault
from mxrtc_bridge.matrix.api.connector import proxy_failure
from mxrtc_bridge.matrix.api.hedging import FINAL

log = logging.getLogger(__name__)

_MAX_WORDS = 200


class FailedError(HomeserverError):
    """A failed attempt, with what the homeserver said about trying again."""

    too_long = False
    silent = False
    """Whether all that is known is that no answer came in time."""

    def __init__(
        self,
        message: str,
        status: int = 0,
        errcode: str = "",
        retry_after_s: float | None = None,
        *,
        again: bool = True,
    ) -> None:
        super().__init__(message, status, errcode)
        self.retry_after_s = retry_after_s
        self.again = again
        """False where another attempt, a moment later, would only fail the same."""


def rank(error: BaseException) -> int:
    """How much a failure of one of two requests says (:func:`~mxrtc_bridge.matrix.api.hedging.hedged`).

    What may be otherwise a moment later, as a rate limit or a page of a proxy, is no answer; but it tells more, and
    what to wait for, than a connection that has ended.
    """
    if not isinstance(error, FailedError):
        return 0
    if not (error.retryable and error.again):
        return FINAL
    return int(error.status != 0)


_LOGIN = ": a proxy in front of it wants a login of its own"
_BEHIND = ": a proxy in front of it does not reach it"
_PAGES = {
    401: _LOGIN,
    407: _LOGIN,
    413: ": what is sent is longer than a proxy in front of it allows",
    429: ": a proxy in front of it limits how often it is asked",
    # Those of a content delivery network beside the standard ones.
    **dict.fromkeys((502, 503, 504, *range(520, 528), 530), _BEHIND),
}
"""What a page of a proxy is a sign of, by its status."""


PAGE = "is there a page of a proxy or of a login in front of it?"


def filled(what: str, status: int) -> FailedError:
    """An answer that somebody has filled: see :class:`~mxrtc_bridge.core.errors.AnswerTooLongError`."""
    error = FailedError(f"the answer of the homeserver {what}", status)
    error.too_long = True
    return error


def refusal(status: int, answer: object, headers: Mapping[str, str], *, of_matrix: bool) -> FailedError:
    """Read a refusal. One without a Matrix error is a page of whatever stands before the homeserver.

    Whoever asks must not take that for the homeserver's word about a room, a user or itself: it has not answered.
    """
    fields = answer if isinstance(answer, dict) else {}
    errcode, words, asked_ms = fields.get("errcode"), fields.get("error"), fields.get("retry_after_ms")
    is_redirect = 300 <= status < 400
    errcode = presentable(errcode[:64]) if isinstance(errcode, str) else ""
    sentence = f"the homeserver answered {status}" + (f" {errcode}" if errcode else "")
    if isinstance(words, str) and words:
        sentence += f": {presentable(words[:_MAX_WORDS])}"
    elif is_redirect:
        sentence += ": it redirects; use the address that it redirects to"
    elif not errcode:
        sentence += (
            f" without a Matrix error{_PAGES.get(status, '; is there a proxy that does not pass /_matrix/ on?')}"
        )
    asked_s = None
    retry_after, date = headers.get("Retry-After"), headers.get("Date")
    # The header replaces retry_after_ms since Matrix 1.10; servers send one of them or both.
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        asked_s = float(retry_after[:9])
    elif retry_after is not None:  # a date, by the clock of whoever names it (RFC 9110 section 10.2.3)
        with suppress(TypeError, ValueError, OverflowError):
            now = parsedate_to_datetime(date or formatdate(usegmt=True))
            asked_s = max((parsedate_to_datetime(retry_after) - now).total_seconds(), 0.0)
    if isinstance(asked_ms, int | float) and 0 <= asked_ms < 1e12:
        asked_s = asked_ms / 1000
    if of_matrix and not errcode and status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS:
        status = 0
    return FailedError(sentence, status, errcode, asked_s, again=not is_redirect)


def _certificate(error: BaseException) -> str:
    return f"its certificate is not accepted: {certificate_fault(error)}"


def _tls(error: BaseException) -> str:
    return f"TLS failed: {presentable(str(getattr(error, 'reason', None) or type(error).__name__)[:80])}"


def _system(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else _NO_ANSWER


_NO_ANSWER = "the connection ended without an answer"
_CAUSES: tuple[tuple[type[BaseException], str | Callable[[BaseException], str], bool], ...] = (
    (ssl.SSLCertVerificationError, _certificate, False),
    (ssl.SSLError, _tls, True),
    (socket.gaierror, "its name cannot be resolved", True),
    (UnicodeError, "a name or a text in the request has a form that cannot be sent", False),
    (InvalidURL, "it names an address that cannot be used", False),
    (TooManyRedirects, "it redirects again and again", False),
    (ClientPayloadError, "the connection ended in the middle of the answer", True),
    (ClientResponseError, "what answers there does not speak HTTP", True),
    (ServerDisconnectedError, _NO_ANSWER, True),
    (OSError, _system, True),
    (ClientError, _NO_ANSWER, True),
    (ValueError, "what is sent or answered has a form that HTTP does not allow", False),
)
"""Every cause that is known, the most telling first: what is said of it, and whether another attempt can help.

Many of these are of several families at once: aiohttp's error for a certificate is one of ``ssl`` and has none of its
attributes. So no attribute of an exception is taken for granted.
"""


def unreachable(error: Exception) -> FailedError:
    """Say why there was no answer, without addresses; for whatever exception."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(links) < 8:
        # aiohttp keeps beside its own exception what the TLS library has said of a certificate, which tells more.
        inner = getattr(link, "certificate_error", None)
        links += [inner, link] if isinstance(inner, BaseException) else [link]
        link = link.__cause__ or link.__context__
    if (by_proxy := next(filter(None, map(proxy_failure, links)), None)) is not None:
        return FailedError(f"the homeserver cannot be reached: {by_proxy}")
    for kind, words, again in _CAUSES:
        for link in links:
            if isinstance(link, kind):
                said = words if isinstance(words, str) else words(link)
                return FailedError(f"the homeserver cannot be reached: {said}", again=again)
    log.warning("a request to the homeserver failed in a way that is not known", exc_info=error)
    return FailedError(f"the homeserver cannot be reached: {type(error).__name__}", again=False)


def explained(what: str, error: FailedError) -> HomeserverError:
    """Return what whoever asked is told: what was attempted, and why it has failed."""
    sentence, wait_s = f"could not {what}: {error}", 0.0
    # With another status it is a guess, of a page for the time of an upgrade, say, which ends when it ends.
    if error.status == 429 and error.retry_after_s is not None:
        wait_s = error.retry_after_s
        sentence += f" (it asks to wait {wait_s:.0f} seconds)"
    kind = AnswerTooLongError if error.too_long else HomeserverError
    return kind(sentence, error.status, error.errcode, wait_s)
