"""What a decision and a page of a list cost with many grants and many live sessions.

The sessions are real, with stand-ins for their peer connections: what is measured is who may do what, and what is
shown of it. Times are microseconds of one processor; the goals are those of an admin who waits for an answer.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.admin.service import AdminService, ReloadOutcome
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.audit.writer import AuditLog
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import AuditSettings, Config
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.core.access.ban_lists import MAX_RULES, BanRules, ListRule, RuleKey, RuleKind
from mxrtc_bridge.core.access.grants import GrantTable, StoredGrant
from mxrtc_bridge.core.access.policy import Allow, Deny, Service, parse_subject
from mxrtc_bridge.core.audit.chain import NO_LINES, AuditKind, AuditRecord, entry_after
from mxrtc_bridge.core.call.limits import CallLimits
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.storage.audit import AuditQuery, AuditStore
from mxrtc_bridge.storage.tables import open_stores
from tests.bridge.access.test_rights import Rooms
from tests.core.text.test_globs import SHAPES
from tests.engine.call_bench import PEER as CALLED
from tests.engine.call_bench import Bridge, running
from tests.fakes import Records

GRANTS = 10_000
SESSIONS = 1_000
DECISIONS = 2_000
RECORDS = 100_000
SERVER = "example.org"
ADMIN = UserId(f"@admin:{SERVER}")
HOUR_MS = 3_600_000


def _config() -> Config:
    services = "\n".join(
        f"      s{number}: {{target: 'tcp:127.0.0.1:{number + 1}', grantable_to: ['server:{SERVER}']}}"
        for number in range(10)
    )
    peers = "\n".join(f"  p{number}:\n    services:\n{services}" for number in range(10))
    text = f"""
