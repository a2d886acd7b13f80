"""One call that got through, and what its life and end mean to a person.

It outlives the homeserver: once the peer connection is up, nothing on the way of the bytes depends on Matrix any more.

One file: a call that got through, and the sentences about its services, streams and end, have the same readers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from mxrtc_bridge.client.exit_codes import NO_SERVICE, RIGHT_ENDED, ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.access import policy
from mxrtc_bridge.core.call import to_device
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.errors import Lack, RefusalCode, TransportError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.sharing.messages import HOLDER_ENDED, HOLDER_SILENT
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamFinished, StreamOutcome
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.gathering_words import left_out_words, relay_words
from mxrtc_bridge.core.webrtc.ice import Path
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.engine.file_transfer import INTERNAL_ERROR
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

LIST_TIMEOUT_S = 10.0
USUAL_BYTES = 1228
"""IP packets of this size pass almost everywhere (RFC 8831 section 5)."""


class Call(Protocol):
    """What a connection needs of its call: a :class:`~mxrtc_bridge.engine.session.Session`, or that of another."""

    @property
    def path(self) -> Path | None: ...

    @property
    def outcome(self) -> call.CallEnded | None: ...

    @property
    def failure(self) -> str: ...

    def packet_bytes(self) -> int | None: ...

    def gathering_report(self) -> GatheringReport: ...


class Connection:
    """One call that got through."""

    def __init__(
        self,
        peer: UserId,
        session: Call,
        links: ClientChannels,
        device: DeviceIdentity | None = None,
        no_servers: Callable[[], str] = str,
    ) -> None:
        self.peer = peer
        self.links = links
        self.setup_s = 0.0
        """Seconds from the first request to the open connection."""
        self.device = device
        """The device that was called; None where the call went by a room."""
        self.clocks: tuple[int, int] | None = None
        """Our clock and the peer's, in milliseconds since 1970, when it last said something by its device."""
        self.why_by_room = ""
        """Why it did not go by a device, if nobody wanted that."""
        self.leaving = asyncio.Event()
        """Set once whoever lends the connection is done with its own work, and lives on for it alone."""
        self._no_servers = no_servers
        """Says why no list of TURN servers was had; nothing where there was one."""
        self._session = session

    @property
    def path(self) -> Path:
        assert self._session.path is not None
        return self._session.path

    @property
    def packet_bytes(self) -> int | None:
        """How large IP packets may be on the path; None while that is not known."""
        return self._session.packet_bytes()

    @property
    def narrow_words(self) -> str:
        """What a person should know of a path for small packets only; nothing of any other."""
        size = self.packet_bytes
        return "" if size is None or size >= USUAL_BYTES else f"only packets of up to {size} bytes pass"

    @property
    def ended(self) -> call.CallEnded | None:
        """How the call has ended; None while it lives."""
        return self._session.outcome

    @property
    def failure(self) -> str:
        """Why the connection has failed, where our side knows."""
        return self._session.failure

    @property
    def why_over(self) -> tuple[str, str] | None:
        """Why nothing comes any more: what the other side has said, or how the call has ended; None while it lives."""
        outcome = self._session.outcome
        if self.links.bye is not None or outcome is None:
            return self.links.bye
        return "lost", str(explain(outcome, None, self.clocks, self._session.failure))

    def lost(self, name: str) -> ClientError:
        """Why it ended; ``name`` is what it led to."""
        assert self._session.outcome is not None
        if is_without_path(self._session.outcome, was_up=self.links.up.is_set()):
            return self.without_path(name)
        if self._session.outcome.reason == Lack.RELAY:
            return ClientError(
                Exit.NO_PATH, f"{name}: no packets can pass, as only relays may be used, and {self._relays()}"
            )
        why = explain(self._session.outcome, self.links.bye, self.clocks, self._session.failure)
        return ClientError(why.code, f"{name}: {why}", defect=why.defect)

    def without_path(self, name: str) -> ClientError:
        """Say that no packets pass; the words are the same whichever side has given up first."""
        left_out = left_out_words(self._session.gathering_report())
        return ClientError(Exit.NO_PATH, f"{name}: {NO_PACKETS}; {self._relays()}{left_out}")

    def _relays(self) -> str:
        return self._no_servers() or relay_words(self._session.gathering_report())


NO_PACKETS = "signalling works, but no packets pass between the two sides"
NO_RELAY_THERE = (
    "no packets can pass, as the bridge may use relays only, and no TURN server gives it one; tell its admin"
)


