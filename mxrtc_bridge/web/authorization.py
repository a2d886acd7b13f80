"""Whether a request comes from our homeserver.

The token is taken from the ``Authorization`` header, and where there is none from ``?access_token=``, which is all that
homeservers sent before version 1.4 of the specification; our log holds no query. It is compared in constant time, as
bytes, before anything of the body is read.

Missing, malformed and wrong tokens all get 401. (The application service API suggests 403 for a wrong one; homeservers
treat both alike, and 401 is what its client-server sibling answers.)
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import Enum


class Authorization(Enum):
    """The result of the check; the value is the Matrix error code."""

    GRANTED = ""
    MISSING = "M_MISSING_TOKEN"
    WRONG = "M_UNKNOWN_TOKEN"


def authorize(headers: Sequence[str], token: str, query: Sequence[str] = ()) -> Authorization:
    """Check a request against the homeserver's token.

    Args:
        headers: the values of all its ``Authorization`` headers; exactly one of the form ``Bearer TOKEN`` is accepted,
            the scheme in any case (RFC 9110 section 11.1).
        token: the expected ``hs_token``.
        query: the values of all ``access_token`` of its query; exactly one is accepted, without headers only.

    Raises:
        ValueError: ``token`` is empty; an empty token would let everybody in.
    """
    if not token:
        raise ValueError("the homeserver's token must not be empty")
    if not headers and len(query) == 1 and query[0]:
        headers = [f"Bearer {query[0]}"]
    if len(headers) != 1:
        return Authorization.MISSING
    scheme, _, given = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not given:
        return Authorization.MISSING
    # Header bytes that are not UTF-8 arrive as surrogates.
    matches = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8"))
    return Authorization.GRANTED if matches else Authorization.WRONG
