"""Why a verification ended, in words for whoever compared: the codes of "m.key.verification.cancel"."""

from __future__ import annotations

from collections.abc import Mapping

INTERCEPTED = "someone may be intercepting the connection"

END_TEXT: Mapping[str, str] = {
    "m.user": "the other side has ended it",
    "m.timeout": "it took more than ten minutes",
    "m.mismatched_sas": f"the two sides show different things: {INTERCEPTED}",
    "m.mismatched_commitment": f"the other side's key was exchanged: {INTERCEPTED}",
    "m.key_mismatch": f"the keys are not those that the homeserver shows: {INTERCEPTED}",
    "m.accepted": "another session has taken it over",
}
"""By code (client-server API, "m.key.verification.cancel")."""