def is_without_path(outcome: call.CallEnded, *, was_up: bool) -> bool:
    """Whether a call has ended because the two sides found no path.

    Both sides wait equally long, so it is chance who gives up first, and whose hang-up arrives.
    """
    match outcome.outcome, outcome.reason:
        case _ if was_up:
            return False
        case call.CallOutcome.TIMED_OUT, reason:
            return reason != "invite_timeout"
        case call.CallOutcome.FAILED | call.CallOutcome.REMOTE_HANGUP, ("ice_failed" | "ice_timeout"):
            return True
    return False


_REFUSED_NOW = {
    policy.UNCONFIRMED: "the bridge lets you in as a member of a room, and its homeserver did not say just now whether "
    "you are one; try again in a moment",
    to_device.UNLISTED_DEVICE: "your homeserver does not list this device, or not yet; try again, and if that does not "
    "help: mxrtc logout, then mxrtc login",
    to_device.UNKNOWN_DEVICE: "the bridge could not ask your homeserver about this device; try again in a moment",
    to_device.PEER_IDENTITY: "the homeserver shows another identity of this peer than the bridge's own, so somebody "
    "else may answer in its place; the bridge takes no calls for it until its admin has mended that, so tell them",
    "unknown_error": "the bridge could not take the call; its log says why",
}
"""By the reason of a bridge that may take the call later."""
_REFUSED = {
    to_device.CHANGED_IDENTITY: "your cross-signing identity has changed since the bridge first saw you; if you have "
    "made a new one, ask its admin to accept it (mxrtc-bridge trust), or compare emoji with the admin: mxrtc verify "
    "PEER",
    to_device.UNTRUSTED_DEVICE: "the bridge takes calls only from verified devices; verify this one with another "
    "session of yours: mxrtc verify; and if its admin must know you, then with the peer: mxrtc verify PEER",
}
_OF_DESCRIPTIONS = frozenset(
    {
        *(RefusalCode.BAD_CONTENT, RefusalCode.SDP_TOO_LARGE, RefusalCode.TOO_LARGE, RefusalCode.BAD_LINE),
        *(RefusalCode.MEDIA_REFUSED, RefusalCode.SMALL_MESSAGES, RefusalCode.NO_DATA_SECTION),
        *(RefusalCode.MANY_SECTIONS, RefusalCode.SECTION_REJECTED, RefusalCode.BAD_SECTION),
        *(RefusalCode.MISSING_ATTRIBUTE, RefusalCode.BAD_ATTRIBUTE, RefusalCode.CONFLICTING_ATTRIBUTE),
        *(RefusalCode.NO_FINGERPRINT, RefusalCode.WEAK_FINGERPRINT, RefusalCode.BAD_FINGERPRINT),
        RefusalCode.CONFLICTING_FINGERPRINTS,
    }
)
_NO_RIGHT = "the call was refused: you have no right to it, or the room is not fit for calls"


def explain(
    outcome: call.CallEnded,
    bye: tuple[str, str] | None,
    clocks: tuple[int, int] | None = None,
    failure: str = "",
) -> ClientError:
    """Say in words why a call ended, and whether trying again makes sense."""
    code, words = _explained(outcome, bye, clocks, failure)
    defect = (outcome.outcome, outcome.reason) == (call.CallOutcome.FAILED, INTERNAL_ERROR)
    return ClientError(code, words, defect=defect and bye is None)


