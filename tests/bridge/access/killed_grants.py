"""Gives and takes grants without a pause until it is killed; its database fails and its callers give up at random.

python -m tests.bridge.access.killed_grants FOLDER URL

For each line that it reads, a seed, it forks a process that does so, and says ``dead 0`` when that was killed: most of
the time of a new process would go into its imports. That process says ``open`` with its id, and then what it has told
people: ``given 7`` once the giver knows, ``ending 7`` before anything is done that ends a grant, ``ended 7`` once the
one who took it back knows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from mxrtc_bridge.bridge.audit import writer
from mxrtc_bridge.core.access.policy import parse_subject
from mxrtc_bridge.core.access.requests import Decision
from mxrtc_bridge.core.errors import AdminError, MxrtcError, StorageError, UnknownOutcomeError
from mxrtc_bridge.storage.database import Database
from tests.bridge.access.grants_world import ADMIN, EVE, SSH, WEB, World


class FailingDatabase:
    """Fails one write of twelve: before it, or after it, so that nobody knows whether it was carried out.

    In every other run no write is answered any more from a moment on, as where the network is gone.
    """

    def __init__(self, database: Database, rng: random.Random) -> None:
        self._database = database
        self._rng = rng
        self._left = rng.choice((1_000_000, rng.randrange(25)))
        self.read = database.read

    # Single statements go by the two.
    write, rows, row = Database.write, Database.rows, Database.row

    async def transaction(self, work: Any, *, idempotent: bool = False) -> Any:
        self._left -= 1
        fate = self._rng.random()
        if self._left >= 0 and fate < 0.04:
            raise StorageError("the disk is full")
        if fate < (0.06 if self._left > 0 else 0.5 if self._left < 0 else 0.0):
            raise UnknownOutcomeError("the network is gone")
        result = await self._database.transaction(work, idempotent=idempotent)
        if fate > 0.97 or self._left <= 0:
            raise UnknownOutcomeError("the network is gone")
        return result


def fail_at_random(world: World, rng: random.Random) -> None:
    """Let the database of a world fail from now on."""
    for store in (world.grants, world.requests_store, world.audit_store):
        store._database = cast(Any, FailingDatabase(world.database, rng))


def say(what: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        print(what, number, flush=True)


async def one_thing(world: World, rng: random.Random) -> None:
    in_force = sorted(world.in_force())
    match rng.randrange(7):
        case 0 | 1:
            once = rng.random() < 0.3
            number = await world.give(rng.choice((SSH, WEB)), once=once)
            say("given", [] if once else [number])
        case 2 if in_force:
            number = rng.choice(in_force)
            say("ending", [number])
            await world.given.revoke(number, ADMIN)
            say("ended", [number])
        case 3 if rng.random() < 0.3:
            say("ending", in_force)
            ended = await world.given.revoke_all(parse_subject(EVE), None, rng.choice((None, SSH.name)), ADMIN)
            say("ended", [grant.number for grant in ended])
        case 4:
            waiting = await world.requests.waiting()
            if waiting:
                await world.requests.answer(waiting[0].number, rng.choice(tuple(Decision)), ADMIN)
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
        except (AdminError, MxrtcError, TimeoutError):
            pass
        await asyncio.sleep(0)


async def main(folder: Path, url: str, seed: int) -> None:
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    # One half is killed while it is not known what was stored, the other sees the end of that and goes on.
    writer.RETRY_S = rng.choice((0.02, 5.0))
    world = await World.start(folder, url)
    world.now_ms += seed
    fail_at_random(world, rng)
    say("open", [os.getpid()])
    await asyncio.gather(*(do_things(world, rng) for _ in range(4)))


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(line)))
        os.waitpid(child, 0)
        say("dead", [0])
