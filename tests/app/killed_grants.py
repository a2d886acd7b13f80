"""Gives and takes grants without a pause until it is killed; its database fails and its callers give up at random.

python -m tests.app.killed_grants FOLDER URL

For each seed on standard input a process of its own is forked, which says its id once it has opened; ``dead`` follows
with its exit code when it has ended. So what takes longest, to start Python and read all modules, is done once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from pathlib import Path
from typing import Any, cast

from mxrtc_bridge.app.refusals import DeskError
from mxrtc_bridge.core.errors import MxrtcError, StorageError, UnknownOutcomeError
from mxrtc_bridge.core.policy import parse_subject
from mxrtc_bridge.core.requests import Answer
from mxrtc_bridge.storage.database import Database
from tests.app.grants_world import ADMIN, EVE, SSH, WEB, World


class FailingDatabase:
    """Fails one write of twelve: before it, or (but for the audit, which has tests of its own) after it."""

    def __init__(self, database: Database, rng: random.Random, *, unknown: bool) -> None:
        self._database = database
        self._rng = rng
        self._unknown = unknown
        self.read = database.read

    async def transaction(self, work: Any) -> Any:
        fate = self._rng.random()
        if fate < 0.04:
            raise StorageError("the disk is full")
        result = await self._database.transaction(work)
        if fate > 0.96 and self._unknown:
            raise UnknownOutcomeError("the network is gone")
        return result


def fail_at_random(world: World, rng: random.Random) -> None:
    """Let the database of a world fail from now on."""
    for store, unknown in ((world.grants, True), (world.requests_store, True), (world.audit_store, False)):
        store._database = cast(Any, FailingDatabase(world.database, rng, unknown=unknown))


async def one_thing(world: World, rng: random.Random) -> None:
    in_force = sorted(world.in_force())
    match rng.randrange(7):
        case 0 | 1:
            await world.give(rng.choice((SSH, WEB)), once=rng.random() < 0.3)
        case 2 if in_force:
            await world.given.revoke(rng.choice(in_force), ADMIN)
        case 3:
            await world.given.revoke_all(parse_subject(EVE), None, rng.choice((None, SSH.name)), ADMIN)
        case 4:
            waiting = await world.requests.waiting()
            if waiting:
                await world.requests.answer(waiting[0].number, rng.choice(tuple(Answer)), ADMIN)
            else:
                await world.ask()
        case 5:
            gate = world.session()
            await world.use(gate)
            world.given.session_ended(gate)
        case _:
            world.now_ms += 1


async def do_things(world: World, rng: random.Random) -> None:
    while True:
        try:
            async with asyncio.timeout(rng.choice((None, 0.001, 0.004, 0.02))):
                await one_thing(world, rng)
        except (DeskError, MxrtcError, TimeoutError):
            pass
        await asyncio.sleep(0)


async def main(folder: Path, url: str, seed: int) -> None:
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    world = await World.start(folder, url)
    world.now_ms += seed
    fail_at_random(world, rng)
    print("open", os.getpid(), flush=True)
    await asyncio.gather(*(do_things(world, rng) for _ in range(4)))


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(line))))
        _, status = os.waitpid(pid, 0)
        print("dead", os.waitstatus_to_exitcode(status), flush=True)
