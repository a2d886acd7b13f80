"""Record associations with other implementations for the tests: ``python -m tests.rtc.capture [NAME...]``.

What is recorded is SCTP after DTLS has decrypted it: see :mod:`tests.sctp.recorded`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from tests.rtc.implementations import ALL, BROWSERS, Browser, OtherPeer, process_peer
from tests.rtc.peers import RecordingChannel, RecordingPeer, make_peer
from tests.sctp.newreno import NewReno
from tests.sctp.recorded import FOLDER, RecordedAssociation


async def converse(other: OtherPeer, ours: RecordingPeer) -> None:
    """Do a little of everything: messages of both kinds, resets from both sides, a number used again, the end."""
    await other.call(ours)
    first = await ours.offered_channel()
    await other.until("open", label="first")
    sizes = [1, 1161, 4096] if other.name == "werift" else [1, 0, 1161, 4096]
    for size in sizes:
        first.channel.send(b"b" * size)
        first.channel.send("t" * size)
    await first.until_count(1 + 2 * len(sizes))
    for turn in range(2):
        mine = RecordingChannel(ours.peer.open_channel(f"ours {turn}", "tcp.v1.mxrtc"))
        mine.channel.send(f"message {turn}")
        await mine.until_count(2)
        await other.until("open", label=f"ours {turn}")
        mine.channel.close()
        await mine.until_closed()
        await other.until("closed", label=f"ours {turn}")
    labels = [f"theirs {turn}" for turn in range(3)]
    for label in labels:
        other.tell(kind="open", label=label, protocol="tcp.v1.mxrtc")
    await ours.until(lambda recorder: len(recorder.offered) == 1 + len(labels))
    for label in labels:
        await other.until("open", label=label)
    for label in labels:  # at once, as some send a request for each then
        other.tell(kind="close", label=label)
    for channel in ours.offered[1:]:
        await channel.until_closed()
    for label in labels:
        await other.until("closed", label=label)
    other.tell(kind="flood", label="first", total=8 * 1024, size=1024)
    await first.until(lambda channel: channel.received_bytes >= 8 * 1024 + sum(sizes))
    other.tell(kind="close", label="first")
    await first.until_closed()
    await other.until("closed", label="first")
    other.tell(kind="quit")
    if other.name != "werift":  # which ends without a word
        await ours.until_lost()


async def record(name: str) -> None:
    made: list[RecordedAssociation] = []

    def make(*args: object, **values: object) -> RecordedAssociation:
        made.append(RecordedAssociation(*args, **values))  # type: ignore[arg-type]
        return made[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch("mxrtc_bridge.rtc.association.Association", make))
        # A replay makes the same decisions only with a control that draws no numbers.
        stack.enter_context(mock.patch("mxrtc_bridge.rtc.association.Bbr", lambda size, _seed: NewReno(size)))
        if name in BROWSERS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            context = stack.enter_context(Browser(name, folder).running()).peer()
        else:
            context = process_peer(name)
        async with context as other:
            ours = RecordingPeer(make_peer())
            try:
                await converse(other, ours)
            finally:
                await ours.peer.close()
    (association,) = made
    FOLDER.mkdir(exist_ok=True)
    lines = [json.dumps(line, separators=(",", ":")) for line in association.lines]
    (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(lines)} calls")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [name for name in ALL if name != "werift"]:
        asyncio.run(record(chosen))
