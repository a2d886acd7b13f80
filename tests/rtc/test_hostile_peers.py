"""What strangers on the network and authenticated but hostile peers can do: nothing, and end their own session."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from dataclasses import replace

import pytest
from aiortc.rtcsctptransport import (
    Chunk,
    DataChunk,
    InitChunk,
    ReconfigChunk,
    SackChunk,
    serialize_packet,
)
from OpenSSL import SSL

from mxrtc_bridge.rtc.certificates import DtlsCertificate, make_certificate
from mxrtc_bridge.rtc.incoming_payload import EARLY_QUEUE
from mxrtc_bridge.rtc.peer import DataPeerConnection
from mxrtc_bridge.sctp import dcep
from mxrtc_bridge.sctp.association import Association
from tests.rtc import malformed
from tests.rtc.peers import Pair, answer_of, join, make_peer, offer_of, unconsumed
from tests.rtc.stock import MixedPair, stock_on_loopback
from tests.waiting import turns, until

__all__ = ["stock_on_loopback"]


def client_hello() -> bytes:
    """The first flight of a real DTLS client."""
    ssl = SSL.Connection(_context(make_certificate()))
    ssl.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        ssl.do_handshake()
    return ssl.bio_read(1500)


def _context(certificate: DtlsCertificate) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.key)
    return context


def stun_like(length: int = 8, attribute: bytes = b"") -> bytes:
    return struct.pack("!HHI", 0x0001, length, 0x2112A442) + bytes(12) + attribute


def strange_datagrams() -> list[bytes]:
    chance = random.Random(7)
    return [
        b"",
        b"\0",
        client_hello(),
        bytes([22]) + bytes(100),
        stun_like(8, b"\x00\x20\x00\x01\x00\x00\x00\x00"),  # an address of one byte
        stun_like(8, b"\x00\x06\x00\x04\xff\xfe\xfd\xfc"),  # a user name that is not UTF-8
        stun_like(4, b"\x80\x29\x00\x02"),
        stun_like(60000),
        *[chance.randbytes(chance.randrange(1, 1500)) for _ in range(200)],
        *[bytes([first]) + chance.randbytes(40) for first in range(256)],
    ]


def ports_of(sdp: str) -> list[int]:
    return [candidate.port for candidate in offer_of(sdp).candidates]


async def test_strangers_do_not_hurt_before_during_and_after_the_handshake() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    caller, callee = make_peer(), make_peer()
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams = strange_datagrams()

    def attack(ports: list[int]) -> None:
        for port in ports:
            for datagram in datagrams:
                stranger.sendto(datagram, ("127.0.0.1", port))

    offer = await caller.create_offer()
    attack(ports_of(offer))
    await until(lambda: caller.drops.stranger)
    answer = await callee.create_answer(offer_of(offer))
    attack(ports_of(offer) + ports_of(answer.replace("a=setup:active", "a=setup:actpass")))
    caller.apply_answer(answer_of(answer))
    connecting = asyncio.gather(caller.connect(), callee.connect())
    for _ in range(5):
        attack(ports_of(offer))
        await asyncio.sleep(0.01)
    await connecting
    attack(ports_of(offer))
    await until(lambda: caller.drops.empty and caller.drops.malformed and caller.drops.stranger >= 100)
    assert errors == []
    await _still_works(caller, callee)
    stranger.close()
    await asyncio.gather(caller.close(), callee.close())


async def _still_works(caller: DataPeerConnection, callee: DataPeerConnection) -> None:
    ours, theirs = await Pair(caller, callee).open()
    ours.channel.send("alive")
    assert await theirs.until_count(2) == ["opened", "alive"]


async def test_payload_of_a_stranger_is_never_queued() -> None:
    peer = make_peer()
    offer = await peer.create_offer()
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = ("127.0.0.1", ports_of(offer)[0])
    for _ in range(500):
        stranger.sendto(bytes([22]) + bytes(1000), address)
    # What comes last is counted last.
    await until(lambda: peer.drops.empty or stranger.sendto(b"", address))
    assert peer._ice._queue.empty()
    assert peer.drops.stranger > 0
    stranger.close()
    await peer.close()


async def test_handshake_that_overtakes_the_end_of_its_check_is_kept_until_then() -> None:
    """The other side's first flight may be read before our own check is complete; a second would be lost without it."""
    caller, callee = make_peer(), make_peer()
    answer = answer_of(await callee.create_answer(offer_of(await caller.create_offer())))
    caller.apply_answer(answer)
    ice = caller._ice
    address = ("127.0.0.1", answer.candidates[0].port)
    for pair in ice._check_list:
        assert pair.remote_addr == address
    for number in range(100):
        ice.payload_received(bytes([22, number]), address)
    assert ice._queue.empty()
    ice.payload_received(b"from elsewhere", ("127.0.0.1", 1))
    assert ice.drops.stranger == 1
    ice._payload.trust(address)
    assert [ice._queue.get_nowait() for _ in range(ice._queue.qsize())] == [
        (bytes([22, number]), 1) for number in range(84, 100)
    ]
    await asyncio.gather(caller.close(), callee.close())


