"""Whole transfers: two machines, model disks behind them, and a line that can be cut at every message."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.acceptor import JOB_TIMEOUT_S, AcceptedTransfer
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, Get, Job, Ls
from mxrtc_bridge.core.files.receiver import ReceiverMachine
from mxrtc_bridge.core.files.sender import SenderMachine
from mxrtc_bridge.core.stream import events as stream
from tests import long
from tests.core.files.world import (
    GET,
    KIB,
    PUT,
    End,
    ReceiverDisk,
    SourceDisk,
    World,
    check_disks,
    content,
    sha256,
    transfer,
)
from tests.long import some

SIZES = [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7]
BOTH_WAYS = pytest.mark.parametrize("job", [PUT, GET], ids=["put", "get"])


def disk_of(**sizes: int) -> SourceDisk:
    disk = SourceDisk()
    for name, size in sizes.items():
        disk.put(name, content(name, size))
    return disk


def all_sizes() -> SourceDisk:
    disk = SourceDisk()
    disk.directories = ["tree", "tree/empty"]
    for size in SIZES:
        disk.put(f"tree/{size}", content(size, size))
    return disk


@BOTH_WAYS
@pytest.mark.parametrize("window", [16 * KIB, 64 * KIB, 256 * KIB])
def test_files_of_every_size_arrive_whole_and_once(job: Job, window: int) -> None:
    source, receiver = all_sizes(), ReceiverDisk()
    world = transfer(source, receiver, job, window=window)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)
    for end in world.ends:
        assert end.finished is not None
        progress = end.finished.progress
        assert progress.listed
        assert (progress.files, progress.directories) == (len(SIZES), 2)
        assert (progress.files_done, progress.directories_done) == (len(SIZES), 2)
        assert progress.size == progress.bytes_done == sum(SIZES)
        assert (progress.failed, progress.bytes_kept, progress.current) == (0, 0, "")
        assert end.finished.sent + end.finished.received == sum(SIZES)


@BOTH_WAYS
def test_repeating_a_job_moves_nothing(job: Job) -> None:
    source, receiver = all_sizes(), ReceiverDisk()
    transfer(source, receiver, job)
    again = transfer(source, receiver, job)
    assert again.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)
    for end in again.ends:
        assert end.finished is not None
        assert end.finished.sent == end.finished.received == 0
        assert end.finished.progress.bytes_kept == end.finished.progress.size == sum(SIZES)


@BOTH_WAYS
def test_empty_job_ends_clean(job: Job) -> None:
    world = transfer(SourceDisk(), ReceiverDisk(), job)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)


def test_many_small_files_stay_within_the_bounds() -> None:
    """More files than may be open at a time; the bounds are asserted at every step."""
    source, receiver = SourceDisk(), ReceiverDisk()
    for number in range(long.size(2500, 700)):
        source.put(f"f{number}", content(number, number % 7))
    world = transfer(source, receiver)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)


def test_long_paths_are_announced_within_their_own_bound() -> None:
    source, receiver = SourceDisk(), ReceiverDisk()
    for number in range(600):
        source.put(f"{number:04}".rjust(1020, "d"), b"x")
    world = transfer(source, receiver)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)


def test_listing_shows_every_entry_and_takes_none() -> None:
    source, receiver = SourceDisk(), ReceiverDisk()
    source.directories = ["d"]
    for number in range(1500):
        source.put(f"d/{number}", b"x")
    receiver.judge = lambda _entry: tx.Listed()  # type: ignore[method-assign]
    world = transfer(source, receiver, Ls("d"))
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    shown = [effect.entry.path for effect in world.opener.effects if isinstance(effect, tx.CheckEntry)]
    assert shown == ["d", *source.files]
    assert receiver.published == {}


@BOTH_WAYS
def test_refused_service_ends_both_sides_before_anything_moves(job: Job) -> None:
    world = World(job, disk_of(a=1), ReceiverDisk())
    world.acceptor.refusal = tx.ServiceRefused(FileCode.DENIED, "not for you")
    world.run()
    world.check_accounts()
    for end in world.ends:
        assert end.finished is not None
        assert (end.finished.outcome, end.finished.code) == (TransferOutcome.REFUSED, "denied")
        assert end.finished.message == "not for you"


@BOTH_WAYS
def test_refused_names_leave_the_others_alone(job: Job) -> None:
    source, receiver = disk_of(good=5, bad=5, better=5), ReceiverDisk()
    receiver.refuse = lambda entry: tx.ReceiveRefused(FileCode.NAME, "not so") if entry.path == "bad" else None
    world = transfer(source, receiver, job)
    assert world.outcomes() == (TransferOutcome.PARTIAL, TransferOutcome.PARTIAL)
    assert set(receiver.published) == {"good", "better"}
    for end in world.ends:
        assert end.finished is not None
        here = end is (world.opener if isinstance(job, Get) else world.acceptor)
        assert end.finished.progress.failures == (tx.Failure("bad", FileCode.NAME, "not so", here=here),)
        assert end.finished.progress.bytes_done == 10
        assert end.finished.code == "name"
        assert end.finished.message == "1 of 3 entries were not transferred"


def failures(end: End) -> dict[str, FileCode]:
    assert end.finished is not None
    return {failure.path: failure.code for failure in end.finished.progress.failures}


@BOTH_WAYS
def test_full_disk_is_said_on_both_sides_and_the_rest_follows_later(job: Job) -> None:
    source = disk_of(a=10, big=3 * CHUNK_BYTES, c=10)
    receiver = ReceiverDisk()
    receiver.room = CHUNK_BYTES + 100 * KIB
    world = transfer(source, receiver, job)
    assert world.outcomes() == (TransferOutcome.PARTIAL, TransferOutcome.PARTIAL)
    assert failures(world.opener) == failures(world.acceptor) == {"big": FileCode.SPACE}
    assert set(receiver.published) == {"a", "c"}
    receiver.room = None
    world = transfer(source, receiver, job)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    assert receiver.resumed == CHUNK_BYTES
    check_disks(source, receiver)


@BOTH_WAYS
def test_source_that_changes_while_it_is_read_is_noticed(job: Job) -> None:
    source, receiver = disk_of(a=10, big=3 * CHUNK_BYTES, c=10), ReceiverDisk()
    world = World(job, source, receiver)
    world.run(stop_before=100)
    source.put("big", content("new", 2 * CHUNK_BYTES))
    world.run()
    world.check_accounts()
    assert failures(world.opener) == failures(world.acceptor) == {"big": FileCode.CHANGED}
    assert set(receiver.published) == {"a", "c"}
    transfer(source, receiver, job)
    check_disks(source, receiver)


def test_changed_file_is_received_anew_and_overwrites_nothing() -> None:
    source, receiver = disk_of(a=5), ReceiverDisk()
    old = source.files["a"][0]
    transfer(source, receiver)
    source.put("a", b"newer")
    transfer(source, receiver)
    assert receiver.published == {"a": old, "a (2)": b"newer"}


def test_source_says_what_it_could_not_offer() -> None:
    source, receiver = disk_of(a=5), ReceiverDisk()
    source.put("b" * 1025, b"too long a name")
    source.put("half \ud800", b"no Unicode")
    source.skipped = [tx.Failure("secret", FileCode.DENIED, "it cannot be read")]
    world = transfer(source, receiver)
    assert world.outcomes() == (TransferOutcome.PARTIAL, TransferOutcome.PARTIAL)
    assert set(receiver.published) == {"a"}
    assert failures(world.opener) == {
        "secret": FileCode.DENIED,
        "b" * 1025: FileCode.NAME,
        "half \ud800": FileCode.NAME,
    }
    assert world.acceptor.finished is not None
    assert world.acceptor.finished.progress.failed == 3
    assert world.acceptor.finished.message == "3 of 3 entries were not transferred"


def skipped(end: End) -> list[tuple[str, FileCode, bool]]:
    found = [effect.failure for effect in end.effects if isinstance(effect, tx.EntrySkipped)]
    return [(failure.path, failure.code, failure.here) for failure in found]


@BOTH_WAYS
def test_who_asks_learns_what_was_not_offered_and_who_is_given_something_its_number_only(job: Job) -> None:
    """What lies in the folders of somebody who sends is nobody's business; a share is there to be seen."""
    source = disk_of(a=5)
    source.put("half \ud800", b"no Unicode")
    source.skipped = [tx.Failure("link", FileCode.DENIED, "it is a link")]
    world = transfer(source, ReceiverDisk(), job)
    assert world.outcomes() == (TransferOutcome.PARTIAL, TransferOutcome.PARTIAL)
    giving, taking = (world.acceptor, world.opener) if isinstance(job, Get) else (world.opener, world.acceptor)
    assert sorted(skipped(giving)) == [("half \ud800", FileCode.NAME, True), ("link", FileCode.DENIED, True)]
    told = [("half ?", FileCode.NAME, False), ("link", FileCode.DENIED, False)] if isinstance(job, Get) else []
    assert sorted(skipped(taking)) == told
    for end, untold in ((giving, 0), (taking, 0 if isinstance(job, Get) else 2)):
        assert end.finished is not None
        assert (end.finished.progress.failed, end.finished.progress.untold) == (2, untold)


