"""Set-up of both sides at once, the cookie, shutdown and failure."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sctp import chunks
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.events import Ended, Established
from mxrtc_bridge.sctp.handshake import Proposal, format_greeting, make_cookie, open_cookie, read_greeting
from mxrtc_bridge.sctp.lifecycle import AssociationState
from mxrtc_bridge.sctp.packets import PacketWriter
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.hostile import Puppet
from tests.sctp.links import Path, association, established, pair

words = st.integers(0, 2**32 - 1)
proposals = st.builds(
    Proposal,
    st.integers(1, 2**32 - 1),
    words,
    st.integers(1, 65_535),
    st.integers(1, 65_535),
    words,
    interleaving=st.booleans(),
    zero_checksum=st.booleans(),
    partial=st.just(True),
    reconfiguration=st.just(True),
    skips_unknown=st.just(True),
)


@given(proposals, st.binary(min_size=1, max_size=200))
def test_greeting_is_read_as_it_was_written(proposal: Proposal, cookie: bytes) -> None:
    chunk = format_greeting(chunks.INIT_ACK, proposal, cookie)
    assert len(chunk) % 4 == 0
    greeting = read_greeting(chunk[4 : int.from_bytes(chunk[2:4], "big")])
    assert (greeting.proposal, greeting.cookie) == (proposal, cookie)


@given(st.binary(max_size=100))
def test_any_greeting_is_read_or_refused(body: bytes) -> None:
    try:
        greeting = read_greeting(body)
    except MalformedError:
        return
    assert greeting.proposal.tag


@given(proposals, st.integers(0, 500), st.integers(1, 255))
def test_cookie_opens_for_its_maker_only(proposal: Proposal, position: int, change: int) -> None:
    cookie = make_cookie(b"k" * 32, 12.5, 99, proposal)
    assert open_cookie(b"k" * 32, 99, cookie) == (12.5, proposal)
    assert open_cookie(b"K" * 32, 99, cookie) is None
    assert open_cookie(b"k" * 32, 98, cookie) is None
    position %= len(cookie)
    changed = cookie[:position] + bytes([cookie[position] ^ change]) + cookie[position + 1 :]
    assert open_cookie(b"k" * 32, 99, changed) is None
    assert open_cookie(b"k" * 32, 99, cookie + b"x") is None


def test_both_sides_start_at_once_and_agree() -> None:
    world = established(pair(1))
    assert world.left.events == [Established(65_535, 65_535, interleaving=True)] == world.right.events
    assert world.now < 1000.04, "three flights of 10 ms: the INITs crossed"


def test_one_side_may_start_late_or_alone() -> None:
    """The late side has answered the INIT of the other before it sends its own; or never sends one."""
    for late in (0.001, 0.015, 0.025, None):
        world = pair(2)
        world.left.association.start(world.now)
        world.flush()
        if late is not None:
            world.run(late)
            world.right.association.start(world.now)
            world.flush()
        assert world.run(5, world.all_established), f"late by {late}"


def test_set_up_survives_loss_duplication_and_reordering() -> None:
    for seed in range(60):
        path = Path(loss=0.4, duplicate=0.3, reorder=0.5, hold=0.1)
        world = pair(seed, path, SctpSettings(max_init_retransmissions=30))
        world.start()
        assert world.run(300, world.all_established), f"seed {seed}"
        for end in (world.left, world.right):
            assert len(end.of(Established)) == 1


def test_capabilities_are_used_only_where_both_have_them() -> None:
    plain = SctpSettings(interleaving=False, zero_checksum=False, max_streams=100)
    world = established(pair(3, right_settings=plain))
    assert world.left.events == [Established(100, 65_535, interleaving=False)]
    assert world.right.events == [Established(100, 100, interleaving=False)]
    assert world.left.association._writer._zero is None  # type: ignore[union-attr]


def test_zero_checksum_is_sent_where_accepted_but_never_in_the_set_up() -> None:
    seen: list[tuple[int, bool]] = []
    world = pair(4)
    world.tap = lambda end, packet: seen.append((packet[12], packet[8:12] == bytes(4))) or packet
    established(world)
    world.left.association.send(world.now, 0, 53, b"x")
    world.flush()
    world.run(1)
    assert {zero for kind, zero in seen if kind in (chunks.INIT, chunks.INIT_ACK, chunks.COOKIE_ECHO)} == {False}
    assert {zero for kind, zero in seen if kind in (chunks.I_DATA, chunks.SACK)} == {True}


def test_set_up_gives_up_when_nobody_answers() -> None:
    world = pair(5, Path(loss=1.0))
    world.start()
    assert world.run(200, lambda: world.left.ended is not None)
    assert world.left.ended is not None
    assert world.left.ended.code == "timeout"
    assert world.left.association.next_deadline() is None


def test_cookie_is_stale_after_its_lifetime() -> None:
    settings = SctpSettings(cookie_lifetime=5.0)
    world = pair(6, settings=settings)
    held: list[bytes] = []

    def hold(end: object, packet: bytes) -> bytes | None:
        if packet[12] == chunks.COOKIE_ECHO and len(held) < 1:
            held.append(packet)
            return None
        return packet if packet[12] != chunks.COOKIE_ECHO else None

    world.tap = hold
    world.start()
    world.run(7)
    receiver = world.right if int.from_bytes(held[0][4:8], "big") == world.right.association._drawn.tag else world.left
    receiver.association.receive(world.now, held[0])
    (packet,) = receiver.association.datagrams(world.now)
    assert packet[12] == chunks.ERROR
    assert packet[16:18] == chunks.STALE_COOKIE.to_bytes(2, "big")
    assert not receiver.established


def test_forged_cookie_and_restart_are_ignored() -> None:
    puppet = Puppet()
    puppet.send(chunks.chunk(chunks.COOKIE_ECHO, bytes(60)))
    other = association(9)
    other.start(0.0)
    puppet.raw(other.datagrams(0.0)[0])
    assert puppet.association.dropped == {"cookie": 1, "init": 1}
    assert puppet.association.state is AssociationState.ESTABLISHED
    assert puppet.answers() == []


def test_data_that_overtakes_the_cookie_ack_is_taken() -> None:
    puppet_free = pair(7)
    puppet_free.tap = lambda end, packet: None if packet[12] == chunks.COOKIE_ACK else packet
    puppet_free.start()
    assert puppet_free.run(5, puppet_free.all_established)


def test_refusal_is_told() -> None:
    world = pair(8)
    world.left.association.start(world.now)
    (packet,) = world.left.association.datagrams(world.now)
    greeting = read_greeting(packet[16:])
    writer = PacketWriter(5000, 5000, greeting.proposal.tag)
    world.left.association.receive(world.now, writer.write([chunks.abort(chunks.USER_ABORT, "no \u2603 today")]))
    world.left.drain()
    assert world.left.ended == Ended("refused", r"the other side ended it: cause 12 'no \\u2603 today'")


def test_shutdown_delivers_everything_first() -> None:
    for seed in range(20):
        world = established(pair(seed, Path(loss=0.2), SctpSettings(max_init_retransmissions=30)))
        for number in range(30):
            world.left.association.send(world.now, number % 4, 53, bytes([number]) * 3000)
        world.left.association.close(world.now)
        with pytest.raises(StateError, match="shutdown"):
            world.left.association.send(world.now, 0, 53, b"late")
        world.flush()
        assert world.run(200, world.all_ended)
        assert len(world.right.messages) == 30
        assert world.left.ended is not None
        assert world.left.ended.code in ("closed", "timeout")


def test_both_may_shut_down_at_once() -> None:
    world = established(pair(11))
    for end in (world.left, world.right):
        end.association.send(world.now, 1, 51, b"bye")
        end.association.close(world.now)
    world.flush()
    assert world.run(5, world.all_ended)
    assert (world.left.ended.code, world.right.ended.code) == ("closed", "closed")  # type: ignore[union-attr]
    assert len(world.left.messages) == len(world.right.messages) == 1


def test_dead_peer_is_noticed_with_data_and_without() -> None:
    for idle in (False, True):
        settings = replace(SctpSettings(), max_retransmissions=5)
        world = established(pair(12, settings=settings))
        world.tap = lambda end, packet: None
        if not idle:
            world.left.association.send(world.now, 0, 53, b"anyone?")
        world.flush()
        assert world.run(120, lambda world=world: world.left.ended is not None)
        assert world.left.ended is not None
        assert world.left.ended.code == "timeout"


def test_live_idle_association_stays() -> None:
    world = established(pair(13))
    world.run(1000)
    assert world.left.ended is None
    assert world.steps < 400


def test_everything_is_harmless_after_the_end() -> None:
    puppet = Puppet()
    puppet.association.abort("enough")
    puppet.association.abort("again")
    assert [kind for kind, _ in puppet.answers()] == [chunks.ABORT]
    puppet.send(puppet.data(0))
    puppet.association.close(puppet.now)
    puppet.association.consumed(5)
    puppet.association.reset(1)
    puppet.association.handle_timeout(puppet.now + 100)
    assert puppet.answers() == []
    assert puppet.end.of(Ended) == [Ended("local", "enough")]
    with pytest.raises(StateError):
        puppet.association.send(puppet.now, 0, 53, b"x")


def test_same_seed_gives_the_same_packets() -> None:
    def story() -> list[bytes]:
        seen: list[bytes] = []
        world = pair(14, Path(loss=0.1))
        world.tap = lambda end, packet: seen.append(packet) or packet
        established(world)
        world.left.association.send(world.now, 0, 53, random.Random(1).randbytes(50_000))
        world.flush()
        world.run(20)
        return seen

    assert story() == story()


def test_set_up_is_repeated_by_the_round_trip_that_is_known() -> None:
    puppet = association(40, SctpSettings(setup_timeout=0.25))
    puppet.start(0.0)
    sent, now = [], 0.0
    while now < 8:
        sent += [now] * len(puppet.datagrams(now))
        now = puppet.next_deadline() or 99
        puppet.handle_timeout(now)
    assert sent == [0.0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75]
