"""A receiver and what comes to it: stories message by message, and every way in which a source can misbehave."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.machine import ANSWER_TIMEOUT_S, BUSY_AFTER_S, SILENCE_S
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, FileEntry, Get, Job, Ls, Put
from mxrtc_bridge.core.files.receiver import SEEN_EVERY, ReceiverMachine
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream import json_message
from mxrtc_bridge.core.stream.events import StreamRole
from tests import long
from tests.core.driven import DrivenTransfer
from tests.core.files.world import KIB

HASH = "0123456789abcdef" * 4
FULL = 16 * KIB


class DrivenReceiver(DrivenTransfer):
    def __init__(self, job: Job | None = None, *, window: int = 256 * KIB, max_entries: int = 1_000_000) -> None:
        job = job or Put()
        role = StreamRole.ACCEPTOR if isinstance(job, Put) else StreamRole.OPENER
        super().__init__(ReceiverMachine(role, job, window=window, max_entries=max_entries))
        self.entries = 0

    def written(self, size: int) -> None:
        """Payload comes, and what the machine gives to the disk is written at once."""
        for effect in self.data(size):
            if isinstance(effect, tx.WriteData):
                self.feed(tx.DataWritten(effect.index, len(effect.data)))

    def announce(self, *sizes: int) -> None:
        for size in sizes:
            index, self.entries = self.entries, self.entries + 1
            effects = self.hear(file_messages.Announce(index, file(index, size)))
            assert effects == [tx.CheckEntry(index, file(index, size))]

    def want(self, index: int, offset: int = 0) -> list[tx.Effect]:
        return self.feed(tx.EntryChecked(index, tx.FileWanted(offset)))

    def wanted(self, *sizes: int) -> DrivenReceiver:
        """Announce files of these sizes, and want them all."""
        first = self.entries
        self.announce(*sizes)
        for index in range(first, self.entries):
            assert self.want(index) == [say(file_messages.Want(index, 0))]
        return self


def file(index: int, size: int) -> FileEntry:
    return FileEntry(f"file{index}", EntryKind.FILE, size, 5, "v1")


def say(message: file_messages.Message) -> stream.SendText:
    return stream.SendText(file_messages.encode(message))


def flowing(**kwargs: int) -> DrivenReceiver:
    driven = DrivenReceiver(**kwargs)  # type: ignore[arg-type]
    window = kwargs.get("window", 256 * KIB)
    assert driven.feed(tx.ServiceReady()) == [say(file_messages.FileOk(window))]
    return driven


def listing(job: Job = Ls(""), **kwargs: int) -> DrivenReceiver:  # noqa: B008 - it never changes
    driven = DrivenReceiver(job, **kwargs)
    driven.feed(stream.DataChannelOpened())
    driven.hear(file_messages.FileOk(0))
    return driven


def test_opener_sends_its_job_and_its_window_at_once() -> None:
    driven = DrivenReceiver(Get(("a", "b/*")), window=128 * KIB)
    assert driven.feed(stream.DataChannelOpened()) == [
        stream.SendText('{"t":"get","p":["a","b/*"]}'),
        stream.SendText('{"t":"ack","o":0,"w":131072}'),
    ]
    assert driven.hear(file_messages.FileOk(0)) == [stream.Accepted()]


def test_what_was_not_asked_for_is_refused_before_any_byte_of_it() -> None:
    driven = listing(job=Get(("docs/file0",)))
    driven.announce(1)
    refusal, _ = driven.hear(file_messages.Announce(1, file(1, 1)))
    assert refusal == say(file_messages.No(1, FileCode.NAME, "this was not asked for"))
    assert driven.want(0) == [say(file_messages.Want(0, 0))], "the rest of the job goes on"


def test_file_is_written_verified_published_and_only_then_acknowledged() -> None:
    driven = flowing().wanted(CHUNK_BYTES + 3)
    # A quarter of the credit of 256 KiB is given to the disk at a time.
    for piece in range(16):
        for _ in range(3):
            assert driven.data(FULL) == []
        assert driven.data(FULL) == [tx.WriteData(0, piece * 4 * FULL, bytes(4 * FULL))]
        driven.feed(tx.DataWritten(0, 4 * FULL))
    assert driven.hear(file_messages.ChunkEnd(0, 0, HASH)) == [tx.VerifyChunk(0, 0, HASH)]
    assert driven.data(3) == [tx.WriteData(0, CHUNK_BYTES, bytes(3))]
    assert driven.hear(file_messages.FileEnd(0, CHUNK_BYTES + 3, HASH)) == [tx.PublishFile(0, HASH)]
    driven.feed(tx.DataWritten(0, 3))
    entry = file(0, CHUNK_BYTES + 3)
    assert driven.feed(tx.FilePublished(0, "file0 (2)")) == [
        say(file_messages.Got(0, "file0 (2)", HASH)),
        tx.EntryDone(0, entry, "file0 (2)", HASH, kept=False),
    ]
    driven.hear(file_messages.AnnouncedAll(1, CHUNK_BYTES + 3))
    effects = driven.hear(file_messages.FileBye())
    assert effects[:2] == [say(file_messages.FileBye()), stream.CloseChannel()]
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.CLEAN
    assert driven.consumed == driven.arrived


def test_acknowledgement_comes_when_a_quarter_of_the_credit_is_written() -> None:
    driven = flowing(window=64 * KIB).wanted(100 * KIB)
    driven.data(FULL - 1)
    driven.data(1)
    assert driven.feed(tx.DataWritten(0, FULL - 1)) == []
    assert driven.feed(tx.DataWritten(0, 1)) == [say(file_messages.FileAck(FULL, 64 * KIB))]


def test_wants_beyond_the_limit_wait_until_others_are_done() -> None:
    driven = flowing().wanted(*[0] * 256)
    driven.announce(0, 0)
    assert driven.want(256) == []
    assert driven.want(257) == []
    assert driven.hear(file_messages.FileEnd(0, 0, HASH)) == [tx.PublishFile(0, HASH)]
    effects = driven.feed(tx.FilePublished(0, "file0"))
    assert effects[2:] == [say(file_messages.Want(256, 0))]
    assert driven.machine.open_wants == 256


def test_file_that_our_side_gives_up_keeps_its_place_until_the_source_has_noticed() -> None:
    """What is on its way for it is dropped, and the next file's bytes go to the next file."""
    driven = flowing().wanted(40 * KIB, 5)
    driven.data(FULL)
    assert driven.feed(tx.FileFailed(0, FileCode.SPACE, "full")) == [
        say(file_messages.No(0, FileCode.SPACE, "full")),
        tx.EntryFailed(0, file(0, 40 * KIB), FileCode.SPACE, "full", here=True),
    ]
    assert driven.machine.unwritten == 0
    assert driven.data(FULL) == []
    assert driven.machine.open_wants == 2
    assert driven.hear(file_messages.No(0, FileCode.STOPPED, "")) == []
    assert driven.machine.open_wants == 1
    assert driven.data(5) == [tx.WriteData(1, 0, bytes(5))]


