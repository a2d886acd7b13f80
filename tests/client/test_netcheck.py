"""``mxrtc netcheck`` at a homeserver that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from io import StringIO
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.netcheck import netcheck
from mxrtc_bridge.client.options import CallOptions, Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from tests.catch_all import answering
from tests.rtc.test_gathering import StunResponder

ALICE = UserId("@alice:example.org")


class FakeHomeserver:
    url = ""
    ahead_s = 0.0
    page = ""
    uris: tuple[str, ...] = ()

    async def answer(self, _request: web.Request) -> web.Response:
        if self.page:
            return web.Response(text=self.page, content_type="text/html")
        answer = {"uris": self.uris, "username": "user", "password": "secret"}
        return web.json_response(answer, headers={"Date": formatdate(time.time() + self.ahead_s, usegmt=True)})


@pytest_asyncio.fixture
async def homeserver() -> AsyncIterator[FakeHomeserver]:
    server = FakeHomeserver()
    async with answering(server.answer) as server.url:
        yield server


@pytest.fixture
def printed() -> StringIO:
    return StringIO()


@pytest.fixture
def context(
    tmp_path: Path,
    homeserver: FakeHomeserver,
    printed: StringIO,
) -> Context:
    state = StateFolder(tmp_path / "state")
    state.save_login(Login(homeserver.url, ALICE, "LAPTOP", "secret-token"))
    return Context(state, Report(as_json=True, objects=printed), CallOptions(interfaces=("lo",), timeout_s=1.0))


def said(printed: StringIO) -> dict[str, dict[str, object]]:
    out = printed.getvalue()
    assert "secret" not in out
    return {line["what"]: line for line in map(json.loads, out.splitlines()) if line["kind"] == "netcheck"}


@pytest.mark.linux
async def test_a_network_that_lets_udp_out_is_seen_as_one(
    homeserver: FakeHomeserver, context: Context, printed: StringIO
) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(StunResponder, local_addr=("127.0.0.1", 0))
    homeserver.uris = (f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}",)
    try:
        await netcheck(context)
    finally:
        transport.close()
    lines = said(printed)
    seen = {what: lines[what]["ok"] for what in ("homeserver", "clock", "server", "turn", "udp", "mtu", "verdict")}
    assert seen == {
        **dict.fromkeys(("homeserver", "clock", "server", "udp", "mtu", "verdict"), True),
        "turn": None,
    }
    assert (lines["server"]["uri"], lines["server"]["outcome"]) == (homeserver.uris[0], "ok")
    assert lines["mtu"]["bytes"] == 1500


async def test_a_network_without_a_way_out_ends_with_the_code_for_no_path(
    homeserver: FakeHomeserver, context: Context, printed: StringIO
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        homeserver.uris = (f"turn:127.0.0.1:{silent.getsockname()[1]}?transport=udp",)
        with pytest.raises(ClientError, match="no call works from this network") as caught:
            await netcheck(context)
    assert caught.value.code is Exit.NO_PATH
    lines = said(printed)
    assert (lines["udp"]["ok"], lines["verdict"]["ok"], lines["server"]["outcome"]) == (False, False, "timed out")


@pytest.mark.parametrize(("ahead_s", "fits", "words"), [(-30, True, "ahead of"), (90, False, "behind")])
async def test_a_clock_that_is_apart_is_told_before_calls_are_refused_for_it(
    homeserver: FakeHomeserver,
    context: Context,
    printed: StringIO,
    ahead_s: float,
    fits: bool,
    words: str,
) -> None:
    homeserver.ahead_s = ahead_s
    await netcheck(context)
    clock = said(printed)["clock"]
    assert clock["ok"] is fits
    assert words in str(clock["message"])
    assert ("set the one that is wrong" in str(clock["message"])) is not fits


async def test_a_server_that_is_named_in_a_wrong_way_is_told_with_the_right_one(
    homeserver: FakeHomeserver, context: Context, printed: StringIO
) -> None:
    homeserver.uris = ("turn://turn.example.org:3478",)
    await netcheck(context)
    server = said(printed)["server"]
    assert (server["ok"], server["outcome"]) == (False, "unusable")
    assert "turn://turn.example.org:3478 cannot be used" in str(server["message"])
    assert "is named turn:HOST:PORT" in str(server["message"])


async def test_a_page_in_place_of_the_homeserver_is_named(
    homeserver: FakeHomeserver, context: Context, printed: StringIO
) -> None:
    homeserver.page = "<html>please log in</html>"
    with pytest.raises((HomeserverError, ClientError)):
        await netcheck(context)
    line = said(printed)["homeserver"]
    assert line["ok"] is False
    assert "page" in str(line["message"]) or "JSON" in str(line["message"])


async def test_proxy_that_is_used_is_named_without_its_password(
    context: Context, printed: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXRTC_PROXY", "http://name:secret@127.0.0.1:1")
    with pytest.raises(HomeserverError, match="the proxy cannot be reached"):
        await netcheck(context)
    line = said(printed)["proxy"]
    assert (line["proxy"], line["because"]) == ("http://127.0.0.1:1", "MXRTC_PROXY")
    assert "is reached by the proxy http://127.0.0.1:1 (MXRTC_PROXY), and peers are not" in str(line["message"])
    assert "secret" not in str(line)


async def test_proxy_that_is_not_used_is_told_with_the_reason(
    context: Context, printed: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://name:secret@proxy.test:3128")
    monkeypatch.setenv("MXRTC_PROXY", "none")
    await netcheck(context)
    assert "is reached without a proxy (MXRTC_PROXY)" in str(said(printed)["proxy"]["message"])