version: 2
homeserver: {{address: 'http://127.0.0.1:8008', domain: {SERVER}}}
appservice: {{hs_token: hs-token-for-the-bench, as_token: as-token-for-the-bench}}
peers:
{peers}
admins: ['{ADMIN}']
"""
    return parse_config(text, Path("/etc/mxrtc/config.yaml"), {})


def _services() -> list[Service]:
    return [
        Service(UserId(f"@rtc_p{peer}:{SERVER}"), ServiceName(f"s{name}")) for peer in range(10) for name in range(10)
    ]


def _each_us(work: Callable[[int], object], times: int) -> tuple[float, float]:
    """Run ``work`` often; returns the mean and the slowest of a hundred, in microseconds."""
    spent = []
    for number in range(times):
        started = time.perf_counter()
        work(number)
        spent.append(time.perf_counter() - started)
    spent.sort()
    return sum(spent) / times * 1e6, spent[int(times * 0.99)] * 1e6


async def measure_people(folder: Path) -> dict[str, object]:
    """Ten peers with ten services each, 10,000 grants, 1,000 sessions."""
    async with open_stores(f"sqlite:///{folder / 'bench.db'}") as stores:
        current, rooms = CurrentConfig(_config()), Rooms()
        given = RuntimeGrants(
            stores.grants,
            GrantTable(),
            config=current,
            rooms_of=rooms.rooms_of,
            changed=lambda: None,
            audited=AuditEvents(Records(), LoopClock()),
            clock=LoopClock(),
        )
        rights = Rights(current, rooms, given, LoopClock())
        results: dict[str, object] = {"grants": GRANTS, "sessions": SESSIONS, "decision": _decisions(rights, given)}
        bridge = Bridge(
            limits=CallLimits(SESSIONS, SESSIONS, SESSIONS),
            invites_per_minute=SESSIONS,
            invites_per_minute_of_server=SESSIONS,
        )
        return {
            **results,
            "policy lists": _policy_lists(rights, rooms),
            **await _lists(bridge, given),
            "audit": await _audit(stores.audit, folder),
        }


async def _audit(store: AuditStore, folder: Path) -> dict[str, object]:
    """What a decision costs that waits for the disk, alone and among many, and a page of the log."""
    # What the measurements before have left would otherwise be gone through by the garbage collector in the middle.
    gc.collect()
    gc.freeze()
    head, number = NO_LINES, 0
    while number < RECORDS:
        entries = []
        for _ in range(1000):
            number += 1
            user = f"@u{number % 500}:{SERVER}"
            record = AuditRecord(AuditKind.CALL, number, user=user, peer=CALLED, allowed=True, rule="bench")
            entries.append(entry_after(head, record))
            head = entries[-1].head
        await store.add(entries)
    audit = AuditLog(
        store,
        AuditSettings(folder / "audit.jsonl", 1 << 26, 3),
        wall_ms=lambda: int(time.time() * 1000),
        tell_admins=lambda _text: None,
        mirror=lambda _number, _record: None,
    )
    await audit.start()
    writing = asyncio.create_task(audit.run())
    record = AuditRecord(AuditKind.CALL, 0, user=str(ADMIN), peer=CALLED, allowed=True, rule="bench")
    started = time.perf_counter()
    for _ in range(200):
        assert await audit.record(record)
    alone_us = (time.perf_counter() - started) / 200 * 1e6
    started = time.perf_counter()
    assert all(await asyncio.gather(*(audit.record(record) for _ in range(2000))))
    together_us = (time.perf_counter() - started) / 2000 * 1e6
    pages = {}
    for name, query in {
        "the newest": AuditQuery(),
        "of a user": AuditQuery(user=f"@u7:{SERVER}"),
        "of a peer": AuditQuery(peer=CALLED),
    }.items():
        started = time.perf_counter()
        for page in range(1, 21):
            await audit.page(query, page, 20)
        pages[name] = (time.perf_counter() - started) / 20 * 1000
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await audit.close()
    return {
        "records": RECORDS,
        "decision alone, us": alone_us,
        "among 2000, us each": together_us,
        "log page, ms": pages,
    }


def _decisions(rights: Rights, given: RuntimeGrants) -> dict[str, object]:
    """Half of the grants name one user each, the others all name the same server, as dense as they may be."""
    services, now = _services(), int(time.time() * 1000)
    for number in range(GRANTS):
        subject = f"@u{number // 2}:{SERVER}" if number % 2 else f"server:{SERVER}"
        # Those of the server leave out the last service, so that a user without a grant of it walks in vain.
        service = services[number % 99] if not number % 2 else services[number % 100]
        given.table.add(StoredGrant(number + 1, parse_subject(subject), service, ADMIN, now, now + HOUR_MS))
    last = services[99]
    users = [UserId(f"@u{number}:{SERVER}") for number in range(GRANTS // 2)]
    stranger = UserId("@stranger:elsewhere.test")
    assert isinstance(rights.decide(users[49], last.peer, last.name)[0], Allow)
    assert isinstance(rights.decide(users[0], last.peer, last.name)[0], Deny)
    found: dict[str, object] = {}
    for name, user_of, service in (
        ("allowed", lambda number: users[number % len(users)], services[0]),
        ("denied", lambda number: users[number % 49], last),
        ("a stranger", lambda _number: stranger, services[0]),
    ):
        mean, slow = _each_us(lambda n, u=user_of, s=service: rights.decide(u(n), s.peer, s.name), DECISIONS)  # type: ignore[misc]
        found[name] = {"mean_us": mean, "slowest_of_100_us": slow}
    mean, slow = _each_us(lambda n: rights.may_call(users[n % len(users)], last.peer), DECISIONS)
    found["a call"] = {"mean_us": mean, "slowest_of_100_us": slow}
    return found


def _policy_lists(rights: Rights, rooms: Rooms) -> dict[str, object]:
    """What long lists cost, whose rules somebody has made as expensive as they can be."""
    services, room = _services(), RoomId(f"!list:{SERVER}")
    unknown = [UserId(f"@{text[:235]}{number:04}:evil.test") for text in _ID_TEXTS for number in range(30)]
    cost: dict[str, object] = {}
    changes: dict[str, object] = {}
    for name, shape in SHAPES.items():
        lists = BanRules()
        rules = [(("m.policy.rule.user", str(n)), ListRule(RuleKind.USER, shape(n))) for n in range(MAX_RULES)]
        lists.replace(room, rules)
        mean, slow = _each_us(lambda n, asked=lists: asked.denial(unknown[n]), len(unknown))  # type: ignore[misc]
        cost[name] = {"mean_us": mean, "slowest_of_100_us": slow}
        mean, slow = _each_us(lambda n, told=lists: told.set_rule(room, *_changed_rule(n)), 200)  # type: ignore[misc]
        changes[name] = {"mean_us": mean, "slowest_of_100_us": slow}
        rooms.listed = lists.denial
    strangers = [UserId(f"@{number}:elsewhere.test") for number in range(DECISIONS)]
    mean, slow = _each_us(lambda n: rights.decide(strangers[n], services[0].peer, services[0].name), DECISIONS)
    rooms.listed = lambda _user: None
    return {
        "rules": MAX_RULES,
        "an unknown user": cost,
        "slowest unknown user, us": max(each["mean_us"] for each in cost.values()),  # type: ignore[index]
        "one rule changed": changes,
        "slowest change, us": max(each["mean_us"] for each in changes.values()),  # type: ignore[index]
        "a stranger without a right": {"mean_us": mean, "slowest_of_100_us": slow},
    }


_ID_TEXTS = ("a" * 240, "aaaab" * 48, "0123456789" * 24)


def _changed_rule(number: int) -> tuple[RuleKey, ListRule]:
    return ("m.policy.rule.user", str(number)), ListRule(RuleKind.USER, f"@other{number}*:*")


async def _lists(bridge: Bridge, given: RuntimeGrants) -> dict[str, object]:
    async with running(bridge):
        for number in range(SESSIONS):
            room, user = RoomId(f"!{number}:{SERVER}"), UserId(f"@u{number}:{SERVER}")
            bridge.room_members[room] = frozenset({CALLED, user})
            await bridge.invite(f"c{number}", sender=user, room=room)
        async with asyncio.timeout(60):
            while sum(each.connected_at is not None for each in bridge.manager.live.sessions) < SESSIONS:
                await asyncio.sleep(0.05)

        async def no_reload() -> ReloadOutcome:
            return ReloadOutcome("")

        desk = AdminService(
            given,
            bridge.manager,
            audited=AuditEvents(Records(), LoopClock()),
            reload=no_reload,
            monotonic=time.monotonic,
        )
        assert (desk.who(1).total, desk.grants(1).total) == (SESSIONS, GRANTS)
        found: dict[str, object] = {}
        for name, work in (("who, a page", desk.who), ("grants, a page", desk.grants)):
            mean, slow = _each_us(lambda n, w=work: w(n % 40 + 1), 200)  # type: ignore[misc]
            found[name] = {"mean_us": mean, "slowest_of_100_us": slow}
        mean, slow = _each_us(lambda _n: bridge.manager.live.rights_changed(), 20)
        found["all sessions judged again"] = {"mean_us": mean, "slowest_of_100_us": slow}
        return found
