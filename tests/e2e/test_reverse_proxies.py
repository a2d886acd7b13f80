"""The page about reverse proxies, tried with Caddy and nginx: both directions, and ``.well-known`` before them."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, TCPConnector
from yarl import URL

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.certificates import make_certificate
from tests.e2e.world import PASSWORD, World, echo
from tests.other_user import needs_root
from tests.synapse import Synapse
from tests.waiting import until

# The port of .well-known is that of https, and only root may listen there.
pytestmark = [pytest.mark.real, needs_root]

PAGE = Path(__file__).parents[2] / "docs/how-to/reverse-proxy.md"
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1; user {user};
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{servers}
}}
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
    storage file_system {folder}/caddy
}}
{servers}
"""


@dataclass(frozen=True)
class Place:
    """Where the proxy is: an address of loopback that nobody else has."""

    address: str
    """Also the name of the server; ``.well-known`` is at its usual port."""
    matrix: int
    """Port of the homeserver behind the proxy."""
    bridge: int
    """Port of the bridge behind it."""


def blocks(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 2, "both directions"
    return "\n".join(found)


def of_this_machine(text: str, place: Place, homeserver: int, bridge: int) -> str:
    """What the page shows, with names, ports and addresses of the test in place of those of an installation."""
    for old, new in (
        ("127.0.0.1:8008", f"127.0.0.1:{homeserver}"),
        ("127.0.0.1:29350", f"127.0.0.1:{bridge}"),
        ("https://matrix.example.org", f"https://{place.address}:{place.matrix}"),
        ("matrix.example.org:443", f"{place.address}:{place.matrix}"),
        ("10.9.0.1", "127.0.0.1"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


def caddy(text: str, place: Place, folder: Path, certificate: Path) -> list[str]:
    for name, site in (
        ("bridge.internal.example.org", f"http://127.0.0.1:{place.bridge}"),
        ("matrix.example.org", f"https://{place.address}:{place.matrix}"),
        ("example.org", f"https://{place.address}"),
    ):
        tls = f"\n    bind {place.address}\n    tls {certificate} {certificate}" if site.startswith("https") else ""
        text, count = re.subn(rf"^{re.escape(name)} \{{$", f"{site} {{{tls}", text, flags=re.MULTILINE)
        assert count == 1, name
    config = folder / "Caddyfile"
    config.write_text(CADDY.format(folder=folder, servers=text))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def nginx(text: str, place: Place, folder: Path, certificate: Path) -> list[str]:
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    for name, listen in (
        ("bridge.internal.example.org", f"listen 127.0.0.1:{place.bridge};"),
        ("matrix.example.org", f"listen {place.address}:{place.matrix} ssl; {tls}"),
        ("example.org", f"listen {place.address}:443 ssl; {tls}"),
    ):
        pattern = rf"listen 443 ssl;\n( *)server_name {re.escape(name)};"
        text, count = re.subn(pattern, rf"{listen}\n\1server_name localhost;", text)
        assert count == 1, name
    config = folder / "nginx.conf"
    user = "root" if folder.owner() == "root" else folder.owner()
    config.write_text(NGINX.format(folder=folder, servers=text, user=user))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(config), "-p", str(folder)]


class BehindProxy(World):
    """One whose users trust the certificate of the proxy."""

    certificate: Path

    def env(self, user: str) -> dict[str, str]:
        return {**super().env(user), "SSL_CERT_FILE": str(self.certificate)}


@dataclass
class Front:
    world: BehindProxy
    place: Place
    http: ClientSession

    @property
    def server(self) -> str:
        return self.place.address


@pytest.fixture(params=[caddy, nginx], ids=lambda program: program.__name__)
async def front(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    async with AsyncExitStack() as stack:
        reserved = [stack.enter_context(PortReservation()) for _ in range(2)]
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        place = Place(address, *(each.port for each in reserved))
        certificate = tmp_path / "certificate.pem"
        make_certificate(certificate, addresses=[address])

        def named(folder: Path, **options: Any) -> Synapse:
            return Synapse(folder, **{**options, "server_name": address})

        appservice = {"as_token": "as" * 24, "hs_token": "hs" * 24, "url": f"http://127.0.0.1:{place.bridge}"}
        with PortReservation() as bridge:
            settings = {"appservice": {**appservice, "listen": f"127.0.0.1:{bridge.port}"}}
            world = await BehindProxy.start(tmp_path, stack, settings=settings, make_homeserver=named)
            world.certificate = certificate
            homeserver = int(world.homeserver.url.rpartition(":")[2])
            text = of_this_machine(blocks(request.param.__name__), place, homeserver, bridge.port)
            command = request.param(text, place, tmp_path, certificate)
            proxy = await stack.enter_async_context(
                ManagedProcess("proxy", command, folder=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)})
            )
            context = ssl.create_default_context(cafile=str(certificate))
            http = await stack.enter_async_context(ClientSession(connector=TCPConnector(ssl=context)))
            found = Front(world, place, http)

            sites = [(address, 443), (address, place.matrix), ("127.0.0.1", place.bridge)]
            try:
                await until(lambda: proxy.returncode is not None or all(map(listens, sites)), 60)
            except TimeoutError:
                pytest.fail(proxy.tail())
            assert proxy.returncode is None, proxy.tail()
            yield found


def listens(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=5).close()
    except OSError:
        return False
    return True


async def test_a_user_finds_the_homeserver_and_calls_through_it(front: Front) -> None:
    world = front.world
    await world.serve("echo", echo)
    world.grant("alice", "build/echo")
    await world.homeserver.register_user("alice", PASSWORD)
    await world.start_bridge()
    words = ("login", f"@alice:{front.server}", "--password-file", "-")
    async with world.mxrtc("alice", *words, stdin=PASSWORD.encode() + b"\n") as process:
        assert await process.wait(60) == 0, process.tail()
    for signal in ("device", "room"):
        world.signal = signal
        code, out, said = await world.run_mxrtc("alice", "nc", "build/echo", stdin=b"through the proxy")
        assert (code, out) == (0, b"through the proxy"), said + world.log_text()
    # Who wants to know on a web page may read it too, and other servers find the way.
    async with front.http.get(f"https://{front.server}/.well-known/matrix/client") as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert (await answer.json())["m.homeserver"] == {
            "base_url": f"https://{front.place.address}:{front.place.matrix}"
        }
    async with front.http.get(f"https://{front.server}/.well-known/matrix/server") as answer:
        assert await answer.json() == {"m.server": f"{front.place.address}:{front.place.matrix}"}


async def test_paths_and_large_bodies_arrive_as_they_were_sent_and_strangers_at_the_bridge_do_not(front: Front) -> None:
    world = front.world
    await world.start_bridge()
    await world.homeserver.register_user("bob", PASSWORD)
    token = (await world.homeserver.login("bob", PASSWORD)).access_token
    room = (await world.homeserver.request("POST", "/_matrix/client/v3/createRoom", token=token, body={}))["room_id"]
    alias = quote(f"#a/b:{front.server}", safe="")
    url = URL(
        f"https://{front.place.address}:{front.place.matrix}/_matrix/client/v3/directory/room/{alias}", encoded=True
    )
    async with front.http.put(url, json={"room_id": room}, headers={"Authorization": f"Bearer {token}"}) as answer:
        assert answer.status == 200, await answer.text()
    found = await world.homeserver.request("GET", f"/_matrix/client/v3/directory/room/{alias}")
    assert found["room_id"] == room
    async with front.http.get(
        f"https://{front.place.address}:{front.place.matrix}/_synapse/admin/v1/server_version"
    ) as answer:
        assert answer.status == 404, "what is for admins is not for everybody"

    transaction = f"http://127.0.0.1:{front.place.bridge}/_matrix/app/v1/transactions/large"
    body, hs = json.dumps({"events": [], "more": "x" * (5 << 20)}), {"Authorization": f"Bearer {'hs' * 24}"}
    async with front.http.put(transaction, data=io.BytesIO(body.encode()), headers=hs) as answer:
        assert answer.status == 200, await answer.text()
    async with front.http.get(f"http://127.0.0.1:{front.place.bridge}/_matrix/mau/live") as answer:
        assert answer.status in (403, 404), "nothing but what the homeserver asks for"
    async with (
        ClientSession(connector=TCPConnector(local_addr=("127.0.0.2", 0))) as stranger,
        stranger.put(transaction, json={"events": []}, headers=hs) as answer,
    ):
        assert answer.status == 403
