"""Our peer with libdatachannel, an independent implementation of ICE, DTLS and SCTP, in both roles."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.rtc.peers import RecordingChannel, RecordingPeer, answer_of, make_peer, offer_of

FOLDER = Path(__file__).parent / "interop"

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def node() -> str:
    """The program ``node`` with the package installed, from npm's cache if that has it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    if not (FOLDER / "node_modules" / "node-datachannel").exists():
        options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run([npm, *options], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"npm could not install node-datachannel: {done.stderr.strip().splitlines()[-1:]}")
    return node


class Libdatachannel:
    """The other side, as a process that speaks lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: list[dict[str, Any]] = []

    def tell(self, **command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def until(self, kind: str, **fields: object) -> dict[str, Any]:
        assert self._process.stdout is not None
        wanted = {"kind": kind, **fields}.items()
        async with asyncio.timeout(10):
            while True:
                for item in self.seen:
                    if wanted <= item.items():
                        return item
                line = await self._process.stdout.readline()
                assert line, f"libdatachannel ended; it said {self.seen}"
                self.seen.append(json.loads(line))


@pytest_asyncio.fixture
async def libdatachannel(node: str) -> AsyncIterator[Libdatachannel]:
    process = await asyncio.create_subprocess_exec(
        node, "peer.mjs", cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 20
    )
    other = Libdatachannel(process)
    try:
        yield other
        if process.returncode is None:
            other.tell(kind="quit")
    finally:
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest_asyncio.fixture
async def ours() -> AsyncIterator[RecordingPeer]:
    recorder = RecordingPeer(make_peer())
    yield recorder
    await recorder.peer.close()


async def it_calls(other: Libdatachannel, ours: RecordingPeer, label: str = "first") -> None:
    other.tell(kind="open", label=label, protocol="raw.mxrtc")
    offer = await other.until("description")
    answer = await ours.peer.create_answer(offer_of(offer["sdp"]))
    other.tell(kind="description", sdp=answer, type="answer")
    await ours.peer.connect()


async def we_call(other: Libdatachannel, ours: RecordingPeer) -> None:
    offer = await ours.peer.create_offer()
    other.tell(kind="description", sdp=offer, type="offer")
    answer = await other.until("description")
    ours.peer.apply_answer(answer_of(answer["sdp"]))
    await ours.peer.connect()


MESSAGES: list[str | bytes] = [b"x", "text", b"y" * 1160, "z" * 1200, b"w" * 16384, b"v" * 65536]


@pytest.mark.both_loops
async def test_it_calls_us_and_everything_comes_back(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await it_calls(libdatachannel, ours)
    channel = await ours.offered_channel()
    assert (channel.channel.label, channel.channel.protocol) == ("first", "raw.mxrtc")
    for message in MESSAGES:
        channel.channel.send(message)
    assert await channel.until_count(1 + len(MESSAGES)) == ["opened", *MESSAGES]


@pytest.mark.both_loops
async def test_we_call_it_and_everything_comes_back(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await we_call(libdatachannel, ours)
    channel = RecordingChannel(ours.peer.open_channel("ours", "tcp.v1.mxrtc"))
    for message in MESSAGES:
        channel.channel.send(message)
    assert await channel.until_count(1 + len(MESSAGES)) == ["opened", *MESSAGES]
    await libdatachannel.until("open", label="ours", protocol="tcp.v1.mxrtc")


async def test_four_megabytes_go_there_and_back(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await we_call(libdatachannel, ours)
    channel = RecordingChannel(ours.peer.open_channel("bulk", ""))
    total = sent = 4 * 1024 * 1024
    while sent:
        spaces = ours.spaces
        while sent and ours.peer.can_send():
            channel.channel.send(bytes(16384))
            sent -= 16384
        if sent:
            await ours.until(lambda recorder, spaces=spaces: recorder.spaces > spaces)
    await channel.until(lambda channel: channel.received_bytes == total, 30.0)


async def test_close_of_a_channel_reaches_both_sides(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await it_calls(libdatachannel, ours)
    offered = await ours.offered_channel()
    libdatachannel.tell(kind="close", label="first")
    await offered.until_closed()
    channel = RecordingChannel(ours.peer.open_channel("ours", ""))
    await libdatachannel.until("open", label="ours")  # only then does it watch for the close
    channel.channel.close()
    await libdatachannel.until("closed", label="ours")
    await channel.until_closed()
    assert ours.lost == []


async def test_its_end_is_noticed(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await it_calls(libdatachannel, ours)
    await libdatachannel.until("open", label="first")
    libdatachannel.tell(kind="quit")
    await ours.until_lost(5.0)


async def test_our_end_is_noticed(libdatachannel: Libdatachannel, ours: RecordingPeer) -> None:
    await it_calls(libdatachannel, ours)
    await libdatachannel.until("open", label="first")
    await ours.peer.close()
    await libdatachannel.until("closed", label="first")