def test_file_that_we_gave_up_may_come_to_its_end() -> None:
    driven = flowing().wanted(CHUNK_BYTES + 1)
    driven.feed(tx.FileFailed(0, FileCode.IO, "bad disk"))
    for _ in range(64):
        driven.data(FULL)
    assert driven.hear(file_messages.ChunkEnd(0, 0, HASH)) == []
    driven.data(1)
    assert driven.hear(file_messages.FileEnd(0, CHUNK_BYTES + 1, HASH)) == []
    assert driven.machine.open_wants == 0
    assert driven.machine.unwritten == 0


def test_late_outcomes_for_a_file_that_is_over_are_ignored() -> None:
    driven = flowing().wanted(5)
    driven.feed(tx.FileFailed(0, FileCode.IO, "bad disk"))
    assert driven.feed(tx.DataWritten(0, 5)) == []
    assert driven.feed(tx.FilePublished(0, "x")) == []
    assert driven.feed(tx.FileFailed(0, FileCode.IO, "bad disk")) == []


def test_no_of_the_source_is_answered_with_the_same_code() -> None:
    driven = flowing().wanted(40 * KIB)
    driven.data(FULL)
    assert driven.hear(file_messages.No(0, FileCode.CHANGED, "it grew")) == [
        tx.CloseFile(0),
        say(file_messages.No(0, FileCode.CHANGED, "it grew")),
        tx.EntryFailed(0, file(0, 40 * KIB), FileCode.CHANGED, "it grew"),
    ]
    assert driven.machine.progress.bytes_done == 0
    assert driven.machine.open_wants == 0


def test_entries_beyond_the_limit_are_refused_without_being_judged() -> None:
    driven = flowing(max_entries=2)
    driven.announce(1, 1)
    refusal = file_messages.No(2, FileCode.LIMIT, "a job may have 2 entries")
    assert driven.hear(file_messages.Announce(2, file(2, 1)))[0] == say(refusal)


