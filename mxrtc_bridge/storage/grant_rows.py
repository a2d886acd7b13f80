"""Reads rows of the table ``given_grant``."""

from __future__ import annotations

from typing import Any

from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.access.policy import Service, parse_subject
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import ServiceName, UserId, read_actor

COLUMNS = "number, subject, peer, service, giver, since_ms, until_ms, reason, once"


def read_grant(row: Any) -> StoredGrant | None:
    """A row of :data:`COLUMNS`; None if it gives nothing, as somebody has changed the database by hand."""
    try:
        subject = parse_subject(row["subject"])
    except ConfigError:
        return None
    return StoredGrant(
        number=int(row["number"]),
        subject=subject,
        service=Service(UserId(row["peer"]), ServiceName(row["service"])),
        giver=read_actor(row["giver"]),
        since_ms=row["since_ms"],
        until_ms=row["until_ms"],
        reason=row["reason"],
        once=bool(row["once"]),
    )
