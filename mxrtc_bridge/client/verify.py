"""``mxrtc verify``: two people, or one with two sessions, compare what both sides show.

Must never take anybody for verified without the word "yes" from our person, nor wait without end for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time

from mxrtc_bridge.client.calls.device import own_device, running
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, peer_name
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.crypto.sas_text import END_TEXT
from mxrtc_bridge.core.crypto.sas_values import Compare, Effect, VerificationEnded, VerifiedKeys
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.crypto.verification import Exchange, Verifications

LAST_WORDS_S = 10.0
"""How long the other side may take to say that it has checked everything, and to sign our device."""
GOODBYE_S = 2.0
SIGNATURE_EVERY_S = 0.5
MAX_ANSWER_BYTES = 256
YES, NO = ("y", "yes"), ("n", "no")

_EXITS = {
    "m.user": Exit.DENIED,
    "m.timeout": Exit.OFFLINE,
    "m.mismatched_sas": Exit.INTEGRITY,
    "m.mismatched_commitment": Exit.INTEGRITY,
    "m.key_mismatch": Exit.INTEGRITY,
    "m.accepted": Exit.DENIED,
}

Happening = tuple[Exchange, Effect] | str | BaseException
"""What one verification has brought, what our person has said, or why no messages come any more."""
Happenings = asyncio.Queue[Happening]


async def verify(context: Context, peer: str | None) -> None:
    """Verify our device with another session of ours, or the identity of a peer.

    Raises:
        ClientError: nothing was verified; says why.
        HomeserverError: the homeserver refuses us, or is away.
    """
    login, report = context.state.load_login(), context.report
    whose = login.user_id if peer is None else peer_name(login, peer).peer
    waiting = Waiting(report, context.call.timeout_s)
    async with contextlib.AsyncExitStack() as holding:
        async with waiting.limited():
            held = own_device(context.state, login, waiting.patience, waits=waiting.waits_for)
            device, server = await holding.enter_async_context(held)
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

        sync = DeviceSync(server, device, handle)
        # The other session may have asked already.
        async with waiting.limited():
            await sync.once(0)
        listening = await holding.enter_async_context(running(sync.run(), "device"))
        listening.add_done_callback(lambda task: _say_deaf(task, happened))
        try:
            if not verifications.open:
                async with waiting.limited():
                    await _ask(verifications, report, whose, own=peer is None)
            vouched = await _compare(verifications, report, happened)
            await _until_done(happened)
            await remember(device, report, whose, vouched, own=peer is None)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    for each in verifications.open:
                        await verifications.give_up(each)


def _say_deaf(listening: asyncio.Task[None], happened: Happenings) -> None:
    """Tell that no messages come any more, unless we have ended it."""
    if not listening.cancelled() and (error := listening.exception()) is not None:
        happened.put_nowait(error)


async def _ask(verifications: Verifications, report: Report, whose: UserId, *, own: bool) -> None:
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
    report.say("asked", f"{whose} was asked; {where}", user=whose)


async def _compare(verifications: Verifications, report: Report, happened: Happenings) -> VerifiedKeys:
    """Show what is to be compared, and pass on what our person says; returns when something is verified."""
    comparing: Exchange | None = None
    while True:
        match await next_happening(verifications, happened):
            case exchange, Compare(code=code):
                if comparing is None:
                    _read_line(happened)
                comparing = exchange
                _show(report, exchange, code)
            case _, VerifiedKeys() as vouched:
                return vouched
            case exchange, VerificationEnded() as ended if exchange is comparing or not verifications.open:
                raise _explain(ended)
            case BaseException() as deaf:
                raise deaf
            case str() as said if comparing is not None:
                await _answer(verifications, comparing, said.strip().lower(), happened)


async def next_happening(verifications: Verifications, happened: Happenings) -> Happening:
    """Wait for what happens next to a verification, and let pass what has run out of time meanwhile."""
    while True:
        deadline = min((each.machine.next_deadline() or 0 for each in verifications.open), default=0) - elapsed_s()
        try:
            async with asyncio.timeout(max(deadline, 0) + 0.1):
                return await happened.get()
        except TimeoutError:
            await verifications.tick()


async def _answer(verifications: Verifications, comparing: Exchange, said: str, happened: Happenings) -> None:
    if said in (*YES, *NO):
        await verifications.compared(comparing, same=said in YES)
    elif not said:
        raise ClientError(Exit.USAGE, "there was no answer; write yes or no on standard input")
    else:
        print('Write "yes" or "no": ', end="", file=sys.stderr, flush=True)  # noqa: T201 - a question
        _read_line(happened)


def _show(report: Report, exchange: Exchange, code: ShortCode) -> None:
    numbers = list(code.decimals)
    report.say("compare", "", user=exchange.user, device=exchange.device, emoji=code.names, numbers=numbers)
    if report.as_json:
        return
    who = display(f"{exchange.user}, device {exchange.device}")
    # Also with --quiet: a question that nobody reads has no answer.
    print(f"{who}\n\n    {code}\n\nDoes the other side show the same? [yes/no] ", end="", file=sys.stderr, flush=True)  # noqa: T201


def _read_line(happened: Happenings) -> None:
    """Read a line of standard input, which nothing can interrupt: in a thread that the end of the program ends."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = b""
        with contextlib.suppress(OSError):
            while len(data) < MAX_ANSWER_BYTES and not data.endswith(b"\n") and (more := os.read(0, 1)):
                data += more
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(happened.put_nowait, data.decode(errors="replace"))

    threading.Thread(target=read, name="answer", daemon=True).start()


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


async def remember(device: CryptoDevice, report: Report, whose: UserId, vouched: VerifiedKeys, *, own: bool) -> None:
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
    report.say(
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
