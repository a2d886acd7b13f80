"""Real homeservers that have people log in elsewhere: at an OpenID provider, or by OAuth 2.0 altogether."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.login.front import Front
from tests.synapse import Synapse

FOLDER = Path(__file__).parent
SECRET = "s3cret" * 6
STARTED_S = 60.0


def node() -> str:
    """The program ``node`` with the packages of the lock file installed, from npm's cache if that has them."""
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node is not None
    assert npm is not None, "node and npm are not installed; .ci/packages test installs them"
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run([npm, *options], cwd=FOLDER, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, f"npm could not install the provider: {done.stderr}"
    return node


@dataclass(frozen=True)
class Servers:
    """A homeserver, and where its people log in."""

    homeserver: Synapse
    provider: str
    front: Front | None = None
    """What people see of both; None where that is themselves."""

    async def tell(self, what: str, **content: object) -> None:
        """Tell the provider what a person would do, or how it should behave."""
        request = urllib.request.Request(f"{self.provider}/test/{what}", json.dumps(content).encode(), method="POST")
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=30).read())


@asynccontextmanager
async def _provider(folder: Path, port: int, **arguments: object) -> AsyncIterator[ManagedProcess]:
    command = [node(), FOLDER / "provider.mjs", json.dumps({"port": port, **arguments})]
    async with ManagedProcess("provider", command, folder=folder) as process:
        await process.wait_for_line("listening", STARTED_S)
        yield process


@asynccontextmanager
async def found_by_name(folder: Path, make: Callable[..., Any]) -> AsyncIterator[Servers]:
    """One that delegates, with TLS and ``.well-known``; only root may listen there."""
    async with AsyncExitStack() as stack:
        front = Front(folder, stack)
        named = functools.partial(make, server_name=front.server)
        servers = await stack.enter_async_context(delegating(folder, named, behind=front.account))
        await front.start(servers.homeserver.url, servers.provider, logins=False)
        yield replace(servers, front=front)


@asynccontextmanager
async def delegating(folder: Path, make: Callable[..., Any], *, behind: str | None = None) -> AsyncIterator[Servers]:
    """A homeserver that delegates all logins to an authorization server (MSC3861).

    Args:
        folder: for the files of the provider.
        make: makes the homeserver.
        behind: the address where people find the provider; None for its own.
    """
    reservation = PortReservation()
    address = f"http://127.0.0.1:{reservation.port}"
    homeserver = await make(
        started=False,
        extra_config={
            "matrix_authentication_service": {"enabled": True, "endpoint": f"{address}/", "secret": SECRET},
            "password_config": {"enabled": False},
            "enable_registration": False,
        },
    )
    reservation.close()
    async with _provider(folder, reservation.port, homeserver=homeserver.url, secret=SECRET, behind=behind):
        await homeserver.start()
        servers = Servers(homeserver, address)
        await servers.tell("user", user="alice")
        await servers.tell("user", user="bob")
        yield servers


@asynccontextmanager
async def with_single_sign_on(folder: Path, make: Callable[..., Any]) -> AsyncIterator[Servers]:
    """A homeserver that logs people in itself, by an OpenID provider and not by passwords."""
    reservation = PortReservation()
    address = f"http://127.0.0.1:{reservation.port}"
    client = {"client_id": "homeserver", "client_secret": SECRET}
    homeserver = await make(
        started=False,
        extra_config={
            "oidc_providers": [
                {
                    "idp_id": "test",
                    "idp_name": "Test",
                    "issuer": address,
                    **client,
                    "scopes": ["openid"],
                    "user_mapping_provider": {"config": {"localpart_template": "{{ user.sub }}"}},
                }
            ],
            "password_config": {"enabled": False},
        },
    )
    back = f"{homeserver.url}/_synapse/client/oidc/callback"
    known = {**client, "redirect_uris": [back], "token_endpoint_auth_method": "client_secret_basic"}
    reservation.close()
    async with _provider(folder, reservation.port, clients=[known]):
        await homeserver.start()
        yield Servers(homeserver, address)
