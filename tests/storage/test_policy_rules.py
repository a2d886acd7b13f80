"""Rules of policy lists outlive a restart, on both databases."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.access.ban_lists import MAX_RULES, ListRule, RuleKind
from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.policy_rules import PolicyRuleStore

LIST, OTHER = RoomId("!list:example.org"), RoomId("!other:example.org")
USER, SERVER = "m.policy.rule.user", "m.policy.rule.server"
MALLORY, EVIL = ListRule(RuleKind.USER, "@mallory:evil.test"), ListRule(RuleKind.SERVER, "*.evil.test")


@pytest.fixture
def store(database: Database) -> PolicyRuleStore:
    return PolicyRuleStore(database)


async def test_rules_come_back_as_they_were(store: PolicyRuleStore) -> None:
    rules = [((SERVER, "e"), EVIL), ((USER, "m"), MALLORY)]
    await store.replace(LIST, rules)
    assert await store.load([LIST]) == {LIST: rules}
    await store.replace(LIST, rules[:1])
    await store.set_rule(LIST, (USER, "n"), MALLORY)
    await store.set_rule(LIST, (USER, "n"), EVIL)
    assert await store.load([LIST]) == {LIST: [((SERVER, "e"), EVIL), ((USER, "n"), EVIL)]}
    await store.set_rule(LIST, (SERVER, "e"), None)
    await store.set_rule(LIST, (SERVER, "never"), None)
    assert await store.load([LIST]) == {LIST: [((USER, "n"), EVIL)]}


async def test_a_list_that_is_named_no_more_is_forgotten(store: PolicyRuleStore) -> None:
    await store.replace(LIST, [((USER, "m"), MALLORY)])
    await store.replace(OTHER, [((USER, "m"), EVIL)])
    assert set(await store.load([OTHER])) == {OTHER}
    assert set(await store.load([LIST, OTHER])) == {OTHER}


async def test_the_longest_list_is_kept_whole(store: PolicyRuleStore) -> None:
    await store.replace(LIST, [((USER, str(number)), MALLORY) for number in range(MAX_RULES)])
    assert len((await store.load([LIST]))[LIST]) == MAX_RULES
