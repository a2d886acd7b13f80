"""A receiver gives the disk much at a time, and keeps neither an acknowledgement nor the end of a file back for it."""

from __future__ import annotations

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.machine import SILENCE_S
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode
from tests.core.files.test_receiver import FULL, HASH, flowing, say


def test_payload_is_kept_back_for_the_disk_and_never_an_acknowledgement_with_it() -> None:
    """With a large window half a megabyte goes to the disk at a time; the end of a file goes at once."""
    driven = flowing(window=4 * CHUNK_BYTES).wanted(CHUNK_BYTES + FULL)
    for _ in range(31):
        assert driven.data(FULL) == []
    assert driven.machine.next_deadline() == driven.now + SILENCE_S, "nothing that we could wait for is at work"
    (write,) = driven.data(FULL)
    assert write == tx.WriteData(0, 0, bytes(CHUNK_BYTES // 2))
    assert driven.feed(tx.DataWritten(0, CHUNK_BYTES // 2)) == [
        say(file_messages.FileAck(CHUNK_BYTES // 2, 4 * CHUNK_BYTES))
    ]
    for _ in range(31):
        assert driven.data(FULL) == []
    assert driven.data(FULL) == [tx.WriteData(0, CHUNK_BYTES // 2, bytes(CHUNK_BYTES // 2))]
    driven.hear(file_messages.ChunkEnd(0, 0, HASH))
    assert driven.data(FULL - 1) == []
    assert driven.data(1) == [tx.WriteData(0, CHUNK_BYTES, bytes(FULL))]


def test_what_is_kept_back_of_a_file_that_fails_counts_as_written() -> None:
    driven = flowing(window=4 * CHUNK_BYTES).wanted(CHUNK_BYTES)
    driven.data(FULL)
    effects = driven.feed(tx.FileFailed(0, FileCode.SPACE, "full"))
    assert say(file_messages.No(0, FileCode.SPACE, "full")) in effects
    assert driven.machine.unwritten == 0
    assert driven.consumed == driven.arrived