def test_more_is_skipped_than_is_told_and_all_of_it_counts() -> None:
    source, receiver = disk_of(a=5), ReceiverDisk()
    source.skipped = [tx.Failure(f"link{number}", FileCode.DENIED, "it is a link") for number in range(100)]
    world = transfer(source, receiver, GET)
    assert world.opener.finished is not None
    assert world.opener.finished.progress.failed == len(skipped(world.opener)) == 100


def test_both_sides_record_what_became_of_each_entry() -> None:
    source, receiver = disk_of(a=5, b=6), ReceiverDisk()
    receiver.refuse = lambda entry: tx.ReceiveRefused(FileCode.QUOTA, "enough") if entry.path == "b" else None
    world = transfer(source, receiver)
    for end in world.ends:
        done = [effect for effect in end.effects if isinstance(effect, tx.EntryDone)]
        failed = [effect for effect in end.effects if isinstance(effect, tx.EntryFailed)]
        assert [(effect.entry.path, effect.name, effect.kept) for effect in done] == [("a", "a", False)]
        assert done[0].sha256 == sha256(source.files["a"][0])
        assert [(effect.entry.path, effect.code, effect.message) for effect in failed] == [
            ("b", FileCode.QUOTA, "enough")
        ]


@BOTH_WAYS
def test_our_own_end_tells_the_other_side_and_keeps_what_is_verified(job: Job) -> None:
    source, receiver = disk_of(big=3 * CHUNK_BYTES), ReceiverDisk()
    world = World(job, source, receiver)
    world.run(stop_before=200)
    world.opener.feed(world.now, stream.Reset("interrupted", "stopped by the user"))
    world.run()
    world.check_accounts()
    assert world.outcomes() == (TransferOutcome.INTERRUPTED, TransferOutcome.INTERRUPTED)
    assert receiver.published == {}
    world = transfer(source, receiver, job)
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    assert receiver.resumed >= CHUNK_BYTES
    check_disks(source, receiver)


