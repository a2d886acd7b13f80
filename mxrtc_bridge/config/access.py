"""Groups, grants, the deny list and the policy tests: from the file to :class:`mxrtc_bridge.core.access.policy.Policy`.

References by name are checked on the data as it was read, before and independent of the validation of types: a wrong
target in one service must not hide a misspelt group elsewhere. The tests of the file run last, on the finished rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from mxrtc_bridge.config.config import PeerSettings, PolicyTest
from mxrtc_bridge.config.problems import KeyPath, Problem, near_miss, quoted
from mxrtc_bridge.config.schema import GrantSection, TestSection
from mxrtc_bridge.config.values import parse_time
from mxrtc_bridge.config.yaml_reader import Value
from mxrtc_bridge.core.access.policy import Allow, Deny, Grant, Policy, Service, Subject, parse_subject
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import ServiceName, UserId, typed_user_id


def reference_problems(data: Mapping[str, Value]) -> list[Problem]:
    """Find names that lead nowhere, and rules that cannot mean what they say."""
    return [
        *_group_problems(data),
        *_grant_problems(data),
        *_subject_problems(_list(data.get("deny")), ("deny",), data),
        *_denied_room_problems(_list(data.get("deny"))),
        *_grantable_problems(data),
        *_admin_problems(data),
        *_test_problems(data),
    ]


def _admin_problems(data: Mapping[str, Value]) -> Iterator[Problem]:
    denied = _list(data.get("deny"))
    for index, admin in enumerate(_list(data.get("admins"))):
        if admin in denied:
            yield Problem(("admins", index), "this user is denied below; take the name out of one of the two")


def _denied_room_problems(denied: Sequence[Value]) -> Iterator[Problem]:
    for index, subject in enumerate(denied):
        if isinstance(subject, str) and subject.startswith("room:"):
            # Whoever leaves the room would be let in again.
            yield Problem(("deny", index), "a room cannot be denied; name users and servers")


def _list(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []


def _dict(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}


def _group_problems(data: Mapping[str, Value]) -> Iterator[Problem]:
    for name, members in _dict(data.get("groups")).items():
        for index, member in enumerate(_list(members)):
            if isinstance(member, str) and member.startswith("group:"):
                yield Problem(("groups", name, index), "a group cannot hold another group; name its members")
            if member == "*":
                text = 'a group cannot hold everybody; write "*" in the grant, where it must be acknowledged'
                yield Problem(("groups", name, index), text)


def _grant_problems(data: Mapping[str, Value]) -> Iterator[Problem]:
    grants = [_dict(grant) for grant in _list(data.get("grants"))]
    uses = Counter(name for grant in grants if isinstance(name := grant.get("id"), str))
    for index, grant in enumerate(grants):
        path: KeyPath = ("grants", index)
        name, subjects = grant.get("id"), _list(grant.get("from"))
        if isinstance(name, str) and uses[name] > 1:
            yield Problem((*path, "id"), f"{quoted(name)} names {uses[name]} grants; each needs a name of its own")
        if "*" in subjects and grant.get("acknowledge") is None:
            text = '"*" lets in users of every server in the world; if you mean it, add acknowledge: open-to-federation'
            yield Problem((*path, "from", subjects.index("*")), text)
        if "*" not in subjects and grant.get("acknowledge") is not None:
            yield Problem((*path, "acknowledge"), 'there is nothing to acknowledge without "*" in from')
        yield from _subject_problems(subjects, (*path, "from"), data)
        yield from _target_problems(grant.get("to"), (*path, "to"), data)


def _subject_problems(subjects: Sequence[Value], path: KeyPath, data: Mapping[str, Value]) -> Iterator[Problem]:
    groups = _dict(data.get("groups"))
    for index, subject in enumerate(subjects):
        if isinstance(subject, str) and subject.startswith("group:"):
            name = subject.removeprefix("group:")
            if name not in groups:
                yield Problem((*path, index), f"there is no group {quoted(name)}{near_miss(name, groups)}")


def _grantable_problems(data: Mapping[str, Value]) -> Iterator[Problem]:
    for name, peer in _dict(data.get("peers")).items():
        for service, section in _dict(_dict(peer).get("services")).items():
            path: KeyPath = ("peers", name, "services", service, "grantable_to")
            yield from _subject_problems(_list(_dict(section).get("grantable_to")), path, data)


def _target_problems(references: Value, path: KeyPath, data: Mapping[str, Value]) -> Iterator[Problem]:
    peers = _dict(data.get("peers"))
    for index, reference in enumerate(_list(references)):
        if not isinstance(reference, str):
            continue
        peer, slash, service = reference.partition("/")
        services = _dict(_dict(peers.get(peer)).get("services"))
        if peer not in peers:
            yield Problem((*path, index), f"there is no peer {quoted(peer)}{near_miss(peer, peers)}")
        elif slash and service not in services:
            found = f"the peer {peer} has no service {quoted(service)}{near_miss(service, services)}"
            yield Problem((*path, index), found)


def _test_problems(data: Mapping[str, Value]) -> Iterator[Problem]:
    for index, entry in enumerate(_list(data.get("tests"))):
        test, path = _dict(entry), ("tests", index)
        user = test.get("as")
        if isinstance(user, str):
            try:
                typed_user_id(user)
            except EventError:
                yield Problem((*path, "as"), f"{quoted(user)} is not a user id like @alice:example.org")
        if not test.get("may") and not test.get("may_not"):
            yield Problem(path, "a test without may and may_not says nothing")
        for key in ("may", "may_not"):
            yield from _target_problems(test.get(key), (*path, key), data)


class SubjectReader:
    """Turns lists of subjects into values; every group is read once, and equal lists share one set.

    A configuration may have a thousand services for one group of a thousand: read anew for each they would cost a
    million values, in time and in memory.

    Args:
        groups: members by name of the group; all names in the lists must exist.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self._group = cache(lambda name: frozenset(map(parse_subject, groups[name])))
        self._read = cache(self._union)

    def read(self, texts: Iterable[str]) -> frozenset[Subject]:
        """Replace groups by their members and parse what is left."""
        return self._read(frozenset(texts))

    def _union(self, texts: frozenset[str]) -> frozenset[Subject]:
        parts = [self._group(text.removeprefix("group:")) for text in texts if text.startswith("group:")]
        others = frozenset(parse_subject(text) for text in texts if not text.startswith("group:"))
        return parts[0] if len(parts) == 1 and not others else others.union(*parts)


