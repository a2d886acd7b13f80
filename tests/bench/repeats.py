"""What it costs to repeat a transfer that is there already, beside sending it: processor time of the bridge."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.pipe import cpu_seconds
from tests.e2e.world import World

FILES = (1000, 5000)
SIZE = 200


async def measure_repeats(folder: Path) -> dict[str, object]:
    """The same directory sent twice; microseconds."""
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        world.services["box"] = {"files": {"dir": str(folder / "box"), "direction": "receive"}}
        world.grant("alice", "build")
        await world.add_user("alice")
        bridge = await world.start_bridge()
        found: dict[str, object] = {}
        for count in FILES:
            place = folder / f"d{count}"
            place.mkdir()
            for number in range(count):
                (place / f"{number:05}").write_bytes(b"%06d" % number * (SIZE // 6))
            row: dict[str, float] = {}
            for what in ("sent", "sent again"):
                cpu, began = cpu_seconds(bridge), time.perf_counter()
                code, _, said = await world.run_mxrtc("alice", "send", place, "build/box", timeout_s=600)
                assert code == 0, said
                row[f"{what}, us"] = (cpu_seconds(bridge) - cpu) / count * 1e6
                row[f"{what}, s"] = time.perf_counter() - began
            row["ratio"] = row["sent again, us"] / row["sent, us"]
            found[f"{count} files"] = row
        return found
