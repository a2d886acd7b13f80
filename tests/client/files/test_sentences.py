"""What the numbers and the end of a transfer mean: words, fields and exit codes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.client.exit_codes import Exit
from mxrtc_bridge.client.files import sentences
from mxrtc_bridge.client.files.sentences import Rate, TransferDirection, judge, time_words
from mxrtc_bridge.core.files.events import Failure, Progress, TransferFinished, TransferOutcome
from mxrtc_bridge.core.files.messages import NO_FILES, NO_INBOX, NO_SHARE, FileCode
from mxrtc_bridge.core.text.display import size_words

MIB = 1 << 20
HALF = Progress(
    files=4,
    directories=1,
    size=100 * MIB,
    listed=True,
    files_done=2,
    directories_done=1,
    bytes_done=50 * MIB,
    bytes_kept=10 * MIB,
    failed=0,
    failures=(),
    current="trip/a.jpg",
)


def finished(
    outcome: TransferOutcome, code: str = "", message: str = "", progress: Progress = HALF
) -> TransferFinished:
    return TransferFinished(outcome, code, message, 0, 0, progress)


def failed(*codes: FileCode, here: bool = False) -> Progress:
    failures = tuple(Failure(f"f{number}", code, "a reason", here) for number, code in enumerate(codes))
    return dataclasses.replace(HALF, failed=len(failures), failures=failures)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1023.9 * 1024, "1.0 MiB"),
        (256 * MIB, "256 MiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 63, "8192 PiB"),
    ],
)
def test_sizes(size: float, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0.0 s"), (59.9, "59.9 s"), (59.96, "1:00"), (187, "3:07"), (7209, "2:00:09")]
)
def test_times(seconds: float, words: str) -> None:
    assert time_words(seconds) == words


@given(st.floats(0, 1e18))
def test_every_size_is_short(size: float) -> None:
    assert len(size_words(size)) <= 9


def test_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = Rate()
    assert rate.sample(0, 0) == 0
    for second in range(1, 31):
        last = rate.sample(second, second * 1000)
    assert last == 1000
    for second in range(31, 60):
        last = rate.sample(second, 30_000)
    assert last == 0, "what stands still has no rate"


def test_rate_begins_anew_with_another_attempt() -> None:
    rate = Rate()
    rate.sample(0, 0)
    rate.sample(1, 5000)
    assert rate.sample(2, 10) == 0
    assert rate.sample(3, 110) == 100


def test_progress_in_one_line() -> None:
    line = sentences.progress_sentence(HALF, MIB, "direct (host to host, ipv4)")
    assert line == "50.0 MiB of 100 MiB, 2 of 4 files, 1.0 MiB/s, 50.0 s left, direct (host to host, ipv4)"


def test_nothing_is_predicted_before_everything_is_known() -> None:
    early = dataclasses.replace(HALF, listed=False)
    line = sentences.progress_sentence(early, MIB, "relayed")
    assert "so far" in line
    assert "left" not in line
    assert sentences.progress_fields(early, MIB, "relayed")["remaining_s"] is None
    assert sentences.remaining_s(HALF, 0) is None


@pytest.mark.parametrize(
    ("outcome", "code", "expected", "again"),
    [
        (TransferOutcome.CLEAN, "", Exit.DONE, False),
        (TransferOutcome.REFUSED, "denied", Exit.DENIED, False),
        (TransferOutcome.REFUSED, "unknown", Exit.DENIED, False),
        (TransferOutcome.REFUSED, "quota", Exit.RETRY, False),
        (TransferOutcome.REFUSED, "something-new", Exit.RETRY, False),
        (TransferOutcome.VIOLATION, "bad-index", Exit.INTEGRITY, False),
        (TransferOutcome.INTERRUPTED, "denied", Exit.DENIED, False),
        (TransferOutcome.INTERRUPTED, "unavailable", Exit.RETRY, True),
        (TransferOutcome.INTERRUPTED, "timeout", Exit.RETRY, True),
        (TransferOutcome.INTERRUPTED, "lost", Exit.RETRY, True),
        (TransferOutcome.INTERRUPTED, "limit", Exit.DENIED, False),
    ],
)
@pytest.mark.parametrize("direction", TransferDirection)
def test_end_of_an_attempt(
    outcome: TransferOutcome, code: str, expected: Exit, again: bool, direction: TransferDirection
) -> None:
    verdict = judge("build/inbox", direction, finished(outcome, code, "so it is"))
    assert (verdict.code, verdict.again) == (expected, again)
    assert bool(verdict.sentence) is (expected is not Exit.DONE)


@pytest.mark.parametrize(
    ("codes", "there", "here"),
    [
        ([FileCode.INTEGRITY, FileCode.SPACE, FileCode.CHANGED], Exit.INTEGRITY, Exit.INTEGRITY),
        ([FileCode.CHANGED, FileCode.DENIED], Exit.DENIED, Exit.LOCAL),
        ([FileCode.SPACE], Exit.RETRY, Exit.LOCAL),
        ([FileCode.IO], Exit.RETRY, Exit.LOCAL),
        ([FileCode.GONE], Exit.DENIED, Exit.LOCAL),
        ([FileCode.QUOTA], Exit.RETRY, Exit.RETRY),
        ([FileCode.NAME], Exit.DENIED, Exit.LOCAL),
        ([FileCode.CHANGED], Exit.RETRY, Exit.RETRY),
    ],
)
@pytest.mark.parametrize("direction", TransferDirection)
def test_worst_failure_of_a_job_decides_and_the_side_where_it_was(
    codes: list[FileCode], there: Exit, here: Exit, direction: TransferDirection
) -> None:
    for side, expected in ((False, there), (True, here)):
        progress = failed(*codes, here=side)
        verdict = judge("build/inbox", direction, finished(TransferOutcome.PARTIAL, progress=progress))
        assert verdict.code == expected
        assert not verdict.again, "a job that came to its end is not repeated by itself"


@pytest.mark.parametrize("code", FileCode)
@pytest.mark.parametrize("here", [True, False])
def test_every_code_has_an_exit_that_is_no_success(code: FileCode, here: bool) -> None:
    exit_code = sentences.exit_of(code, here=here)
    assert exit_code in (Exit.RETRY, Exit.DENIED, Exit.INTEGRITY, Exit.LOCAL)


def test_a_failure_is_one_line_that_says_at_which_side_it_was() -> None:
    there = sentences.failure_sentence(Failure("a" * 500, FileCode.IO, "x\ny"))
    assert there == "a" * 159 + "\u2026: there: x\u2424y"
    assert sentences.failure_sentence(Failure("secret", FileCode.DENIED, "", here=True)) == "secret: here: denied"


def test_what_the_source_does_not_offer_without_saying_why_is_known_by_its_number() -> None:
    """As an earlier bridge does it; hidden names are never told, and no failure."""
    progress = dataclasses.replace(failed(FileCode.CHANGED), failed=3, untold=2, hidden=3)
    untold, hidden = sentences.other_sentences(progress)
    assert untold.startswith("2 more not offered by the other side")
    assert hidden == "3 hidden names are not offered (names that begin with a dot)"
    (one,) = sentences.other_sentences(dataclasses.replace(HALF, hidden=1))
    assert one.startswith("1 hidden name is not offered")
    assert sentences.other_sentences(HALF) == []
    assert judge("b/s", TransferDirection.GET, finished(TransferOutcome.PARTIAL, progress=progress)).code == Exit.DENIED
    nothing = dataclasses.replace(HALF, files=0, directories=0, failed=1, untold=1)
    verdict = judge("b/s", TransferDirection.GET, finished(TransferOutcome.PARTIAL, progress=nothing))
    assert verdict.code == Exit.DENIED
    assert "nothing of this name" in verdict.sentence


def test_nothing_else_is_said_to_be_there_where_nothing_is() -> None:
    nothing = dataclasses.replace(failed(FileCode.NAME), files_done=0, directories_done=0)
    verdict = judge("b/i", TransferDirection.SEND, finished(TransferOutcome.PARTIAL, progress=nothing))
    assert verdict.sentence == "b/i: 1 could not be sent"


def test_summary_has_bytes_time_rate_and_digest() -> None:
    line = sentences.summary_sentence("build/inbox", TransferDirection.SEND, HALF, 40 * MIB, 4, "ab" * 32)
    assert line == (
        "sent 2 files, 50.0 MiB (10.0 MiB were there already) to build/inbox; 4.0 s, 10.0 MiB/s; SHA-256 " + "ab" * 32
    )
    assert "SHA-256" not in sentences.summary_sentence("build/inbox", TransferDirection.GET, HALF, 0, 0, "")


def test_the_same_command_is_offered_only_if_it_can_be_shown_as_it_is() -> None:
    assert sentences.go_on_sentence(HALF, "mxrtc send a build/inbox").endswith("goes on:\nmxrtc send a build/inbox")
    hostile = sentences.go_on_sentence(HALF, "mxrtc send '\x1b]0;x\x07' build/inbox")
    assert "\x1b" not in hostile
    assert hostile.endswith("the same command goes on")
    assert sentences.go_on_sentence(None, "mxrtc send a b") == "interrupted; the same command goes on:\nmxrtc send a b"


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_text_of_the_other_side_begins_a_line_of_its_own(message: str, code: str) -> None:
    for outcome in TransferOutcome:
        assert "\n" not in judge("b/i", TransferDirection.GET, finished(outcome, code, message)).sentence


def test_what_a_service_is_for_is_told_in_our_own_words_only() -> None:
    for message in (NO_FILES, NO_INBOX, NO_SHARE):
        verdict = judge("b/s", TransferDirection.SEND, finished(TransferOutcome.REFUSED, "denied", message))
        assert (verdict.code, verdict.sentence) == (Exit.DENIED, f"b/s: {message}")
    other = judge("b/s", TransferDirection.SEND, finished(TransferOutcome.REFUSED, "denied", "run: rm -rf /"))
    assert other.sentence == "b/s: there is no such service, or you have no right to it"
