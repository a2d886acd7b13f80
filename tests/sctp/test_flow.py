"""Flow control between two ends, fairness between streams, loss recovery in time, and path MTU."""

from __future__ import annotations

from itertools import product

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.bbr import Bbr
from mxrtc_bridge.sctp.events import MessageReceived, SendSpace
from mxrtc_bridge.sctp.settings import KIB, SctpSettings
from tests.long import size, some
from tests.sctp.draws import Draws
from tests.sctp.hostile import THEIR_TSN, Puppet
from tests.sctp.links import Path, World, established, pair


def send_bulk(world: World, total: int, stream: int = 0, size: int = 16 * KIB) -> None:
    for _ in range(total // size):
        world.left.association.send(world.now, stream, 53, bytes(size))
    world.flush()


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("interleaving", [False, True])
def test_reader_that_stops_stops_the_sender_and_resumes(loss: float, interleaving: bool) -> None:
    """Neither side grows while nobody reads; once it reads again, everything comes."""
    settings = SctpSettings(receive_window=128 * KIB, interleaving=interleaving)
    world = established(pair(1, Path(loss=loss), settings))
    world.right.consume = False
    send_bulk(world, 1024 * KIB)
    reassembly = world.right.association._receiver.reassembly  # type: ignore[union-attr]
    stored = []
    for _ in range(20):
        world.run(10)
        stored.append(reassembly.unconsumed + reassembly.held)
    more = 64 * KIB if loss else 20 * KIB
    assert settings.receive_window - 3000 <= stored[0] <= settings.receive_window + more
    assert len(set(stored)) == 1
    assert world.left.ended is None, "a peer that does not read is not a dead one"
    assert world.left.association._sender.flight.inflight <= 4096
    world.right.consume = True
    world.right.association.consumed(world.right.unread)
    assert world.run(60, lambda: len(world.right.messages) == 64)


def test_window_update_that_is_lost_costs_a_probe_and_not_the_connection() -> None:
    world = established(pair(2, settings=SctpSettings(receive_window=64 * KIB)))
    world.right.consume = False
    send_bulk(world, 256 * KIB)
    world.run(10)
    world.tap = lambda end, packet: None if end is world.right else packet
    world.right.association.consumed(world.right.unread)
    world.flush()
    world.tap = None
    world.right.consume = True
    assert world.run(5, lambda: len(world.right.messages) == 16)


def test_tiny_window_still_moves_large_messages() -> None:
    world = established(pair(3, Path(delay=0.001), SctpSettings(receive_window=16 * KIB)))
    send_bulk(world, 256 * KIB, size=64 * KIB)
    assert world.run(120, lambda: len(world.right.messages) == 4)


def arrival_order(interleaving: bool) -> list[int]:
    """Return the streams of messages in the order of arrival: bulk is stream 0, one small message is stream 1."""
    world = established(pair(4, Path(delay=0.005, rate=1e6, queue=10**7), SctpSettings(interleaving=interleaving)))
    send_bulk(world, 512 * KIB)
    world.run(0.05)
    sent = len(world.right.messages)
    world.left.association.send(world.now, 1, 51, b"key")
    world.flush()
    world.run(30, lambda: len(world.right.messages) == 33)
    return [message.stream for message in world.right.messages[sent:]]


def test_small_message_passes_a_queue_of_bulk() -> None:
    assert arrival_order(interleaving=True).index(1) <= 3
    assert arrival_order(interleaving=False).index(1) <= 4


def fast_pair() -> World:
    """Two ends whose congestion window has opened, and bulk that waits at the left one."""
    world = established(pair(4, Path(delay=0.001)))
    send_bulk(world, 2048 * KIB)
    assert world.run(5, lambda: len(world.right.messages) == 128)
    world.run(0.1)
    for _ in range(16):
        world.left.association.send(world.now, 0, 53, bytes(16 * KIB))
    return world


def test_small_message_beside_bulk_leaves_before_the_batch() -> None:
    """All packets of one call are encrypted and sent together: it would wait for the others."""
    world = fast_pair()
    left = world.left.association
    left.send(world.now, 1, 51, b"key")
    (first,) = left.datagrams(world.now)
    assert b"key" in first
    assert left.next_deadline() == world.now, "the rest follows at once"
    assert len(left.datagrams(world.now)) == 64


def test_small_messages_do_not_take_all_batches_apart() -> None:
    world = fast_pair()
    left = world.left.association
    sizes = []
    for stream in (1, 2):
        left.send(world.now, stream, 51, b"key")
        sizes.append(len(left.datagrams(world.now)))
    left.send(world.now + 0.002, 3, 51, b"key")
    sizes.append(len(left.datagrams(world.now + 0.002)))
    assert sizes == [1, 64, 1]


def test_bulk_that_wakes_beside_bulk_takes_no_batch_apart() -> None:
    world = fast_pair()
    left = world.left.association
    left.send(world.now, 1, 53, bytes(1025))
    assert len(left.datagrams(world.now)) == 64


def test_after_a_burst_the_deadline_says_when_the_next_may_leave() -> None:
    """Also to a driver that does not ask again: its flow would be clocked by acknowledgements, a burst for each."""
    path = Path(delay=0.02, rate=2e6, queue=100_000)
    world = established(pair(4, path, congestion=lambda settings: Bbr(settings.packet_size - 12, Draws(1).fraction)))
    send_bulk(world, 4096 * KIB)
    world.run(1.0)
    left = world.left.association
    now, bursts = world.now, 0
    for _ in range(5):
        deadline = left.next_deadline()
        assert deadline is not None
        assert now < deadline < now + 0.01
        now = deadline
        left.handle_timeout(now)
        bursts += bool(left.datagrams(now))
    assert bursts >= 4


def test_chunks_of_streams_alternate_when_interleaving() -> None:
    """A bulk message is cut up between others, packet by packet."""
    world = established(pair(5))
    order: list[int] = []

    def look(end: object, packet: bytes) -> bytes:
        if end is world.left and packet[12] == chunks.I_DATA:
            order.append(chunks.I_DATA_HEADER.unpack_from(packet, 12)[4])
        return packet

    world.tap = look
    for stream in (1, 2, 3):
        world.left.association.send(world.now, stream, 53, bytes(60_000))
    world.flush()
    assert world.run(10, lambda: len(world.right.messages) == 3)
    middle = order[6:-12]
    assert all(len(set(middle[index : index + 3])) == 3 for index in range(0, len(middle) - 3, 3))


def test_space_is_reported_once() -> None:
    world = established(pair(7))
    left = world.left.association
    left.set_space_mark(20_000)
    for _ in range(10):
        left.send(world.now, 3, 53, bytes(5000))
    assert left.buffered() == 50_000
    world.flush()
    world.run(2)
    assert world.left.of(SendSpace) == [SendSpace()]
    assert left.buffered() == 0


def test_queue_is_bounded() -> None:
    settings = SctpSettings(max_queued=100_000, max_queued_messages=50)
    world = established(pair(8, settings=settings))
    left = world.left.association
    for _ in range(6):
        left.send(world.now, 0, 53, bytes(16_000))
    with pytest.raises(StateError, match="the limit is 100000"):
        left.send(world.now, 0, 53, bytes(4001))
    left.send(world.now, 0, 53, bytes(4000))
    small = established(pair(9, settings=settings)).left.association
    for _ in range(50):
        small.send(0.0, 0, 53, b"x")
    with pytest.raises(StateError):
        small.send(0.0, 0, 53, b"x")


@pytest.mark.parametrize("size", [0, 64 * KIB + 1])
def test_message_that_cannot_be_sent_is_refused(size: int) -> None:
    with pytest.raises(StateError, match="can be sent"):
        pair(10).left.association.send(0.0, 0, 53, bytes(size))


def test_stream_that_does_not_exist_is_refused() -> None:
    with pytest.raises(StateError, match="no stream 65535"):
        pair(10).left.association.send(0.0, 65_535, 53, b"x")


def drop_data(world: World, count: int) -> list[int]:
    """Lose the next ``count`` packets with data of the left end; return a list that counts them down."""
    left = [count]

    def tap(end: object, packet: bytes) -> bytes | None:
        if end is world.left and packet[12] in (chunks.DATA, chunks.I_DATA) and left[0]:
            left[0] -= 1
            return None
        return packet

    world.tap = tap
    return left


def test_lost_keystroke_costs_two_round_trips_and_not_a_timeout() -> None:
    """A tail loss probe repeats the only packet after 2 RTT and the allowance for its acknowledgement."""
    world = established(pair(11, Path(delay=0.02)))
    left = world.left.association
    for _ in range(5):
        left.send(world.now, 0, 51, b"k")
        world.flush()
        world.run(0.2)
    drop_data(world, 1)
    began = world.now
    left.send(world.now, 0, 51, b"lost")
    world.flush()
    assert world.run(2, lambda: world.right.messages[-1].data == b"lost")
    assert world.now - began <= 2 * 0.04 + 0.03 + 0.02 + 0.005


def test_loss_in_the_middle_is_repaired_in_a_round_trip_and_a_quarter() -> None:
    world = established(pair(12, Path(delay=0.02)))
    send_bulk(world, 64 * KIB)
    world.run(1)
    drop_data(world, 1)
    arrived: list[float] = []
    world.right.on_message = lambda event: arrived.append(world.now)
    began = world.now
    send_bulk(world, 16 * KIB)
    assert world.run(2, lambda: len(arrived) == 1)
    assert arrived[0] - began <= 0.02 + 0.04 + 0.01 + 0.02


def test_loss_of_retransmissions_is_repaired_too() -> None:
    world = established(pair(13, Path(delay=0.02)))
    send_bulk(world, 64 * KIB)
    world.run(1)
    drop_data(world, 30)
    send_bulk(world, 64 * KIB)
    assert world.run(30, lambda: len(world.right.messages) == 8)


def test_reordering_is_not_taken_for_loss_for_long() -> None:
    """Packets that overtake each other make the reordering window grow until nothing is sent twice any more."""
    world = established(pair(14, Path(delay=0.02, reorder=0.2, hold=0.018)))
    flight = world.left.association._sender.flight
    send_bulk(world, 4096 * KIB)
    assert world.run(60, lambda: len(world.right.messages) == 256)
    before = flight.retransmitted_chunks
    send_bulk(world, 4096 * KIB)
    assert world.run(60, lambda: len(world.right.messages) == 512)
    assert flight.retransmitted_chunks - before <= 20
    assert flight.spurious > 0


def test_window_comes_back_after_a_spurious_loss() -> None:
    """A delay spike makes everything look lost; when it all arrives, the reduction is undone."""
    world = established(pair(15, Path(delay=0.02)))
    send_bulk(world, 2048 * KIB)
    assert world.run(20, lambda: len(world.right.messages) == 128)
    window = world.left.association._congestion.window_bytes
    send_bulk(world, 16 * KIB)
    world.run(0.001)
    world._queue[:] = [(at + 0.5, count, end, packet) for at, count, end, packet in world._queue]
    assert world.run(20, lambda: len(world.right.messages) == 129)
    world.run(2)
    assert world.left.association._sender.flight.spurious > 0
    assert world.left.association._congestion.window_bytes >= window


def test_window_grows_only_while_it_is_the_limit() -> None:
    """RFC 9260 section 7.2.1, whatever number of acknowledgements comes for a batch."""
    world = established(pair(25, Path(delay=0.02)))
    send_bulk(world, 64 * KIB)
    world.run(2)
    window = world.left.association._congestion.window_bytes
    for _ in range(50):
        send_bulk(world, 8 * KIB, size=8 * KIB)
        world.run(1)
    assert world.left.association._congestion.window_bytes == window


def test_receiver_that_forgets_what_it_acknowledged_gets_it_again() -> None:
    """RFC 9260 section 6.2.1: a gap block is not a promise."""
    world = established(pair(16, Path(delay=0.01)))
    drop_data(world, 1)
    send_bulk(world, 8 * KIB, size=4 * KIB)
    world.run(0.011)
    receiver = world.right.association._receiver
    assert receiver is not None
    assert len(receiver._beyond) == 1
    world.flush()
    receiver._beyond.discard_to(1 << 62)
    receiver.reassembly._streams.clear()
    receiver.reassembly.held = receiver.reassembly.fragments = 0
    assert world.run(20, lambda: len(world.right.messages) == 2)


@pytest.mark.parametrize("mtu", [1172, 1180, 1300, 1400, 1444])
def test_probing_finds_the_path_mtu(mtu: int) -> None:
    settings = SctpSettings(packet_size_ceiling=1444)
    world = established(pair(17, Path(mtu=mtu), settings))
    world.run(60)
    assert mtu - 20 <= world.left.association._path.size <= mtu
    send_bulk(world, 256 * KIB)
    assert world.run(10, lambda: len(world.right.messages) == 16)


@pytest.mark.parametrize("mtu", [516, 700, 1000, 1155, 1172, 1300, 1444])
def test_narrow_path_that_loses_fragments_carries_data_from_the_start(mtu: int) -> None:
    """Nothing is cut larger than what has proved to arrive."""
    settings = SctpSettings(packet_size_floor=511, packet_size_ceiling=1444)
    world = established(pair(21, Path(mtu=mtu, delay=0.8), settings))
    assert world.left.association.packet_size is None
    send_bulk(world, 256 * KIB)
    assert world.run(40, lambda: len(world.right.messages) == 16)
    world.run(60)
    assert mtu - 20 <= (world.left.association.packet_size or 0) <= mtu


@pytest.mark.parametrize("mtu", [1172, 1300, 1444])
def test_probing_finds_the_path_mtu_where_the_other_side_drops_padding(mtu: int) -> None:
    """pion drops the whole packet, so the last probe of each size has the padding in its question."""
    settings = SctpSettings(packet_size_floor=511, packet_size_ceiling=1444)
    world = established(pair(26, Path(mtu=mtu), settings))

    def without_padding(_end: object, packet: bytes) -> bytes | None:
        second = 12 + int.from_bytes(packet[14:16], "big")
        return None if packet[second : second + 1] == bytes([chunks.PAD]) else packet

    world.tap = without_padding
    world.run(60)
    assert mtu - 20 <= world.left.association._path.size <= mtu
    send_bulk(world, 256 * KIB)
    assert world.run(10, lambda: len(world.right.messages) == 16)


@pytest.mark.parametrize("lasts_s", [4, 25])
def test_outage_leaves_packets_as_large_as_before(lasts_s: float) -> None:
    settings = SctpSettings(packet_size_floor=511, packet_size_ceiling=1444, backoff_max=2.0, max_retransmissions=30)
    world = established(pair(22, settings=settings))
    world.run(5)
    world.there.path = Path(loss=1.0)
    send_bulk(world, 64 * KIB)
    world.run(lasts_s)
    assert world.left.association._path.size == 508
    world.there.path = Path()
    assert world.run(10, lambda: len(world.right.messages) == 4)
    assert world.run(2, lambda: world.left.association._path.size == 1444)


def test_packets_get_smaller_when_the_path_gets_narrower() -> None:
    settings = SctpSettings(packet_size_ceiling=1444)
    world = established(pair(18, settings=settings))
    world.run(5)
    left = world.left.association
    assert left._path.size == 1444
    world.there.path = Path(mtu=1172)
    left.send(world.now, 0, 53, bytes(60_000))
    world.flush()
    world.run(5)
    assert left._path.size == 1172
    world.there.path = Path()
    assert world.run(60, lambda: len(world.right.messages) == 1)


def test_chunks_cut_for_a_wide_path_get_through_a_narrow_one_in_fragments() -> None:
    settings = SctpSettings(packet_size_ceiling=1444, heartbeat_interval=0)
    world = established(pair(20, Path(rate=500_000), settings))
    world.run(5)
    assert world.left.association._path.size == 1444
    send_bulk(world, 8 << 20)
    world.run(1)
    begun = world.now
    world.there.path = Path(rate=500_000, mtu=1300, fragments=True)
    assert world.run(30, lambda: world.left.association._path.size < 1444), "no hurry, as nothing fails meanwhile"
    assert world.run(5, lambda: world.left.association._path.size > 1280)
    assert world.run(60, lambda: len(world.right.messages) == 512)
    assert world.now - begun < 20, "17 s of sending"
    world.run(1)
    idle = world.left.association.packets_sent
    world.run(120)
    assert world.left.association.packets_sent == idle, "without data nothing is confirmed"


@pytest.mark.parametrize(
    ("mtu", "interleaving", "loss"), some([*product([1172, 1000, 700, 516], [True, False], [0.0, 0.05])], 6)
)
def test_chunks_cut_for_a_wide_path_get_through_one_that_loses_fragments_in_pieces(
    mtu: int, interleaving: bool, loss: float
) -> None:
    """Both ways at once, and nothing stands still for longer than it takes to notice."""
    settings = SctpSettings(
        packet_size_floor=511, packet_size_ceiling=1444, heartbeat_interval=0, interleaving=interleaving
    )
    world = established(pair(23, Path(rate=500_000, loss=loss), settings))
    assert world.run(20, lambda: world.left.association._path.size == world.right.association._path.size == 1444)
    count = size(64, 24)
    messages = [bytes([number]) * (64 * KIB) for number in range(count)]
    for message in messages:
        for end in (world.left, world.right):
            end.association.send(world.now, 0, 53, message)
    world.flush()
    world.run(1)
    world.there.path = world.back.path = Path(rate=500_000, mtu=mtu, loss=loss)
    before = len(world.right.messages), len(world.left.messages)
    assert world.run(5, lambda: (len(world.right.messages), len(world.left.messages)) > before)
    assert world.run(60, lambda: len(world.right.messages) == len(world.left.messages) == count)
    assert [m.data for m in world.right.messages] == [m.data for m in world.left.messages] == messages
    assert mtu - 20 <= world.left.association._path.size <= mtu


def sending_whole(seed: int) -> World:
    """A megabyte on its way to a side that takes no pieces."""
    settings = SctpSettings(
        packet_size_floor=511, packet_size_ceiling=1444, heartbeat_interval=0, backoff_max=2.0, max_retransmissions=30
    )
    world = established(pair(seed, Path(rate=500_000), settings))
    world.left.association._sender.in_pieces = False
    world.run(5)
    send_bulk(world, 1 << 20)
    return world


def test_side_that_takes_no_pieces_is_left_soon_where_nothing_else_gets_through() -> None:
    """A new association begins with small packets; this one would wait for a minute."""
    world = sending_whole(25)
    world.run(1)
    world.there.path = Path(rate=500_000, mtu=1000)
    began = world.now
    assert world.run(60, lambda: world.left.ended is not None)
    assert (world.left.ended.code, world.now - began < 15) == ("narrow", True)  # type: ignore[union-attr]


def test_outage_is_waited_for_with_a_side_that_takes_no_pieces() -> None:
    world = sending_whole(26)
    for _ in range(3):
        world.run(0.3)
        world.there.path = Path(loss=1.0)
        world.run(25)
        world.there.path = Path(rate=500_000)
    assert world.run(10, lambda: len(world.right.messages) == 64)


def test_probe_of_a_closed_window_is_acknowledged_once_it_opens() -> None:
    """Senders whose congestion window it fills would otherwise wait for their timer."""
    puppet = Puppet(SctpSettings(receive_window=64 * KIB))
    puppet.end.consume = False
    for tsn in range(64):
        puppet.send(puppet.data(tsn, bytes(KIB), sequence=tsn))
        puppet.answers()
    for _ in range(3):
        puppet.send(puppet.data(64, b"a" * KIB * 2, sequence=64))
        puppet.wait(1.0)
    assert puppet.association.dropped == {"window": 3}
    assert len(puppet.end.messages) == 64
    puppet.association.consumed(64 * KIB)
    ((kind, body),) = puppet.answers()
    cumulative, window = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
    assert (kind, cumulative - THEIR_TSN & 0xFFFFFFFF) == (chunks.SACK, 64)
    assert window >= 32 * KIB
    puppet.end.drain()
    assert puppet.end.messages[-1].data == b"a" * KIB * 2
    puppet.send(puppet.data(64, b"a" * KIB * 2, sequence=64))
    assert len(puppet.end.messages) == 65
    assert puppet.association.dropped == {"window": 3, "duplicate": 1}


@pytest.mark.parametrize("skips_unknown", [True, False])
def test_probes_go_only_to_those_who_skip_the_padding(skips_unknown: bool) -> None:
    """Others may end at a chunk that they do not know."""
    puppet = Puppet(SctpSettings(packet_size_ceiling=1444), skips_unknown=skips_unknown)
    assert (chunks.PAD in [kind for kind, _ in puppet.wait(20.0)]) == skips_unknown


def test_messages_polled_late_are_charged_for_their_number_too() -> None:
    """One-byte messages cost memory that their payload does not show."""
    world = established(pair(19, settings=SctpSettings(receive_window=64 * KIB)))
    right = world.right.association
    receiver = right._receiver
    assert receiver is not None
    before = receiver.window
    for _ in range(200):
        world.left.association.send(world.now, 0, 53, b"x")
    for packet in world.left.association.datagrams(world.now):
        right.receive(world.now, packet)
    polled = 0
    assert before - receiver.window > 64 * 50
    while isinstance(right.poll_event(), MessageReceived):
        polled += 1
    assert before - receiver.window == polled
