"""A real matrix-authentication-service beside a real Synapse, with TLS and ``.well-known`` by a real Caddy before both.

``.ci/mas`` builds the service. It keeps what it knows in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.login.front import STARTED_S, Front
from tests.login.person import Person
from tests.storage import postgres
from tests.synapse import Synapse
from tests.waiting import until

BUILT = Path(__file__).parents[2] / "build" / "mas"
TOKENS_S = 60
"""How long an access token lives: the least that the service takes."""
PASSWORD = "correct horse battery"
_ADMIN = "01HADMNADMNADMNADMNADMNADM"


@dataclass
class AccountService:
    """See the head of this module."""

    homeserver: Synapse
    front: Front
    inside: str
    """Where the service itself listens."""
    secret: str
    folder: Path
    stack: AsyncExitStack
    """Ends it."""
    runs: int = 0

    async def start(self) -> None:
        """Start the service, with what it has stored before."""
        self.runs += 1
        command = [BUILT / "mas-cli", "-c", self.folder / "mas.yaml", "server"]
        self.process = ManagedProcess(f"mas-{self.runs}", command, folder=self.folder)
        await self.stack.enter_async_context(self.process)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Have no service in a block, as in an outage."""
        await self.process.terminate()
        try:
            yield
        finally:
            await self.start()
            await until(self.answers, STARTED_S)

    def answers(self) -> bool:
        """Whether the service is there."""
        assert self.process.returncode is None, self.process.tail()
        try:
            urllib.request.urlopen(f"{self.inside}/health", timeout=5).close()
        except OSError:
            return False
        return True

    async def make_user(self, name: str) -> Person:
        """Make an account with a password."""
        user = (await self.admin("POST", "/users", username=name))["data"]["id"]
        await self.admin("POST", f"/users/{user}/set-password", password=PASSWORD, skip_password_check=True)
        return Person(name, PASSWORD)

    async def id_of(self, name: str) -> str:
        found: str = (await self.admin("GET", f"/users/by-username/{name}"))["data"]["id"]
        return found

    async def sessions(self, name: str) -> list[str]:
        """The ids of the sessions of programs that have logged in by OAuth 2.0 and have not ended."""
        query = f"filter[user]={await self.id_of(name)}&filter[status]=active"
        return [each["id"] for each in (await self.admin("GET", f"/oauth2-sessions?{query}"))["data"]]

    async def admin(self, method: str, path: str, **content: object) -> dict[str, Any]:
        """Ask the API for administrators."""
        basic = base64.b64encode(f"{_ADMIN}:{self.secret}".encode()).decode()
        form = b"grant_type=client_credentials&scope=urn:mas:admin"
        token = await self._ask("POST", "/oauth2/token", f"Basic {basic}", form, "application/x-www-form-urlencoded")
        body = json.dumps(content).encode() if content else None
        return await self._ask(method, f"/api/admin/v1{path}", f"Bearer {token['access_token']}", body)

    async def _ask(
        self, method: str, path: str, login: str, body: bytes | None, kind: str = "application/json"
    ) -> dict[str, Any]:
        headers = {"Authorization": login, "Content-Type": kind}
        request = urllib.request.Request(f"{self.inside}{path}", body, headers, method=method)

        def send() -> bytes:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    found: bytes = answer.read()
                    return found
            except urllib.error.HTTPError as error:
                raise AssertionError(f"{method} {path}: {error.code}: {error.read()[:500]!r}") from error

        found: dict[str, Any] = json.loads(await asyncio.to_thread(send) or b"{}")
        return found


@asynccontextmanager
async def account_service(folder: Path) -> AsyncIterator[AccountService]:
    """Run it with all that it needs."""
    assert (BUILT / "mas-cli").exists(), "matrix-authentication-service is not built: .ci/mas does it"
    programs = postgres.find_programs()
    assert programs is not None, "PostgreSQL is not installed; .ci/packages test installs it"
    async with AsyncExitStack() as stack:
        front, port = Front(folder, stack), stack.enter_context(PortReservation()).port
        secret, inside = secrets.token_urlsafe(32), f"http://127.0.0.1:{port}"
        homeserver = Synapse(
            folder,
            server_name=front.server,
            extra_config={
                "matrix_authentication_service": {"enabled": True, "endpoint": f"{inside}/", "secret": secret},
                "password_config": {"enabled": False},
                "enable_registration": False,
            },
        )
        stack.push_async_callback(homeserver.stop)
        database = stack.enter_context(postgres.running(programs)).replace("postgres://", "postgresql://")
        settings = folder / "mas.yaml"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps(_settings(homeserver, front.account, port, secret, database)))
        found = AccountService(homeserver, front, inside, secret, folder, stack)
        await found.start()
        await homeserver.start()
        await front.start(homeserver.url, inside, logins=True)
        await until(found.answers, STARTED_S)
        yield found


def _settings(homeserver: Synapse, public: str, port: int, secret: str, database: str) -> dict[str, object]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
    resources = ["discovery", "human", "oauth", "compat", "graphql", "adminapi", "health"]
    often = {"burst": 1000, "per_second": 100}
    return {
        "http": {
            "public_base": f"{public}/",
            "listeners": [
                {
                    "name": "web",
                    "resources": [{"name": name} for name in resources],
                    "binds": [{"address": f"127.0.0.1:{port}"}],
                }
            ],
        },
        "database": {"uri": f"{database}?sslmode=disable"},
        "matrix": {
            "kind": "synapse",
            "homeserver": homeserver.server_name,
            "endpoint": f"{homeserver.url}/",
            "secret": secret,
        },
        "secrets": {"encryption": os.urandom(32).hex(), "keys": [{"key": pem}]},
        "passwords": {"enabled": True, "schemes": [{"version": 1, "algorithm": "bcrypt", "cost": 4}]},
        "email": {"transport": "blackhole"},
        "templates": {
            "path": str(BUILT / "templates"),
            "assets_manifest": str(BUILT / "manifest.json"),
            "translations_path": str(BUILT / "translations"),
        },
        "policy": {"wasm_module": str(BUILT / "policy.wasm"), "data": {"admin_clients": [_ADMIN]}},
        "clients": [
            {"client_id": _ADMIN, "client_auth_method": "client_secret_basic", "client_secret": secret},
        ],
        "rate_limiting": {"login": {"per_ip": often, "per_account": often}},
        "experimental": {"access_token_ttl": TOKENS_S},
    }
