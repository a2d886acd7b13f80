"""What a transfer's numbers and its end mean to a person and to the exit code. Pure: values in, words out.

Paths and messages in here may come from the other side. They are shortened here, and kept from beginning lines of their
own; :class:`~mxrtc_bridge.client.report.Report` makes the sentences displayable, like all sentences.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.client.exit_codes import NO_SERVICE, RIGHT_ENDED, Exit
from mxrtc_bridge.core.files.events import EntryDone, Failure, Progress, TransferFinished, TransferOutcome
from mxrtc_bridge.core.files.messages import WRONG_KIND, FileCode
from mxrtc_bridge.core.text.display import ELLIPSIS, display, size_words
from mxrtc_bridge.engine.file_transfer import INTERNAL_ERROR

_RATE_WINDOW_S = 10.0


class TransferDirection(Enum):
    """Which way the files go, seen from here."""

    SEND = "send"
    GET = "get"


def _one_line(text: str, limit: int) -> str:
    short = text if len(text) <= limit else f"{text[: limit - 1]}{ELLIPSIS}"
    return short.replace("\n", "\N{SYMBOL FOR NEWLINE}")


# Numbers


def time_words(seconds: float) -> str:
    """``4.2 s``, ``3:07``, ``2:00:09``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_words(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moved(progress: Progress) -> int:
    """Bytes that came over the channel, without those that were there before."""
    return max(progress.bytes_done - progress.bytes_kept, 0)


class Rate:
    """Bytes a second over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=256)

    def sample(self, now: float, total: int) -> float:
        """Add the number of bytes that were moved by ``now``, and return the rate."""
        if self._samples and total < self._samples[-1][1]:
            # Another attempt, or a file that failed and counts no more.
            self._samples.clear()
        self._samples.append((now, total))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _RATE_WINDOW_S:
            self._samples.popleft()
        began, before = self._samples[0]
        return (total - before) / (now - began) if now > began else 0.0


def remaining_s(progress: Progress, rate: float) -> float | None:
    """Seconds until the end if it goes on so; None while that cannot be known."""
    if not progress.listed or rate <= 0:
        return None
    return max(progress.size - progress.bytes_done, 0) / rate


def progress_sentence(progress: Progress, rate: float, path: str) -> str:
    """One line for a log."""
    so_far = "" if progress.listed else " so far"
    parts = [
        f"{size_words(progress.bytes_done)} of {size_words(progress.size)}{so_far}",
        f"{progress.files_done} of {count_words(progress.files, 'file')}",
        f"{size_words(rate)}/s",
    ]
    if (left := remaining_s(progress, rate)) is not None:
        parts.append(f"{time_words(left)} left")
    parts.append(path)
    return ", ".join(parts)


def progress_fields(progress: Progress, rate: float, path: str) -> dict[str, object]:
    """The same for programs."""
    left = remaining_s(progress, rate)
    return {
        "files": progress.files,
        "files_done": progress.files_done,
        "directories": progress.directories,
        "directories_done": progress.directories_done,
        "size": progress.size,
        "listed": progress.listed,
        "bytes_done": progress.bytes_done,
        "bytes_kept": progress.bytes_kept,
        "failed": progress.failed,
        "current": progress.current,
        "rate": round(rate),
        "remaining_s": None if left is None else round(left, 1),
        "path": path,
    }


# The end


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """What the end of one attempt means."""

    code: Exit
    sentence: str
    """Empty when all is done."""
    again: bool = False
    """Whether calling again goes on from here."""


# What a repetition cures stands last: a script that sees RETRY knows that nothing else is wrong.
_WORST_FIRST = (Exit.INTEGRITY, Exit.LOCAL, Exit.DENIED, Exit.RETRY)

_FINAL = {FileCode.DENIED, FileCode.UNKNOWN, FileCode.NAME, FileCode.EXISTS, FileCode.GONE}
"""What no repetition cures, whichever side it is that says so."""


def exit_of(code: FileCode, *, here: bool = False) -> Exit:
    """The exit code for something that failed, at this side or at the other one."""
    if here and code in _FINAL | {FileCode.IO, FileCode.SPACE}:
        return Exit.LOCAL
    if code in (FileCode.INTEGRITY, FileCode.VIOLATION):
        return Exit.INTEGRITY
    return Exit.DENIED if code in _FINAL | {FileCode.LIMIT} else Exit.RETRY


def judge(name: str, direction: TransferDirection, finished: TransferFinished) -> AttemptOutcome:  # noqa: PLR0911 - one row for each ending
    """Say what the end of an attempt means.

    Args:
        name: of the service, as shown.
        direction: which way the files went.
        finished: how it ended.
    """
    why = _one_line(finished.message or finished.code or "for no reason that was told", 200)
    code = _code(finished.code)
    match finished.outcome:
        case TransferOutcome.CLEAN:
            return AttemptOutcome(Exit.DONE, "")
        case TransferOutcome.PARTIAL:
            return _judge_partial(name, direction, finished.progress)
        case TransferOutcome.REFUSED if code in (FileCode.DENIED, FileCode.UNKNOWN):
            return AttemptOutcome(Exit.DENIED, f"{name}: {_refused(finished)}")
        case TransferOutcome.REFUSED:
            return AttemptOutcome(exit_of(code), f"{name}: not possible now: {why}")
        case TransferOutcome.VIOLATION:
            return AttemptOutcome(
                Exit.INTEGRITY, f"{name}: the other side broke the protocol ({why}); nothing wrong was kept"
            )
        case TransferOutcome.INTERRUPTED if code is FileCode.DENIED:
            return AttemptOutcome(Exit.DENIED, f"{name}: {RIGHT_ENDED}")
        case TransferOutcome.INTERRUPTED if finished.code == INTERNAL_ERROR:
            return AttemptOutcome(Exit.RETRY, f"{name}: ended by {why}")
        case TransferOutcome.INTERRUPTED:
            found = exit_of(code)
            return AttemptOutcome(found, f"{name}: interrupted: {why}", again=found is Exit.RETRY)


def _refused(finished: TransferFinished) -> str:
    if finished.message in WRONG_KIND:
        return finished.message
    if finished.code == FileCode.UNKNOWN.value and finished.message:
        return f"{NO_SERVICE} ({_one_line(finished.message, 200)})"
    return NO_SERVICE


def _code(text: str) -> FileCode:
    try:
        return FileCode(text)
    except ValueError:
        return FileCode.UNAVAILABLE


def _judge_partial(name: str, direction: TransferDirection, progress: Progress) -> AttemptOutcome:
    found = {exit_of(failure.code, here=failure.here) for failure in progress.failures}
    if progress.untold:
        found.add(Exit.DENIED)
    code = next((code for code in _WORST_FIRST if code in found), Exit.RETRY)
    if not progress.files + progress.directories and direction is TransferDirection.GET:
        return AttemptOutcome(code, f"{name}: there is nothing of this name that can be fetched")
    verb = "sent" if direction is TransferDirection.SEND else "fetched"
    rest = "; everything else is there" if progress.files_done + progress.directories_done else ""
    return AttemptOutcome(code, f"{name}: {progress.failed} could not be {verb}{rest}")


def other_sentences(progress: Progress) -> list[str]:
    """What is known by its number only."""
    lines: list[str] = []
    if progress.untold:
        lines.append(
            f"{progress.untold} more not offered by the other side, which did not say why (nothing of this name, a "
            "link, or not readable there)"
        )
    if progress.hidden:
        words = "hidden name is" if progress.hidden == 1 else "hidden names are"
        lines.append(f"{progress.hidden} {words} not offered (names that begin with a dot)")
    return lines


def failure_sentence(failure: Failure) -> str:
    """One thing that failed, at which side, and why."""
    place = "here" if failure.here else "there"
    return f"{_one_line(failure.path, 160)}: {place}: {_one_line(failure.message or failure.code.value, 300)}"


def failure_fields(failure: Failure) -> dict[str, object]:
    """The same for programs."""
    return {
        "path": failure.path,
        "code": failure.code.value,
        "message": failure.message,
        "side": "here" if failure.here else "there",
    }


def renamed_sentence(done: EntryDone, *, sending: bool) -> str:
    """One thing that has another name than the source gave it."""
    place = "there" if sending else "here"
    return f"{_one_line(done.entry.path, 160)} is called {_one_line(done.name, 160)} {place}"


def grown_sentence(done: EntryDone, *, sending: bool) -> str:
    """One file that has grown meanwhile."""
    verb = "sent" if sending else "fetched"
    return (
        f"{_one_line(done.entry.path, 160)} has grown to {size_words(done.grown_to)}; its first "
        f"{size_words(done.entry.size)}, as long as it was when it was found, were {verb}"
    )


def summary_sentence(
    name: str, direction: TransferDirection, progress: Progress, moved_bytes: int, seconds: float, sha256: str
) -> str:
    """What was done: bytes, time, rate, and the digest if it was one file.

    Args:
        name: of the service, as shown.
        direction: which way the files went.
        progress: at the end.
        moved_bytes: that came over the channel, in all attempts of this command.
        seconds: since the first connection, pauses included.
        sha256: of the file, or an empty string.
    """
    verb, way = ("sent", "to") if direction is TransferDirection.SEND else ("fetched", "from")
    done = f"{verb} {count_words(progress.files_done, 'file')}, {size_words(progress.bytes_done)}"
    if (before := progress.bytes_done - moved_bytes) > 0:
        done += f" ({size_words(before)} were there already)"
    parts = [f"{done} {way} {name}", f"{time_words(seconds)}, {size_words(moved_bytes / max(seconds, 0.001))}/s"]
    if sha256:
        parts.append(f"SHA-256 {sha256}")
    return "; ".join(parts)


def go_on_sentence(progress: Progress | None, command: str) -> str:
    """What Ctrl-C leaves, and how to go on."""
    done = f"{size_words(progress.bytes_done)} of {size_words(progress.size)} are there; " if progress else ""
    # A line that was changed for display, or cut, must not be offered for pasting.
    same = (
        f"the same command goes on:\n{command}"
        if display(command, limit=380) == command
        else "the same command goes on"
    )
    return f"interrupted; {done}{same}"
