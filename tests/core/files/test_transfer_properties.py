"""Transfers of any tree in any order of events, with faults, cuts and changed sources, against a model of two disks."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileCode, Ls
from mxrtc_bridge.core.stream import events as stream
from tests.core.files.test_receiver import DrivenReceiver as Receiving
from tests.core.files.test_receiver import file, flowing
from tests.core.files.test_sender import DrivenSender as Sending
from tests.core.files.test_sender import announced
from tests.core.files.world import GET, KIB, PUT, ReceiverDisk, SourceDisk, World, check_disks, content, transfer
from tests.long import examples

LIMITS = [1, 16 * KIB, 64 * KIB, CHUNK_BYTES, 2 * CHUNK_BYTES]
SIZES = st.sampled_from(sorted({limit + delta for limit in LIMITS for delta in (-1, 0, 1)}))
SMALL = st.sampled_from([0, 1, 1000, 16 * KIB])
JOBS = st.sampled_from([PUT, GET])
WINDOWS = st.sampled_from([16 * KIB, 16 * KIB + 1, 64 * KIB, 256 * KIB])
SEEDS = st.integers(0, 2**32)

thorough = settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tree(sizes: list[int], directories: int, seed: int) -> SourceDisk:
    disk = SourceDisk()
    disk.directories = [f"d{number}" for number in range(directories)]
    for number, size in enumerate(sizes):
        disk.put(f"d{number % 3}/f{number}", content((seed, number), size))
    return disk


@thorough
@given(st.lists(SIZES, max_size=3), st.lists(SMALL, max_size=40), st.integers(0, 3), JOBS, WINDOWS, SEEDS)
def test_any_tree_arrives_whole_in_any_order_of_events(
    large: list[int], small: list[int], directories: int, job: file_messages.Job, window: int, seed: int
) -> None:
    source, receiver = tree(large + small, directories, seed), ReceiverDisk()
    world = World(job, source, receiver, window=window)
    world.run(chooser=random.Random(seed))
    world.check_accounts()
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)


@thorough
@given(
    st.lists(SIZES, min_size=1, max_size=3),
    st.lists(SMALL, max_size=10),
    JOBS,
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    SEEDS,
)
def test_any_number_of_cuts_loses_nothing_and_doubles_nothing(
    large: list[int], small: list[int], job: file_messages.Job, cuts: list[int], seed: int
) -> None:
    source, receiver = tree(large + small, 1, seed), ReceiverDisk()
    chooser = random.Random(seed)
    for cut in cuts:
        world = World(job, source, receiver)
        world.run(stop_before=cut, chooser=chooser)
        world.cut()
        world.check_accounts()
        assert TransferOutcome.VIOLATION not in world.outcomes()
        assert all(data == source.files[name][0] for name, data in receiver.published.items())
    assert transfer(source, receiver, job).outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)
    check_disks(source, receiver)


@thorough
@given(st.lists(SIZES, min_size=1, max_size=4), JOBS, st.integers(0, 150), SEEDS, st.data())
def test_changed_sources_and_refusals_never_show_a_wrong_file(
    sizes: list[int], job: file_messages.Job, moment: int, seed: int, data: st.DataObject
) -> None:
    source, receiver = tree(sizes, 1, seed), ReceiverDisk()
    paths = list(source.files)
    changed = data.draw(st.sampled_from(paths))
    refused = data.draw(st.sampled_from(paths))
    receiver.room = data.draw(st.sampled_from([None, 0, 100 * KIB, CHUNK_BYTES + 1]))
    receiver.refuse = lambda entry: tx.ReceiveRefused(FileCode.NAME, "no") if entry.path == refused else None
    before = {path: content for path, (content, _) in source.files.items()}
    world = World(job, source, receiver)
    chooser = random.Random(seed)
    world.run(stop_before=moment, chooser=chooser)
    source.put(changed, content("new", data.draw(SIZES)))
    world.run(chooser=chooser)
    world.check_accounts()
    assert world.outcomes() == (TransferOutcome.PARTIAL, TransferOutcome.PARTIAL)
    for path, held in receiver.published.items():
        assert held in {before[path], source.files[path][0]}
    assert refused not in receiver.published
    ends = [end.finished.progress for end in world.ends if end.finished is not None]
    assert [progress.files_done for progress in ends] == [len(receiver.published)] * 2
    assert [progress.bytes_done for progress in ends] == [ends[0].bytes_done] * 2
    assert ends[0].files_done + ends[0].failed == len(paths)


@thorough
@given(st.integers(0, 1100), SEEDS)
def test_listing_of_any_length_is_seen_to_its_end(count: int, seed: int) -> None:
    source, receiver = SourceDisk(), ReceiverDisk()
    for number in range(count):
        source.put(f"f{number}", b"")
    receiver.judge = lambda _entry: tx.Listed()  # type: ignore[method-assign]
    world = World(Ls(""), source, receiver)
    world.run(chooser=random.Random(seed))
    world.check_accounts()
    assert world.outcomes() == (TransferOutcome.CLEAN, TransferOutcome.CLEAN)


# The fuzz law: whatever comes, the machine goes on or ends with a violation, and its own driver notices nothing else.

NUMBERS = st.sampled_from([0, 1, 2, 3, 20, 255, 1024, CHUNK_BYTES, 2**53 - 1])
DIGESTS = st.just("0123456789abcdef" * 4)
ANY_MESSAGE: st.SearchStrategy[file_messages.Message] = st.one_of(
    st.builds(lambda index, size: file_messages.Announce(index, file(index, size)), NUMBERS, NUMBERS),
    st.builds(file_messages.AnnouncedAll, NUMBERS, NUMBERS, NUMBERS),
    st.builds(file_messages.Want, NUMBERS, NUMBERS),
    st.builds(file_messages.No, NUMBERS, st.sampled_from(FileCode), st.text(max_size=3)),
    st.builds(file_messages.Got, NUMBERS, st.just("name"), DIGESTS | st.just("")),
    st.builds(file_messages.Seen, NUMBERS),
    st.builds(file_messages.ChunkEnd, NUMBERS, NUMBERS, DIGESTS),
    st.builds(file_messages.FileEnd, NUMBERS, NUMBERS, DIGESTS),
    st.builds(file_messages.FileAck, NUMBERS, st.sampled_from([0, 1, 16 * KIB])),
    st.sampled_from([file_messages.Busy(), file_messages.FileBye(), file_messages.FileOk(0), file_messages.Put()]),
)
STEPS = st.lists(
    ANY_MESSAGE | st.sampled_from([b"", b"x", bytes(20), bytes(16 * KIB)]) | st.text(max_size=5) | st.just(None),
    max_size=25,
)


def hit(driven: Receiving | Sending, step: object) -> list[tx.Effect]:
    if isinstance(step, bytes):
        return driven.feed(stream.BinaryReceived(step))
    if isinstance(step, str):
        return driven.feed(stream.TextReceived(step))
    return driven.hear(step)  # type: ignore[arg-type]


def check_end(driven: Receiving | Sending) -> None:
    if driven.finished is None:
        driven.feed(stream.DataChannelClosed())
    assert driven.finished is not None
    assert driven.consumed == driven.arrived


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.lists(st.sampled_from([0, 1, 20, CHUNK_BYTES]), max_size=4))
def test_receiver_bears_any_source(steps: list[object], sizes: list[int]) -> None:
    driven = flowing().wanted(*sizes)
    outstanding: list[tx.Effect] = []
    for step in steps:
        if step is None and outstanding:
            effect = outstanding.pop(0)
            match effect:
                case tx.CheckEntry(index=index, entry=entry):
                    verdict = tx.FileWanted(0) if entry.kind is EntryKind.FILE else tx.Held("d")
                    outstanding += driven.feed(tx.EntryChecked(index, verdict))
                case tx.WriteData(index=index, data=data):
                    outstanding += driven.feed(tx.DataWritten(index, len(data)))
                case tx.PublishFile(index=index) if not any(
                    isinstance(other, tx.WriteData) and other.index == index for other in outstanding
                ):
                    outstanding += driven.feed(tx.FilePublished(index, "name"))
        elif step is not None:
            outstanding += hit(driven, step)
        assert driven.machine.unwritten <= 256 * KIB + 16 * KIB
    check_end(driven)


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.lists(st.sampled_from([0, 1, 20, CHUNK_BYTES]), max_size=4))
def test_source_bears_any_receiver(steps: list[object], sizes: list[int]) -> None:
    driven = announced(*sizes)
    outstanding: list[tx.Effect] = []
    for step in steps:
        if step is None:
            reads = [effect for effect in outstanding if isinstance(effect, (tx.OpenFile, tx.ReadFile))]
            outstanding.clear()
            for effect in reads:
                size = sizes[effect.index]
                if isinstance(effect, tx.OpenFile) and effect.offset + effect.size == size:
                    outstanding += driven.feed(tx.FileRead(effect.index, bytes(effect.size), "ab" * 32))
                elif isinstance(effect, tx.OpenFile):
                    outstanding += driven.feed(tx.FileRead(effect.index, bytes(effect.size)))
            outstanding += driven.feed(stream.Turn(16 * KIB))
        else:
            outstanding += hit(driven, step)
    check_end(driven)
