"""``mxrtc devices`` and ``mxrtc trust``: whose devices there are, and which identity a peer is known by."""

from __future__ import annotations

from mxrtc_bridge.client.calls.device import own_device
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, peer_name
from mxrtc_bridge.client.waiting import Waiting


async def devices(context: Context, peer: str | None) -> None:
    """List the devices of a user, our own first, and how far each is trusted."""
    login, report = context.state.load_login(), context.report
    whose = login.user_id if peer is None else peer_name(login, peer).peer
    waiting = Waiting(report, context.call.timeout_s)
    holding = own_device(context.state, login, waiting.patience, waits=waiting.waits_for)
    async with waiting.limited(), holding as (device, _):
        found = await device.devices_of(whose, fresh=True)
        if found.master is not None and not report.as_json:
            report.say("device", f"identity of {whose}: {found.master}")
        for each in sorted(found.devices, key=lambda each: (each.device != device.device_id, each.device)):
            own = (whose, each.device) == (login.user_id, device.device_id)
            report.data(
                "device",
                f"{each.device}\t{each.ed25519}\t{each.trust.value}{', this one' if own else ''}",
                user=whose,
                device=each.device,
                key=each.ed25519,
                trust=each.trust.value,
                own=own,
                identity=found.master,
                identity_changed=found.identity_changed,
            )
        if found.identity_changed:
            raise ClientError(
                Exit.DENIED, f"{whose} shows another identity than before; ask them, and accept it with 'mxrtc trust'"
            )


async def trust(context: Context, peer: str, key: str | None) -> None:
    """Accept the identity that a peer shows now; with a key only if it is that one, which is verified then."""
    login = context.state.load_login()
    whose = peer_name(login, peer).peer
    waiting = Waiting(context.report, context.call.timeout_s)
    holding = own_device(context.state, login, waiting.patience, waits=waiting.waits_for)
    async with waiting.limited(), holding as (device, _):
        found = await device.devices_of(whose, fresh=True)
        if found.master is None:
            raise ClientError(Exit.DENIED, f"{whose} has no identity that could be accepted")
        if key is not None and key.rstrip("=") != found.master:
            raise ClientError(
                Exit.DENIED, f"{whose} shows the identity {found.master}, which is not the one that you gave"
            )
        accepted = await device.lists.accept_identity(whose, verified=None if key is None else found.master)
        context.report.say(
            "trust",
            f"{whose} is known by the identity {accepted.master} now" + (", verified" if key is not None else ""),
            user=whose,
            identity=accepted.master,
            before=found.pinned,
        )
