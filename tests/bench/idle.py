"""Many idle peer connections in one process: what each costs while nothing happens, and what is left after the end."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from pathlib import Path
from typing import Any

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.sdp import DescriptionType, parse_description
from mxrtc_bridge.rtc.certificates import NoCertificates
from mxrtc_bridge.rtc.factory import PeerFactory
from mxrtc_bridge.rtc.settings import RtcSettings

PAIRS = int(os.environ.get("BENCH_IDLE_PAIRS", "500"))
IDLE_S = 20.0
ONE = UserId("@bench:example.org")


class _Quiet:
    """Listens to a connection on which nothing happens."""

    def channel_offered(self, channel: Any) -> None:
        channel.set_listener(self)

    def send_space(self) -> None: ...

    def connection_lost(self, reason: str) -> None: ...

    def channel_opened(self) -> None: ...

    def text_received(self, text: str) -> None: ...

    def binary_received(self, data: bytes) -> None: ...

    def channel_closed(self) -> None: ...


def _resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _objects() -> int:
    """How many objects of ours and of the libraries below live; frozen values and counters are among them."""
    gc.collect()
    homes = ("mxrtc_bridge.rtc", "mxrtc_bridge.sctp", "aiortc", "aioice")
    return sum(str(type(thing).__module__).startswith(homes) for thing in gc.get_objects())


async def _no_servers(_user: UserId) -> tuple[()]:
    return ()


async def measure_idle(_folder: Path) -> dict[str, object]:
    """Both ends live in this process, so there are twice as many peer connections as pairs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    policy = AddressPolicy(private=True, loopback=True)
    factory = PeerFactory(RtcSettings(interfaces=("127.0.0.1",)), NoCertificates(), _no_servers)

    async def connect() -> list[Any]:
        offerer, answerer = await factory.create(ONE), await factory.create(ONE)
        for peer in (offerer, answerer):
            peer.set_listener(_Quiet())
        offer = parse_description(await offerer.create_offer(), DescriptionType.OFFER, policy)
        answer = parse_description(await answerer.create_answer(offer), DescriptionType.ANSWER, policy)
        offerer.apply_answer(answer)
        offerer.open_channel("idle", "bench").set_listener(_Quiet())
        await asyncio.gather(offerer.connect(), answerer.connect())
        return [offerer, answerer]

    async def connect_all() -> list[Any]:
        peers: list[Any] = []
        for start in range(0, PAIRS, 10):
            for pair in await asyncio.gather(*(connect() for _ in range(min(10, PAIRS - start)))):
                peers += pair
        return peers

    async def close_all(peers: list[Any]) -> int:
        """Close them; return what memory is left."""
        for start in range(0, len(peers), 50):
            await asyncio.gather(*(peer.close() for peer in peers[start : start + 50]))
        peers.clear()
        await asyncio.sleep(1.0)
        gc.collect()
        return _resident_kib()

    for peer in await connect():
        await peer.close()
    objects = _objects()
    before = _resident_kib(), _open_files(), len(asyncio.all_tasks())
    peers = await connect_all()
    count = len(peers)
    live = _resident_kib(), _open_files(), len(asyncio.all_tasks())
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(IDLE_S)
    after = resource.getrusage(resource.RUSAGE_SELF)
    idle_cpu = (after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime) / IDLE_S
    left = await close_all(peers)
    # The allocators keep what was freed for the next ones, in better and better order: that it does not grow from one
    # round to the next shows that nothing leaks below Python either.
    left_twice = await close_all(await connect_all())
    left_again = await close_all(await connect_all())
    end = _open_files(), len(asyncio.all_tasks())
    objects_left = _objects() - objects
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "peer_connections": count,
        "kib_each": (live[0] - before[0]) / count,
        "files_each": (live[1] - before[1]) / count,
        "tasks_each": (live[2] - before[2]) / count,
        "cpu_percent_each": idle_cpu * 100 / count,
        "files_left": end[0] - before[1],
        "tasks_left": end[1] - before[2],
        "objects_left": objects_left,
        "mib_kept_for_the_next": (left - before[0]) / 1024,
        "mib_more_after_as_many_again": (left_again - left_twice) / 1024,
    }
