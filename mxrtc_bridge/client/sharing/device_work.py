"""What our device does beside calls: for this command, or for another one whose device it is as well."""

from __future__ import annotations

import contextlib

from mxrtc_bridge.client.calls.shared_device import SharedDevice
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.tokens import tokens_of
from mxrtc_bridge.client.report import Person
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.verification import verify_with
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.sharing.messages import DeviceRequest, DeviceTask
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice


class DeviceWork:
    """Does it, with the device open as long as that takes.

    Args:
        shared: the device.
        state: the state folder.
        login: whose it is.
    """

    def __init__(self, shared: SharedDevice, state: StateFolder, login: Login) -> None:
        self._shared = shared
        self._state = state
        self._login = login

    async def do(self, asked: DeviceRequest, person: Person) -> None:
        """Do what was asked for.

        Args:
            asked: what.
            person: who has asked, here or in front of another command.

        Raises:
            ClientError: it was not possible, and why.
            HomeserverError: the homeserver refuses us, or is away.
        """
        waiting = Waiting(person, max(asked.timeout_s, 1.0))
        transport = Transport(self._login.homeserver, tokens_of(self._state, self._login), waiting.patience)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._shared.done_with, transport)
            async with waiting.limited():
                opened = await stack.enter_async_context(self._shared.opened(transport, waits=waiting.waits_for))
                match asked.task:
                    case DeviceTask.LIST:
                        await list_devices(opened.device, asked.user, person)
                    case DeviceTask.ACCEPT:
                        await accept_identity(opened.device, asked.user, asked.key, person)
            if asked.task is DeviceTask.VERIFY:
                await verify_with(opened, asked.user, person, waiting)


async def list_devices(device: CryptoDevice, whose: UserId, person: Person) -> None:
    """List the devices of a user, our own first, and how far each is trusted.

    Raises:
        ClientError: the user shows another identity than before.
        HomeserverError: the homeserver does not say.
    """
    found = await device.devices_of(whose, fresh=True)
    if found.master is not None:
        person.say("identity", f"identity of {whose}: {found.master}", user=whose, identity=found.master)
    for each in sorted(found.devices, key=lambda each: (each.device != device.device_id, each.device)):
        own = (whose, each.device) == (device.user, device.device_id)
        person.data(
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


async def accept_identity(device: CryptoDevice, whose: UserId, key: str | None, person: Person) -> None:
    """Accept the identity that a user shows now; with a key only if it is that one, which is verified then.

    Raises:
        ClientError: there is none, or it is another one.
        HomeserverError: the homeserver does not say.
    """
    found = await device.devices_of(whose, fresh=True)
    if found.master is None:
        raise ClientError(Exit.DENIED, f"{whose} has no identity that could be accepted")
    if key is not None and key.rstrip("=") != found.master:
        raise ClientError(Exit.DENIED, f"{whose} shows the identity {found.master}, which is not the one that you gave")
    accepted = await device.lists.accept_identity(whose, verified=None if key is None else found.master)
    person.say(
        "trust",
        f"{whose} is known by the identity {accepted.master} now" + (", verified" if key is not None else ""),
        user=whose,
        identity=accepted.master,
        before=found.pinned,
    )