# Cutting the link at every message


def small_tree() -> SourceDisk:
    disk = SourceDisk()
    disk.directories = ["t"]
    disk.put("t/empty", b"")
    disk.put("t/one", b"1")
    disk.put("t/big", content("big", 2 * CHUNK_BYTES + 40 * KIB))
    disk.put("t/last", content("last", 20 * KIB))
    return disk


def recorded_length(job: Job) -> int:
    return len(transfer(small_tree(), ReceiverDisk(), job, window=256 * KIB).messages)


@BOTH_WAYS
def test_cut_at_every_message_loses_nothing_and_doubles_nothing(job: Job) -> None:
    """Before each message of the exchange the link is cut, and new machines go on with what the disks hold."""
    length = recorded_length(job)
    assert length > 140
    for position in some(range(length + 1), 10):
        source, receiver = small_tree(), ReceiverDisk()
        world = World(job, source, receiver, window=256 * KIB)
        world.run(stop_before=position)
        world.cut()
        world.check_accounts()
        assert TransferOutcome.VIOLATION not in world.outcomes(), position
        for name, data in receiver.published.items():
            assert data == source.files[name][0], f"cut at {position}: half a file has a name"
        verified = {path: len(data) for (path, _), data in receiver.partial.items()}
        again = transfer(source, receiver, job)
        assert again.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN), position
        check_disks(source, receiver)
        assert receiver.resumed == sum(verified.values()), position


@BOTH_WAYS
def test_cut_again_and_again_still_arrives(job: Job) -> None:
    """Every session lives for a few messages more than one chunk takes; yet all of it arrives in the end."""
    source, receiver = disk_of(a=10, big=5 * CHUNK_BYTES + 3, z=1), ReceiverDisk()
    sessions = 0
    while len(receiver.published) < len(source.files):
        world = World(job, source, receiver)
        world.run(stop_before=160)
        world.cut()
        sessions += 1
        assert sessions < 20
    assert sessions > 4
    check_disks(source, receiver)


