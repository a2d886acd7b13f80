"""The embedded homeserver is real, keeps its data and port over restarts, and says why it cannot start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import HomeserverError, LocalError
from mxrtc_bridge.demo.synapse import PYTHON_VARIABLE, find_synapse_python
from tests.conftest import HomeserverFactory
from tests.synapse import Synapse

WHOAMI = "/_matrix/client/v3/account/whoami"
TURN = "turn:127.0.0.1:3478?transport=udp"


async def test_a_registered_user_logs_in_and_is_known(real_homeserver: Synapse) -> None:
    await real_homeserver.register_user("ada", "pass word")
    login = await real_homeserver.login("ada", "pass word", device_id="LAPTOP")
    whoami = await real_homeserver.request("GET", WHOAMI, token=login.access_token)
    assert (whoami["user_id"], whoami["device_id"]) == (real_homeserver.user_id("ada"), "LAPTOP")
    assert login.user_id == "@ada:example.test"


async def test_a_name_is_registered_once(real_homeserver: Synapse) -> None:
    await real_homeserver.register_user("bob", "pw")
    with pytest.raises(HomeserverError, match="M_USER_IN_USE") as caught:
        await real_homeserver.register_user("bob", "pw")
    assert (caught.value.status, caught.value.retryable) == (400, False)


async def test_a_wrong_password_is_refused(real_homeserver: Synapse) -> None:
    await real_homeserver.register_user("carol", "right")
    with pytest.raises(HomeserverError, match="403 M_FORBIDDEN"):
        await real_homeserver.login("carol", "wrong")


async def test_no_limit_slows_a_burst_of_messages(real_homeserver: Synapse) -> None:
    """Synapse's own default would answer 429 after ten."""
    await real_homeserver.register_user("dora", "pw")
    token = (await real_homeserver.login("dora", "pw")).access_token
    room = (await real_homeserver.request("POST", "/_matrix/client/v3/createRoom", token=token, body={}))["room_id"]
    for number in range(30):
        path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}"
        await real_homeserver.request("PUT", path, token=token, body={"msgtype": "m.text", "body": "hello"})


async def test_nothing_but_loopback_is_listened_on(real_homeserver: Synapse) -> None:
    listeners = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [address for address in listeners if int(address.split(":")[1], 16) == real_homeserver.port] == [
        f"0100007F:{real_homeserver.port:04X}"
    ]


async def test_port_accounts_and_tokens_survive_a_restart_and_a_crash(make_homeserver: HomeserverFactory) -> None:
    synapse = await make_homeserver()
    await synapse.register_user("ada", "pw")
    login = await synapse.login("ada", "pw")
    url, first = synapse.url, synapse.pid

    await synapse.restart()
    assert (synapse.url, synapse.pid != first) == (url, True)
    assert (await synapse.request("GET", WHOAMI, token=login.access_token))["user_id"] == login.user_id

    synapse.kill()
    with pytest.raises(HomeserverError, match="no answer") as caught:
        await synapse.request("GET", "/health")
    assert caught.value.retryable
    await synapse.start()
    assert (await synapse.request("GET", WHOAMI, token=login.access_token))["user_id"] == login.user_id


async def test_app_services_turn_and_extra_settings_reach_the_homeserver(
    make_homeserver: HomeserverFactory, tmp_path: Path
) -> None:
    registration = tmp_path / "registration.yaml"
    namespace = {"exclusive": True, "regex": r"^@rtc_.*:hs\.test$"}
    fields = {"id": "rtc", "url": None, "as_token": "secret-as", "hs_token": "secret-hs", "sender_localpart": "bot"}
    registration.write_text(json.dumps({**fields, "namespaces": {"users": [namespace]}}))
    synapse = await make_homeserver(
        server_name="hs.test",
        app_services=[registration],
        extra_config={"turn_uris": [TURN], "turn_shared_secret": "shared", "max_avatar_size": "1M"},
    )
    assert (await synapse.request("GET", WHOAMI, token="secret-as"))["user_id"] == "@bot:hs.test"
    turn = await synapse.request("GET", "/_matrix/client/v3/voip/turnServer", token="secret-as")
    assert turn["uris"] == [TURN]
    assert json.loads((synapse.folder / "homeserver.yaml").read_text())["max_avatar_size"] == "1M"
    with pytest.raises(HomeserverError, match="M_EXCLUSIVE"):
        await synapse.register_user("rtc_build", "pw")


async def test_a_homeserver_that_cannot_start_shows_its_last_words(make_homeserver: HomeserverFactory) -> None:
    synapse = await make_homeserver(started=False, extra_config={"server_name": "not a name"})
    with pytest.raises(LocalError, match=r"exit code 1 at its start:[\s\S]*not a name"):
        await synapse.start()
    assert synapse.pid is None


async def test_a_running_homeserver_is_not_started_again(real_homeserver: Synapse) -> None:
    with pytest.raises(LocalError, match="is running already"):
        await real_homeserver.start()


def test_the_interpreter_named_by_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/opt/synapse/bin/python")
    assert find_synapse_python() == "/opt/synapse/bin/python"


def test_a_missing_synapse_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(LocalError, match="make synapse"):
        find_synapse_python(tmp_path)
