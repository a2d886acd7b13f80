"""What an admin watches, in a real Prometheus that a real bridge feeds: the dashboard's queries and the alert rules."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.e2e.test_access import Stream
from tests.e2e.test_outages import exchange
from tests.e2e.world import World, echo
from tests.test_monitoring import RULES, queries, rules

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

SCRAPE = "1s"


class Prometheus:
    """Asks a Prometheus that runs."""

    def __init__(self, url: str, http: ClientSession) -> None:
        self._url = url
        self._http = http

    async def get(self, path: str, **params: str) -> Any:
        async with self._http.get(f"{self._url}/api/v1/{path}", params=params) as answer:
            said = await answer.json()
        assert said["status"] == "success", (path, params, said)
        return said["data"]

    async def ask(self, query: str) -> list[float]:
        """The values that a query has now."""
        return [float(each["value"][1]) for each in (await self.get("query", query=query))["result"]]

    async def until(self, query: str, holds: Callable[[list[float]], object], timeout_s: float = 60) -> list[float]:
        """Ask until the values are right."""
        found: list[float] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(found := await self.ask(query)):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{query} stays {found}") from None
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        metrics = {"listen": f"127.0.0.1:{stack.enter_context(PortReservation()).port}"}
        world = await World.start(tmp_path_factory.mktemp("prometheus"), stack, settings={"metrics": metrics})
        await world.serve("echo", echo)
        await world.add_user("alice")
        world.grant("alice", "build/echo")
        await world.start_bridge()
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(world: World) -> AsyncIterator[Prometheus]:
    shutil.copy(RULES, world.folder)
    target = {"job_name": "mxrtc-bridge", "static_configs": [{"targets": [world.settings["metrics"]["listen"]]}]}
    config = world.folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
                "rule_files": [RULES.name],
                "scrape_configs": [target],
            }
        )
    )
    options = [f"--config.file={config}", f"--storage.tsdb.path={world.folder / 'tsdb'}"]
    async with AsyncExitStack() as stack:
        port = stack.enter_context(PortReservation()).port
        argv = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
        process = await stack.enter_async_context(ManagedProcess("prometheus", argv, folder=world.folder))
        await process.wait_for_line("Server is ready to receive web requests", 60)
        http = await stack.enter_async_context(ClientSession())
        yield Prometheus(f"http://127.0.0.1:{port}", http)


async def test_the_dashboard_shows_a_session_while_it_runs(world: World, prometheus: Prometheus) -> None:
    await prometheus.until("mxrtc_ready", lambda found: found == [1])
    await prometheus.until("mxrtc_homeserver_reachable", lambda found: found == [1])
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    stream = Stream(process, reader, writer)
    await prometheus.until("mxrtc_streams_live", lambda found: found == [1])
    (first,) = await prometheus.until('mxrtc_payload_bytes_total{direction="sent"}', lambda found: found[0] > 0)
    await exchange(reader, writer)
    # Of a stream that still runs; and a rate, for which there must be two values.
    await prometheus.until('mxrtc_payload_bytes_total{direction="sent"}', lambda found: found[0] > first)
    assert await prometheus.ask("mxrtc_streams_live") == [1]
    up = 'mxrtc_setup_seconds_count{path="direct",signalling="device"}'
    await prometheus.until(f"increase({up}[1m]) > bool 0", lambda found: found == [1])
    for what, query in queries().items():
        asked = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        found = await prometheus.ask(asked)
        if what.startswith("Refusals"):
            assert found == [], "nothing was refused"
        else:
            assert found, f"{what}: {asked}"
            assert not any(math.isnan(value) for value in found), (what, found)
    await stream.process.terminate(10)
    ended = 'sum(mxrtc_calls_total{outcome="remote_hangup",signalling="device"})'
    await prometheus.until(ended, lambda found: found == [1])
    await prometheus.until("mxrtc_sessions_live", lambda found: found == [0])


async def test_no_rule_fails_and_none_alarms_while_all_is_well(prometheus: Prometheus) -> None:
    await prometheus.until("count(up)", lambda found: found == [1])
    (group,) = (await prometheus.get("rules"))["groups"]
    states = {rule["name"]: (rule["health"], rule["state"], rule.get("lastError", "")) for rule in group["rules"]}
    assert states == {rule["alert"]: ("ok", "inactive", "") for rule in rules()}


async def test_a_homeserver_that_goes_away_and_a_bridge_that_ends_are_seen(
    world: World, prometheus: Prometheus
) -> None:
    async with world.homeserver.away():
        await prometheus.until("mxrtc_homeserver_reachable", lambda found: found == [0])
        alert = 'ALERTS{alertname="MxrtcHomeserverUnreachable",alertstate="pending"}'
        await prometheus.until(alert, lambda found: found == [1])
        assert await prometheus.ask("mxrtc_ready") == [1]
    await prometheus.until("mxrtc_homeserver_reachable", lambda found: found == [1])
    assert world.bridge is not None
    await world.bridge.terminate(20)
    await prometheus.until('ALERTS{alertname="MxrtcBridgeDown",alertstate="pending"}', lambda found: found == [1])
    assert "Traceback" not in world.log_text()