async def test_handshake_that_comes_before_the_answer_is_kept() -> None:
    """Some callees begin with DTLS as soon as their own checks succeed: long before we have their description."""
    caller, callee = make_peer(), make_peer()
    answer = answer_of(await callee.create_answer(offer_of(await caller.create_offer())))
    connecting = asyncio.create_task(callee.connect())
    async with asyncio.timeout(5):
        while not caller._ice._early_checks:
            await asyncio.sleep(0.01)
    caller._ice.payload_received(bytes([22]) + bytes(20), ("127.0.0.1", answer.candidates[0].port))
    assert (caller._ice._payload.held, caller.drops.stranger) == (1, 0)
    assert caller._ice._queue.empty()
    caller.apply_answer(answer)
    await asyncio.gather(caller.connect(), connecting)
    assert caller._ice._payload.held == 0
    assert caller.drops.stranger == 0
    await asyncio.gather(caller.close(), callee.close())


async def test_flood_from_a_checked_address_is_bounded_before_dtls() -> None:
    caller, callee = make_peer(), make_peer()
    answer = await callee.create_answer(offer_of(await caller.create_offer()))
    caller.apply_answer(answer_of(answer))
    await asyncio.gather(caller._connect_ice(), callee._connect_ice())
    for _ in range(10 * EARLY_QUEUE):
        callee._ice.send_now(bytes([22]) + bytes(1000))
    await until(lambda: caller.drops.overflow)
    assert caller._ice._queue.qsize() == EARLY_QUEUE
    await asyncio.gather(caller.close(), callee.close())


async def test_candidates_beyond_the_limit_are_dropped() -> None:
    caller, callee = make_peer(), make_peer()
    offer = await caller.create_offer()
    description = offer_of(offer)
    await callee.create_answer(description)
    for port in range(20000, 20200):
        callee.add_candidates([replace(description.candidates[0], port=port)])
    assert len(callee._ice._remote_candidates) == 64
    assert callee.drops.excess == 200 - 63
    await asyncio.gather(caller.close(), callee.close())


def seal(pair: MixedPair, chunk: Chunk) -> bytes:
    sctp = pair.stock.sctp
    return serialize_packet(5000, 5000, sctp._remote_verification_tag, chunk)


