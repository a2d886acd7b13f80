"""What has arrived, in words that nobody can do harm with."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.files.delivery import MAX_NAMED, DeliveryTally, Text, announcement, receipt
from mxrtc_bridge.core.files.events import EntryDone, EntryFailed
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry
from mxrtc_bridge.core.ids import ServiceName, UserId

ALICE, PEER, INBOX = UserId("@alice:example.org"), UserId("@rtc_build:example.org"), ServiceName("inbox")
HASH = "ab" * 32


def done(name: str, size: int = 10, *, kept: bool = False, kind: EntryKind = EntryKind.FILE) -> EntryDone:
    return EntryDone(0, FileEntry(name, kind, size, 5, "v1"), name, HASH, kept)


def texts(*entries: EntryDone | EntryFailed) -> tuple[Text, Text] | None:
    tally = DeliveryTally()
    for entry in entries:
        tally.record(entry)
    delivery = tally.delivery(ALICE, PEER, INBOX)
    return None if delivery is None else (receipt(delivery), announcement(delivery))


def test_one_file_is_told_with_its_digest() -> None:
    told = texts(done("report.pdf", 2000))
    assert told is not None
    assert told[0] == Text(
        f"Received report.pdf, 2.0 KiB, SHA-256 {HASH}",
        f"Received <code>report.pdf</code>, 2.0 KiB, SHA-256 <code>{HASH}</code>",
    )
    assert told[1].plain == f"{ALICE} has put report.pdf into {PEER}/inbox: 2.0 KiB, SHA-256 {HASH}"


def test_many_files_are_summed_up_and_the_first_are_named() -> None:
    told = texts(*(done(f"{number}", 100) for number in range(MAX_NAMED + 2)))
    assert told is not None
    assert told[0].plain == "Received 7 files, 700 B: 0, 1, 2, 3, 4 and 2 more"
    assert told[1].plain == f"{ALICE} has put 7 files into {PEER}/inbox, 700 B: 0, 1, 2, 3, 4 and 2 more"


def test_what_was_there_what_failed_and_directories_are_no_news() -> None:
    failed = EntryFailed(1, FileEntry("x", EntryKind.FILE, 1, 5, "v1"), FileCode.SPACE, "full")
    assert texts() is None
    assert texts(done("a", kept=True), done("b", kind=EntryKind.DIRECTORY), failed) is None
    told = texts(done("a", kept=True), failed, done("c", 3))
    assert told is not None
    assert told[0].plain.startswith("Received c, 3 B")


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.lists(st.text(min_size=1, max_size=400), min_size=1, max_size=12))
def test_no_name_acts_in_either_form(names: list[str]) -> None:
    told = texts(*(done(name) for name in names))
    assert told is not None
    for text in told:
        assert text.plain.isprintable()
        assert len(text.plain) < 4000
        reader = Reader()
        reader.feed(text.html)
        reader.close()
        assert reader.tags <= {"code"}
        assert re.sub(r"\s", "", reader.text) == re.sub(r"\s", "", text.plain), "both forms say the same"
