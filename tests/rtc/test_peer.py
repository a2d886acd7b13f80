"""Two of our peers on loopback, on both event loops: what a connection does when everybody behaves."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import StateError, TransportError
from mxrtc_bridge.core.webrtc.ice import Path, PathKind
from mxrtc_bridge.core.webrtc.sdp import Setup
from mxrtc_bridge.rtc.peer import DataPeerConnection
from tests.rtc.peers import LOOPBACK, Pair, RecordingChannel, RecordingPeer, answer_of, join, make_peer, offer_of
from tests.waiting import turns, until

DIRECT = Path(PathKind.DIRECT, "host", "host", "ipv4")


@pytest.mark.both_loops
@pytest.mark.linux
async def test_pair_connects_directly_and_tells_the_path() -> None:
    async with Pair() as pair:
        assert pair.paths == (DIRECT, DIRECT)
        assert pair.caller.peer.path() == DIRECT
        async with asyncio.timeout(5):
            while (pair.caller.peer.packet_bytes() or 0) <= 1500 - 4:  # SCTP packets grow by four bytes
                await asyncio.sleep(0)
        assert str(DIRECT) == "direct (host to host, ipv4)"


async def test_offer_leaves_the_role_open_and_answer_takes_the_active_one() -> None:
    caller, callee = make_peer(), make_peer()
    offer = offer_of(await caller.create_offer())
    answer = answer_of(await callee.create_answer(offer))
    assert (offer.setup, answer.setup) == (Setup.ACTPASS, Setup.ACTIVE)
    assert offer.max_message_size == answer.max_message_size == 64 * 1024
    assert offer.end_of_candidates
    await asyncio.gather(caller.close(), callee.close())


async def test_answerer_is_the_dtls_server_when_the_offer_insists() -> None:
    caller, callee = make_peer(), make_peer()
    offer = (await caller.create_offer()).replace("a=setup:actpass", "a=setup:active")
    answer = await callee.create_answer(offer_of(offer))
    assert answer_of(answer).setup is Setup.PASSIVE
    caller.apply_answer(answer_of(answer))
    assert await asyncio.gather(caller.connect(), callee.connect()) == [DIRECT, DIRECT]
    await asyncio.gather(caller.close(), callee.close())


async def test_channel_has_its_label_and_protocol_on_both_sides() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open("build/ssh", "tcp.v1.mxrtc")
        assert (ours.channel.label, ours.channel.protocol) == ("build/ssh", "tcp.v1.mxrtc")
        assert (theirs.channel.label, theirs.channel.protocol) == ("build/ssh", "tcp.v1.mxrtc")
        assert (ours.events, theirs.events) == (["opened"], ["opened"])


MESSAGES: list[str | bytes] = [
    "text ü",
    "",
    b"",
    b"\0",
    b"a" * 1159,
    b"b" * 1160,
    b"c" * 1161,
    b"d" * 16384,
    b"e" * 65535,
    b"f" * 65536,
    "g" * 65536,
]


@pytest.mark.parametrize("from_caller", [True, False])
@pytest.mark.both_loops
async def test_messages_of_all_kinds_and_sizes_arrive_whole_and_in_order(from_caller: bool) -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        sender, receiver = (ours, theirs) if from_caller else (theirs, ours)
        for message in MESSAGES:
            sender.channel.send(message)
        await receiver.until_count(1 + len(MESSAGES))
        assert receiver.events == ["opened", *MESSAGES]


async def test_message_beyond_the_limit_is_refused_with_both_numbers() -> None:
    async with Pair() as pair:
        ours, _ = await pair.open()
        with pytest.raises(StateError, match=r"65537 bytes is larger than the limit of 65536"):
            ours.channel.send(b"x" * 65537)


@pytest.mark.both_loops
async def test_messages_sent_before_the_channel_is_open_arrive() -> None:
    async with Pair() as pair:
        ours = RecordingChannel(pair.caller.peer.open_channel("early", "raw.mxrtc"))
        ours.channel.send(b"first")
        ours.channel.send("second")
        theirs = await pair.callee.offered_channel()
        assert await theirs.until_count(3) == ["opened", b"first", "second"]


async def test_channel_opened_before_the_connection_is_up_works() -> None:
    caller, callee = make_peer(), make_peer()
    pair = Pair(caller, callee)
    early = RecordingChannel(caller.open_channel("early", "raw.mxrtc"))
    early.channel.send(b"waited")
    async with pair:
        theirs = await pair.callee.offered_channel()
        assert await theirs.until_count(2) == ["opened", b"waited"]
        assert await early.until_count(1) == ["opened"]


async def test_sixty_four_channels_keep_their_data_apart() -> None:
    async with Pair() as pair:
        channels = [await pair.open(f"c{number}") for number in range(64)]
        for number, (ours, _) in enumerate(channels):
            ours.channel.send(f"from {number}")
        for number, (_, theirs) in enumerate(channels):
            assert await theirs.until_count(2) == ["opened", f"from {number}"]


async def test_both_sides_can_open_channels_at_the_same_time() -> None:
    async with Pair() as pair:
        ours = [RecordingChannel(pair.caller.peer.open_channel(f"a{i}", "")) for i in range(8)]
        theirs = [RecordingChannel(pair.callee.peer.open_channel(f"b{i}", "")) for i in range(8)]
        for channel in ours + theirs:
            await channel.until_count(1)
        assert {c.channel.label for c in pair.callee.offered} == {f"a{i}" for i in range(8)}
        assert {c.channel.label for c in pair.caller.offered} == {f"b{i}" for i in range(8)}


@pytest.mark.both_loops
async def test_close_of_a_channel_sends_what_was_queued_first() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        for number in range(100):
            ours.channel.send(bytes([number]) * 16384)
        ours.channel.close()
        await theirs.until_closed()
        assert theirs.received_bytes == 100 * 16384
        assert theirs.events[-1] == "closed"
        await ours.until_closed()
        assert (pair.caller.lost, pair.callee.lost) == ([], [])


async def test_close_right_after_open_and_send_still_delivers() -> None:
    async with Pair() as pair:
        ours = RecordingChannel(pair.caller.peer.open_channel("short", ""))
        ours.channel.send(b"everything")
        ours.channel.close()
        theirs = await pair.callee.offered_channel()
        await theirs.until_closed()
        assert theirs.events == ["opened", b"everything", "closed"]


async def test_closed_channel_ignores_sends_and_second_closes() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        ours.channel.close()
        ours.channel.close()
        ours.channel.send(b"late")
        await ours.until_closed()
        ours.channel.send(b"later")
        ours.channel.close()
        await theirs.until_closed()
        assert theirs.events == ["opened", "closed"]


async def test_channel_numbers_are_reused_after_a_close() -> None:
    async with Pair(make_peer(max_channels=4), make_peer(max_channels=4, opens_per_second=1_000_000)) as pair:
        for round_number in range(12):
            ours, theirs = await pair.open(f"round{round_number}")
            ours.channel.send(f"hello {round_number}")
            assert await theirs.until_count(2) == ["opened", f"hello {round_number}"]
            ours.channel.close()
            await ours.until_closed()
            await theirs.until_closed()


@pytest.mark.both_loops
async def test_close_of_the_peer_is_seen_by_the_other_side_at_once_and_only_there() -> None:
    async with Pair() as pair:
        ours, theirs = await pair.open()
        await pair.caller.peer.close()
        reason = await pair.callee.until_lost(2.0)
        assert reason == "the other side ended the association"
        await theirs.until_closed()
        await ours.until_closed()
        await pair.caller.peer.close()
        assert pair.caller.lost == []
        assert pair.callee.lost == [reason]


@pytest.mark.both_loops
async def test_closed_peer_leaves_no_task_and_no_socket_behind() -> None:
    before = asyncio.all_tasks()
    pair = Pair()
    async with pair:
        await pair.open()
        sockets = [p.transport for peer in (pair.caller.peer, pair.callee.peer) for p in peer._ice._protocols]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert all(transport.is_closing() for transport in sockets)


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_peer_can_be_closed_at_every_step(steps: int) -> None:
    before = asyncio.all_tasks()
    caller, callee = make_peer(), make_peer()
    if steps >= 1:
        offer = await caller.create_offer()
        if steps >= 2:
            await callee.create_answer(offer_of(offer))
    for _ in range(2):
        await caller.close()
        await callee.close()
    assert caller._ice._protocols == callee._ice._protocols == []
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_close_during_connect_fails_the_connect() -> None:
    caller, callee = make_peer(), make_peer()
    offer = await caller.create_offer()
    await callee.create_answer(offer_of(offer))
    connecting = asyncio.create_task(callee.connect())
    await until(lambda: caller._ice._early_checks)
    await callee.close()
    with pytest.raises(TransportError) as caught:
        await connecting
    assert caught.value.code == "ice_failed"
    await caller.close()


@pytest.mark.both_loops
async def test_close_between_the_last_check_and_the_end_of_connect_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    caller, callee = make_peer(), make_peer()
    offer = await caller.create_offer()
    caller.apply_answer(answer_of(await callee.create_answer(offer_of(offer))))
    connecting = [asyncio.create_task(peer.connect()) for peer in (caller, callee)]
    while not caller._ice._check_list_done:
        await asyncio.sleep(0)
    await caller.close()
    # On a busy machine it may have come as far as the handshake.
    with pytest.raises(TransportError, match=r"no path to the other side was found|the DTLS handshake failed"):
        await connecting[0]
    connecting[1].cancel()
    await asyncio.gather(*connecting, return_exceptions=True)
    await callee.close()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_life_that_is_cut_at_any_moment_leaves_nothing_behind(how: str) -> None:
    async def live(caller: DataPeerConnection, callee: DataPeerConnection) -> None:
        await join(caller, callee)
        channel = RecordingChannel(caller.open_channel("cut", ""))
        channel.channel.send(bytes(16384))
        await channel.until(lambda it: bool(it.events))

    loop = asyncio.get_running_loop()
    before, cuts, whole_s = asyncio.all_tasks(), 20, 0.0
    for cut in range(cuts + 1):
        sides = [RecordingPeer(make_peer()) for _ in range(2)]
        began, living = loop.time(), asyncio.create_task(live(*(side.peer for side in sides)))
        if cut:
            await asyncio.wait([living], timeout=whole_s * (cut - 1) / cuts)
        else:
            await living
            whole_s = loop.time() - began
        if how == "cancelled":
            living.cancel()
            await asyncio.wait([living])
        sockets = [protocol.transport for side in sides for protocol in side.peer._ice._protocols]
        await asyncio.gather(*(side.peer.close() for side in sides))
        async with asyncio.timeout(5):
            await asyncio.wait([living])
        assert living.cancelled() or isinstance(living.exception(), (TransportError, StateError, type(None)))
        # Who waits for both sides goes on with the first failure, when the other side has not yet come to its own.
        await until(lambda: asyncio.all_tasks() == before, timeout_s=2)
        assert [each.get_extra_info("socket").fileno() for each in sockets] == [-1] * len(sockets)


async def test_connect_fails_within_its_deadline_when_nobody_answers() -> None:
    caller, callee = make_peer(ice_timeout_s=0.3), make_peer()
    answer = await callee.create_answer(offer_of(await caller.create_offer()))
    caller.apply_answer(answer_of(answer))
    await callee.close()
    with pytest.raises(TransportError, match=r"no path to the other side was found within 0\.3 s") as caught:
        await caller.connect()
    assert caught.value.code == "ice_timeout"
    await caller.close()


async def test_connect_fails_when_the_dtls_handshake_hangs() -> None:
    caller, callee = make_peer(dtls_timeout_s=0.4), make_peer()
    answer = await callee.create_answer(offer_of(await caller.create_offer()))
    caller.apply_answer(answer_of(answer))
    only_ice = asyncio.create_task(callee._connect_ice())
    with pytest.raises(TransportError, match="did not end within") as caught:
        await caller.connect()
    assert caught.value.code == "dtls_failed"
    await only_ice
    await asyncio.gather(caller.close(), callee.close())


async def test_connect_fails_when_the_certificate_is_another_one() -> None:
    caller, callee, stranger = make_peer(), make_peer(sctp_timeout_s=0.5), make_peer()
    offer = offer_of(await caller.create_offer())
    answer = await callee.create_answer(offer)
    named = answer_of(await stranger.create_answer(offer)).fingerprints
    wrong = answer_of(answer.replace(answer_of(answer).fingerprints[0].value, named[0].value))
    caller.apply_answer(wrong)
    results = await asyncio.gather(caller.connect(), callee.connect(), return_exceptions=True)
    error = results[0]
    assert isinstance(error, TransportError)
    assert error.code == "dtls_failed"
    assert "not the one" in str(error)
    await asyncio.gather(caller.close(), callee.close(), stranger.close())


async def test_late_candidates_still_connect() -> None:
    """The first description has no candidates at all; they come one by one while ICE runs."""
    caller, callee = make_peer(), make_peer()
    offer = await caller.create_offer()
    bare = "\r\n".join(line for line in offer.split("\r\n") if "candidate" not in line)
    answer = await callee.create_answer(offer_of(bare))
    bare_answer = "\r\n".join(line for line in answer.split("\r\n") if "candidate" not in line)
    caller.apply_answer(answer_of(bare_answer))
    connecting = asyncio.gather(caller.connect(), callee.connect())
    await turns()
    assert not connecting.done()
    caller.add_candidates(answer_of(answer).candidates)
    assert await connecting
    await asyncio.gather(caller.close(), callee.close())


async def test_peer_without_remote_candidates_is_reached_through_its_own_checks() -> None:
    """A browser that hides its addresses behind mDNS names: only its checks tell where it is."""
    caller, callee = make_peer(), make_peer()
    offer = await caller.create_offer()
    bare = "\r\n".join(line for line in offer.split("\r\n") if "candidate" not in line)
    caller.apply_answer(answer_of(await callee.create_answer(offer_of(bare))))
    _, path = await asyncio.gather(caller.connect(), callee.connect())
    assert path.remote == "prflx"
    await asyncio.gather(caller.close(), callee.close())


async def test_calls_out_of_order_are_refused() -> None:
    caller, callee = make_peer(), make_peer()
    with pytest.raises(StateError):
        await caller.connect()
    offer = await caller.create_offer()
    with pytest.raises(StateError):
        await caller.create_offer()
    with pytest.raises(StateError, match="no answer"):
        await caller.connect()
    answer = await callee.create_answer(offer_of(offer))
    with pytest.raises(StateError):
        callee.apply_answer(answer_of(answer))
    await asyncio.gather(caller.close(), callee.close())
    with pytest.raises(StateError, match="has ended"):
        caller.open_channel("x", "")


async def test_many_pairs_run_side_by_side() -> None:
    pairs = [(make_peer(), make_peer()) for _ in range(8)]
    paths = await asyncio.gather(*(join(*pair) for pair in pairs))
    assert paths == [(DIRECT, DIRECT)] * 8
    await asyncio.gather(*(peer.close() for pair in pairs for peer in pair))


async def test_ipv6_loopback_is_used_when_named() -> None:
    async with Pair(make_peer(LOOPBACK, interfaces=("::1",)), make_peer(LOOPBACK, interfaces=("::1",))) as pair:
        assert pair.paths is not None
        assert pair.paths[0].family == "ipv6"
