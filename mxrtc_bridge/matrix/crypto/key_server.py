"""The requests of one device: keys, to-device messages, devices (client-server API, "End-to-end encryption").

Answers are judged for their outer form here; the keys in them by :mod:`mxrtc_bridge.matrix.crypto.signed_json`.
With the token of an application service each request names user and device (MSC4190 and MSC4326, stable since Matrix
1.17), so there is no login and no user-interactive authentication.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPMethod as Method
from typing import Any

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.text.foreign_json import inside, list_inside, object_inside
from mxrtc_bridge.matrix.api.path import ApiPath, Path
from mxrtc_bridge.matrix.api.transport import Repeat, Transport

QUERY_TIMEOUT_MS = 8000
"""How long our homeserver waits for those of other users; below what a person waits for an answer to a call."""
MAX_DEVICES_LISTED = 1000


class KeyServer:
    """The homeserver as one device sees it."""

    def __init__(
        self, transport: Transport, user: UserId, *, masquerade: bool, polling: Transport | None = None
    ) -> None:
        """Make the view of one device.

        Args:
            transport: with the user's token, or the application service's.
            user: the own user.
            masquerade: whether the token is an application service's.
            polling: another transport for the long polls, whose connections are then not taken from the others.
        """
        self._transport = transport
        self._polling = polling or transport
        self.user = user
        self._as_user = user if masquerade else None

    def _of(self, device: DeviceId | None) -> dict[str, str]:
        """Says of which device a request is, where the token does not."""
        return {} if device is None or self._as_user is None else {"device_id": device}

    async def _request(
        self,
        what: str,
        method: Method,
        path: ApiPath,
        content: Mapping[str, object] | None = None,
        *,
        device: DeviceId | None = None,
    ) -> dict[str, object]:
        return await self._transport.request(
            what, method, path, content=content, query=self._of(device), as_user=self._as_user
        )

    # --- devices

    async def make_device(self, device: DeviceId, name: str) -> None:
        """Make a device without a login (MSC4190); harmless when it exists."""
        content = {"display_name": name}
        await self._request(f"make a device of {self.user}", Method.PUT, Path.v3.devices[device], content)

    async def devices(self) -> tuple[DeviceId, ...]:
        """All devices of the own user."""
        answer = await self._request(f"list the devices of {self.user}", Method.GET, Path.v3.devices)
        ids = [inside(each, "device_id") for each in list_inside(answer, "devices")]
        return tuple(DeviceId(each) for each in ids[:MAX_DEVICES_LISTED] if isinstance(each, str) and len(each) <= 255)

    async def delete_devices(self, devices: Sequence[DeviceId]) -> None:
        """Delete devices of the own user."""
        what, content = f"delete old devices of {self.user}", {"devices": list(devices)}
        try:
            await self._request(what, Method.POST, Path.v3.delete_devices, content)
        except HomeserverError as error:
            # Where the homeserver delegates logins: Synapse has this request no more, and the other one it has.
            if error.status != 404 or error.errcode != "M_UNRECOGNIZED":
                raise
            for device in devices:
                await self._request(what, Method.DELETE, Path.v3.devices[device])

    # --- keys

    async def upload_keys(self, device: DeviceId, content: Mapping[str, object]) -> int:
        """Upload keys; returns how many one-time keys the homeserver has now."""
        answer = await self._request(
            f"upload keys of {self.user}", Method.POST, Path.v3.keys.upload, content, device=device
        )
        return one_time_keys_in(answer.get("one_time_key_counts")) or 0

    async def upload_identity(self, device: DeviceId, content: Mapping[str, object]) -> None:
        """Upload the three cross-signing keys."""
        what, path = f"upload the identity of {self.user}", Path.v3.keys.device_signing.upload
        await self._request(what, Method.POST, path, content, device=device)

    async def upload_signatures(self, device: DeviceId, content: Mapping[str, object]) -> Mapping[str, object]:
        """Upload signatures; returns those that were refused."""
        answer = await self._request(
            f"upload signatures of {self.user}", Method.POST, Path.v3.keys.signatures.upload, content, device=device
        )
        return object_inside(answer, "failures")

    async def query_keys(self, users: Sequence[UserId]) -> dict[str, object]:
        """Ask for the keys of all devices of some users; the answer is not judged."""
        content = {"device_keys": {user: [] for user in users}, "timeout": QUERY_TIMEOUT_MS}
        return await self._request("ask for the keys of devices", Method.POST, Path.v3.keys.query, content)

    async def claim_keys(
        self, device: DeviceId, wanted: Mapping[UserId, Sequence[DeviceId]]
    ) -> Mapping[str, Mapping[str, object]]:
        """Claim one key of each device; by user and device what the homeserver gave.

        A claim that is repeated, as its answer was lost, takes a second key, which is no harm but a waste.
        """
        keys = {user: dict.fromkeys(devices, "signed_curve25519") for user, devices in wanted.items()}
        content = {"one_time_keys": keys, "timeout": QUERY_TIMEOUT_MS}
        answer = await self._request("claim keys of devices", Method.POST, Path.v3.keys.claim, content, device=device)
        return {user: object_inside(answer, "one_time_keys", user) for user in object_inside(answer, "one_time_keys")}

    # --- messages

    async def send_to_device(
        self,
        device: DeviceId,
        event_type: str,
        messages: Mapping[UserId, Mapping[str, Mapping[str, object]]],
        txn_id: str,
    ) -> None:
        """Send a message to each of some devices."""
        what, path = f"send {event_type} to devices", Path.v3.sendToDevice[event_type][txn_id]
        await self._request(what, Method.PUT, path, {"messages": messages}, device=device)

    async def sync(self, device: DeviceId, *, since: str | None, wait_s: float, timeout_s: float) -> dict[str, Any]:
        """One ``/sync`` that brings nothing of rooms; not repeated on failure, its caller has a loop."""
        query = {"filter": _FILTER, "timeout": str(int(wait_s * 1000)), "set_presence": "offline"}
        if since is not None:
            query["since"] = since
        return await self._polling.request(
            "receive messages for a device",
            Method.GET,
            Path.v3.sync,
            query={**query, **self._of(device)},
            as_user=self._as_user,
            timeout_s=timeout_s,
            repeat=Repeat.NEVER,
            hedges=wait_s == 0,  # the same from the same token, and at once
        )


_NOTHING = {"types": [], "limit": 0}
_FILTER = json.dumps(
    {
        "presence": _NOTHING,
        "account_data": _NOTHING,
        "room": {
            "rooms": [],
            "timeline": _NOTHING,
            "state": _NOTHING,
            "ephemeral": _NOTHING,
            "account_data": _NOTHING,
        },
    },
    separators=(",", ":"),
)


def one_time_keys_in(counts: object) -> int | None:
    """Read the count of our kind of one-time keys; None where there are no counts."""
    if not isinstance(counts, dict):
        return None
    count = counts.get("signed_curve25519", 0)
    return count if type(count) is int and count >= 0 else 0