def _explained(  # noqa: C901, PLR0911, PLR0912 - one row each
    outcome: call.CallEnded, bye: tuple[str, str] | None, clocks: tuple[int, int] | None, failure: str
) -> tuple[Exit, str]:
    if bye is not None:
        code, message = bye
        return Exit.DENIED if code == "denied" else Exit.RETRY, f"the peer ended the session: {message or code}"
    match outcome.outcome, outcome.reason:
        case call.CallOutcome.REJECTED, "user_busy" if outcome.limit == Lack.RELAY:
            return Exit.NO_PATH, NO_RELAY_THERE
        case call.CallOutcome.REJECTED, "user_busy":
            return Exit.RETRY, _busy(outcome.limit)
        case call.CallOutcome.REJECTED, to_device.STALE_INVITE:
            here, there = (_clock(each) for each in clocks or (None, None))
            apart = f"your clock and the bridge's are apart: here {here}, there {there} (UTC)"
            return Exit.RETRY, f"{apart}; set the one that is wrong, then try again"
        case call.CallOutcome.REJECTED, reason if reason in _REFUSED_NOW:
            return Exit.RETRY, _REFUSED_NOW[reason]
        case call.CallOutcome.REJECTED, reason if reason in _OF_DESCRIPTIONS:
            words = f"the bridge cannot use what this side says of itself ({reason}); its log says more"
            return Exit.RETRY, f"{words}. Update mxrtc or the bridge, whichever is older"
        case call.CallOutcome.REJECTED, reason:
            return Exit.DENIED, _REFUSED.get(reason, _NO_RIGHT)
        case call.CallOutcome.MEMBER_LEFT, _:
            return Exit.DENIED, "the peer has left the room: your right to use it may have ended"
        case call.CallOutcome.TIMED_OUT, "invite_timeout":
            return Exit.OFFLINE, "no answer; the bridge may not be running"
        case call.CallOutcome.FAILED, HOLDER_ENDED.reason:
            return Exit.RETRY, "the mxrtc command whose connection this was has ended"
        case call.CallOutcome.FAILED, HOLDER_SILENT.reason:
            return Exit.RETRY, "the mxrtc command whose connection this was gives no sign of life; it may be stopped"
        case call.CallOutcome.FAILED, reason if reason in set(Lack):
            return Exit.RETRY, f"this machine lacks what a call needs: {failure}"
        case call.CallOutcome.FAILED, reason if reason in _OF_DESCRIPTIONS:
            words = f"this side cannot use what the bridge says of itself: {failure or 'no reason is known'} ({reason})"
            return Exit.RETRY, f"{words}. Update mxrtc or the bridge, whichever is older"
        case call.CallOutcome.FAILED, reason:
            return Exit.RETRY, f"the connection failed ({reason}){failure and ': '}{failure}"
        case _, "session_max":
            return Exit.RETRY, "the session has lasted for the longest that it may (session_max)"
        case _, reason:
            return Exit.RETRY, f"the peer hung up ({reason})" if reason else "the peer hung up"


def _clock(wall_ms: int | None) -> str:
    if wall_ms is None:
        return "unknown"
    try:
        return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):  # whatever the other side has sent
        return "far from any date"


_LIMITS = {
    "calls_per_user": "you have {} calls there already, the most that a user may have (calls_per_user); end one of "
    "them, or let several connections share one: mxrtc status shows those of this machine",
    "calls_per_server": "users of your homeserver have {} calls there already, the most that those of one server may "
    "have (calls_per_server); try again later",
    "calls_total": "it has {} calls now, its most (calls_total); try again later",
    "invites_per_minute": "you have called more than {} times within a minute, the most that a user may "
    "(invites_per_minute); try again in a minute, or let several connections share one call",
    "invites_per_minute_per_server": "users of your homeserver have called more than {} times within a minute, the "
    "most that those of one server may; try again in a minute",
}
_LACKS = {
    "paused": "its admin has it take no calls now; try again later",
    "stopping": "it is being stopped or restarted; try again in a moment",
    Lack.PORTS: "all UDP ports that it may use for calls are taken (port_range); try again later, and tell its admin",
    Lack.FILES: "too many files are open there; try again later, and tell its admin",
    Lack.MEMORY: "it has no memory left; try again later, and tell its admin",
    Lack.SOCKETS: "it can open no UDP socket now; try again later, and tell its admin",
}
"""Those without a number."""


def _busy(limit: str | None) -> str:
    """Say which limit is reached; ``limit`` is from the other side, and may be anything or nothing."""
    name, _, number = (limit or "").partition(" ")
    words = _LIMITS.get(name)
    if limit in _LACKS:
        return f"the bridge refuses the call: {_LACKS[limit]}"
    if words is None or not (number.isascii() and number.isdigit()):
        return "the bridge takes no more calls now; try again later"
    return f"the bridge refuses the call: {words.format(number)}"


def report_connected(report: Report, name: str, connection: Connection) -> None:
    """Say that a connection is up, and how it travels."""
    by_room = "" if connection.device is not None else ", by a room, not end to end"
    if connection.why_by_room:
        by_room += f" ({connection.why_by_room})"
    report.say(
        "connected",
        f"connected to {name}: {connection.path}, {connection.setup_s * 1000:.0f} ms{by_room}",
        name=name,
        peer=connection.peer,
        path=str(connection.path),
        path_kind=connection.path.kind.value,
        signalling="room" if connection.device is None else "device",
        end_to_end=connection.device is not None,
        by_room_because=connection.why_by_room or None,
        peer_device=None if connection.device is None else connection.device.device,
        peer_device_key=None if connection.device is None else connection.device.ed25519,
        peer_trust=None if connection.device is None else connection.device.trust.value,
        setup_ms=round(connection.setup_s * 1000, 1),
        pid=os.getpid(),
    )


