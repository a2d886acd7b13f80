"""``mxrtc devices`` and ``mxrtc trust``: whose devices there are, and which identity a peer is known by."""

from __future__ import annotations

from mxrtc_bridge.client.options import Context, peer_name
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.client.verify import Terminal
from mxrtc_bridge.core.sharing.messages import DeviceRequest, DeviceTask


async def devices(context: Context, peer: str | None) -> None:
    """List the devices of a user, our own first, and how far each is trusted."""
    await _ask(context, DeviceTask.LIST, peer)


async def trust(context: Context, peer: str, key: str | None) -> None:
    """Accept the identity that a peer shows now; with a key only if it is that one, which is verified then."""
    await _ask(context, DeviceTask.ACCEPT, peer, key)


async def _ask(context: Context, task: DeviceTask, peer: str | None, key: str | None = None) -> None:
    login = context.state.load_login()
    whose = login.user_id if peer is None else peer_name(login, peer).peer
    async with Calls(context, login) as calls:
        await calls.ask_device(DeviceRequest(task, whose, key, context.call.timeout_s), Terminal(context.report))
