"""Those whom the audit watches order a bounded number of its lines; what must not be missing is never summed up."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord
from mxrtc_bridge.core.audit.sentences import describe
from mxrtc_bridge.core.audit.shares import WINDOW_MS, AuditShares

NOW = 1_700_000_000_000
USE = AuditRecord(AuditKind.SERVICE, NOW, user="@alice:example.org", service="ssh", allowed=True, rule="g")


def refused(user: str) -> AuditRecord:
    return AuditRecord(AuditKind.CALL, NOW, user=user, allowed=False, rule="no grant")


@pytest.mark.parametrize(
    "record",
    [
        AuditRecord(AuditKind.CALL, NOW, user="@a:b", allowed=True),
        *(AuditRecord(kind, NOW, user="@a:b") for kind in AuditKind if kind not in (AuditKind.CALL, AuditKind.SERVICE)),
    ],
)
def test_calls_ends_and_acts_are_never_summed_up(record: AuditRecord) -> None:
    shares = AuditShares(per_user=1, per_server=1, turned_away=1)
    assert all(shares.take(record, NOW) for _ in range(100))
    assert shares.over(NOW, stopping=True) == []


def test_uses_beyond_the_share_of_a_user_are_one_record_at_the_end_of_the_hour() -> None:
    shares = AuditShares(per_user=3)
    assert [shares.take(USE, NOW + n) for n in range(5)] == [True, True, True, False, False]
    other = AuditRecord(AuditKind.SERVICE, NOW, user="@bob:example.org", allowed=True)
    assert shares.take(other, NOW + 5), "each has their own"
    assert shares.over(NOW + WINDOW_MS - 1) == []
    (said,) = shares.over(NOW + WINDOW_MS)
    assert (said.user, said.count, said.allowed) == ("@alice:example.org", 2, True)
    assert describe(said) == "and 2 more uses by @alice:example.org"
    assert shares.take(USE, NOW + WINDOW_MS + 1)


def test_a_record_that_stands_for_many_counts_as_many_when_it_is_summed_up() -> None:
    shares = AuditShares(per_user=0)
    assert not shares.take(AuditRecord(AuditKind.SERVICE, NOW, user="@a:b", allowed=True, count=40), NOW)
    assert [each.count for each in shares.over(NOW, stopping=True)] == [40]


def test_users_that_a_server_makes_up_share_what_it_has() -> None:
    shares = AuditShares(per_server=10)
    assert sum(shares.take(refused(f"@u{n}:evil.test"), NOW) for n in range(1000)) == 10
    assert shares.take(refused("@x:other.test"), NOW)
    (said,) = shares.over(NOW + WINDOW_MS)
    assert describe(said) == "and 990 more times users of evil.test were turned away"


def test_servers_that_somebody_makes_up_order_no_more_than_all_together_may() -> None:
    shares = AuditShares(turned_away=50)
    assert sum(shares.take(refused(f"@u:s{n}.evil.test"), NOW) for n in range(20_000)) == 50
    said = shares.over(NOW + WINDOW_MS)
    assert [each.count for each in said] == [19_950]
    assert len(shares) == 0


def test_the_shares_themselves_are_bounded() -> None:
    shares = AuditShares(per_user=1, max_owners=10)
    for number in range(100):
        shares.take(AuditRecord(AuditKind.SERVICE, NOW, user=f"@u{number}:b", allowed=True), NOW)
    assert len(shares) <= 12
    assert [describe(each) for each in shares.over(NOW, stopping=True)] == ["and 90 more uses by other users"]


def test_a_clock_that_is_set_back_makes_no_hour_longer() -> None:
    shares = AuditShares(per_user=1)
    assert shares.take(USE, NOW)
    assert not shares.take(USE, NOW)
    assert [each.count for each in shares.over(NOW - 10 * WINDOW_MS)] == [1]
    assert shares.take(USE, NOW - 10 * WINDOW_MS)