@BOTH_WAYS
def test_cut_after_the_last_answer_is_no_loss(job: Job) -> None:
    """When only the farewell is missing, a side that knows that nothing is missing says so."""
    length = recorded_length(job)
    world = World(job, small_tree(), ReceiverDisk(), window=256 * KIB)
    world.run(stop_before=length - 3)  # Then come the two farewells and the first close.
    world.cut()
    receiving = world.opener if job is GET else world.acceptor
    assert receiving.finished is not None
    assert receiving.finished.outcome is TransferOutcome.CLEAN


# Before the job is known


class Accepted:
    """The acceptor of a channel whose job has not come; each feed returns all effects."""

    def __init__(self) -> None:
        self.machine = AcceptedTransfer()
        self.now = 100.0
        self.feed(stream.DataChannelOpened())

    def feed(self, event: tx.Event) -> list[tx.Effect]:
        self.machine.handle(self.now, event)
        effects: list[tx.Effect] = []
        while (effect := self.machine.poll_effect()) is not None:
            effects.append(effect)
        return effects

    def finished(self, event: tx.Event) -> tx.TransferFinished:
        effects = self.feed(event)
        finished = effects[-1]
        assert isinstance(finished, tx.TransferFinished)
        assert sum(isinstance(effect, tx.TransferFinished) for effect in effects) == 1
        assert self.feed(stream.BinaryReceived(b"late")) == [stream.Consumed(4)]
        assert self.feed(stream.TextReceived('{"t":"put"}')) == [stream.Consumed(11)]
        assert self.feed(stream.DataChannelClosed()) == []
        assert self.machine.next_deadline() is None
        return finished


@pytest.mark.parametrize(
    ("text", "kind"),
    [('{"t":"put"}', ReceiverMachine), ('{"t":"get","p":["a"]}', SenderMachine), ('{"t":"ls","p":""}', SenderMachine)],
)
def test_acceptor_becomes_the_end_that_the_job_asks_for(text: str, kind: type) -> None:
    accepted = Accepted()
    assert accepted.feed(stream.TextReceived('{"t":"x-trial"}')) == [stream.Consumed(15)]
    effects = accepted.feed(stream.TextReceived(text))
    assert accepted.machine.job is not None
    assert effects == [stream.Consumed(len(text)), tx.JobReceived(accepted.machine.job)]
    assert isinstance(accepted.machine.machine, kind)


def test_acceptor_offers_the_window_that_was_set_last() -> None:
    accepted = Accepted()
    accepted.machine.set_window(128 * KIB)
    accepted.feed(stream.TextReceived('{"t":"put"}'))
    accepted.machine.set_window(32 * KIB)
    assert accepted.feed(tx.ServiceReady()) == [stream.SendText('{"t":"ok","w":32768}')]


def test_job_that_does_not_come_is_not_waited_for() -> None:
    accepted = Accepted()
    deadline = accepted.machine.next_deadline()
    assert deadline == 100 + JOB_TIMEOUT_S
    accepted.now = deadline - 0.001
    assert accepted.feed(stream.Tick()) == []
    accepted.now = deadline
    assert accepted.finished(stream.Tick()).code == "timeout"


@pytest.mark.parametrize(
    "event",
    [
        stream.TextReceived('{"t":"want","i":0,"o":0}'),
        stream.TextReceived('{"t":"ok","w":0}'),
        stream.TextReceived("no JSON"),
        stream.TextReceived(""),
        stream.BinaryReceived(b"payload"),
    ],
    ids=repr,
)
def test_anything_else_than_a_job_is_a_violation(event: tx.Event) -> None:
    assert Accepted().finished(event).outcome is TransferOutcome.VIOLATION


@pytest.mark.parametrize(
    "event",
    [stream.DataChannelClosed(), stream.Reset("shutdown", ""), stream.TextReceived('{"t":"rst","c":"interrupted"}')],
    ids=repr,
)
def test_end_before_the_job_is_an_interruption(event: tx.Event) -> None:
    assert Accepted().finished(event).outcome is TransferOutcome.INTERRUPTED


def test_service_cannot_be_ready_before_the_job() -> None:
    with pytest.raises(StateError, match="before a job has come"):
        Accepted().feed(tx.ServiceReady())
