"""What became of the entries of a transfer, in words: all failures, other names, files that grew."""

from __future__ import annotations

import re
import stat
import tempfile
from pathlib import Path

import pytest

from mxrtc_bridge.client.files.outcomes import SHOWN, Outcomes
from mxrtc_bridge.core.files.events import EntryDone, Failure
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def done(path: str, name: str, *, grown_to: int = 0) -> EntryDone:
    return EntryDone(0, FileEntry(path, EntryKind.FILE, 1024, 0, "v"), name, "", kept=False, grown_to=grown_to)


def test_few_failures_are_told_in_words_and_leave_no_file(folder: Path) -> None:
    outcomes = Outcomes(sending=True)
    for number in range(SHOWN):
        outcomes.failed(Failure(f"f{number}", FileCode.NAME, "too odd"))
    assert outcomes.sentences() == [f"f{number}: there: too odd" for number in range(SHOWN)]
    assert list(folder.iterdir()) == []


def test_many_failures_are_told_all_of_them_in_a_file_that_is_ours_alone(folder: Path) -> None:
    outcomes = Outcomes(sending=True)
    for number in range(500):
        outcomes.failed(Failure(f"f{number}\x1b[2J", FileCode.IO, "", here=number % 2 == 0))
    lines = outcomes.sentences()
    assert len(lines) == SHOWN + 1
    assert lines[-1].startswith("and 480 more failed; all of them are in ")
    found = re.search(r"in (/.*)$", lines[-1])
    assert found is not None
    (file,) = folder.iterdir()
    assert str(file) == found[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text().splitlines()
    assert written == [f"f{number}\\x1b[2J: {'there' if number % 2 else 'here'}: io" for number in range(500)]


def test_another_attempt_leaves_no_file_of_the_last_one(folder: Path) -> None:
    outcomes = Outcomes(sending=True)
    for _ in range(SHOWN + 1):
        outcomes.failed(Failure("f", FileCode.IO, ""))
    outcomes.forget()
    outcomes.forget()
    assert list(folder.iterdir()) == []


def test_without_a_place_for_the_file_it_is_said_what_tells_all(folder: Path) -> None:
    folder.rmdir()
    outcomes = Outcomes(sending=True)
    for _ in range(SHOWN + 5):
        outcomes.failed(Failure("f", FileCode.IO, ""))
    assert outcomes.sentences()[-1] == "and 5 more failed; --json tells all"


def test_other_names_and_growth_are_in_sentences() -> None:
    sent, got = Outcomes(sending=True), Outcomes(sending=False)
    for outcomes in (sent, got):
        outcomes.done(done("same", "same"))
        outcomes.done(done("foo.png", "foo (2).png"))
        outcomes.done(done("x.log", "x.log", grown_to=2048))
        assert outcomes.renamed == 1
    assert sent.sentences() == [
        "x.log has grown to 2.0 KiB; its first 1.0 KiB, as long as it was when it was found, were sent",
        "foo.png is called foo (2).png there",
    ]
    assert got.sentences()[1] == "foo.png is called foo (2).png here"
    for number in range(100):
        sent.done(done(f"{number}", f"{number} (2)"))
    assert "and 81 more have other names (--json tells all)" in sent.sentences()
