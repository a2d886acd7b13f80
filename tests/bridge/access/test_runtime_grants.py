"""Grants are taken away first and always, given for certain, and what could not be written down is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.access.runtime_grants import GrantError, UnwrittenError
from mxrtc_bridge.core.access.grants import EndedGrant, StoredGrant
from mxrtc_bridge.core.access.policy import parse_subject
from mxrtc_bridge.core.access.requests import Decision
from mxrtc_bridge.core.audit.chain import AuditKind
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.storage.audit import AuditQuery
from tests.bridge.access.grants_world import ADMIN, EVE, HOUR_S, NOW, SSH, WEB, RefusingDatabase, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await World.start(tmp_path / "first")
    yield made
    await made.stop()


async def restarted(world: World, tmp_path: Path) -> World:
    """A run on what a kill would leave of this one."""
    world.copy(tmp_path / "killed")
    return await World.start(tmp_path / "killed")


async def test_all_grants_of_somebody_end_at_once_when_the_disk_is_full(world: World) -> None:
    for service in (SSH, WEB, SSH):
        await world.give(service)
    judged = world.judged
    disk = RefusingDatabase(world)
    with pytest.raises(UnwrittenError) as caught:
        await world.given.revoke_all(parse_subject(EVE), None, None, ADMIN)
    assert world.in_force() == set()
    assert world.judged == judged + 1, "live sessions are judged once, when all of it is gone"
    assert str(caught.value).startswith(
        "Grants 1, 2, 3 are out of force now, but that could not be written down: the disk is full."
    )
    with pytest.raises(UnwrittenError, match=r"Grant 2 is out of force now"):
        await world.given.revoke(2, ADMIN)
    disk.on = False
    assert [grant.number for grant in await world.given.revoke_all(parse_subject(EVE), None, None, ADMIN)] == [1, 2, 3]
    assert await world.in_database() == set()
    with pytest.raises(GrantError, match="There is no grant 2 in force"):
        await world.given.revoke(2, ADMIN)


@pytest.mark.parametrize(("because", "how"), [("", "revoked"), ("it is: over", "revoked: it is: over")])
async def test_why_a_grant_was_revoked_is_kept(world: World, because: str, how: str) -> None:
    await world.give()
    await world.give(WEB)
    await world.given.revoke(1, ADMIN, because)
    await world.given.revoke_all(parse_subject(EVE), None, None, ADMIN, because)
    await world.settled()
    records, _ = await world.audit_store.page(AuditQuery(), 0, 10)
    ends = [record for _, record in records if record.kind is AuditKind.GRANT_END]
    assert [end.reason for end in ends] == [how, how]
    assert describe(ends[-1]).endswith(f" revoked by {ADMIN}{how.removeprefix('revoked')}")


async def test_an_end_is_written_down_when_the_database_works_again(tmp_path: Path) -> None:
    world = await World.start(tmp_path / "first", pauses=Backoff(0.01, 60.0))
    await world.give()
    disk = RefusingDatabase(world)
    with pytest.raises(UnwrittenError):
        await world.given.revoke(1, ADMIN)
    disk.on = False
    await world.settled()
    assert (await world.in_database(), world.by_audit()) == (set(), set())
    after = await restarted(world, tmp_path)
    assert after.in_force() == set()
    await after.stop()
    await world.stop()


async def test_pauses_between_attempts_grow_and_everything_is_one_attempt(tmp_path: Path) -> None:
    world = await World.start(tmp_path / "first", pauses=Backoff(0.001, 0.002))
    numbers = [await world.give() for _ in range(5)]
    disk = RefusingDatabase(world)
    failures = await asyncio.gather(*(world.given.revoke(number, ADMIN) for number in numbers), return_exceptions=True)
    assert all(isinstance(each, UnwrittenError) for each in failures)
    assert world.given.unwritten == 5
    attempts = disk.attempts
    async with asyncio.timeout(10):
        while disk.attempts < attempts + 5:
            await asyncio.sleep(0.001)
    disk.on = False
    await world.settled()
    await world.stop()


async def test_a_stop_writes_down_what_waits_and_names_what_it_could_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = await World.start(tmp_path / "first", stop_s=0.1)
    await world.give()
    await world.give(WEB)
    world.given.claimed(replace(next(iter(world.given.table)), once=True), object())
    disk = RefusingDatabase(world)
    with pytest.raises(UnwrittenError):
        await world.given.revoke(1, ADMIN)
    caplog.set_level(logging.ERROR)
    await world.given.close()
    assert "Grant 1 ended, and may be in force after the next start" in caplog.text
    disk.on = False
    await world.stop()
    after = await World.start(tmp_path / "first")
    assert after.in_force() == set(), "the second close has written it"
    await after.stop()


@pytest.mark.parametrize(
    ("step", "side"),
    [
        ("grant stored", "before"),
        ("grant stored", "after"),
        ("grant audited", "before"),
        ("grant audited", "after"),
        ("grant confirmed", "before"),
        ("grant confirmed", "after"),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
async def test_a_stop_while_something_hangs_gives_nothing_that_nobody_was_told_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    step: str,
    side: str,
    writes: bool,
) -> None:
    """Neither then nor after the next start, by the database and by the audit, and the log says what it was."""
    world = await World.start(tmp_path / "first", stop_s=0.1)
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    world.hooks[step, side] = hang
    giving = asyncio.create_task(world.give())
    await reached.wait()
    if not writes:
        world.hooks["end stored", "before"] = hang  # nor does it take that this was given up
    await world.stop()
    await asyncio.gather(giving, return_exceptions=True)
    assert f"grant {1 if step != 'grant stored' else ''}".strip() in caplog.text
    assert f"to {EVE} for {SSH.peer}/{SSH.name}" in caplog.text
    assert world.in_force() == set()
    assert world.by_audit() == set()
    after = await World.start(tmp_path / "first")
    assert (after.in_force(), await after.in_database()) == (set(), set())
    assert after.by_audit() == set()
    await after.stop()


async def test_whoever_is_cancelled_has_not_given_it(world: World, tmp_path: Path) -> None:
    """The audit takes longer than the command may."""

    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    world.hooks["grant audited", "before"] = hang
    giving = asyncio.create_task(world.give())
    await reached.wait()
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    assert world.in_force() == set()
    after = await restarted(world, tmp_path)
    assert (after.in_force(), after.by_audit()) == (set(), set())
    await after.stop()


async def test_a_request_is_open_again_when_its_grant_cannot_be_audited(world: World) -> None:
    number = await world.ask()

    async def refuse(_grant: StoredGrant) -> bool:
        return False

    world.audited.grant_given = refuse  # type: ignore[method-assign]
    with pytest.raises(Exception, match=rf"It was not given: it cannot be written .* Request {number} is open again"):
        await world.requests.answer(number, Decision.ALLOW, ADMIN)
    assert [each.number for each in await world.requests.waiting()] == [number]


@pytest.mark.parametrize(
    ("decision", "state"),
    [(Decision.ALLOW, "allowed"), (Decision.ALLOW_ONCE, "allowed"), (Decision.DENY, "denied")],
)
async def test_a_program_is_told_how_a_request_stands(world: World, decision: Decision, state: str) -> None:
    number = await world.ask()
    await world.requests.answer(number, decision, ADMIN)
    assert world.posted_fields == [{"io.mxrtc.request": {"number": number, "state": state}}]


async def test_a_program_is_told_of_a_request_that_ends_otherwise(world: World) -> None:
    number = await world.ask()
    answer = await world.requests.withdraw(number, EVE)
    assert answer.fields == {"io.mxrtc.request": {"number": number, "state": "withdrawn"}}
    number = await world.ask()
    world.now_ms += 25 * HOUR_S * 1000
    await world.requests.keep_house()
    assert world.posted_fields == [{"io.mxrtc.request": {"number": number, "state": "expired"}}]


async def test_a_grant_for_one_session_carries_no_byte_before_that_is_written_down(world: World) -> None:
    await world.give(once=True)
    disk = RefusingDatabase(world)
    assert not await world.use(world.session())
    disk.on = False


async def test_a_start_says_which_grants_the_audit_contradicts_and_which_it_does_not_know(
    world: World, tmp_path: Path
) -> None:
    ended = await world.give()
    await world.settled()
    grant = next(iter(world.given.table))
    world.audited.grant_ended(grant, "revoked", ADMIN)
    unknown = await world.grants.add(replace(grant, number=0))
    assert unknown is not None
    await world.grants.confirm(unknown)
    await world.settled()
    after = await restarted(world, tmp_path)
    assert after.in_force() == {unknown}, "no line says that it has ended"
    assert after.told[-2:] == [
        f"Grant {ended} had ended by the audit, and not in the database: out of force now.",
        (
            f"Grant {unknown}: in force in the database, and the audit has no line of it. "
            "Look at grants, and revoke what nobody has given."
        ),
    ]
    await after.stop()


async def test_an_end_that_the_audit_does_not_know_is_written_there_at_the_start(world: World, tmp_path: Path) -> None:
    await world.give()
    await world.settled()
    await world.grants.write([EndedGrant(next(iter(world.given.table)), NOW, "used")])
    after = await restarted(world, tmp_path)
    await after.settled()
    assert (after.in_force(), after.by_audit()) == (set(), set())
    await after.stop()


async def test_a_request_that_a_crash_kept_from_being_shown_is_shown_later(world: World, tmp_path: Path) -> None:
    await world.ask()
    world.homeserver_away = True
    world.shown.clear()

    async def forget_notice(connection: object) -> None:
        await connection.execute("UPDATE request SET notice_event = NULL")  # type: ignore[attr-defined]

    await world.database.transaction(forget_notice)  # type: ignore[arg-type]
    after = await restarted(world, tmp_path)
    await after.requests.keep_house()
    await after.requests.keep_house()
    assert len(after.shown) == 1
    await after.stop()
    with pytest.raises(HomeserverError):
        await world.requests.keep_house()


async def test_a_grant_that_has_expired_is_out_of_the_database_and_the_audit(world: World) -> None:
    await world.give()
    world.now_ms += HOUR_S * 1000
    assert world.in_force() == set()
    await world.settled()
    assert await world.grants.in_force(NOW) == []


async def test_no_byte_flows_by_a_grant_for_one_session_before_the_database_knows_that_it_is_used(
    world: World,
) -> None:
    await world.give(once=True)
    disk = RefusingDatabase(world)
    gate = world.session()
    assert gate.open(SSH.name) is not None
    assert not await world.given.claim_written(gate)
    disk.on = False
    assert await world.given.claim_written(gate)
    await world.settled()
    assert await world.in_database() == set(), "after a kill no other session may use it"
