"""What a peer can make of resets and of messages that nobody wants: how much is kept, and how long one step takes.

Counted in lines and not in time, so that the same code gives the same number everywhere.
"""

from __future__ import annotations

import pytest

from mxrtc_bridge.sctp import chunks, dcep
from mxrtc_bridge.sctp.channels import ChannelClosed, ChannelEvent, ChannelMessage, ChannelOffered, DataChannels
from mxrtc_bridge.sctp.dcep import OpenMessage
from tests.counted_lines import lines
from tests.long import size
from tests.sctp.hostile import Puppet

STEP = 10_000
"""Lines that may run before others have their turn."""
THEIRS, OURS = 1, 0
"""A number of a channel that they may open, and one that only we may."""


class Channels(Puppet):
    """A peer that writes its own packets, and channels on our side, of whose events none is polled by itself."""

    def __init__(self, *, streams: int = 65_535, resets: bool = True) -> None:
        super().__init__(streams=streams, resets=resets)
        self.channels = DataChannels(self.association, dtls_client=True, max_channels=256)
        self.end.drain = lambda: None  # type: ignore[method-assign]

    def open(self, tsn: int, *, sequence: int = 0) -> bytes:
        """Return a DATA chunk that opens the channel :data:`THEIRS`."""
        return self.data(tsn, dcep.format_open(OpenMessage("a", "")), stream=THEIRS, sequence=sequence, ppid=50)

    def poll(self, most: int = 10_000) -> tuple[list[ChannelEvent], int]:
        """Return the events, and the lines of the step that cost most."""
        told: list[ChannelEvent | None] = []
        longest = 0
        for _ in range(most):
            longest = max(longest, lines(lambda: told.append(self.channels.poll_event()), "sctp"))
            event = told[-1]
            if event is None:
                return [each for each in told if each is not None], longest
            if isinstance(event, ChannelMessage):
                self.channels.consumed(event.channel, event.size)
        raise AssertionError(f"{most} events and no end: {told[-1]}")

    def acknowledge(self) -> None:
        """Acknowledge everything that our side has sent."""
        last = self.flight.next_tsn - 1 & 0xFFFFFFFF
        self.send(chunks.sack(last, 1 << 20, [], []))

    def ended_there(self, tsns: int = 1) -> None:
        """Have the channel :data:`THEIRS` opened and ended by them; our own reset of it is asked for, and waits."""
        self.send(self.open(0))
        self.poll()
        self.answers()
        self.send(self.reset(0, THEIRS, after=tsns))
        self.poll()
        self.answers()


@pytest.mark.parametrize("streams", [1, 65_535])
def test_who_has_no_resets_and_sends_one_has_its_channel_closed_once(streams: int) -> None:
    """It must not be answered for ever by a reset of the free number: that took all the time there is."""
    puppet = Channels(streams=streams, resets=False)
    puppet.ended_there()
    told = []
    for _ in range(5):
        puppet.answers()
        told += puppet.poll()[0]
    assert told in ([ChannelClosed(THEIRS)], [])  # on a number that we cannot send on it is refused before
    assert len(puppet.channels) == 0


def test_resets_that_come_early_take_no_memory_however_many_they_are() -> None:
    puppet = Channels()
    puppet.ended_there()
    for number in range(1, size(200, 40)):
        puppet.send(puppet.reset(number, *[THEIRS] * 500, after=1))
        puppet.poll()
        puppet.answers()
    assert not puppet.ended_because
    assert puppet.unread == 0


def test_channels_that_come_and_go_before_ours_is_reset_take_their_turns_at_the_same_price() -> None:
    """Each answer of theirs lets one of them pass, and costs no look at all the others."""
    puppet = Channels()
    puppet.ended_there()
    count, offered = 3_000, 0
    for number in range(1, count + 1):
        opened = puppet.open(number)
        puppet.send(opened, puppet.reset(number, THEIRS, after=number + 1))
        offered += sum(isinstance(event, ChannelOffered) for event in puppet.poll()[0])
        puppet.answers()
    assert offered == 1  # it stood for the answer to the first of our requests
    assert puppet.unread == 2 * (count - 1)
    for request in range(count + 1):
        puppet.acknowledge()
        puppet.send(puppet.answer(request))
        told, longest = puppet.poll() if request < 5 or request % 500 == 0 else (poll_all(puppet), 0)
        offered += sum(isinstance(event, ChannelOffered) for event in told)
        assert longest <= STEP
        puppet.answers()
    assert offered == count
    assert len(puppet.channels) == 0
    assert puppet.unread == 0


def poll_all(puppet: Channels) -> list[ChannelEvent]:
    """Return all events, without a count of the lines."""
    told = []
    while (event := puppet.channels.poll_event()) is not None:
        told.append(event)
    return told


@pytest.mark.parametrize("number", [OURS, THEIRS])
def test_messages_that_nobody_wants_and_one_packet_has_set_free_are_dropped_in_pieces(number: int) -> None:
    """Very many of them wait for one that is missing, on a number without a channel."""
    puppet = Channels()
    count = size(20_000, 1_000)
    for first in range(1, count, 50):
        puppet.send(*(puppet.data(n, stream=number, sequence=n) for n in range(first, first + 50)))
        puppet.answers()
    puppet.send(puppet.data(0, stream=number))
    assert puppet.held > count // 2
    _, longest = puppet.poll()
    assert longest <= STEP
    assert puppet.held == 0


def test_resets_that_data_sets_free_and_that_are_too_many_to_be_told_end_the_association() -> None:
    """As those do that are carried out at once: what is in a packet raises nothing, whatever comes of it."""
    puppet = Puppet()
    requests = [puppet.reset(0, 0, after=1), *(puppet.reset(number, *range(700)) for number in range(1, 8))]
    for packet in [*map(puppet.packet, requests), puppet.packet(puppet.data(0))]:
        puppet.association.receive(puppet.now, packet)
    assert "streams are reset faster than that can be told" in puppet.ended_because
