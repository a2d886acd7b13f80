"""The batched socket: runs in and out, whatever the kernel can do, and what is lost when it cannot."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator, Sized
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.rtc import udp
from mxrtc_bridge.rtc.datagrams import Address, Drops, GuardedStun
from mxrtc_bridge.rtc.udp import MAX_PENDING, UdpTransport
from tests.long import examples

PAYLOAD = b"\x17"


class Recorder:
    """The connection above a socket: keeps runs as datagrams, and where batches end."""

    def __init__(self) -> None:
        self.drops = Drops()
        self.datagrams: list[bytes] = []
        self.sources: set[Address] = set()
        self.runs = 0
        self.batches = 0
        self.refused: list[Address] = []
        self._changed = asyncio.Event()

    def run_received(self, data: bytes, size: int, address: Address) -> None:
        self.runs += 1
        self.sources.add(address)
        self.datagrams += [data[start : start + size] for start in range(0, len(data), size)]

    def runs_ended(self) -> None:
        self.batches += 1
        self._changed.set()

    def port_refused(self, address: Address) -> None:
        self.refused.append(address)
        self._changed.set()

    def payload_received(self, data: bytes, address: Address) -> None:
        raise AssertionError("only relays deliver one by one")

    def protocol_lost(self, protocol: object) -> None: ...

    async def until(self, count: int, of: Callable[[Recorder], Sized] = lambda it: it.datagrams) -> None:
        async with asyncio.timeout(5):
            while len(of(self)) < count:
                self._changed.clear()
                await self._changed.wait()


class Stun(GuardedStun):
    """Keeps what it is given instead of parsing it."""

    def __init__(self, receiver: Recorder) -> None:
        super().__init__(receiver)
        self.heard: list[bytes] = []
        self.errors: list[Exception] = []
        self.lost = 0

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        self.heard.append(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost += 1
        super().connection_lost(exc)


class Side:
    """One socket with what listens to it."""

    def __init__(self, *, offload: bool = True, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind((host, 0))
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self.recorder = Recorder()
        self.stun = Stun(self.recorder)
        self.transport = UdpTransport(sock, self.stun, self.recorder, offload=offload)
        self.address: Address = self.transport.get_extra_info("sockname")[:2]

    async def close(self) -> None:
        await self.stun.close()


class FakeSocket:
    """A socket whose answers to sending are given; without a kernel."""

    def __init__(self, answers: Iterator[OSError | None], *, segments: bool = True) -> None:
        self._answers = answers
        self._segments = segments
        self.sent: list[tuple[bytes, int]] = []
        self.closed = False
        self._pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def getsockname(self) -> Address:
        return ("192.0.2.1", 1)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if not self._segments:
            raise OSError(errno.ENOPROTOOPT, "no such option")

    def _answer(self) -> None:
        error = next(self._answers)
        if error is not None:
            raise error

    def sendto(self, data: bytes, address: Address) -> None:
        self._answer()
        self.sent.append((data, len(data)))

    def sendmsg(self, buffers: Any, ancillary: Any, flags: int, address: Address) -> None:
        self._answer()
        self.sent.append((b"".join(buffers), int.from_bytes(ancillary[0][2], "little")))

    def close(self) -> None:
        self.closed = True
        for end in self._pair:
            end.close()


def faked(*answers: OSError | None, segments: bool = True) -> tuple[UdpTransport, FakeSocket, Stun]:
    sock = FakeSocket(iter(answers), segments=segments)
    recorder = Recorder()
    stun = Stun(recorder)
    return UdpTransport(sock, stun, recorder), sock, stun  # type: ignore[arg-type]


@pytest.mark.both_loops
@pytest.mark.parametrize("sender_offload", [True, False])
@pytest.mark.parametrize("receiver_offload", [True, False])
async def test_runs_arrive_as_the_same_datagrams_with_and_without_help_of_the_kernel(
    sender_offload: bool, receiver_offload: bool
) -> None:
    sender, receiver = Side(offload=sender_offload), Side(offload=receiver_offload)
    sent: list[bytes] = []
    for size, count, rest in ((1200, 1, 0), (1200, 2, 0), (1200, 52, 7), (1200, 130, 1199), (100, 200, 1), (1, 5, 0)):
        run = [PAYLOAD * size] * count + ([PAYLOAD * rest] if rest else [])
        sender.transport.send_run(b"".join(run), size, receiver.address)
        sent += run
        await receiver.recorder.until(len(sent))
    assert receiver.recorder.datagrams == sent
    assert receiver.recorder.sources == {sender.address}
    assert receiver.stun.heard == []
    await asyncio.gather(sender.close(), receiver.close())


@pytest.mark.both_loops
@pytest.mark.linux
async def test_kernel_joins_and_divides_where_it_can() -> None:
    sender, receiver = Side(), Side()
    # Every kernel since Linux 5.0; without it a bridge works, at a part of the rate that this project promises.
    assert sender.transport.divides, "the kernel does not know UDP_SEGMENT"
    assert receiver.transport.joins, "the kernel does not know UDP_GRO"
    sender.transport.send_run(PAYLOAD * 1200 * 50, 1200, receiver.address)
    await receiver.recorder.until(50)
    assert receiver.recorder.runs == 1
    assert receiver.recorder.batches == 1
    await asyncio.gather(sender.close(), receiver.close())


async def test_datagrams_of_ipv6_come_with_two_part_addresses() -> None:
    sender, receiver = Side(host="::1"), Side(host="::1")
    sender.transport.sendto(PAYLOAD, receiver.address)
    await receiver.recorder.until(1)
    assert receiver.recorder.sources == {sender.address}
    await asyncio.gather(sender.close(), receiver.close())


@pytest.mark.parametrize("offload", [True, False])
async def test_stun_and_empty_datagrams_go_to_the_protocol_in_between(offload: bool) -> None:
    sender, receiver = Side(offload=False), Side(offload=offload)
    for first in (b"\x00", PAYLOAD, b"\x03", b"\x04", b"\x01"):
        sender.transport.sendto(first * 20, receiver.address)
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.sendto(b"", receiver.address)
    sender.transport.sendto(PAYLOAD, receiver.address)
    await receiver.recorder.until(3)
    assert receiver.recorder.datagrams == [PAYLOAD * 20, b"\x04" * 20, PAYLOAD]
    assert receiver.stun.heard == [b"\x00" * 20, b"\x03" * 20, b"\x01" * 20, b""]
    raw.close()
    await asyncio.gather(sender.close(), receiver.close())


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(1, 1500),
    st.integers(0, 140),
    st.integers(0, 1500),
    st.lists(st.booleans(), max_size=4),
)
@example(1200, 3, 7, [True, True])
def test_every_byte_is_sent_once_in_runs_that_the_kernel_takes(
    size: int, count: int, rest: int, pauses: list[bool]
) -> None:
    """However often the socket is full: nothing is lost, repeated, reordered or divided at another place."""
    run = PAYLOAD * (size * count + min(rest, size))

    async def story() -> None:
        answers = iter([BlockingIOError() if pause else None for pause in pauses] + [None] * 1000)
        transport, sock, _ = faked(*answers)
        transport.send_run(run, size, ("192.0.2.2", 2))
        while transport._pending:
            transport._writable()
        assert b"".join(data for data, _ in sock.sent) == run
        for data, segment in sock.sent:
            assert segment == size or len(data) == segment <= size
            assert len(data) <= max(size, udp.MAX_RUN)
            assert -(-len(data) // segment) <= udp.MAX_SEGMENTS
        assert all(len(data) % size == 0 for data, _ in sock.sent[:-1])
        transport.close()
        await asyncio.sleep(0)

    if run:
        asyncio.run(story())


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP])
@pytest.mark.linux
async def test_device_that_cannot_divide_gets_single_datagrams_from_then_on(code: int) -> None:
    transport, sock, stun = faked(OSError(code, "cannot"), *[None] * 20)
    transport.send_run(PAYLOAD * 500, 100, ("192.0.2.2", 2))
    transport.send_run(PAYLOAD * 300, 100, ("192.0.2.2", 2))
    assert sock.sent == [(PAYLOAD * 100, 100)] * 8
    assert (transport.refused, stun.errors) == (0, [])
    transport.close()
    await stun.close()


async def test_kernel_without_the_options_is_noticed_at_the_start() -> None:
    transport, sock, stun = faked(*[None] * 20, segments=False)
    assert (transport.joins, transport.divides) == (False, False)
    transport.send_run(PAYLOAD * 300, 100, ("192.0.2.2", 2))
    assert sock.sent == [(PAYLOAD * 100, 100)] * 3
    transport.close()
    await stun.close()


@pytest.mark.linux
async def test_datagram_that_the_kernel_refuses_is_counted_and_the_next_goes_out() -> None:
    transport, sock, stun = faked(OSError(errno.ENETUNREACH, "no route"), None)
    transport.send_run(PAYLOAD * 300, 100, ("192.0.2.2", 2))
    transport.send_run(PAYLOAD * 300, 100, ("192.0.2.2", 2))
    assert (transport.refused, len(stun.errors), len(sock.sent)) == (3, 1, 1)
    transport.close()
    await stun.close()


async def test_address_of_another_family_is_counted_and_nothing_is_raised() -> None:
    side = Side()
    side.transport.sendto(PAYLOAD, ("::1", 9))
    side.transport.sendto(PAYLOAD, ("127.0.0.1", 70000))
    assert side.transport.refused == 2
    await side.close()


async def test_what_a_full_socket_does_not_take_waits_up_to_a_limit_and_the_newest_is_dropped() -> None:
    transport, _, stun = faked(BlockingIOError())
    run = PAYLOAD * 1000 * 50
    for _ in range(MAX_PENDING // len(run)):
        transport.send_run(run, 1000, ("192.0.2.2", 2))
    assert transport.overflow == 0
    transport.send_run(run, 1000, ("192.0.2.2", 2))
    assert transport.overflow == 50
    assert transport._pending_bytes <= MAX_PENDING
    transport.close()
    assert transport._pending_bytes == 0
    await stun.close()


async def test_real_socket_that_is_full_goes_on_when_there_is_room() -> None:
    """With a small send buffer the kernel says no in the middle; everything still arrives, in order."""
    sender, receiver = Side(offload=False), Side()
    sender.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for number in range(100):
        sender.transport.send_run(bytes([23, number]) * 600, 1200, receiver.address)
    await receiver.recorder.until(100)
    assert receiver.recorder.datagrams == [bytes([23, number]) * 600 for number in range(100)]
    await asyncio.gather(sender.close(), receiver.close())


@pytest.mark.both_loops
async def test_closed_socket_says_so_once_and_sends_nothing() -> None:
    side = Side()
    sock = side.transport.get_extra_info("socket")
    side.transport.close()
    side.transport.close()
    side.transport.send_run(PAYLOAD, 1, side.address)
    assert side.transport.is_closing()
    await side.stun.close()
    assert side.stun.lost == 1
    assert sock.fileno() == -1
    assert side.transport.refused == 0


async def test_message_of_the_network_about_an_earlier_datagram_does_not_end_the_socket() -> None:
    side, other = Side(), Side()
    gone = Side()
    await gone.close()
    sock = side.transport.get_extra_info("socket")
    sock.connect(gone.address)  # only a connected socket is told
    side.transport.sendto(PAYLOAD, gone.address)
    async with asyncio.timeout(5):
        while not side.stun.errors:
            await asyncio.sleep(0)
    assert isinstance(side.stun.errors[0], ConnectionRefusedError)
    sock.connect(other.address)
    other.transport.sendto(PAYLOAD, side.address)
    await side.recorder.until(1)
    await asyncio.gather(side.close(), other.close())


@pytest.mark.both_loops
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.linux
async def test_port_that_nobody_has_any_more_is_told_and_the_socket_goes_on(host: str) -> None:
    """That libuv ends a poll in which there was an error is seen by what comes after it."""
    side, other, gone = Side(host=host), Side(host=host), Side(host=host)
    await gone.close()
    side.transport.report_refusals(wanted=True)
    for count in (1, 2, 3):
        side.transport.sendto(PAYLOAD, gone.address)
        await side.recorder.until(count, lambda it: it.refused)
        side.transport.sendto(PAYLOAD, other.address)
        other.transport.sendto(PAYLOAD, side.address)
        await side.recorder.until(count)
        await other.recorder.until(count)
    assert set(side.recorder.refused) == {gone.address}
    side.transport.sendto(PAYLOAD, gone.address)
    side.transport.report_refusals(wanted=False)
    side.transport.sendto(PAYLOAD, gone.address)
    other.transport.sendto(PAYLOAD, side.address)
    await side.recorder.until(4)
    sock = side.transport.get_extra_info("socket")
    with pytest.raises(BlockingIOError):
        sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)  # what is left there would wake the loop for ever
    await asyncio.gather(side.close(), other.close())


@pytest.mark.both_loops
async def test_datagram_before_which_an_earlier_one_found_nobody_is_sent() -> None:
    side, other, gone = Side(), Side(), Side()
    await gone.close()
    side.transport.report_refusals(wanted=True)
    for count in (1, 2, 3):
        side.transport.sendto(PAYLOAD, gone.address)
        side.transport.sendto(PAYLOAD, other.address)
        await other.recorder.until(count)
    await asyncio.gather(side.close(), other.close())


@pytest.mark.both_loops
@pytest.mark.linux
async def test_report_that_comes_without_an_error_of_the_socket_is_taken_too() -> None:
    """So it is with a probe that is too large for our own interface."""
    side, other, gone = Side(), Side(), Side()
    await gone.close()
    side.transport.report_refusals(wanted=True)
    sock = side.transport.get_extra_info("socket")
    sock.sendto(PAYLOAD, gone.address)
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    other.transport.sendto(PAYLOAD, side.address)
    await side.recorder.until(1)
    other.transport.sendto(PAYLOAD, side.address)
    await side.recorder.until(2)
    assert side.recorder.refused == [gone.address]
    await asyncio.gather(side.close(), other.close())


async def test_flood_is_read_in_turns() -> None:
    """Others get their turn after a bounded number of datagrams."""
    sender, receiver = Side(), Side(offload=False)
    for _ in range(4):
        sender.transport.send_run(PAYLOAD * 100 * 100, 100, receiver.address)
    receiver.transport._readable()
    assert 0 < len(receiver.recorder.datagrams) <= udp.MAX_DATAGRAMS_PER_TURN
    await receiver.recorder.until(400)
    await asyncio.gather(sender.close(), receiver.close())


@pytest.mark.linux
async def test_only_a_probe_is_lost_where_it_would_have_to_be_fragmented(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []

    def allow(_sock: socket.socket, *, allowed: bool) -> bool:
        said.append(allowed)
        return True

    monkeypatch.setattr(udp, "allow_fragments", allow)
    sender, receiver = Side(), Side()
    sender.transport.send_run(PAYLOAD * 3000, 1500, receiver.address)
    await receiver.recorder.until(2)
    assert said == []
    sender.transport.send_whole(PAYLOAD * 1400, receiver.address)
    await receiver.recorder.until(3)
    assert said == [False, True]
    for side in (sender, receiver):
        await side.close()
