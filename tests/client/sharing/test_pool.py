"""One session for all who want the same, and for nobody longer than somebody wants it."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import CallOptions, SignalBy
from mxrtc_bridge.client.sharing.pool import SessionPool
from mxrtc_bridge.core.call.values import CallEnded, CallOutcome
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from tests.client.sharing.bench import PEER, Heard, Network, Placed
from tests.fakes import FakeSink
from tests.waiting import turns, until

DEFAULT = CallOptions()


async def using(pool: SessionPool, until_done: asyncio.Event, options: CallOptions = DEFAULT) -> Connection:
    async with pool.connection(PEER, options, Heard()) as connection:
        await until_done.wait()
        return connection


async def test_who_wants_the_same_has_the_same_session_until_the_last_one_is_done() -> None:
    network = Network(Placed())
    pool, first, second = SessionPool(network.place), asyncio.Event(), asyncio.Event()
    using_it = [asyncio.create_task(using(pool, each)) for each in (first, second)]
    await turns()
    first.set()
    one = await using_it[0]
    assert network.ended == 0
    second.set()
    assert await using_it[1] is one
    assert (network.ended, len(network.options)) == (1, 1)


@pytest.mark.parametrize(
    ("second", "calls"),
    [
        (CallOptions(timeout_s=3), 1),
        (CallOptions(signal=SignalBy.DEVICE), 1),
        (CallOptions(signal=SignalBy.ROOM), 2),
        (CallOptions(policy=IcePolicy.RELAY), 2),
        (CallOptions(interfaces=("eth0",)), 2),
    ],
)
async def test_a_warm_session_serves_who_would_have_called_in_the_same_way(second: CallOptions, calls: int) -> None:
    network = Network(Placed(), Placed())
    pool = SessionPool(network.place)
    async with pool.connection(PEER, DEFAULT, Heard()), pool.connection(PEER, second, Heard()):
        assert len(network.options) == calls
    await pool.close()


async def test_a_session_by_a_room_does_not_serve_who_insists_on_a_device() -> None:
    network = Network(Placed(device=None), Placed())
    pool = SessionPool(network.place)
    async with (
        pool.connection(PEER, DEFAULT, Heard()),
        pool.connection(PEER, CallOptions(signal=SignalBy.DEVICE), Heard()) as second,
    ):
        assert second.device is not None
    await pool.close()


async def test_a_session_that_is_lost_is_not_given_to_others() -> None:
    placed, network = Placed(), Network()
    network.answers = [placed, Placed()]
    pool = SessionPool(network.place)
    async with pool.connection(PEER, DEFAULT, Heard()) as first:
        placed.end(CallEnded(CallOutcome.FAILED, "consent_expired"))
        async with pool.connection(PEER, DEFAULT, Heard()) as second:
            assert second is not first
    await pool.close()


async def test_a_session_that_is_full_is_not_given_to_others() -> None:
    placed = Placed()
    placed.session.opener.max_streams = 1
    network = Network(placed, Placed())
    pool = SessionPool(network.place)
    async with pool.connection(PEER, DEFAULT, Heard()) as first:
        for _ in range(2):
            first.links.open_stream(ServiceName("ssh"), FakeSink())
        async with pool.connection(PEER, DEFAULT, Heard()) as second:
            assert second is not first
    await pool.close()


async def test_who_gives_up_ends_a_call_for_nobody_else() -> None:
    network, placed = Network(), Placed()
    pool, done = SessionPool(network.place), asyncio.Event()
    done.set()
    first, second = (asyncio.create_task(using(pool, done)) for _ in range(2))
    await turns()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    network.answers.append(placed)
    assert await asyncio.wait_for(using(pool, done), 5) is placed.connection


async def test_a_call_that_fails_fails_for_all_who_wait_and_not_for_who_comes_later() -> None:
    network = Network(ClientError(Exit.OFFLINE, "no answer"), Placed())
    pool, done = SessionPool(network.place), asyncio.Event()
    done.set()
    both = await asyncio.gather(*(using(pool, done) for _ in range(2)), return_exceptions=True)
    assert [str(each) for each in both] == ["no answer", "no answer"]
    await using(pool, done)
    assert len(network.options) == 2


async def test_what_is_waited_for_is_told_to_all_who_wait() -> None:
    network = Network()
    pool, ears = SessionPool(network.place), [Heard(), Heard()]

    async def wait(ear: Heard) -> None:
        async with pool.connection(PEER, DEFAULT, ear):
            pass

    waiting = [asyncio.create_task(wait(ear)) for ear in ears]
    await until(lambda: all(ear.said for ear in ears))
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_closing_hangs_up_whoever_uses_it() -> None:
    network = Network(Placed())
    pool = SessionPool(network.place)
    async with pool.connection(PEER, DEFAULT, Heard()) as connection:
        await pool.close()
        assert network.ended == 1
        assert connection.links.lost.is_set()


# Kept for the next one


async def keep(pool: SessionPool, peer: UserId = PEER) -> None:
    async with pool.connection(peer, DEFAULT, Heard(), lingers=True):
        pass


@pytest.mark.virtual_time
async def test_a_session_of_a_guest_is_kept_for_the_next_one_for_a_while() -> None:
    network = Network(Placed(), Placed())
    pool = SessionPool(network.place, linger_s=60)
    await keep(pool)
    await asyncio.sleep(59)
    await keep(pool)
    assert len(network.options) == 1
    await asyncio.sleep(59)
    assert network.ended == 0
    await asyncio.sleep(2)
    assert network.ended == 1
    await keep(pool)
    assert len(network.options) == 2
    await pool.close()
    assert network.ended == 2


@pytest.mark.virtual_time
async def test_a_session_that_is_lost_while_nobody_uses_it_is_ended() -> None:
    placed = Placed()
    network = Network(placed, Placed())
    pool = SessionPool(network.place, linger_s=60)
    await keep(pool)
    placed.end(CallEnded(CallOutcome.FAILED, "consent_expired"))
    await asyncio.sleep(1)
    assert network.ended == 1
    await keep(pool)
    assert len(network.options) == 2
    await pool.close()


async def test_of_sessions_that_nobody_uses_few_are_kept_and_the_oldest_ends_first() -> None:
    network = Network(*(Placed() for _ in range(4)))
    pool = SessionPool(network.place)
    peers = [UserId(f"@rtc_{each}:example.org") for each in "abc"]
    for each in peers:
        await keep(pool, each)
    assert (len(network.options), network.ended) == (3, 1)
    for each in reversed(peers[1:]):
        await keep(pool, each)
    assert len(network.options) == 3
    await keep(pool, peers[0])
    assert len(network.options) == 4
    await pool.close()
    assert network.ended == 4


async def test_a_session_that_nobody_uses_makes_room_for_a_call() -> None:
    """Each counts at the bridge, which gives a user four."""
    network = Network(*(Placed() for _ in range(4)))
    pool = SessionPool(network.place)
    peers = [UserId(f"@rtc_{each}:example.org") for each in "abcd"]
    async with (
        pool.connection(peers[0], DEFAULT, Heard()),
        pool.connection(peers[1], DEFAULT, Heard()),
    ):
        await keep(pool, peers[2])
        assert network.ended == 0
        async with pool.connection(peers[3], DEFAULT, Heard(), lingers=True):
            assert network.ended == 1
    await pool.close()


async def test_what_a_command_uses_itself_is_kept_for_nobody() -> None:
    network = Network(Placed())
    pool = SessionPool(network.place)
    async with pool.connection(PEER, DEFAULT, Heard()):
        pass
    assert network.ended == 1


async def test_a_command_that_is_done_keeps_no_sessions() -> None:
    network = Network(Placed(), Placed())
    pool = SessionPool(network.place)
    await keep(pool)
    await pool.stop_lingering()
    assert network.ended == 1
    await keep(pool)
    assert network.ended == 2
