"""A path between our peer and another that loses packets."""

from __future__ import annotations

import random

from tests.rtc.peers import RecordingPeer


class LossyPath:
    """Loses a share of the packets in each direction, at random, from the moment that it is made.

    DTLS carries each SCTP packet in one record of one datagram, so losing one is losing the other.
    """

    def __init__(self, ours: RecordingPeer, loss: float, seed: int = 1) -> None:
        self.lost = 0
        self._loss = loss
        self._random = random.Random(seed)
        association, dtls = ours.peer._association, ours.peer._dtls
        self._send, self._receive = dtls.send_packets, association.packets_received
        dtls.send_packets = lambda packets: self._send(self._passed(packets))  # type: ignore[method-assign]
        dtls.attach(lambda packets: self._receive(self._passed(packets)))

    def _passed(self, packets: list[bytes]) -> list[bytes]:
        passed = [packet for packet in packets if self._random.random() >= self._loss]
        self.lost += len(packets) - len(passed)
        return passed
