"""A verification by our device: two people, or one with two sessions, compare what both sides show.

The person may be in front of another command, which has no device of its own (:mod:`mxrtc_bridge.client.verify`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from mxrtc_bridge.client.calls.shared_device import OpenDevice
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Person
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.crypto.sas_text import END_TEXT
from mxrtc_bridge.core.crypto.sas_values import Compare, Effect, VerificationEnded, VerifiedKeys
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.crypto.verification import Exchange, Verifications

LAST_WORDS_S = 10.0
"""How long the other side may take to say that it has checked everything, and to sign our device."""
GOODBYE_S = 2.0
SIGNATURE_EVERY_S = 0.5

_EXITS = {
    "m.user": Exit.DENIED,
    "m.timeout": Exit.OFFLINE,
    "m.mismatched_sas": Exit.INTEGRITY,
    "m.mismatched_commitment": Exit.INTEGRITY,
    "m.key_mismatch": Exit.INTEGRITY,
    "m.accepted": Exit.DENIED,
}

Happening = tuple[Exchange, Effect | bool] | BaseException
"""What one verification has brought, whether our person sees the same, or why neither comes any more."""
Happenings = asyncio.Queue[Happening]


async def verify_with(opened: OpenDevice, whose: UserId, person: Person, waiting: Waiting) -> None:
    """Verify our device with another session of ours, or the identity of somebody else.

    Args:
        opened: our device.
        whose: ourselves, or the other one.
        person: who compares.
        waiting: how long the homeserver may take.

    Raises:
        ClientError: nothing was verified; says why.
        HomeserverError: the homeserver refuses us, or is away.
    """
    device, own = opened.device, whose == opened.device.user
    happened: Happenings = asyncio.Queue()

    async def changed(exchange: Exchange, effect: Effect) -> None:
        # As many as one verification has effects: a newer one ends the older.
        happened.put_nowait((exchange, effect))

    verifications = Verifications(
        device,
        admits=lambda user: user == whose,
        changed=changed,
        monotonic=elapsed_s,
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )

    async def handle(_device: CryptoDevice, event: ToDeviceEvent) -> None:
        if event.sender == whose:
            await verifications.receive(event)

    with opened.handled_by(handle):
        # The other session may have asked already.
        async with waiting.limited():
            listening = await opened.listen()
            await _until_heard(opened, listening)

        def deaf(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                happened.put_nowait(error)

        listening.add_done_callback(deaf)
        try:
            if not verifications.open:
                async with waiting.limited():
                    await _ask(verifications, person, whose, own=own)
            vouched = await _compare(verifications, person, happened)
            await _until_done(happened)
            await remember(device, person, whose, vouched, own=own)
        finally:
            listening.remove_done_callback(deaf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    for each in verifications.open:
                        await verifications.give_up(each)


async def _until_heard(opened: OpenDevice, listening: asyncio.Task[None]) -> None:
    """Wait until what has come for the device before was handled.

    Raises:
        HomeserverError: nothing will come.
    """
    heard = asyncio.ensure_future(opened.heard.wait())
    try:
        await asyncio.wait([heard, listening], return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            listening.result()
    finally:
        heard.cancel()


async def _ask(verifications: Verifications, person: Person, whose: UserId, *, own: bool) -> None:
    if await verifications.ask(whose) is None:
        raise ClientError(
            Exit.DENIED,
            "you have no other session that could verify this device"
            if own
            else f"{whose} has no device: its bridge does without encryption",
        )
    where = (
        "accept the request in another session of yours, or choose this device there and verify it"
        if own
        else "its admin sees the emoji with: mxrtc-bridge verify"
    )
    person.say("asked", f"{whose} was asked; {where}", user=whose)


async def _compare(verifications: Verifications, person: Person, happened: Happenings) -> VerifiedKeys:
    """Show what is to be compared, and pass on what our person says; returns when something is verified."""
    comparing: Exchange | None = None
    asking = contextlib.ExitStack()
    try:
        while True:
            match await next_happening(verifications, happened):
                case exchange, Compare(code=code):
                    asking.close()
                    comparing = exchange
                    question = asyncio.create_task(_show(person, exchange, code, happened), name="question")
                    asking.callback(question.cancel)
                case exchange, bool() as same if exchange is comparing:
                    await verifications.compared(exchange, same=same)
                case _, VerifiedKeys() as vouched:
                    return vouched
                case exchange, VerificationEnded() as ended if exchange is comparing or not verifications.open:
                    raise _explain(ended)
                case BaseException() as error:
                    raise error
    finally:
        asking.close()


async def _show(person: Person, exchange: Exchange, code: ShortCode, happened: Happenings) -> None:
    try:
        same = await person.compare(exchange.user, str(exchange.device), code)
    except ClientError as error:
        happened.put_nowait(error)
    else:
        happened.put_nowait((exchange, same))


async def next_happening(verifications: Verifications, happened: Happenings) -> Happening:
    """Wait for what happens next to a verification, and let pass what has run out of time meanwhile."""
    while True:
        deadline = min((each.machine.next_deadline() or 0 for each in verifications.open), default=0) - elapsed_s()
        try:
            async with asyncio.timeout(max(deadline, 0) + 0.1):
                return await happened.get()
        except TimeoutError:
            await verifications.tick()


async def _until_done(happened: Happenings) -> None:
    """Wait until the other side has checked everything as well; without its word after a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            while True:
                match await happened.get():
                    case _, VerificationEnded(code=""):
                        return
                    case _, VerificationEnded() as ended:
                        raise _explain(ended)


async def remember(device: CryptoDevice, person: Person, whose: UserId, vouched: VerifiedKeys, *, own: bool) -> None:
    """Note what was compared, and say it."""
    if vouched.master is not None:
        # What was compared, whatever the homeserver shows by now.
        await device.lists.vouch_for(whose, vouched.master)
    signed = await _is_signed(device) if own else None
    if own:
        words = "this device is cross-signed now" if signed else "the other session has not signed this device"
    elif vouched.master is not None:
        words = f"{whose} is known by the identity {vouched.master} now"
    else:
        words = f"{whose} has vouched for its device only, and nothing is remembered"
    person.say(
        "verified",
        f"verified; {words}",
        user=whose,
        device=vouched.device,
        identity=vouched.master,
        signed=signed,
    )
    if own and not signed:
        raise ClientError(Exit.RETRY, "the other session has not signed this device; it may lack the keys for that")


async def _is_signed(device: CryptoDevice) -> bool:
    """Whether the user has signed this device, waiting a little for the signature to arrive."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            while True:
                for each in (await device.devices_of(device.user, fresh=True)).devices:
                    if each.device == device.device_id and each.trust.meets(Trust.CROSS_SIGNED):
                        return True
                await asyncio.sleep(SIGNATURE_EVERY_S)
    return False


def _explain(ended: VerificationEnded) -> ClientError:
    code, words = _EXITS.get(ended.code, Exit.RETRY), END_TEXT.get(ended.code, f"it was ended ({ended.code})")
    said = f"; it says: {ended.reason}" if ended.by_them and ended.reason and ended.code not in END_TEXT else ""
    return ClientError(code, f"nothing was verified: {words}{said}")
