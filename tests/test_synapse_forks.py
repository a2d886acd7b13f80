"""Forked homeservers are independent of each other, and none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from tests.conftest import HomeserverFactory
from tests.demo.test_processes import until_dead
from tests.synapse import Synapse

pytestmark = pytest.mark.real

STARTER = """
import asyncio, sys
from pathlib import Path
from tests.synapse import Synapse
from tests.synapse_forks import SynapseForks

async def main():
    Synapse.forks = SynapseForks()
    synapse = Synapse(Path(sys.argv[1]))
    await synapse.start()
    print(synapse.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def register(synapse: Synapse) -> str:
    """Give the homeserver its first user; on another's database the name would be taken or foreign."""
    await synapse.register_user("ada", "pw")
    return (await synapse.login("ada", "pw")).user_id


async def test_each_has_its_own_name_data_session_and_end(make_homeserver: HomeserverFactory) -> None:
    one = await make_homeserver(server_name="one.test")
    two = await make_homeserver(server_name="two.test")
    assert [await register(one), await register(two)] == ["@ada:one.test", "@ada:two.test"]
    assert one.pid is not None
    assert two.pid is not None
    assert len({os.getsid(one.pid), os.getsid(two.pid), os.getsid(0)}) == 3
    assert [Path(f"/proc/{each.pid}/cwd").resolve() for each in (one, two)] == [one.folder, two.folder]

    one.kill()
    with pytest.raises(HomeserverError, match="no answer"):
        await one.request("GET", "/health")
    await two.register_user("bob", "pw")


async def test_whoever_started_them_takes_them_along_even_when_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, tmp_path], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as starter:
        try:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            database = (tmp_path / "homeserver.db").resolve()
            assert (database.exists(), database.parent.parent != tmp_path) == (True, True)
            forks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        finally:
            starter.send_signal(signal.SIGKILL)
    assert await until_dead(pid)
    assert await until_dead(forks)
    assert not database.parent.exists(), "the databases lie in memory"