@pytest.mark.usefixtures("stock_on_loopback")
@pytest.mark.parametrize("name", malformed.HOSTILE)
async def test_malformed_packet_hurts_the_session_of_its_sender_at_most(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    bystander = Pair()
    async with bystander, MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        tag = pair.stock.sctp._remote_verification_tag
        pair.stock.hear_nothing()  # a heartbeat comes back as it was, and its own parser would never end
        await pair.stock.send_packet(malformed.seal(malformed.HOSTILE[name], tag))
        if name in malformed.DROPPED:
            pair.stock.channels[0].send("still here")
            assert await offered.until_count(2) == ["opened", "still here"]
            assert pair.ours.lost == []
        else:
            reason = await pair.ours.until_lost(2.0)
            assert reason.startswith(("protocol violation: ", "the other side "))
            await offered.until_closed()
            assert len(pair.ours.lost) == 1
        await bystander.open()
        assert bystander.caller.lost == bystander.callee.lost == []
    assert errors == []
    assert [record for record in caplog.records if record.name.startswith(("aiortc", "mxrtc"))] == []


@pytest.mark.usefixtures("stock_on_loopback")
@pytest.mark.parametrize("wrong", ["tag", "checksum", "port", "length"])
async def test_packet_of_another_association_is_dropped_and_counted(wrong: str) -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        tag = pair.stock.sctp._remote_verification_tag
        abort = malformed.chunk(malformed.ABORT)
        packet = malformed.seal(abort, tag ^ 1 if wrong == "tag" else tag)
        if wrong == "checksum":
            packet = packet[:8] + b"\x01" + packet[9:]
        if wrong == "port":
            packet = b"\x00\x01" + packet[2:]
        if wrong == "length":
            packet = packet[:12]
        await pair.stock.send_packet(packet)
        pair.stock.channels[0].send("still here")
        assert await offered.until_count(2) == ["opened", "still here"]
        assert sum(machine_of(pair).dropped.values()) >= 1


def machine_of(pair: MixedPair) -> Association:
    machine = pair.ours.peer._association._machine
    assert machine is not None
    return machine


def data(pair: MixedPair, stream: int, protocol: int, payload: bytes, *, flags: int = 3, ahead: int = 0) -> DataChunk:
    sctp = pair.stock.sctp
    chunk = DataChunk(flags=flags)
    chunk.tsn = (sctp._local_tsn + ahead) % 2**32
    chunk.stream_id = stream
    chunk.stream_seq = sctp._outbound_stream_seq.get(stream, 0)
    chunk.protocol = protocol
    chunk.user_data = payload
    return chunk


def parity(pair: MixedPair) -> int:
    return 1 if pair.stock.sctp.is_server else 0


def hostile_chunks(pair: MixedPair, name: str) -> Chunk:
    free = 100 + parity(pair)
    opening = dcep.format_open(dcep.OpenMessage("label", "protocol"))
    sctp = pair.stock.sctp
    if name == "open of a used stream":
        return data(pair, pair.stock.channels[0].id, 50, opening)
    if name == "open with the wrong parity":
        return data(pair, free + 1, 50, opening)
    if name == "label that is not UTF-8":
        return data(pair, free, 50, opening.replace(b"label", b"l\xffbel"))
    if name == "lengths that do not add up":
        return data(pair, free, 50, opening + b"!")
    if name == "label of 1100 bytes":
        return data(pair, free, 50, dcep.format_open(dcep.OpenMessage("l" * 1100, "")))
    if name == "unknown control message":
        return data(pair, free, 50, b"\x09")
    if name == "text that is not UTF-8":
        return data(pair, pair.stock.channels[0].id, 51, b"\xff\xfe")
    sack = SackChunk()
    sack.advertised_rwnd = 65536
    if name == "sack for what was never sent":
        sack.cumulative_tsn = (sctp._last_received_tsn + 10) % 2**32
    if name == "gap blocks for what was never sent":
        sack.cumulative_tsn = sctp._last_received_tsn
        sack.gaps = [(2, 60000)]
    return sack


OF_A_CHANNEL = [
    "open of a used stream",
    "open with the wrong parity",
    "label that is not UTF-8",
    "lengths that do not add up",
    "label of 1100 bytes",
    "unknown control message",
    "text that is not UTF-8",
]
VIOLATIONS = [
    "sack for what was never sent",
    "gap blocks for what was never sent",
]


@pytest.mark.usefixtures("stock_on_loopback")
@pytest.mark.parametrize("name", OF_A_CHANNEL)
async def test_odd_message_ends_its_channel_and_not_the_session(name: str) -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        opening = dcep.format_open(dcep.OpenMessage("another", "raw.mxrtc"))
        await pair.stock.send_packet(seal(pair, hostile_chunks(pair, name)))
        await pair.stock.send_packet(seal(pair, data(pair, 200 + parity(pair), 50, opening, ahead=1)))
        assert (await pair.ours.offered_channel(1)).channel.label == "another"
        assert offered.channel.sendable == (name not in ("open of a used stream", "text that is not UTF-8"))
        assert not pair.ours.lost


@pytest.mark.usefixtures("stock_on_loopback")
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violation_ends_the_session_of_its_sender(name: str) -> None:
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        await pair.stock.send_packet(seal(pair, hostile_chunks(pair, name)))
        assert (await pair.ours.until_lost(2.0)).startswith("protocol violation: ")


@pytest.mark.usefixtures("stock_on_loopback")
async def test_answer_to_an_opening_that_was_none_is_ignored() -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        await pair.stock.send_packet(seal(pair, data(pair, 100 + parity(pair), 50, dcep.ACK)))
        await pair.stock.send_packet(seal(pair, data(pair, pair.stock.channels[0].id, 51, b"go on", ahead=1)))
        assert await offered.until_count(2) == ["opened", "go on"]


@pytest.mark.usefixtures("stock_on_loopback")
async def test_endless_message_is_cut_off_at_the_limit() -> None:
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        stream = pair.stock.channels[0].id
        sent = 0
        while not pair.ours.lost and sent < 4 * 1024 * 1024:
            flags = 2 if sent == 0 else 0
            await pair.stock.send_packet(
                seal(pair, data(pair, stream, 53, bytes(1100), flags=flags, ahead=sent // 1100))
            )
            sent += 1100
            if sent % 11000 == 0:
                await asyncio.sleep(0)
        assert (await pair.ours.until_lost(2.0)).startswith("protocol violation: ")
        assert sent < 1024 * 1024


@pytest.mark.usefixtures("stock_on_loopback")
async def test_message_of_more_than_the_limit_is_a_violation() -> None:
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        pair.stock.sctp._remote_max_message_size = 0  # ignores what we announced
        pair.stock.channels[0].send(b"x" * 65537)
        assert (await pair.ours.until_lost()).startswith("protocol violation: ")


@pytest.mark.usefixtures("stock_on_loopback")
async def test_isolated_chunks_are_held_within_limits() -> None:
    """Every second chunk is missing for ever: what can be kept is bounded, the rest is not acknowledged."""
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        stream = pair.stock.channels[0].id
        receiver = machine_of(pair)._receiver
        assert receiver is not None
        for number in range(1500):
            await pair.stock.send_packet(seal(pair, data(pair, stream, 53, b"x", ahead=1 + 2 * number)))
            async with asyncio.timeout(5):
                while len(receiver._beyond) < min(number + 1, 1024):
                    await asyncio.sleep(0)
        assert len(receiver._beyond) == 1024
        assert pair.ours.lost == []


@pytest.mark.usefixtures("stock_on_loopback")
async def test_data_on_unknown_streams_is_dropped() -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        await pair.stock.send_packet(seal(pair, data(pair, 500 + parity(pair), 53, b"nobody")))
        await pair.stock.send_packet(seal(pair, data(pair, pair.stock.channels[0].id, 51, b"somebody", ahead=1)))
        assert await offered.until_count(2) == ["opened", "somebody"]
        offered.channel.consumed(8)
        assert unconsumed(pair.ours.peer) == 0


@pytest.mark.usefixtures("stock_on_loopback")
async def test_second_init_does_not_disturb_the_association() -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        init = InitChunk()
        init.initiate_tag, init.advertised_rwnd, init.outbound_streams, init.inbound_streams = 5, 65536, 10, 10
        init.initial_tsn = 77
        await pair.stock.send_packet(serialize_packet(5000, 5000, 0, init))
        pair.stock.channels[0].send("still in order")
        assert await offered.until_count(2) == ["opened", "still in order"]


@pytest.mark.usefixtures("stock_on_loopback")
async def test_ended_association_is_not_brought_back_by_packets() -> None:
    async with MixedPair(stock_calls=True) as pair:
        await pair.ours.offered_channel()
        association = pair.ours.peer._association
        packet = seal(pair, data(pair, pair.stock.channels[0].id, 51, b"late"))
        association.abort("test")
        association.packets_received([packet])
        assert await pair.ours.until_lost() == "test"
        association.packets_received([packet])
        assert pair.ours.offered[0].events == ["opened", "closed"]


@pytest.mark.usefixtures("stock_on_loopback")
async def test_reset_of_streams_that_do_not_exist_is_harmless() -> None:
    async with MixedPair(stock_calls=True) as pair:
        offered = await pair.ours.offered_channel()
        sctp = pair.stock.sctp
        reset = ReconfigChunk()
        body = struct.pack("!LLL", sctp._reconfig_request_seq, 0, (sctp._local_tsn - 1) % 2**32)
        reset.params = [(13, body + struct.pack("!HHH", 300, 301, 65535))]
        await pair.stock.send_packet(seal(pair, reset))
        pair.stock.channels[0].send("still here")
        assert await offered.until_count(2) == ["opened", "still here"]


async def test_early_flood_of_channels_does_not_reach_the_listener_beyond_the_limit() -> None:
    pair = Pair(make_peer(max_channels=20), make_peer(max_channels=5))
    async with pair:
        channels = [pair.caller.peer.open_channel(f"c{number}", "") for number in range(8)]
        channels[0].send("behind all of them")
        first = await pair.callee.offered_channel()
        assert await first.until_count(2) == ["opened", "behind all of them"]
        assert len(pair.callee.offered) == 5
        assert pair.callee.lost == []


async def test_connections_end_without_unretrieved_errors_when_both_close_at_once() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    for _ in range(5):
        caller, callee = make_peer(), make_peer()
        await join(caller, callee)
        channel = caller.open_channel("busy", "")
        for _ in range(50):
            channel.send(bytes(16384))
        await turns()
        await asyncio.gather(caller.close(), callee.close())
    assert errors == []
