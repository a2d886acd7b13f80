"""Users of another homeserver, through two real ones that federate."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from mxrtc_bridge.core.crypto.canonical_json import canonical_json
from mxrtc_bridge.demo.processes import PortReservation
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.web.control import ask
from tests.e2e.people import Person
from tests.e2e.test_access import DENIED, Stream
from tests.e2e.test_control import admin
from tests.e2e.test_outages import exchange
from tests.e2e.world import World, echo
from tests.synapse import Synapse

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ROOM_VERSION = "11"
ENDED = "your right to use this peer has ended"


class FederatingSynapse(Synapse):
    """One that others reach. Its name is an address with a port, so nobody needs DNS to find it."""

    def __init__(self, folder: Path, *, certificate: Path, **options: Any) -> None:
        self._federation = PortReservation()
        super().__init__(folder, **{**options, "server_name": f"127.0.0.1:{self._federation.port}"})
        listener = {"type": "http", "bind_addresses": ["127.0.0.1"]}
        self.extra_config |= {
            "listeners": [
                {**listener, "port": self.port, "resources": [{"names": ["client"]}]},
                {**listener, "port": self._federation.port, "tls": True, "resources": [{"names": ["federation"]}]},
            ],
            "tls_certificate_path": str(certificate),
            "tls_private_key_path": str(certificate),
            "federation_custom_ca_list": [str(certificate)],
            "federation_domain_whitelist": None,
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
        }

    async def stop(self) -> None:
        await super().stop()
        self._federation.close()

    def sign(self, value: dict[str, Any]) -> str:
        """Sign as this homeserver does."""
        seed = (self.folder / "signing.key").read_text().split()[2]
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(seed + "="))
        return unpadded(key.sign(canonical_json(value)))


KEY_NAME = "ed25519:a_demo"


def make_certificate(path: Path) -> None:
    """Make a certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(tz=dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )


@dataclass
class Scene:
    """Alice and Carol are at home with the bridge, Bob is elsewhere; all are in Carol's room, which gives a right."""

    home: World
    elsewhere: World
    certificate: Path
    http: ClientSession
    carol: Person
    bob: Person
    team: str

    async def open(self, world: World, user: str, service: str) -> Stream:
        process, port = await world.connect(user, f"build@{self.home.homeserver.server_name}/{service}", "-L", "0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await exchange(reader, writer)
        return Stream(process, reader, writer)

    async def invite_past_the_room(self, user: str) -> None:
        """Have the server elsewhere invite a user of the one at home to the room, without asking the room."""
        sender, receiver = self.elsewhere.homeserver, self.home.homeserver
        assert isinstance(sender, FederatingSynapse)
        event: dict[str, Any] = {
            "type": "m.room.member", "state_key": user, "content": {"membership": "invite"},
            "room_id": self.team, "sender": sender.user_id("eve"), "origin_server_ts": time.time_ns() // 1_000_000,
            "depth": 1_000_000, "prev_events": [], "auth_events": [],
        }  # fmt: skip
        event["hashes"] = {"sha256": unpadded(hashlib.sha256(canonical_json(event)).digest())}
        event_id = "$" + unpadded(hashlib.sha256(canonical_json(event)).digest()).translate({43: "-", 47: "_"})
        event["signatures"] = {sender.server_name: {KEY_NAME: sender.sign(event)}}
        request = {
            "method": "PUT",
            "uri": f"/_matrix/federation/v2/invite/{quote(self.team, safe='')}/{quote(event_id, safe='')}",
            "origin": sender.server_name,
            "destination": receiver.server_name,
            "content": {"event": event, "room_version": ROOM_VERSION, "invite_room_state": []},
        }
        said = {
            "origin": sender.server_name, "destination": receiver.server_name, "key": KEY_NAME,
            "sig": sender.sign(request),
        }  # fmt: skip
        headers = {"Authorization": "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in said.items())}
        trust = ssl.create_default_context(cafile=str(self.certificate))
        async with self.http.put(
            URL(f"https://{receiver.server_name}{request['uri']}", encoded=True),
            json=request["content"], headers=headers, ssl=trust,
        ) as response:  # fmt: skip
            assert response.status == 200, await response.text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        folders = [tmp_path_factory.mktemp(name) for name in ("home", "elsewhere")]
        certificate = folders[0] / "servers.pem"
        make_certificate(certificate)
        make = partial(FederatingSynapse, certificate=certificate)
        home, elsewhere = await asyncio.gather(
            *(World.start(folder, stack, make_homeserver=make) for folder in folders)
        )
        for name in ("alice", "carol"):
            await home.add_user(name)
        await elsewhere.add_user("bob")
        http = await stack.enter_async_context(ClientSession())
        alice, carol = [await Person.log_in(home, name, http) for name in ("alice", "carol")]
        bob = await Person.log_in(elsewhere, "bob", http)
        team = await carol.gather("team", alice, bob)
        await home.serve("team", echo)
        await home.serve("lent", echo, grantable_to=[bob.user_id])
        home.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/team"]})
        bot = home.homeserver.user_id("rtcbot")
        await carol.ask("POST", f"rooms/{quote(team)}/invite", {"user_id": bot})
        await home.start_bridge()
        await carol.until_member(team, bot)
        yield Scene(home, elsewhere, certificate, http, carol, bob, team)
        assert home.bridge is not None
        await home.bridge.terminate(20)
        assert "Traceback" not in home.log_text()


async def test_member_from_another_server_is_cut_when_kicked_and_others_are_not_by_what_that_server_says(
    scene: Scene,
) -> None:
    alice, bob = await asyncio.gather(
        scene.open(scene.home, "alice", "team"), scene.open(scene.elsewhere, "bob", "team")
    )
    # It comes before the news of the kick, and on the same way.
    await scene.invite_past_the_room(scene.home.homeserver.user_id("alice"))
    await scene.carol.ask("POST", f"rooms/{quote(scene.team)}/kick", {"user_id": scene.bob.user_id})
    await bob.cut(5, ENDED)
    await exchange(alice.reader, alice.writer)
    again, (code, _, said) = await asyncio.gather(
        scene.open(scene.home, "alice", "team"),
        scene.elsewhere.run_mxrtc("bob", "nc", f"build@{scene.home.homeserver.server_name}/team"),
    )
    assert code == DENIED, said
    await asyncio.gather(alice.end(), again.end())


async def test_user_of_another_server_is_cut_when_the_grant_is_revoked(scene: Scene) -> None:
    code, _, err = await admin(scene.home, "grant", scene.bob.user_id, "build/lent", "--for", "2h")
    assert code == 0, err
    stream = await scene.open(scene.elsewhere, "bob", "lent")
    status, answer = await ask(str(scene.home.folder / "control.sock"), ("revoke", scene.bob.user_id))
    assert status == 200, answer
    await stream.cut(5, "your right")
