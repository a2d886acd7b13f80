"""Every table, and what keeps it from growing without end.

A table that others can fill has a number of rows, and says whose rows go first. A test compares this with the schema,
so whoever adds a table says here how it is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mxrtc_bridge.core.access.ban_lists import MAX_RULES
from mxrtc_bridge.core.access.grants import MAX_GRANTS
from mxrtc_bridge.storage import (
    audit,
    call_events,
    calls,
    crypto,
    crypto_bounds,
    database,
    events,
    grants,
    greetings,
    notice_times,
    requests,
)
from mxrtc_bridge.storage.spare_rows import TOLERATED


@dataclass(frozen=True, slots=True)
class TableBound:
    """How a table is bounded."""

    rows: int | None
    """As many it has at most, for each own user where it has a column ``owner`` for that; None where only the
    configuration makes it larger."""
    first: str
    """Whose rows go first, or why none has to go."""
    keep_ms: int | None = None
    """How long a row is kept at most that nobody uses."""


BOUNDS: Mapping[str, TableBound] = {
    "event": TableBound(
        events.MAX_DONE + events.MAX_SET_ASIDE + 2 * TOLERATED,
        "the oldest that were handled; those that wait have shares by sender, server and room in the inbox",
        events.KEEP_MS,
    ),
    "call": TableBound(
        calls.MAX_ENDED + TOLERATED,
        "the oldest that have ended; open ones are live sessions, whose number has limits",
        calls.KEEP_MS,
    ),
    "certificate": TableBound(None, "one for each peer"),
    "own_user": TableBound(None, "one for each peer and the bot"),
    "counter": TableBound(None, "one for each kind of number that people type"),
    "peer_room": TableBound(
        None,
        "rooms that virtual users are in, by invitation of users with a right; idle ones are left, and removed with it",
    ),
    "greeting": TableBound(greetings.MAX_ROOMS, "the room that was greeted longest ago, at each writing"),
    "notice": TableBound(notice_times.MAX_USERS, "who was told longest ago, at each writing"),
    "request": TableBound(
        requests.MAX_ENDED, "the oldest that have ended; open ones have limits where they are asked", requests.KEEP_MS
    ),
    "given_grant": TableBound(
        grants.MAX_ENDED + MAX_GRANTS, "the oldest that have ended; none that is in force", grants.KEEP_MS
    ),
    "audit": TableBound(
        audit.MAX_ROWS + audit.MAX_ACTS + TOLERATED,
        "of users who were turned away, of the server with most; then of the user with most; acts of admins apart",
        audit.KEEP_MS,
    ),
    "audit_key": TableBound(1, "the first stays"),
    "call_trace": TableBound(call_events.MAX_ROWS, "the oldest", call_events.KEEP_MS),
    "write_mark": TableBound(
        None,
        "one for each writing that went on at the same time, of the runs of the last day",
        database.KEEP_MARKS_MS,
    ),
    "policy_rule": TableBound(None, f"{MAX_RULES} of each list that the configuration names"),
    "crypto_account": TableBound(None, "one for each peer"),
    "crypto_olm": TableBound(
        crypto_bounds.OLM.bound.total + crypto_bounds.OLM.bound.strangers + crypto.TRIM_EVERY,
        "of strangers, of the server with most; then of the user with most",
        crypto.KEEP_OLM_MS,
    ),
    "crypto_opened": TableBound(
        None,
        "what waits for its sender to be looked up: 1000 of a device, 8 MiB and the places of that work in all",
        crypto.KEEP_OPENED_MS,
    ),
    "crypto_inbound": TableBound(
        crypto_bounds.INBOUND.bound.total + crypto_bounds.INBOUND.bound.strangers + crypto.TRIM_EVERY,
        "of strangers, of the server with most; then of the user with most",
        crypto.KEEP_INBOUND_MS,
    ),
    "crypto_user": TableBound(
        crypto_bounds.USERS.bound.total + crypto_bounds.USERS.bound.strangers + crypto.TRIM_EVERY,
        "strangers, by server and by size; an identity that was compared by hand counts as known",
        crypto.KEEP_STRANGER_MS,
    ),
    "crypto_outbound": TableBound(
        crypto_bounds.MAX_OUTBOUND, "the oldest: a new session is begun", crypto_bounds.KEEP_OUTBOUND_MS
    ),
    "crypto_room": TableBound(
        crypto_bounds.MAX_ROOMS, "those that were of use longest ago, and that no peer of ours is in any more"
    ),
    "crypto_index": TableBound(
        crypto_bounds.MAX_INDEX, "the session with most messages, with its key", crypto.KEEP_INBOUND_MS
    ),
}
