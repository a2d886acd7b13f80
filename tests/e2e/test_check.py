"""``mxrtc-bridge check`` beside a real homeserver: it makes nobody and nothing, and fails where ``run`` does."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.e2e.world import DOMAIN, World, echo

pytestmark = pytest.mark.real


async def exists(world: World, user: str) -> bool:
    async with ClientSession() as http, http.get(f"{world.homeserver.url}/_matrix/client/v3/profile/{user}") as answer:
        return answer.status == 200


async def test_check_makes_nothing_and_says_the_first_cause_of_what_stops_run(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.write_config()
        before = {path.name for path in tmp_path.iterdir()}

        code, said = await world.run_admin("check")
        assert code == 0, said
        assert "the registration gives this bridge the names of the bot and all peers" in said
        assert "the homeserver reaches the bridge" in said
        made = {path.name for path in tmp_path.iterdir()} - before
        assert {name.partition(".")[0] for name in made} == {"check-1"}, "the output of the command alone"
        for user in (f"@rtc_build:{DOMAIN}", f"@rtcbot:{DOMAIN}"):
            assert not await exists(world, user)

        # What is changed behind the homeserver's back.
        appservice: dict[str, Any] = json.loads(world.write_config().read_text())["appservice"]
        for change, what, fix in (
            ({"bot": "gate"}, f"does not give this bridge the names @gate:{DOMAIN}", "write it anew"),
            ({"peer_prefix": "gate_"}, f"names @gate_build:{DOMAIN}", "write it anew"),
            ({"as_token": "sa" * 24}, "does not know the as_token", "app_service_config_files in homeserver.yaml"),
        ):
            world.settings["appservice"] = {**appservice, **change}
            code, said = await world.run_admin("check")
            assert (code, said.count("FAIL")) == (1, 1), said
            assert what in said
            assert fix in said
            code, said = await world.run_admin("run")
            assert code == 78, said
            assert fix in said
        # Only the homeserver's own answer shows that it sends another token than the bridge waits for.
        world.settings["appservice"] = {**appservice, "hs_token": "sh" * 24}
        code, said = await world.run_admin("check")
        assert (code, said.count("FAIL"), "with the hs_token of this configuration" in said) == (1, 1, True), said
        del world.settings["appservice"]

        # With the bridge beside it, nothing is in its way.
        await world.start_bridge()
        code, said = await world.run_admin("check")
        assert code == 0, said
        assert "the database opens" in said
        assert world.bridge is not None
        await world.bridge.terminate(20)
