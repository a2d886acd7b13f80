"""What a directory has promised and holds is charged once, and given back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.receive.books import Books
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.receive.quota import UNLIMITED, Usage
from mxrtc_bridge.sinks.files.receive.state_dir import Contents, KeptPartial

ALICE, BOB = "@alice:example.org", "@bob:example.org"


def key(path: str, size: int = 100, sender: str = ALICE) -> PartialFileKey:
    return PartialFileKey(sender, path, size, 0, "v")


def begin(books: Books, identity: PartialFileKey, arrived: int = 0) -> Any:
    """Begin a file of which so much has come, and of which nothing was kept."""
    assert books.begin(identity) is None
    reception = SimpleNamespace(identity=identity, arrived=arrived)
    books.live[identity.key] = reception  # type: ignore[assignment]
    books.written(arrived)
    return reception


def refusal(books: Books, identity: PartialFileKey, free: int = 10_000) -> FileCode | None:
    try:
        books.check_number(identity.sender)
        books.check(identity, free)
    except FileError as error:
        return error.code
    return None


def test_file_is_charged_with_what_was_announced_until_it_has_ended() -> None:
    books = Books(UNLIMITED)
    published, given_up = begin(books, key("a"), 100), begin(books, key("b"), 30)
    assert books.usage(ALICE) == books.usage() == Usage(200, 2)
    books.ended(published, Published("a", 100, "digest", directories=1))
    books.ended(given_up, None)
    assert books.usage(ALICE) == Usage(100, 2)
    assert not books.live


def test_room_on_the_disk_is_promised_to_one_file_only() -> None:
    books = Books(replace(UNLIMITED, free_floor_bytes=50))
    reception = begin(books, key("a"), 40)
    assert refusal(books, key("b"), free=210) is None
    assert refusal(books, key("b"), free=209) is FileCode.SPACE
    books.ended(reception, None)
    assert refusal(books, key("b"), free=150) is None


def test_partial_file_is_charged_until_it_is_gone_on_with() -> None:
    books = Books(replace(UNLIMITED, user_bytes=100))
    kept = KeptPartial(key("a"), 60, 1.0)
    assert books.keep(kept) is None
    assert books.usage(ALICE) == Usage(60, 1)
    assert refusal(books, key("a")) is None
    assert books.begin(key("a")) == kept
    assert books.usage(ALICE) == Usage(100, 1)
    assert books.take(key("a")) is None


def test_oldest_partial_file_of_a_sender_is_too_many() -> None:
    books = Books(replace(UNLIMITED, user_partials=2))
    partials = [KeptPartial(key(name), 10, 1.0) for name in "abc"]
    assert [books.keep(each) for each in (*partials[:2], KeptPartial(key("d", sender=BOB), 10, 1.0))] == [None] * 3
    assert books.keep(partials[2]) == partials[0]


def test_files_under_way_are_bounded_for_one_sender_and_for_all() -> None:
    books = Books(replace(UNLIMITED, receptions=3, user_receptions=2))
    begin(books, key("a"))
    first = begin(books, key("b"))
    assert refusal(books, key("c")) is FileCode.LIMIT
    begin(books, key("d", sender=BOB))
    books.ended(first, None)
    assert refusal(books, key("c")) is None
    begin(books, key("c"))
    assert refusal(books, key("e", sender=BOB)) is FileCode.LIMIT
    with pytest.raises(FileError, match="being received"):
        books.begin(key("c"))


def test_what_is_unfinished_comes_to_what_was_counted() -> None:
    books = Books(UNLIMITED)
    begin(books, key("a"))
    books.keep(KeptPartial(key("b", sender=BOB), 10, 1.0))
    books.recount(Contents(Usage(7, 2), {ALICE: Usage(5, 1)}))
    assert books.usage() == Usage(117, 4)
    assert (books.usage(ALICE), books.usage(BOB)) == (Usage(105, 2), Usage(10, 1))
