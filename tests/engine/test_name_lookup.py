"""A name is found in one family of addresses although nobody answers for the other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from mxrtc_bridge.engine.name_lookup import AddressInfo, look_up
from tests.waiting import until

V4: AddressInfo = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 5))
V6: AddressInfo = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::1", 5, 0, 0))
NO_DATA = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SILENT = None
BOTH, ONLY_V4, ONLY_V6 = socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6

Answer = list[AddressInfo] | socket.gaierror | None


class Resolver:
    """Answers by family; what is silent is so until the test ends, or the question is answered by :meth:`speak`."""

    def __init__(self, answers: dict[socket.AddressFamily, Answer]) -> None:
        self.answers = answers
        self.over = threading.Event()
        self.asked: list[tuple[object, ...]] = []

    def __call__(self, *question: object) -> list[AddressInfo]:
        self.asked.append(question)
        family = question[2]
        assert isinstance(family, socket.AddressFamily)
        if self.answers[family] is SILENT:
            self.over.wait(30)
        answer = self.answers[family]
        if isinstance(answer, list):
            return answer
        raise answer or NO_DATA


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver({})
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.over.set()


async def found(name: str, alone_after_s: float = 0.02) -> list[AddressInfo]:
    return await look_up(name, 5, socket.SOCK_DGRAM, protocol=17, flags=32, alone_after_s=alone_after_s)


async def test_both_families_come_in_the_order_of_the_system_and_with_one_question(resolver: Resolver) -> None:
    resolver.answers = {BOTH: [V6, V4]}
    assert await found("both.test", alone_after_s=60) == [V6, V4]
    assert resolver.asked == [("both.test", 5, BOTH, socket.SOCK_DGRAM, 17, 32)]


@pytest.mark.parametrize(("family", "other", "info"), [(ONLY_V4, ONLY_V6, V4), (ONLY_V6, ONLY_V4, V6)])
@pytest.mark.parametrize("silent", [SILENT, NO_DATA])
async def test_family_that_is_answered_for_is_enough(
    resolver: Resolver,
    family: socket.AddressFamily,
    other: socket.AddressFamily,
    info: AddressInfo,
    silent: Answer,
) -> None:
    resolver.answers = {BOTH: SILENT, family: [info], other: silent}
    assert await found(f"one-{family}-{silent is SILENT}.test") == [info]


async def test_slow_answer_counts_where_no_family_has_one_by_itself(resolver: Resolver) -> None:
    resolver.answers = {BOTH: SILENT, ONLY_V4: NO_DATA, ONLY_V6: NO_DATA}
    finding = asyncio.create_task(found("slow.test"))
    await until(lambda: len(resolver.asked) == 3)
    resolver.answers[BOTH] = [V4]
    resolver.over.set()
    assert await finding == [V4]


async def test_name_that_is_none_is_an_error_at_once(resolver: Resolver) -> None:
    resolver.answers = {BOTH: NO_DATA}
    with pytest.raises(socket.gaierror, match="not known"):
        await found("none.test", alone_after_s=60)
    assert len(resolver.asked) == 1
