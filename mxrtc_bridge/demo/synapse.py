"""A real homeserver for the demonstration, the tests and the benchmark: Synapse, alone on loopback.

It must never be reachable from another machine, never talk to one, and never outlive the program that started it.
It is no example of how to run a homeserver: rate limits are out of the way and passwords are hashed cheaply.

How it works: Synapse runs from its own virtual environment (its dependencies would fight with ours) with SQLite in a
folder of its own, one listener, and every optional part switched off, so that it is up in a few seconds. The port is
reserved in the constructor: other programs' settings can name the homeserver before it runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mxrtc_bridge.core.errors import HomeserverError, LocalError
from mxrtc_bridge.demo.processes import (
    POLL_INTERVAL_S,
    Child,
    GuardedChild,
    ManagedProcess,
    PortReservation,
    ProcessError,
)

PYTHON_VARIABLE = "MXRTC_SYNAPSE_PYTHON"
"""The environment variable that names another Python interpreter with Synapse."""

START_TIMEOUT_S = 60.0
"""Seconds until a homeserver that does not answer counts as failed; a slow machine needs about twenty."""

STOP_GRACE_S = 10.0
"""Seconds between asking Synapse to end and killing it."""

_REQUEST_TIMEOUT_S = 30.0
_RESPONSE_BYTES = 16 << 20
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def find_synapse_python(project_root: Path = PROJECT_ROOT) -> str:
    """Return the Python interpreter that has Synapse.

    Asked in this order: the variable ``MXRTC_SYNAPSE_PYTHON``, the folder ``.synapse`` of the source tree, and our
    own interpreter (the ``demo`` extra).

    Raises:
        LocalError: none of them has it.
    """
    if named := os.environ.get(PYTHON_VARIABLE):
        return named
    beside = project_root / ".synapse" / "bin" / "python"
    if beside.exists():
        return str(beside)
    if importlib.util.find_spec("synapse") is not None:
        return sys.executable
    raise LocalError(
        f"there is no Synapse: {beside} does not exist and {PYTHON_VARIABLE} is not set; "
        "run 'make synapse' in the source tree, or install mxrtc-bridge[demo]"
    )


class Synapse:
    """One homeserver in a folder, from :meth:`start` to :meth:`stop`; usable with ``async with``.

    Args:
        folder: an existing folder of its own; keys, database, settings and logs go there.
        server_name: the part of user ids after the colon.
        app_services: registration files, read by Synapse at each start.
        extra_config: top-level keys of ``homeserver.yaml`` that are added or replaced.
        spawn: what starts the process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        server_name: str = "example.test",
        app_services: Sequence[Path] = (),
        extra_config: Mapping[str, Any] | None = None,
        spawn: Callable[..., Child] = GuardedChild,
    ) -> None:
        self.folder = folder
        self.server_name = server_name
        self.app_services: list[Path] = list(app_services)
        self.extra_config: dict[str, Any] = dict(extra_config or {})
        self._registration_secret = secrets.token_hex(16)
        self._macaroon_secret = secrets.token_hex(16)
        self._spawn = spawn
        self._runs = 0
        self._process: ManagedProcess | None = None
        self._python = find_synapse_python()
        self._reservation = PortReservation()
        self.port = self._reservation.port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The base address for clients, valid before the start as well."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the homeserver and wait until it answers.

        Raises:
            LocalError: it is running already, ended, or did not answer within a minute; the message has the last
                lines of its log.
        """
        if self._process is not None:
            raise LocalError(f"the homeserver at {self.url} is running already")
        self._write_files()
        self._runs += 1
        process = ManagedProcess(
            f"synapse-{self._runs}",
            [self._python, "-m", "synapse.app.homeserver", "--config-path", self.folder / "homeserver.yaml"],
            folder=self.folder,
            cwd=self.folder,
            spawn=self._spawn,
        )
        process.start()
        self._process = process
        try:
            await self._wait_until_healthy(process)
        except BaseException:
            await self._end_process(grace_s=1.0)
            raise

    async def stop(self) -> None:
        """End the homeserver and give its port back; allowed when it is down."""
        await self._end_process(STOP_GRACE_S)
        self._reservation.close()

    async def register_user(self, name: str, password: str, *, admin: bool = False) -> None:
        """Make an account by the admin interface for which the registration secret is enough.

        Args:
            name: the local part of the user id.
            password: the account's password.
            admin: whether the account may use the homeserver's admin interface.

        Raises:
            HomeserverError: the homeserver refused, for example because the name is taken.
        """
        path = "/_synapse/admin/v1/register"
        nonce = (await self.request("GET", path))["nonce"]
        words = (nonce, name, password, "admin" if admin else "notadmin")
        mac = hmac.new(self._registration_secret.encode(), "\0".join(words).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": password, "admin": admin, "mac": mac}
        await self.request("POST", path, body={**body, "inhibit_login": True})

    async def request(
        self, method: str, path: str, *, token: str | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Send one request to the homeserver and return the decoded JSON answer.

        Args:
            method: the HTTP method.
            path: the path with its query, percent-encoded by the caller.
            token: an access token, if the request needs one.
            body: the JSON body, if the request has one.

        Raises:
            HomeserverError: there was no answer, or its status was not 2xx.
        """
        return await asyncio.to_thread(self._request, method, path, token, body)

    def _request(self, method: str, path: str, token: str | None, body: Mapping[str, Any] | None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT_S)
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read(_RESPONSE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise HomeserverError(f"{method} {path.partition('?')[0]}: no answer from {self.url}: {error}") from error
        finally:
            connection.close()
        try:
            reply = json.loads(content or b"{}")
        except ValueError:
            reply = {}
        if not 200 <= response.status < 300:
            known = reply if isinstance(reply, dict) else {}
            errcode, why = str(known.get("errcode", "")), str(known.get("error", response.reason))
            message = f"{method} {path.partition('?')[0]}: {response.status} {errcode} {why}"
            raise HomeserverError(message, response.status, errcode)
        return reply

    async def _wait_until_healthy(self, process: ManagedProcess) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if process.returncode is not None:
                raise LocalError(f"Synapse ended with exit code {process.returncode} at its start:\n{process.tail()}")
            try:
                await self.request("GET", "/health")
            except HomeserverError:
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"Synapse did not answer at {self.url} within {START_TIMEOUT_S:g} s; its log in {self.folder} "
                        f"ends with:\n{process.tail()}"
                    ) from None
                await asyncio.sleep(POLL_INTERVAL_S)
            else:
                return

    async def _end_process(self, grace_s: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.terminate(grace_s)

    def _write_files(self) -> None:
        key = self.folder / "signing.key"
        if not key.exists():
            seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
            key.write_text(f"ed25519 a_demo {seed}\n")
            key.chmod(0o600)
        # JSON is YAML, so no YAML library is needed to write what Synapse reads.
        settings = self.folder / "homeserver.yaml"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps({**self._config(), **self.extra_config}, indent=1))
        (self.folder / "log.yaml").write_text(json.dumps(_LOG_CONFIG, indent=1))

    def _config(self) -> dict[str, Any]:
        return {
            "server_name": self.server_name,
            "public_baseurl": f"{self.url}/",
            "listeners": [
                {
                    "port": self.port,
                    "type": "http",
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client"]}],
                }
            ],
            "database": {
                "name": "sqlite3",
                "args": {"database": str(self.folder / "homeserver.db")},
            },
            "signing_key_path": str(self.folder / "signing.key"),
            "log_config": str(self.folder / "log.yaml"),
            "app_service_config_files": [str(path) for path in self.app_services],
            "registration_shared_secret": self._registration_secret,
            "macaroon_secret_key": self._macaroon_secret,
            "turn_allow_guests": False,
            **_QUIET,
            **_UNLIMITED,
        }


_LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
}

# No part that costs start-up time, talks to other machines, or is of no use to two people on one machine.
_QUIET: dict[str, Any] = {
    "report_stats": False,
    "suppress_key_server_warning": True,
    "trusted_key_servers": [],
    "federation_domain_whitelist": [],
    "presence": {"enabled": False},
    "enable_media_repo": False,
    "enable_metrics": False,
    "url_preview_enabled": False,
    "user_directory": {"enabled": False},
    "push": {"enabled": False},
    "bcrypt_rounds": 4,
    "password_config": {"enabled": True, "policy": {"enabled": False}},
}

_LIMIT = {"per_second": 10_000, "burst_count": 100_000}

_UNLIMITED: dict[str, Any] = {
    **dict.fromkeys(
        (
            "rc_message",
            "rc_registration",
            "rc_registration_token_validity",
            "rc_admin_redaction",
            "rc_joins_per_room",
            "rc_3pid_validation",
            "rc_key_requests",
            "rc_media_create",
            "rc_reports",
            "rc_room_creation",
            "rc_delayed_event_mgmt",
            "rc_user_directory",
        ),
        _LIMIT,
    ),
    "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), _LIMIT),
    "rc_joins": dict.fromkeys(("local", "remote"), _LIMIT),
    "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), _LIMIT),
    "rc_presence": {"per_user": _LIMIT},
}