class Use(Enum):
    """What a command needs a service for; the value is said of one that is not for it."""

    STREAM = "is for connections"
    PUT = "takes files"
    GET = "gives files"

    def fits(self, kind: ServiceKind | None) -> bool:
        """Whether a service of this kind is for it; one of an unknown kind may be."""
        return kind is None or kind in _FITTING[self]


_FITTING = {
    Use.STREAM: {ServiceKind.STREAM},
    Use.PUT: {ServiceKind.INBOX, ServiceKind.FILES},
    Use.GET: {ServiceKind.SHARE, ServiceKind.FILES},
}


def check_kind(peer_name: str, connection: Connection, service: ServiceName) -> None:
    """Refuse to listen for a service of files, where it was listed as one.

    Raises:
        ClientError: connections to it will all be refused.
    """
    if not Use.STREAM.fits(connection.links.kinds.get((connection.peer, service))):
        raise ClientError(Exit.DENIED, f"{peer_name}/{service}: {messages.ONLY_FILES}")


async def only_service(peer_name: str, connection: Connection, use: Use) -> ServiceName:
    """The one service of a peer that is for something.

    Raises:
        ClientError: it has none for this user, or several, or did not say.
    """
    names = (await list_services_of(connection)).get(connection.peer, ())
    kinds = {name: connection.links.kinds.get((connection.peer, name)) for name in names}
    match [name for name in names if use.fits(kinds[name])]:
        case [name]:
            return name
        case [] if names:
            others = ", ".join(f"{peer_name}/{name} ({kind.value})" for name, kind in kinds.items() if kind is not None)
            raise ClientError(
                Exit.DENIED, f"no service of {peer_name} that you may use {use.value}; there is: {others}"
            )
        case []:
            raise ClientError(Exit.DENIED, f"you may use no service of {peer_name}; ask its admin for one")
        case several:
            choices = ", ".join(f"{peer_name}/{name}" for name in several)
            raise ClientError(Exit.USAGE, f"name one of the services of {peer_name}: {choices}")


_CUT_THERE = {
    messages.READ_ONLY: f"nothing can be sent to this service: {messages.GIVES_ONLY}",
    "reset": "the service broke the connection off",
    "closed": "the service closed before it had taken everything",
}


def check_finished(name: str, finished: StreamFinished, over: tuple[str, str] | None = None) -> None:
    """Raise what a stream's end means for the command.

    Args:
        name: of the service.
        finished: how the stream has ended.
        over: why the session has ended, if it has (:attr:`Connection.why_over`).

    Raises:
        ClientError: unless the stream ended in order.
    """
    match finished.outcome, finished.code:
        case StreamOutcome.CLEAN, _:
            return
        case StreamOutcome.REFUSED, "denied" if finished.message == messages.ONLY_FILES:
            raise ClientError(Exit.DENIED, f"{name}: {messages.ONLY_FILES}")
        case StreamOutcome.REFUSED, "denied" | "unknown":
            raise ClientError(Exit.DENIED, f"{name}: {NO_SERVICE}")
        case StreamOutcome.REFUSED, code:
            why = code if finished.message in ("", messages.UNREACHABLE) else finished.message
            # As the code of a service that is down says no more than that.
            words = "" if why == messages.ErrCode.UNAVAILABLE.value else f" ({why})"
            raise ClientError(Exit.RETRY, f"{name}: the service cannot be reached now{words}")
        case StreamOutcome.RESET, "denied":
            raise ClientError(Exit.DENIED, f"{name}: {RIGHT_ENDED}")
        case _, code:
            why = finished.message or code if over is None else over[1] or over[0]
            if why == messages.RESET_BY_OTHER_SIDE:
                why = _CUT_THERE.get(code, why)
            raise ClientError(
                Exit.INTEGRITY,
                f"{name}: the stream was cut ({why}) after {finished.sent} bytes sent "
                f"and {finished.received} received; bytes may be missing",
            )


async def list_services_of(connection: Connection, *, states: bool = False) -> dict[UserId, tuple[ServiceName, ...]]:
    """Ask the other side which services this user may use, and perhaps which are up.

    Raises:
        ClientError: there was no answer.
    """
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            return await connection.links.list_services(states=states)
    except TimeoutError:
        raise ClientError(Exit.OFFLINE, "the peer did not list its services in time") from None
    except TransportError as error:
        raise ClientError(Exit.RETRY, f"the connection was lost ({error})") from error