def make_grants(
    sections: Iterable[GrantSection], subjects: SubjectReader, peers: Mapping[str, PeerSettings]
) -> tuple[Grant, ...]:
    """Turn the grants of the file into values; all names in them must exist.

    Args:
        sections: the grants of the file.
        subjects: reads who may.
        peers: peers by their name in the file.
    """
    return tuple(
        Grant(
            id=section.id,
            subjects=subjects.read(section.from_),
            services=frozenset(Service(*pair) for pair in _expand(section.to, peers)),
            until_ms=None if section.until is None else parse_time(section.until),
        )
        for section in sections
    )


def make_tests(sections: Iterable[TestSection], peers: Mapping[str, PeerSettings]) -> tuple[PolicyTest, ...]:
    """Turn the tests of the file into values; all names in them must exist."""
    return tuple(
        PolicyTest(
            user=typed_user_id(section.as_),
            may=tuple(_expand(section.may, peers)),
            may_not=tuple(_expand(section.may_not, peers)),
        )
        for section in sections
    )


def _expand(references: Iterable[str], peers: Mapping[str, PeerSettings]) -> Iterator[tuple[UserId, ServiceName]]:
    """Peer and service of each reference; a bare peer stands for all its services."""
    for reference in references:
        name, slash, service = reference.partition("/")
        peer = peers[name]
        yield from ((peer.user_id, n) for n in ((ServiceName(service),) if slash else peer.services))


def failed_tests(
    tests: Sequence[PolicyTest], grants: Sequence[Grant], deny: Iterable[Subject], names: Mapping[UserId, str]
) -> list[Problem]:
    """Run the tests of the file as if no grant had ended.

    The ends of grants are left out on purpose: otherwise a configuration that was fine yesterday would keep the bridge
    from starting today, for the only reason that a temporary right ran out as planned.
    """
    if not tests:
        return []
    policy = Policy([replace(grant, until_ms=None) for grant in grants], deny)
    problems = []
    for index, test in enumerate(tests):
        for peer, service in test.may:
            decision = policy.service_access(test.user, peer, service, 0)
            if isinstance(decision, Deny):
                text = f"{test.user} may not use {names[peer]}/{service}, but this test says so ({decision.rule})"
                problems.append(Problem(("tests", index, "may"), text))
        for peer, service in test.may_not:
            decision = policy.service_access(test.user, peer, service, 0)
            if isinstance(decision, Allow):
                text = f"{test.user} may use {names[peer]}/{service}, but this test forbids it (grant {decision.rule})"
                problems.append(Problem(("tests", index, "may_not"), text))
    return problems
