"""What the end of a call or a stream means for the exit code."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from mxrtc_bridge.client.calls.connection import (
    NO_PACKETS,
    Connection,
    Use,
    check_finished,
    explain,
    only_service,
    report_connected,
)
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.to_device import STALE_INVITE
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.ids import DeviceId, ServiceName, UserId
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.events import StreamFinished, StreamOutcome
from mxrtc_bridge.core.stream.messages import ServiceKind
from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport
from mxrtc_bridge.core.webrtc.gathering_words import NO_TURN
from mxrtc_bridge.core.webrtc.ice import Path, PathKind
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

PEER = UserId("@rtc_build:example.org")


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        (call.CallOutcome.REJECTED, "rejected", Exit.DENIED),
        (call.CallOutcome.REJECTED, "user_busy", Exit.RETRY),
        (call.CallOutcome.REJECTED, "membership_unconfirmed", Exit.RETRY),
        (call.CallOutcome.REJECTED, "peer_identity", Exit.RETRY),
        (call.CallOutcome.REJECTED, "unknown_error", Exit.RETRY),
        (call.CallOutcome.MEMBER_LEFT, "member_left", Exit.DENIED),
        (call.CallOutcome.TIMED_OUT, "invite_timeout", Exit.OFFLINE),
        (call.CallOutcome.FAILED, "no_files", Exit.RETRY),
        (call.CallOutcome.FAILED, "homeserver", Exit.RETRY),
        (call.CallOutcome.REMOTE_HANGUP, "unknown_error", Exit.RETRY),
        (call.CallOutcome.LOCAL_HANGUP, "", Exit.RETRY),
    ],
)
def test_end_of_a_call_separates_again_from_never(outcome: call.CallOutcome, reason: str, code: Exit) -> None:
    lost = explain(call.CallEnded(outcome, reason), None)
    assert lost.code is code
    assert str(lost)


def test_only_a_failure_of_our_own_is_a_defect() -> None:
    failed = [(call.CallOutcome.FAILED, "internal_error"), (call.CallOutcome.FAILED, "unavailable")]
    failed += [(call.CallOutcome.REMOTE_HANGUP, "internal_error")]
    assert [explain(call.CallEnded(*each), None).defect for each in failed] == [True, False, False]


@pytest.mark.parametrize("outcome", list(call.CallOutcome))
def test_every_outcome_has_a_sentence(outcome: call.CallOutcome) -> None:
    assert len(str(explain(call.CallEnded(outcome, "something"), None))) > 10


@pytest.mark.parametrize(
    ("clocks", "here", "there"),
    [
        ((1_700_000_120_000, 1_700_000_000_000), "here 2023-11-14 22:15:20", "there 2023-11-14 22:13:20"),
        ((0, 2**53 - 1), "here 1970-01-01 00:00:00", "there far from any date"),
        (None, "here unknown", "there unknown"),
    ],
)
def test_clocks_that_are_apart_are_both_named(clocks: tuple[int, int] | None, here: str, there: str) -> None:
    why = explain(call.CallEnded(call.CallOutcome.REJECTED, STALE_INVITE), None, clocks)
    assert why.code is Exit.RETRY
    assert here in str(why)
    assert there in str(why)
    assert "your clock and the bridge's are apart" in str(why)


@pytest.mark.parametrize("by_device", [True, False])
def test_a_call_by_a_room_is_told_in_words_and_to_programs(by_device: bool, capsys: pytest.CaptureFixture[str]) -> None:
    class Call:
        path = Path(PathKind.DIRECT, "host", "host", "ipv4")

    device = DeviceIdentity(PEER, DeviceId("BUILD"), "ed", "curve", Trust.CROSS_SIGNED) if by_device else None
    connection = Connection(PEER, Call(), None, device)  # type: ignore[arg-type]
    report_connected(Report(), "build", connection)
    said = capsys.readouterr().err
    assert ("by a room, not end to end" in said) is not by_device
    report_connected(Report(as_json=True), "build", connection)
    told = json.loads(capsys.readouterr().out)
    assert (told["signalling"], told["end_to_end"]) == (("device", True) if by_device else ("room", False))
    assert told["by_room_because"] is None


def test_a_call_by_a_room_that_nobody_wanted_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    class Call:
        path = Path(PathKind.DIRECT, "host", "host", "ipv4")

    connection = Connection(PEER, Call(), None)  # type: ignore[arg-type]
    connection.why_by_room = "/home/me/crypto.lock cannot be used: Read-only file system"
    report_connected(Report(), "build", connection)
    assert "by a room, not end to end (/home/me/crypto.lock cannot be used: Read-only" in capsys.readouterr().err
    report_connected(Report(as_json=True), "build", connection)
    assert json.loads(capsys.readouterr().out)["by_room_because"] == connection.why_by_room


@pytest.mark.parametrize(
    ("size", "words"), [(None, ""), (1500, ""), (1228, ""), (1000, "only packets of up to 1000 bytes pass")]
)
def test_a_path_for_small_packets_only_is_told(size: int | None, words: str) -> None:
    class Session:
        def packet_bytes(self) -> int | None:
            return size

    assert Connection(PEER, cast(Any, Session()), cast(Any, None)).narrow_words == words


def test_what_is_known_of_a_connection_that_failed_is_said() -> None:
    ended = call.CallEnded(call.CallOutcome.FAILED, "sctp_failed")
    known = explain(ended, None, None, "no SCTP association within 10 s")
    assert str(known) == "the connection failed (sctp_failed): no SCTP association within 10 s"
    assert str(explain(ended, None)) == "the connection failed (sctp_failed)"


@pytest.mark.parametrize("reason", ["bad_content", "sdp_too_large", "small_messages", "bad_attribute", "media_refused"])
def test_refused_description_is_no_lack_of_a_right(reason: str) -> None:
    error = explain(call.CallEnded(call.CallOutcome.REJECTED, reason), None)
    assert error.code is Exit.RETRY
    assert f"({reason})" in str(error)
    assert "right" not in str(error)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("calls_per_user 4", "you have 4 calls there already, the most that a user may have (calls_per_user)"),
        ("calls_per_server 20", "users of your homeserver have 20 calls"),
        ("calls_total 200", "it has 200 calls now, its most (calls_total)"),
        ("invites_per_minute 30", "more than 30 times within a minute"),
        ("invites_per_minute_per_server 120", "more than 120 times within a minute"),
        ("paused", "its admin has it take no calls now"),
        ("stopping", "it is being stopped or restarted; try again in a moment"),
        ("no_ports", "all UDP ports that it may use for calls are taken (port_range)"),
        ("no_files", "too many files are open there"),
        (None, "the bridge takes no more calls now"),
        ("calls_per_user", "the bridge takes no more calls now"),
        ("calls_per_user {x}", "the bridge takes no more calls now"),
        ("something 5", "the bridge takes no more calls now"),
    ],
)
def test_a_limit_is_named_with_its_number(limit: str | None, words: str) -> None:
    error = explain(call.CallEnded(call.CallOutcome.REJECTED, "user_busy", limit), None)
    assert error.code is Exit.RETRY
    assert words in str(error)


def test_words_of_farewell_count_more_than_the_hangup() -> None:
    ended = call.CallEnded(call.CallOutcome.REMOTE_HANGUP, "user_hangup")
    assert explain(ended, ("denied", "your right has ended")).code is Exit.DENIED
    assert explain(ended, ("shutdown", "")).code is Exit.RETRY


@pytest.mark.parametrize(
    ("outcome", "code", "exit_code"),
    [
        (StreamOutcome.REFUSED, "denied", Exit.DENIED),
        (StreamOutcome.REFUSED, "unknown", Exit.DENIED),
        (StreamOutcome.REFUSED, "refused", Exit.RETRY),
        (StreamOutcome.REFUSED, "limit", Exit.RETRY),
        (StreamOutcome.RESET, "denied", Exit.DENIED),
        (StreamOutcome.RESET, "reset", Exit.INTEGRITY),
        (StreamOutcome.LOST, "", Exit.INTEGRITY),
        (StreamOutcome.VIOLATION, "violation", Exit.INTEGRITY),
    ],
)
def test_end_of_a_stream_that_was_not_clean_has_its_exit_code(
    outcome: StreamOutcome, code: str, exit_code: Exit
) -> None:
    with pytest.raises(ClientError) as caught:
        check_finished("build/ssh", StreamFinished(outcome, code, "", 1, 2))
    assert caught.value.code is exit_code


def test_clean_end_is_no_error() -> None:
    check_finished("build/ssh", StreamFinished(StreamOutcome.CLEAN, "", "", 1, 2))


class Lists:
    """Links to a peer with these services; None for one whose kind it does not tell."""

    def __init__(self, services: dict[str, ServiceKind | None]) -> None:
        self.services = tuple(map(ServiceName, services))
        self.kinds = {(PEER, ServiceName(name)): kind for name, kind in services.items() if kind is not None}

    async def list_services(self, *, states: bool = False) -> dict[UserId, tuple[ServiceName, ...]]:
        return {PEER: self.services} if self.services else {}


def connection_to(services: dict[str, ServiceKind | None]) -> Connection:
    return Connection(PEER, None, Lists(services))  # type: ignore[arg-type]


MIXED = {
    "ssh": ServiceKind.STREAM,
    "in": ServiceKind.INBOX,
    "out": ServiceKind.SHARE,
}


@pytest.mark.parametrize(
    ("services", "use", "wanted"),
    [
        ({"ssh": None}, Use.STREAM, "ssh"),
        ({"ssh": None}, Use.PUT, "ssh"),
        (MIXED, Use.STREAM, "ssh"),
        (MIXED, Use.PUT, "in"),
        (MIXED, Use.GET, "out"),
        ({"ssh": ServiceKind.STREAM, "box": ServiceKind.FILES}, Use.PUT, "box"),
        ({"ssh": ServiceKind.STREAM, "box": ServiceKind.FILES}, Use.GET, "box"),
        ({"ssh": ServiceKind.STREAM, "tv": None}, Use.GET, "tv"),
    ],
)
async def test_service_may_be_left_out_where_one_is_for_it(
    services: dict[str, ServiceKind | None], use: Use, wanted: str
) -> None:
    assert await only_service("build", connection_to(services), use) == wanted


@pytest.mark.parametrize(
    ("services", "use", "code", "said"),
    [
        ({}, Use.PUT, Exit.DENIED, "you may use no service of build; ask its admin for one"),
        (
            {"ssh": None, "web": None},
            Use.PUT,
            Exit.USAGE,
            "name one of the services of build: build/ssh, build/web",
        ),
        (
            {**MIXED, "box": ServiceKind.FILES},
            Use.PUT,
            Exit.USAGE,
            "name one of the services of build: build/in, build/box",
        ),
        (
            {"ssh": ServiceKind.STREAM, "out": ServiceKind.SHARE},
            Use.PUT,
            Exit.DENIED,
            "no service of build that you may use takes files; there is: build/ssh (stream), build/out (share)",
        ),
    ],
)
async def test_what_must_be_named_is_told_with_what_there_is(
    services: dict[str, ServiceKind | None], use: Use, code: Exit, said: str
) -> None:
    with pytest.raises(ClientError) as caught:
        await only_service("build", connection_to(services), use)
    assert (caught.value.code, str(caught.value)) == (code, said)


def test_a_service_for_files_is_told_from_one_that_is_not_there() -> None:
    refused = StreamFinished(StreamOutcome.REFUSED, "denied", messages.ONLY_FILES, 0, 0)
    with pytest.raises(ClientError, match="build/inbox: this service is for files") as caught:
        check_finished("build/inbox", refused)
    assert caught.value.code is Exit.DENIED
    other = StreamFinished(StreamOutcome.REFUSED, "denied", "run: rm -rf /", 0, 0)
    with pytest.raises(ClientError, match="there is no such service, or you have no right to it"):
        check_finished("build/inbox", other)


@pytest.mark.parametrize(
    ("code", "message", "why"),
    [
        ("timeout", "", " (timeout)"),
        ("timeout", messages.UNREACHABLE, " (timeout)"),
        ("timeout", "it is being moved", " (it is being moved)"),
        ("unavailable", messages.UNREACHABLE, ""),
        ("unavailable", "", ""),
    ],
)
def test_a_service_that_is_down_is_not_said_to_be_so_twice(code: str, message: str, why: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_finished("build/web", StreamFinished(StreamOutcome.REFUSED, code, message, 0, 0))
    assert str(caught.value) == f"build/web: the service cannot be reached now{why}"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("read_only", "nothing can be sent to this service: it gives data and takes none"),
        ("reset", "the service broke the connection off"),
        ("closed", "the service closed before it had taken everything"),
        ("of_a_later_version", "the other side reset the stream"),
    ],
)
def test_a_stream_that_the_other_side_has_cut_says_why(code: str, why: str) -> None:
    cut = StreamFinished(StreamOutcome.RESET, code, messages.RESET_BY_OTHER_SIDE, 5, 7)
    with pytest.raises(ClientError) as caught:
        check_finished("build/motd", cut)
    assert f"the stream was cut ({why}) after 5 bytes sent" in str(caught.value)


def test_a_stream_that_the_end_of_the_session_has_cut_says_why_the_session_has_ended() -> None:
    cut = StreamFinished(StreamOutcome.RESET, "unavailable", "the session has ended", 5, 7)
    with pytest.raises(ClientError, match=r"was cut \(it has lasted for 12h\) after 5 bytes sent and 7") as caught:
        check_finished("build/echo", cut, ("limit", "it has lasted for 12h"))
    assert caught.value.code is Exit.INTEGRITY


class EndedCall:
    """A session and its links, as far as the end of a call asks them."""

    bye = None
    failure = "no path to the other side was found within 25 s"

    def __init__(self, outcome: call.CallEnded, *, was_up: bool = False) -> None:
        self.outcome = outcome
        self.up = asyncio.Event()
        if was_up:
            self.up.set()

    def gathering_report(self) -> GatheringReport:
        return GatheringReport()


def lost(outcome: call.CallOutcome, reason: str, *, was_up: bool = False, no_servers: str = "") -> ClientError:
    ended = EndedCall(call.CallEnded(outcome, reason), was_up=was_up)
    connection = Connection(PEER, ended, ended, no_servers=lambda: no_servers)  # type: ignore[arg-type]
    return connection.lost("build")


def test_a_stream_that_a_lost_connection_has_cut_says_what_became_of_the_connection() -> None:
    """Its channel is closed by that without a word, of which nobody knows what to think."""
    ended = EndedCall(call.CallEnded(call.CallOutcome.FAILED, "consent expired"), was_up=True)
    ended.failure = ""
    connection = Connection(PEER, ended, ended)  # type: ignore[arg-type]
    cut = StreamFinished(StreamOutcome.LOST, "closed", "the channel closed before the stream had ended", 5, 7)
    with pytest.raises(ClientError, match=r"was cut \(the connection failed \(consent expired\)\) after 5") as caught:
        check_finished("build/echo", cut, connection.why_over)
    assert caught.value.code is Exit.INTEGRITY
    ended.bye = ("unavailable", "the bridge is shutting down")  # type: ignore[assignment]
    assert connection.why_over == ("unavailable", "the bridge is shutting down")
    ended.bye = ended.outcome = None  # type: ignore[assignment]
    assert connection.why_over is None


WITHOUT_PATH = [
    (call.CallOutcome.TIMED_OUT, "setup_timeout"),
    (call.CallOutcome.FAILED, "ice_failed"),
    (call.CallOutcome.FAILED, "ice_timeout"),
    (call.CallOutcome.REMOTE_HANGUP, "ice_failed"),
    (call.CallOutcome.REMOTE_HANGUP, "ice_timeout"),
]


def test_a_path_that_is_not_there_is_one_code_and_one_sentence_whichever_side_gives_up_first() -> None:
    errors = [lost(*each) for each in WITHOUT_PATH]
    assert {error.code for error in errors} == {Exit.NO_PATH}
    assert {str(error) for error in errors} == {f"build: {NO_PACKETS}; {NO_TURN}"}


@pytest.mark.parametrize(("outcome", "reason"), WITHOUT_PATH)
def test_a_connection_that_was_up_can_be_had_again(outcome: call.CallOutcome, reason: str) -> None:
    assert lost(outcome, reason, was_up=True).code is Exit.RETRY


def test_a_homeserver_that_does_not_say_which_turn_servers_there_are_is_named() -> None:
    said = str(lost(call.CallOutcome.FAILED, "ice_failed", no_servers="no TURN servers are known: it is away"))
    assert said == f"build: {NO_PACKETS}; no TURN servers are known: it is away"


def test_that_no_relay_is_there_is_no_path() -> None:
    error = lost(call.CallOutcome.FAILED, "no_relay")
    assert (error.code, str(error)) == (
        Exit.NO_PATH,
        f"build: no packets can pass, as only relays may be used, and {NO_TURN}",
    )


def test_that_the_bridge_has_no_relay_is_no_path_either() -> None:
    error = explain(call.CallEnded(call.CallOutcome.REJECTED, "user_busy", "no_relay"), None)
    assert (error.code, str(error)) == (
        Exit.NO_PATH,
        "no packets can pass, as the bridge may use relays only, and no TURN server gives it one; tell its admin",
    )


def test_what_our_own_machine_lacks_is_said() -> None:
    failed = call.CallEnded(call.CallOutcome.FAILED, "no_files")
    said = str(explain(failed, None, failure="too many files are open"))
    assert said == "this machine lacks what a call needs: too many files are open"