def test_million_entries_leave_nothing_behind() -> None:
    """Entries that are refused take no memory: the machine holds none, and the first failures only."""
    driven = flowing(max_entries=10)
    count = long.size(20_000, 3000)
    for index in range(count):
        driven.hear(file_messages.Announce(index, file(index, 1)))
        if index < 10:
            driven.feed(tx.EntryChecked(index, tx.ReceiveRefused(FileCode.LIMIT, "")))
    assert driven.machine.open_entries == 0
    assert driven.machine.progress.failed == count
    assert len(driven.machine.progress.failures) == 100


def test_listing_beyond_the_limit_ends() -> None:
    driven = listing(max_entries=1)
    driven.announce(1)
    effects = driven.hear(file_messages.Announce(1, file(1, 1)))
    assert effects[:2] == [say(file_messages.FileRst(FileCode.LIMIT)), stream.CloseChannel()]
    assert driven.finished is not None
    assert (driven.finished.outcome, driven.finished.code) == (TransferOutcome.INTERRUPTED, "limit")


def test_listing_says_in_one_word_what_was_taken_whatever_its_order() -> None:
    driven = listing()
    driven.announce(*[1] * (SEEN_EVERY + 2))
    for index in range(SEEN_EVERY - 1, 0, -1):
        assert driven.feed(tx.EntryChecked(index, tx.Listed())) == []
    assert driven.feed(tx.EntryChecked(0, tx.Listed())) == [say(file_messages.Seen(SEEN_EVERY - 1))]
    assert driven.feed(tx.EntryChecked(SEEN_EVERY, tx.Listed())) == []
    assert driven.feed(tx.EntryChecked(SEEN_EVERY + 1, tx.Listed())) == [say(file_messages.Seen(SEEN_EVERY + 1))]


def test_name_that_cannot_be_said_does_not_undo_what_is_safe() -> None:
    driven = flowing().wanted(0)
    driven.hear(file_messages.FileEnd(0, 0, HASH))
    assert driven.feed(tx.FilePublished(0, "x" * 1025))[0] == say(file_messages.Got(0, "file0", HASH))


# Silence


def test_opener_gives_up_when_nobody_answers() -> None:
    driven = DrivenReceiver(Get(("a",)))
    driven.feed(stream.DataChannelOpened())
    assert driven.machine.next_deadline() == 100 + ANSWER_TIMEOUT_S
    driven.now += ANSWER_TIMEOUT_S - 0.001
    assert driven.feed(stream.Tick()) == []
    driven.now += 0.001
    assert driven.feed(stream.Tick())[0] == say(file_messages.FileRst(FileCode.TIMEOUT))
    assert driven.finished is not None
    assert driven.finished.code == "timeout"


def test_receiver_whose_disk_works_says_so_and_never_gives_up() -> None:
    driven = flowing()
    driven.announce(5)
    for _ in range(20):
        deadline = driven.machine.next_deadline()
        assert deadline is not None
        driven.now = deadline
        assert driven.feed(stream.Tick()) == [say(file_messages.Busy())]
    assert driven.now >= 100 + 20 * BUSY_AFTER_S


def test_receiver_gives_up_on_a_silent_source_but_not_on_a_busy_one() -> None:
    driven = flowing().wanted(5)
    for _ in range(5):
        driven.now += SILENCE_S - 1
        assert driven.feed(stream.Tick()) == []
        driven.hear(file_messages.Busy())
    driven.now += SILENCE_S
    effects = driven.feed(stream.Tick())
    assert effects[:2] == [say(file_messages.FileRst(FileCode.TIMEOUT)), tx.CloseFile(0)]
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.INTERRUPTED


# A hostile source

BIG = CHUNK_BYTES + 10


def after_chunk(driven: DrivenReceiver) -> DrivenReceiver:
    """All of chunk 0 of file 0 has come, its digest has not."""
    driven.wanted(BIG)
    for _ in range(64):
        driven.written(FULL)
    return driven


