"""The homeserver of the demonstration, with what only tests do to one: outages, crashes, logins without our client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mxrtc_bridge.demo import synapse
from mxrtc_bridge.demo.synapse import STOP_GRACE_S, find_synapse_python
from tests.synapse_forks import SynapseForks


@dataclass(frozen=True, slots=True)
class SynapseLogin:
    """What a homeserver gives a user who logs in."""

    user_id: str
    access_token: str
    device_id: str


class Synapse(synapse.Synapse):
    """See :class:`mxrtc_bridge.demo.synapse.Synapse`; under pytest it is forked from a process that is ready."""

    forks: ClassVar[SynapseForks | None] = None

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options, **({} if self.forks is None else {"spawn": self.forks.spawn}))
        self._database = folder / "homeserver.db"

    async def start(self) -> None:
        if self.forks is not None and not self._database.exists():
            await self.forks.ready(find_synapse_python())
            self._database.symlink_to(self.forks.new_database())
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        self._database.resolve().unlink(missing_ok=True)

    @property
    def pid(self) -> int | None:
        """The process id, or None while the homeserver is down."""
        return self._process.pid if self._process is not None else None

    def user_id(self, localpart: str) -> str:
        """Return the full id of a user of this homeserver."""
        return f"@{localpart}:{self.server_name}"

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Have no homeserver in a block, as in an outage; whatever happens in it, it is started again at the end."""
        await self._end_process(STOP_GRACE_S)
        try:
            yield
        finally:
            await self.start()

    def kill(self) -> None:
        """End the homeserver without warning, as a crash would, keeping its port and data."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    async def restart(self) -> None:
        """End the homeserver and start it again with the same port and data, reading the registrations anew."""
        async with self.away():
            pass

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines that the present or latest run has logged."""
        path = self.folder / f"synapse-{self._runs}.stderr"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"

    async def login(self, name: str, password: str, *, device_id: str | None = None) -> SynapseLogin:
        """Log a user in with the password and return the token and device.

        Raises:
            HomeserverError: the homeserver refused.
        """
        body: dict[str, Any] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        reply = await self.request("POST", "/_matrix/client/v3/login", body=body)
        return SynapseLogin(reply["user_id"], reply["access_token"], reply["device_id"])
