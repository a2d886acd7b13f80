"""Records of the audit as sentences, for people in a chat and at a terminal."""

from __future__ import annotations

from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord
from mxrtc_bridge.core.text.display import display, size_words
from mxrtc_bridge.core.text.durations import say_duration


def describe(record: AuditRecord) -> str:  # noqa: C901, PLR0911, PLR0912 - one row for each kind
    """Say in one line what has happened; everything that comes from others is safe to show."""
    user, by = _shown(record.user), _shown(record.by)
    place = _shown(record.peer) + (f"/{_shown(record.service)}" if record.service is not None else "")
    because = f": {display(record.reason, 300)}" if record.reason else ""
    match record.kind:
        case AuditKind.START:
            return f"the bridge starts{because}"
        case AuditKind.STOP:
            return "the bridge stops"
        case AuditKind.CALL if record.allowed:
            device = f" by the device {_shown(record.device)}" if record.device else ""
            return f"{user} calls {place}{device}, allowed by {_shown(record.rule)}, session {record.session}"
        case AuditKind.CALL | AuditKind.SERVICE if record.peer is None and record.count is not None:
            return display(record.reason or "records were put together", 300)
        case AuditKind.CALL:
            return f"{user} calls {place}, refused: {_shown(record.rule)}"
        case AuditKind.SERVICE if record.allowed and record.count is not None:
            return f"{user} has used {place} {record.count} times in a session, allowed by {_shown(record.rule)}"
        case AuditKind.SERVICE if record.allowed:
            return f"{user} uses {place}, allowed by {_shown(record.rule)}"
        case AuditKind.SERVICE:
            return f"{user} asks for {place}, denied: {_shown(record.rule)}"
        case AuditKind.END if record.user is None:
            return display(record.reason or "records are missing", 300)
        case AuditKind.END:
            return f"session {record.session} of {user} with {place} ended{_session(record)}{because}"
        case AuditKind.REQUEST:
            return f"request {record.request}: {user} asks for {place}{because}"
        case AuditKind.ANSWER:
            return f"request {record.request} of {user} for {place}, by {by}{because}"
        case AuditKind.GRANT:
            lasts = say_duration(((record.until_ms or 0) - record.at_ms) / 1000)
            return f"grant {record.grant}: {user} may use {place} for {lasts}, by {by}{because}"
        case AuditKind.GRANT_END:
            who = f" by {by}" if record.by else ""
            how, colon, why = (record.reason or "?").partition(": ")
            return f"grant {record.grant} of {user} for {place} {_shown(how)}{who}{colon}{display(why, 300)}"
        case AuditKind.KICK:
            whom = user if record.user else f"session {record.session}"
            return f"{by} has kicked {whom}{because}"
        case AuditKind.PAUSE:
            return f"{by} has paused: new sessions are refused"
        case AuditKind.RESUME:
            return f"{by} has resumed: new sessions are taken"
        case AuditKind.RELOAD:
            return f"{by} has reloaded the configuration{because}"
        case AuditKind.REMOVED:
            return f"the bridge removes its oldest file, which ends with line {record.line}"
        case AuditKind.TAKE_OVER:
            return f"{user} was taken over by {by}{because}"
        case AuditKind.VERIFY if record.peer is None:
            return f"{by} has judged the identity of {user}{because}"
        case AuditKind.VERIFY:
            return f"{by} has compared {user}, device {_shown(record.device)}, with {place}{because}"


def _shown(text: str | None) -> str:
    return "?" if text is None else display(text, 255)


def _session(record: AuditRecord) -> str:
    if record.lasted_ms is None:
        return " before it was connected"
    moved = f"{size_words(record.sent or 0)} sent and {size_words(record.received or 0)} received"
    return f" after {say_duration(record.lasted_ms / 1000)}, {_shown(record.path)}, {moved}"
