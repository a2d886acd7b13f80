"""A source and what comes to it: stories message by message, and every way in which a receiver can misbehave."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.machine import BYE_TIMEOUT_S, SILENCE_S
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, Get, Job, Ls, Put
from mxrtc_bridge.core.files.read_ahead import AHEAD_FILES, BLOCK_BYTES, HEAD_BYTES
from mxrtc_bridge.core.files.sender import LIST_ENTRIES, SenderMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import json_message, messages
from mxrtc_bridge.core.stream.events import StreamRole
from tests.core.driven import DrivenTransfer
from tests.core.files.world import KIB, sha256

HASH = "0123456789abcdef" * 4
FULL = 16 * KIB
TURN = stream.Turn(FULL)


class DrivenSender(DrivenTransfer):
    left_out = (stream.ReadyToSend,)

    def __init__(self, job: Job | None = None) -> None:
        job = job or Get(("*",))
        super().__init__(SenderMachine(StreamRole.OPENER if isinstance(job, Put) else StreamRole.ACCEPTOR, job))

    def turns(self) -> list[tx.Effect]:
        """Give turns until nothing comes of them."""
        effects: list[tx.Effect] = []
        while more := self.feed(TURN):
            effects += more
        return effects


def file(index: int, size: int) -> FileEntry:
    return FileEntry(f"file{index}", EntryKind.FILE, size, 5, "v1")


def say(message: file_messages.Message) -> stream.SendText:
    return stream.SendText(file_messages.encode(message))


def announced(*sizes: int, job: Job | None = None, end: bool = True) -> DrivenSender:
    """A source that has announced files of these sizes, under the initial credit of 64 KiB."""
    driven = DrivenSender(job)
    if isinstance(job, Put):
        driven.feed(stream.DataChannelOpened())
        assert driven.hear(file_messages.FileOk(0)) == [stream.Accepted(), tx.ListNext(LIST_ENTRIES)]
    else:
        assert driven.feed(tx.ServiceReady()) == [say(file_messages.FileOk(0)), tx.ListNext(LIST_ENTRIES)]
    entries = tuple(file(index, size) for index, size in enumerate(sizes))
    for start in range(0, max(len(entries), 1), LIST_ENTRIES):
        part = entries[start : start + LIST_ENTRIES]
        at_end = start + LIST_ENTRIES >= len(entries)
        driven.feed(tx.EntriesListed(part, end=end and at_end))
        driven.turns()
    return driven


def want(index: int, offset: int = 0) -> file_messages.Want:
    return file_messages.Want(index, offset)


def test_entries_are_announced_in_turns_and_counted() -> None:
    driven = DrivenSender()
    driven.feed(tx.ServiceReady())
    entries = (FileEntry("d", EntryKind.DIRECTORY, modified_ms=1), file(1, 5))
    driven.feed(tx.EntriesListed(entries, end=True))
    assert driven.feed(TURN) == [
        stream.SendText('{"t":"f","i":0,"k":"d","p":"d","m":1}'),
        stream.SendText('{"t":"f","i":1,"k":"f","p":"file1","m":5,"s":5,"x":"v1"}'),
        stream.SendText('{"t":"fend","n":2,"s":5}'),
    ]


def test_turn_is_asked_for_once_and_again_when_more_has_come() -> None:
    driven = DrivenSender()
    driven.feed(tx.ServiceReady())
    driven.machine.handle(1.0, tx.EntriesListed((file(0, 5),), end=False))
    effects = [driven.machine.poll_effect() for _ in range(3)]
    assert effects == [tx.ListNext(LIST_ENTRIES), stream.ReadyToSend(56), None]


def test_wanted_file_is_opened_read_sent_and_ended() -> None:
    driven = announced(20 * KIB)
    assert driven.hear(want(0)) == [tx.OpenFile(0, file(0, 20 * KIB), 0, 20 * KIB)]
    assert driven.feed(tx.FileRead(0, b"a" * 20 * KIB, HASH)) == []
    assert driven.feed(TURN) == [stream.SendBinary(b"a" * FULL)]
    assert driven.feed(TURN) == [stream.SendBinary(b"a" * 4 * KIB), say(file_messages.FileEnd(0, 20 * KIB, HASH))]
    assert driven.hear(file_messages.Got(0, "there", HASH)) == [
        tx.EntryDone(0, file(0, 20 * KIB), "there", HASH, kept=False),
        say(file_messages.FileBye()),
    ]
    effects = driven.hear(file_messages.FileBye())
    assert effects[0] == stream.CloseChannel()
    assert driven.finished is not None
    assert (driven.finished.outcome, driven.finished.sent) == (TransferOutcome.CLEAN, 20 * KIB)


def test_each_chunk_but_the_last_is_followed_by_its_digest() -> None:
    size = 2 * CHUNK_BYTES
    data = bytes(range(256)) * (size // 256)
    driven = announced(size)
    driven.hear(file_messages.FileAck(0, messages.MAX_WINDOW))
    effects = driven.hear(want(0))
    sent: list[tx.Effect] = []
    position = 0
    while position < size:
        request = next(effect for effect in effects if isinstance(effect, (tx.OpenFile, tx.ReadFile)))
        end = position + request.size
        chunk = sha256(data[end - CHUNK_BYTES : end]) if end == CHUNK_BYTES else ""
        effects = driven.feed(tx.FileRead(0, data[position:end], HASH if end == size else "", chunk))
        position = end
        effects += driven.turns()
        sent += [effect for effect in effects if isinstance(effect, (stream.SendText, stream.SendBinary))]
    digest = sha256(data[:CHUNK_BYTES])
    assert sent[64] == say(file_messages.ChunkEnd(0, 0, digest))
    assert sent[-1] == say(file_messages.FileEnd(0, size, HASH))
    assert sum(isinstance(message, stream.SendText) for message in sent) == 2


def test_resumed_file_begins_with_the_digest_of_its_own_first_chunk() -> None:
    size = 2 * CHUNK_BYTES + 5
    driven = announced(size)
    driven.hear(file_messages.FileAck(0, messages.MAX_WINDOW))
    assert driven.hear(want(0, CHUNK_BYTES)) == [tx.OpenFile(0, file(0, size), CHUNK_BYTES, BLOCK_BYTES)]
    said: list[str] = []
    blocks = CHUNK_BYTES // BLOCK_BYTES
    for block in range(1, blocks + 1):
        driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES), chunk_sha256=sha256(b"x") if block == blocks else ""))
        said += [effect.text for effect in driven.turns() if isinstance(effect, stream.SendText)]
    assert said == [file_messages.encode(file_messages.ChunkEnd(0, 1, sha256(b"x")))]


def test_end_of_a_chunk_without_its_digest_is_a_mistake_of_the_driver() -> None:
    driven = announced(2 * CHUNK_BYTES)
    driven.hear(want(0))
    for _ in range(CHUNK_BYTES // BLOCK_BYTES - 1):
        driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES)))
        driven.turns()
    with pytest.raises(StateError, match="digest of the chunk"):
        driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES)))


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (5, 5), (CHUNK_BYTES, CHUNK_BYTES)])
def test_file_without_missing_bytes_is_only_hashed(size: int, offset: int) -> None:
    driven = announced(size)
    assert driven.hear(want(0, offset)) == [tx.OpenFile(0, file(0, size), offset, 0)]
    assert driven.feed(tx.FileRead(0, b"", HASH)) == [say(file_messages.FileEnd(0, size, HASH))]


def test_payload_stops_at_the_credit_and_goes_on_when_it_grows() -> None:
    driven = announced(100 * KIB)
    driven.hear(want(0))
    driven.feed(tx.FileRead(0, bytes(64 * KIB)))
    driven.feed(tx.FileRead(0, bytes(36 * KIB), HASH))
    assert sum(len(effect.data) for effect in driven.turns() if isinstance(effect, stream.SendBinary)) == 64 * KIB
    driven.hear(file_messages.FileAck(64 * KIB, 1))
    assert driven.turns() == [stream.SendBinary(bytes(1))]
    driven.hear(file_messages.FileAck(64 * KIB + 1, 0))
    assert driven.turns() == []


def test_blocks_are_read_ahead_within_the_budget() -> None:
    driven = announced(10 * CHUNK_BYTES)
    driven.hear(want(0))
    blocks = 1
    while tx.ReadFile(0, BLOCK_BYTES) in driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES), chunk_sha256=HASH)):
        blocks += 1
    assert blocks * BLOCK_BYTES == driven.machine.buffered == HEAD_BYTES


def test_files_behind_the_first_are_opened_ahead_within_a_number() -> None:
    driven = announced(*[10] * 60)
    opened = [effect for index in range(60) for effect in driven.hear(want(index))]
    assert opened == [tx.OpenFile(index, file(index, 10), 0, 10) for index in range(1 + AHEAD_FILES)]
    driven.feed(tx.FileRead(0, bytes(10), HASH))
    assert tx.OpenFile(33, file(33, 10), 0, 10) in driven.feed(TURN)


def test_one_turn_carries_several_small_files() -> None:
    driven = announced(10, 10)
    driven.hear(want(0))
    driven.hear(want(1))
    driven.feed(tx.FileRead(1, b"b" * 10, HASH))
    driven.feed(tx.FileRead(0, b"a" * 10, HASH))
    assert driven.feed(TURN) == [
        stream.SendBinary(b"a" * 10),
        say(file_messages.FileEnd(0, 10, HASH)),
        stream.SendBinary(b"b" * 10),
        say(file_messages.FileEnd(1, 10, HASH)),
    ]


def test_file_that_fails_is_answered_in_its_turn() -> None:
    driven = announced(10, 10)
    driven.hear(want(0))
    driven.hear(want(1))
    assert driven.feed(tx.FileFailed(1, FileCode.GONE, "not there")) == []
    driven.feed(tx.FileRead(0, bytes(10), HASH))
    assert driven.feed(TURN)[-2:] == [
        say(file_messages.FileEnd(0, 10, HASH)),
        say(file_messages.No(1, FileCode.GONE, "not there")),
    ]
    assert driven.hear(file_messages.No(1, FileCode.GONE, "quoted")) == [
        tx.EntryFailed(1, file(1, 10), FileCode.GONE, "not there", here=True)
    ]


def test_file_that_the_receiver_takes_back_is_closed_and_answered() -> None:
    driven = announced(CHUNK_BYTES)
    driven.hear(want(0))
    driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES)))
    driven.feed(TURN)
    assert driven.hear(file_messages.No(0, FileCode.SPACE, "full")) == [
        tx.EntryFailed(0, file(0, CHUNK_BYTES), FileCode.SPACE, "full"),
        tx.CloseFile(0),
        say(file_messages.No(0, FileCode.STOPPED, "the receiver does not want it any more")),
        say(file_messages.FileBye()),
    ]
    assert driven.feed(tx.FileRead(0, bytes(BLOCK_BYTES))) == [], "a late outcome is ignored"
    assert driven.machine.progress.bytes_done == 0


def test_file_that_is_taken_back_before_it_is_opened_is_never_opened() -> None:
    driven = announced(*[10] * 60)
    for index in range(60):
        driven.hear(want(index))
    for index in range(33, 60):
        driven.hear(file_messages.No(index, FileCode.QUOTA, "enough"))
    opened: list[tx.Effect] = []
    for index in range(33):
        driven.feed(tx.FileRead(index, bytes(10), HASH))
        opened += [effect for effect in driven.turns() if isinstance(effect, tx.OpenFile)]
    assert opened == []


def test_receiver_that_has_another_content_is_a_failure() -> None:
    driven = announced(0)
    driven.hear(want(0))
    driven.feed(tx.FileRead(0, b"", HASH))
    effects = driven.hear(file_messages.Got(0, "there", HASH[::-1]))
    assert effects[0] == tx.EntryFailed(
        0, file(0, 0), FileCode.INTEGRITY, "the receiver has another content than was sent"
    )
    driven.hear(file_messages.FileBye())
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.PARTIAL


def test_open_entries_wait_at_the_limit() -> None:
    driven = announced(*[1] * 1100, end=False)
    assert driven.machine.open_entries == 1024
    driven.hear(file_messages.Got(0, "x", ""))
    assert driven.turns() == [say(file_messages.Announce(1024, file(1024, 1)))]


def test_sizes_beyond_all_numbers_are_not_offered() -> None:
    driven = announced(json_message.MAX_COUNT, 1)
    assert driven.machine.progress.failures == (
        tx.Failure("file1", FileCode.LIMIT, "all files together are larger than can be said", here=True),
    )


def test_listing_that_fails_ends_the_transfer() -> None:
    driven = DrivenSender()
    driven.feed(tx.ServiceReady())
    effects = driven.feed(tx.ListFailed(FileCode.IO, "the disk does not answer"))
    assert effects[:2] == [say(file_messages.FileRst(FileCode.IO)), stream.CloseChannel()]
    assert driven.finished is not None
    assert (driven.finished.outcome, driven.finished.code) == (TransferOutcome.INTERRUPTED, "io")


# Silence


def test_receiver_that_never_answers_is_given_up() -> None:
    driven = announced(5)
    driven.now += SILENCE_S - 0.001
    assert driven.feed(stream.Tick()) == []
    driven.now += 0.001
    assert driven.feed(stream.Tick())[0] == say(file_messages.FileRst(FileCode.TIMEOUT))
    assert driven.finished is not None
    assert (driven.finished.outcome, driven.finished.code) == (TransferOutcome.INTERRUPTED, "timeout")


def test_source_that_hashes_says_that_it_is_alive() -> None:
    driven = announced(CHUNK_BYTES)
    driven.hear(want(0, CHUNK_BYTES))
    for _ in range(20):
        deadline = driven.machine.next_deadline()
        assert deadline is not None
        driven.now = deadline
        assert driven.feed(stream.Tick()) == [say(file_messages.Busy())]


def test_farewell_that_is_not_answered_is_no_loss() -> None:
    driven = announced()
    driven.now += BYE_TIMEOUT_S
    assert driven.feed(stream.Tick())[0] == stream.CloseChannel()
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.CLEAN


@pytest.mark.parametrize(
    "event", [stream.DataChannelClosed(), stream.Reset("unavailable", ""), stream.TextReceived('{"t":"bye"}')]
)
def test_any_end_after_the_last_answer_is_clean(event: tx.Event) -> None:
    driven = announced()
    driven.feed(event)
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.CLEAN


@pytest.mark.parametrize(
    "event", [stream.DataChannelClosed(), stream.Reset("unavailable", ""), stream.TextReceived('{"t":"rst","c":"io"}')]
)
def test_any_end_before_the_last_answer_closes_the_files_and_is_an_interruption(event: tx.Event) -> None:
    driven = announced(CHUNK_BYTES)
    driven.hear(want(0))
    assert tx.CloseFile(0) in driven.feed(event)
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.INTERRUPTED


# A hostile receiver

VIOLATIONS: list[tuple[str, str, list[file_messages.Message | str | int]]] = [
    ("bad_index", "want of an unknown entry", [want(2)]),
    ("bad_index", "want of an entry far away", [want(json_message.MAX_COUNT)]),
    ("bad_index", "want twice", [want(0), want(0)]),
    ("bad_index", "want after got", [file_messages.Got(0, "x", ""), want(0)]),
    ("bad_index", "want after no", [file_messages.No(0, FileCode.NAME, ""), want(0)]),
    ("bad_offset", "want beyond the end", [want(0, 21)]),
    ("bad_offset", "want beyond the end, at a chunk", [want(0, CHUNK_BYTES)]),
    ("bad_offset", "want within a chunk", [want(0, 1)]),
    ("bad_index", "got of an unknown entry", [file_messages.Got(2, "x", "")]),
    ("bad_index", "got twice", [file_messages.Got(0, "x", ""), file_messages.Got(0, "x", "")]),
    ("out_of_turn", "got before the end", [want(0), file_messages.Got(0, "x", "")]),
    ("bad_index", "no twice", [file_messages.No(0, FileCode.NAME, ""), file_messages.No(0, FileCode.NAME, "")]),
    ("bad_offset", "acknowledgement of what was not sent", [file_messages.FileAck(1, 0)]),
    ("bad_field", "negative acknowledgement", ['{"t":"ack","o":-1,"w":0}']),
    ("bad_field", "window beyond the limit", [f'{{"t":"ack","o":0,"w":{messages.MAX_WINDOW + 1}}}']),
    ("bad_field", "negative index", ['{"t":"want","i":-1,"o":0}']),
    ("bad_field", "name that leaves the directory", ['{"t":"got","i":0,"p":"../x"}']),
    ("out_of_turn", "payload", [5]),
    ("out_of_turn", "announcement", [file_messages.Announce(0, file(0, 1))]),
    ("out_of_turn", "early farewell", [file_messages.FileBye()]),
    ("out_of_turn", "seen in a transfer", [file_messages.Seen(0)]),
    ("out_of_turn", "second job", [Get(("*",))]),
]


@pytest.mark.parametrize(("code", "what", "steps"), VIOLATIONS, ids=[what for _, what, _ in VIOLATIONS])
def test_receiver_that_breaks_a_rule_ends_the_transfer(
    code: str, what: str, steps: list[file_messages.Message | str | int]
) -> None:
    driven = announced(20, 20)
    for step in steps:
        assert driven.finished is None, "the violation came too early"
        effects = driven.feed(stream.BinaryReceived(bytes(step))) if isinstance(step, int) else driven.hear(step)
    assert driven.finished is not None, what
    assert (driven.finished.outcome, driven.finished.code) == (TransferOutcome.VIOLATION, code)
    assert effects[0] == say(file_messages.FileRst(FileCode.VIOLATION))
    assert driven.consumed == driven.arrived
    driven.hear(want(1))
    assert driven.consumed == driven.arrived


def test_acknowledgement_never_moves_back() -> None:
    driven = announced(20)
    driven.hear(want(0))
    driven.feed(tx.FileRead(0, bytes(20), HASH))
    driven.feed(TURN)
    driven.hear(file_messages.FileAck(20, 5))
    driven.hear(file_messages.FileAck(19, 5))
    assert driven.finished is not None
    assert driven.finished.code == "bad_offset"


@pytest.mark.parametrize("count", [256, 257])
def test_open_wants_are_limited(count: int) -> None:
    """Also when the source has answered: a want is open until the receiver has answered, too."""
    driven = announced(*[0] * 300)
    for index in range(count):
        driven.hear(want(index))
        driven.feed(tx.FileRead(index, b"", HASH)) if index < 250 else None
    assert (driven.finished is not None and driven.finished.code == "too_many") is (count > 256)


def test_directory_has_no_content() -> None:
    driven = DrivenSender()
    driven.feed(tx.ServiceReady())
    driven.feed(tx.EntriesListed((FileEntry("d", EntryKind.DIRECTORY),), end=True))
    driven.turns()
    driven.hear(want(0))
    assert driven.finished is not None
    assert driven.finished.code == "bad_index"


@pytest.mark.parametrize(
    ("indexes", "ends"), [([0, 2], False), ([2], False), ([0, 0], True), ([3], True), ([1, 0], True)]
)
def test_seen_moves_forward_within_what_was_announced(indexes: list[int], ends: bool) -> None:
    driven = announced(1, 1, 1, job=Ls(""))
    for index in indexes:
        driven.hear(file_messages.Seen(index))
    assert (driven.finished is not None) is ends
    if ends:
        assert driven.finished is not None
        assert driven.finished.code == "bad_index"


def test_listing_gives_no_content() -> None:
    driven = announced(1, job=Ls(""))
    driven.hear(want(0))
    assert driven.finished is not None
    assert driven.finished.code == "out_of_turn"


# Mistakes of our own driver


@pytest.mark.parametrize(
    "event",
    [
        tx.EntriesListed((), end=True),
        tx.ListFailed(FileCode.IO, ""),
        tx.FileRead(1, b"", HASH),
        tx.FileRead(-1, b"", HASH),
        tx.FileRead(0, bytes(21), HASH),
        tx.FileRead(0, b""),
        tx.FileRead(0, bytes(20)),
        tx.FileRead(0, bytes(19), HASH),
        tx.FileFailed(7, FileCode.IO, ""),
        tx.EntryChecked(0, tx.FileWanted(0)),
        tx.ServiceReady(),
    ],
    ids=repr,
)
def test_mistake_of_the_driver_changes_nothing(event: tx.Event) -> None:
    driven = announced(20)
    driven.hear(want(0))
    with pytest.raises(StateError):
        driven.feed(event)
    driven.feed(tx.FileRead(0, bytes(20), HASH))
    assert driven.feed(TURN) == [stream.SendBinary(bytes(20)), say(file_messages.FileEnd(0, 20, HASH))]


def test_short_reads_are_asked_again() -> None:
    driven = announced(20)
    driven.hear(want(0))
    assert driven.feed(tx.FileRead(0, bytes(7))) == [tx.ReadFile(0, 13)]
    with pytest.raises(StateError, match="1 to 13 were asked for"):
        driven.feed(tx.FileRead(0, bytes(14), HASH))


def test_more_entries_than_were_asked_for_are_a_mistake() -> None:
    driven = DrivenSender()
    driven.feed(tx.ServiceReady())
    with pytest.raises(StateError, match="at most 128"):
        driven.feed(tx.EntriesListed(tuple(file(index, 1) for index in range(129)), end=False))


def test_role_must_fit_the_job() -> None:
    for role, job in ((StreamRole.ACCEPTOR, Put()), (StreamRole.OPENER, Get(("a",))), (StreamRole.OPENER, Ls(""))):
        with pytest.raises(StateError, match="is not the source"):
            SenderMachine(role, job)