VIOLATIONS: list[tuple[str, str, list[file_messages.Message | int | str]]] = [
    ("out_of_turn", "payload that nobody asked for", [1]),
    ("too_long", "payload message beyond the limit", ["wanted", FULL + 1]),
    ("bad_size", "more bytes than announced", ["wanted", FULL, 5]),
    ("bad_index", "index that is not the next", [file_messages.Announce(1, file(1, 1))]),
    ("bad_index", "index used again", ["wanted", file_messages.Announce(0, file(0, 1))]),
    (
        "bad_index",
        "entry after the end of entries",
        [file_messages.AnnouncedAll(0, 0), file_messages.Announce(0, file(0, 1))],
    ),
    ("bad_field", "wrong number of entries", ["wanted", file_messages.AnnouncedAll(2, FULL)]),
    ("bad_field", "wrong sum of sizes", ["wanted", file_messages.AnnouncedAll(1, FULL + 1)]),
    ("out_of_turn", "second end of entries", [file_messages.AnnouncedAll(0, 0), file_messages.AnnouncedAll(0, 0)]),
    ("bad_field", "sizes beyond all numbers", [
        file_messages.Announce(0, file(0, json_message.MAX_COUNT)), file_messages.Announce(1, file(1, 1)),
    ]),
    ("bad_size", "end before the last byte", ["wanted", FULL - 1, file_messages.FileEnd(0, FULL, HASH)]),
    ("bad_size", "end with another size", ["wanted", FULL, file_messages.FileEnd(0, FULL - 1, HASH)]),
    ("bad_index", "end of a file that is not the first of the line", [
        "wanted", file_messages.FileEnd(1, 0, HASH),
    ]),
    ("bad_index", "end twice", ["wanted", FULL, *[file_messages.FileEnd(0, FULL, HASH)] * 2]),
    ("bad_index", "no without a want", [file_messages.Announce(0, file(0, 1)), file_messages.No(0, FileCode.GONE, "")]),
    ("bad_offset", "chunk end within a chunk", ["wanted", 5, file_messages.ChunkEnd(0, 0, HASH)]),
    ("bad_offset", "chunk end at the end of the file", ["wanted", FULL, file_messages.ChunkEnd(0, 0, HASH)]),
    ("bad_offset", "chunk end with another number", ["chunk", file_messages.ChunkEnd(0, 1, HASH)]),
    ("bad_offset", "chunk end twice", ["chunk", *[file_messages.ChunkEnd(0, 0, HASH)] * 2]),
    ("out_of_turn", "payload without the end of the chunk", ["chunk", 5]),
    ("bad_size", "end without the end of the chunk", ["chunk", file_messages.FileEnd(0, BIG, HASH)]),
    ("out_of_turn", "farewell before everything is answered", [
        file_messages.Announce(0, file(0, 1)), file_messages.AnnouncedAll(1, 1), file_messages.FileBye(),
    ]),
    ("out_of_turn", "farewell before the end of entries", [file_messages.FileBye()]),
    ("out_of_turn", "second job", [Put()]),
    ("out_of_turn", "ok from the opener", [file_messages.FileOk(5)]),
    ("out_of_turn", "message of a receiver", [file_messages.Want(0, 0)]),
    ("out_of_turn", "acknowledgement of what nobody sent", [file_messages.FileAck(0, 5)]),
    ("not_json", "text that is no message", ["{"]),
    ("unknown_message", "message of another language", ['{"t":"fin","o":0}']),
]  # fmt: skip


@pytest.mark.parametrize(("code", "what", "steps"), VIOLATIONS, ids=[what for _, what, _ in VIOLATIONS])
def test_source_that_breaks_a_rule_ends_the_transfer(
    code: str, what: str, steps: list[file_messages.Message | int | str]
) -> None:
    driven = flowing()
    for step in steps:
        assert driven.finished is None, "the violation came too early"
        match step:
            case "wanted":
                driven.wanted(FULL)
            case "chunk":
                after_chunk(driven)
            case int():
                effects = driven.data(step)
            case _:
                effects = driven.hear(step)
    assert driven.finished is not None, what
    assert (driven.finished.outcome, driven.finished.code) == (TransferOutcome.VIOLATION, code)
    assert effects[0] == say(file_messages.FileRst(FileCode.VIOLATION))
    assert stream.CloseChannel() in effects
    assert driven.consumed == driven.arrived
    driven.data(5)
    driven.hear(file_messages.FileBye())
    assert driven.consumed == driven.arrived


def test_payload_may_not_cross_the_end_of_a_chunk() -> None:
    driven = flowing().wanted(BIG)
    driven.data(1)
    for _ in range(63):
        driven.written(FULL)
    driven.data(FULL)
    assert driven.finished is not None
    assert driven.finished.code == "out_of_turn"


@pytest.mark.parametrize("over", [0, 1])
def test_credit_is_a_limit_to_the_byte(over: int) -> None:
    driven = flowing(window=128 * KIB).wanted(CHUNK_BYTES)
    for _ in range(7):
        driven.data(FULL)
    driven.data(FULL - 1)
    driven.data(1 + over)
    assert (driven.finished is not None and driven.finished.code == "over_credit") is bool(over)


@pytest.mark.parametrize("count", [1024, 1025])
def test_open_entries_are_limited(count: int) -> None:
    driven = flowing()
    driven.announce(*[1] * 1024)
    if count > 1024:
        driven.hear(file_messages.Announce(1024, file(1024, 1)))
    assert (driven.finished is not None and driven.finished.code == "too_many") is (count > 1024)


@pytest.mark.parametrize("length", [1024, 1])
def test_open_paths_are_limited(length: int) -> None:
    driven = flowing()
    for index in range(256):
        driven.hear(file_messages.Announce(index, FileEntry(f"{index:04}".rjust(1024, "x"), EntryKind.DIRECTORY)))
    assert driven.finished is None
    driven.feed(tx.EntryChecked(0, tx.Held("x")))
    driven.hear(file_messages.Announce(256, FileEntry("y" * 1024, EntryKind.DIRECTORY)))
    assert driven.finished is None
    driven.hear(file_messages.Announce(257, FileEntry("z" * length, EntryKind.DIRECTORY)))
    assert driven.finished is not None
    assert driven.finished.code == "too_many"


@pytest.mark.parametrize("job", [Put(), Get(("a",))], ids=["acceptor", "opener"])
def test_nothing_may_come_before_the_job_is_accepted(job: Job) -> None:
    for message in (file_messages.Announce(0, file(0, 1)), file_messages.FileBye(), file_messages.AnnouncedAll(0, 0)):
        driven = DrivenReceiver(job)
        driven.feed(stream.DataChannelOpened())
        driven.hear(message)
        assert driven.finished is not None
        assert driven.finished.outcome is TransferOutcome.VIOLATION


def test_listing_knows_no_content() -> None:
    driven = listing()
    driven.announce(5)
    driven.data(5)
    assert driven.finished is not None
    assert driven.finished.outcome is TransferOutcome.VIOLATION


# Mistakes of our own driver


@pytest.mark.parametrize(
    "event",
    [
        tx.EntryChecked(1, tx.FileWanted(0)),
        tx.EntryChecked(-1, tx.FileWanted(0)),
        tx.EntryChecked(0, tx.FileWanted(1)),
        tx.EntryChecked(0, tx.FileWanted(CHUNK_BYTES)),
        tx.EntryChecked(0, tx.FileWanted(-CHUNK_BYTES)),
        tx.EntryChecked(0, tx.Listed()),
        tx.DataWritten(0, 1),
        tx.FilePublished(0, "x"),
        tx.FileRead(0, b""),
        tx.EntriesListed((), end=True),
        tx.ServiceReady(),
        tx.ServiceRefused(FileCode.DENIED, ""),
    ],
    ids=repr,
)
def test_mistake_of_the_driver_changes_nothing(event: tx.Event) -> None:
    driven = flowing()
    driven.announce(FULL)
    with pytest.raises(StateError):
        driven.feed(event)
    assert driven.want(0) == [say(file_messages.Want(0, 0))]


def test_directory_cannot_be_wanted() -> None:
    driven = flowing()
    driven.hear(file_messages.Announce(0, FileEntry("d", EntryKind.DIRECTORY)))
    with pytest.raises(StateError, match="cannot be wanted"):
        driven.want(0)


def test_verdict_comes_once() -> None:
    driven = flowing().wanted(5)
    with pytest.raises(StateError, match="was checked before"):
        driven.want(0)


def test_more_bytes_cannot_be_written_than_were_given() -> None:
    driven = flowing().wanted(FULL)
    driven.data(5)
    for size in (0, -1, 6):
        with pytest.raises(StateError, match="are outstanding"):
            driven.feed(tx.DataWritten(0, size))


def test_role_must_fit_the_job() -> None:
    for role, job in ((StreamRole.OPENER, Put()), (StreamRole.ACCEPTOR, Get(("a",))), (StreamRole.ACCEPTOR, Ls(""))):
        with pytest.raises(StateError, match="is not the receiver"):
            ReceiverMachine(role, job)


@pytest.mark.parametrize("patterns", [(), ("",), ("x" * 1025,), ("a",) * 65, ("\ud800",), ("x" * 1024,) * 5])
def test_job_that_cannot_be_sent_is_refused_at_once(patterns: tuple[str, ...]) -> None:
    with pytest.raises(StateError, match="the job cannot be sent"):
        ReceiverMachine(StreamRole.OPENER, Get(patterns))


def test_window_out_of_range_is_refused() -> None:
    for window in (16 * KIB - 1, 16 * 1024 * KIB + 1):
        with pytest.raises(StateError, match="window"):
            ReceiverMachine(StreamRole.ACCEPTOR, Put(), window=window)
        with pytest.raises(StateError, match="window"):
            flowing().machine.set_window(window)
