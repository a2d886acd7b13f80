"""The rules of access, as a table to read and against a short evaluator written in another way."""

from __future__ import annotations

import re
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.access.policy import (
    Allow,
    Decision,
    Deny,
    Everyone,
    Grant,
    GuestAccounts,
    Policy,
    RoomSubject,
    ServerSubject,
    Service,
    Subject,
    UserSubject,
    parse_subject,
)
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId, host_of, is_guest_account
from tests.long import examples

BUILD, LAB = UserId("@rtc_build:example.org"), UserId("@rtc_lab:example.org")
SSH, WEB, DB = (Service(BUILD, ServiceName(n)) for n in ("ssh", "web", "db"))
LAB_SSH = Service(LAB, ServiceName("ssh"))
NOON = 1_000_000


def grant(name: str, subjects: str, *services: Service, until_ms: int | None = None) -> Grant:
    return Grant(name, frozenset(parse_subject(s) for s in subjects.split()), frozenset(services), until_ms)


POLICY = Policy(
    grants=[
        grant("ops-ssh", "@alice:example.org @bob:example.org", SSH),
        grant("staff-web", "server:example.org", WEB),
        grant("partner-db", "@Carol:partner.test:8448 server:[2001:db8::1]", DB, until_ms=NOON),
        grant("open-lab", "*", LAB_SSH),
        grant("ops-all", "@alice:example.org", SSH, WEB, DB),
        grant("kiosk", "guest-accounts:example.org @7:partner.test", DB),
    ],
    deny=[
        parse_subject(text)
        for text in (
            "server:evil.test",
            "@mallory:example.org",
            "server:[2001:db8::bad]:8448",
            "@eve:moved.test:1",
            "server:192.0.2.9",
        )
    ],
)

CASES: list[tuple[str, str, UserId, str, int, Decision]] = [
    # what the case shows, user, peer, service, time, decision
    ("a user named by a grant", "@bob:example.org", BUILD, "ssh", 0, Allow("ops-ssh")),
    ("the first matching grant is named", "@alice:example.org", BUILD, "ssh", 0, Allow("ops-ssh")),
    ("grants add up", "@alice:example.org", BUILD, "db", 0, Allow("ops-all")),
    ("a whole server", "@zoe:example.org", BUILD, "web", 0, Allow("staff-web")),
    ("a server grant holds only its service", "@zoe:example.org", BUILD, "ssh", 0, Deny("no grant")),
    ("the case of a server name does not matter", "@zoe:Example.ORG", BUILD, "web", 0, Allow("staff-web")),
    ("a longer server name is another server", "@zoe:example.org.evil.com", BUILD, "web", 0, Deny("no grant")),
    ("a subdomain is another server", "@zoe:sub.example.org", BUILD, "web", 0, Deny("no grant")),
    ("a suffix is another server", "@zoe:badexample.org", BUILD, "web", 0, Deny("no grant")),
    ("a port makes another server", "@zoe:example.org:8448", BUILD, "web", 0, Deny("no grant")),
    ("the same name on another server", "@bob:partner.test", BUILD, "ssh", 0, Deny("no grant")),
    ("the case of a local part matters", "@Bob:example.org", BUILD, "ssh", 0, Deny("no grant")),
    ("a server with a port", "@Carol:partner.test:8448", BUILD, "db", 0, Allow("partner-db")),
    ("a server that is an IPv6 address", "@x:[2001:DB8::1]", BUILD, "db", 0, Allow("partner-db")),
    ("just before a grant ends", "@x:[2001:db8::1]", BUILD, "db", NOON - 1, Allow("partner-db")),
    ("the moment it ends", "@x:[2001:db8::1]", BUILD, "db", NOON, Deny("no grant: partner-db has ended")),
    ("everybody", "@anyone:anywhere.test", LAB, "ssh", 0, Allow("open-lab")),
    ("everybody, but on that peer only", "@anyone:anywhere.test", BUILD, "ssh", 0, Deny("no grant")),
    ("a denied server beats everybody", "@anyone:evil.test", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("its case does not open a way around", "@anyone:EVIL.test", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("a denied user", "@mallory:example.org", BUILD, "web", 0, Deny("deny: @mallory:example.org")),
    ("a denied user's namesake", "@mallory:partner.test", LAB, "ssh", 0, Allow("open-lab")),
    ("a denied server on another port", "@a:evil.test:8449", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("with a dot at the end", "@a:evil.test.", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("with both", "@a:Evil.Test.:1", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("a longer name is not denied", "@a:evil.test.org", LAB, "ssh", 0, Allow("open-lab")),
    ("nor is a subdomain", "@a:sub.evil.test:8448", LAB, "ssh", 0, Allow("open-lab")),
    ("an address without the port", "@a:[2001:db8::bad]", LAB, "ssh", 0, Deny("deny: server:[2001:db8::bad]:8448")),
    ("in another form", "@a:[2001:DB8:0::0bad]:1", LAB, "ssh", 0, Deny("deny: server:[2001:db8::bad]:8448")),
    ("another address", "@a:[2001:db8::bae]", LAB, "ssh", 0, Allow("open-lab")),
    ("an IPv4 address in IPv6", "@a:[::ffff:192.0.2.9]:1", LAB, "ssh", 0, Deny("deny: server:192.0.2.9")),
    ("a denied user on another port", "@eve:moved.test", LAB, "ssh", 0, Deny("deny: @eve:moved.test:1")),
    ("and on the next one", "@mallory:example.org:2", LAB, "ssh", 0, Deny("deny: @mallory:example.org")),
    ("a guest account is no user of its server", "@17:example.org", BUILD, "web", 0, Deny("no grant")),
    ("nor of everybody", "@17:partner.test", LAB, "ssh", 0, Deny("no grant")),
    ("it is a guest account of its server", "@17:example.org", BUILD, "db", 0, Allow("kiosk")),
    ("not of another server", "@17:partner.test", BUILD, "db", 0, Deny("no grant")),
    ("nor of another port", "@17:example.org:8448", BUILD, "db", 0, Deny("no grant")),
    ("a guest account by its own name", "@7:partner.test", BUILD, "db", 0, Allow("kiosk")),
    ("no user is a guest account", "@a17:example.org", BUILD, "db", 0, Deny("no grant")),
    ("a denied server means its guests too", "@17:evil.test", LAB, "ssh", 0, Deny("deny: server:evil.test")),
    ("an unknown service", "@alice:example.org", BUILD, "telnet", 0, Deny("no grant")),
    ("an unknown peer", "@alice:example.org", UserId("@rtc_x:example.org"), "ssh", 0, Deny("no grant")),
]


@pytest.mark.parametrize(
    ("user", "peer", "service", "now", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_service_access_decides_as_in_the_table(
    user: str, peer: UserId, service: str, now: int, expected: Decision
) -> None:
    assert POLICY.service_access(UserId(user), peer, service, now) == expected


def test_members_of_a_room_are_those_who_are_joined_to_just_that_room() -> None:
    room, other = RoomId("!ops:example.org"), RoomId("!ops2:example.org")
    policy = Policy([grant("ops-room", f"room:{room}", SSH)], [parse_subject("server:evil.test")])
    member, denied = UserId("@anyone:anywhere.test"), UserId("@x:evil.test")
    assert policy.service_access(member, BUILD, "ssh", 0, (room,)) == Allow("ops-room")
    assert policy.peer_access(member, BUILD, 0, (other, room)) == Allow("ops-room")
    for rooms in ((), (other,)):
        assert policy.service_access(member, BUILD, "ssh", 0, rooms) == Deny("no grant")
        assert policy.services_for(member, 0, rooms) == {}
    assert policy.service_access(denied, BUILD, "ssh", 0, (room,)) == Deny("deny: server:evil.test")
    assert policy.rooms() == {room}


def test_empty_policy_denies_everything() -> None:
    policy = Policy()
    assert policy.service_access(UserId("@a:b"), BUILD, "ssh", 0) == Deny("no grant")
    assert policy.peer_access(UserId("@a:b"), BUILD, 0) == Deny("no grant")
    assert policy.services_for(UserId("@a:b"), 0) == {}
    assert policy.next_change(0) is None


def test_peer_access_needs_one_granted_service() -> None:
    assert POLICY.peer_access(UserId("@bob:example.org"), BUILD, 0) == Allow("ops-ssh")
    assert POLICY.peer_access(UserId("@x:elsewhere.test"), BUILD, 0) == Deny("no grant")
    assert POLICY.peer_access(UserId("@x:evil.test"), LAB, 0) == Deny("deny: server:evil.test")
    assert POLICY.peer_access(UserId("@x:[2001:db8::1]"), BUILD, NOON) == Deny("no grant: partner-db has ended")


def test_services_are_listed_by_peer_and_sorted() -> None:
    listed = POLICY.services_for(UserId("@alice:example.org"), 0)
    assert list(listed.items()) == [(BUILD, ("db", "ssh", "web")), (LAB, ("ssh",))]
    assert POLICY.services_for(UserId("@mallory:example.org"), 0) == {}


def test_next_change_is_the_next_end_of_a_grant() -> None:
    policy = Policy([grant("a", "*", SSH, until_ms=50), grant("b", "*", SSH, until_ms=20), grant("c", "*", SSH)])
    assert [policy.next_change(now) for now in (0, 19, 20, 49, 50, 51)] == [20, 20, 50, 50, None, None]


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("*", Everyone()),
        ("@alice:example.org", UserSubject("alice", "example.org")),
        ("user:@alice:Example.org", UserSubject("alice", "example.org")),
        ("@Alice:example.org:8448", UserSubject("Alice", "example.org:8448")),
        ("server:Example.ORG", ServerSubject("example.org")),
        ("server:[::1]:8448", ServerSubject("[::1]:8448")),
        ("guest-accounts:Example.ORG", GuestAccounts("example.org")),
        ("guest-accounts:[::1]:8448", GuestAccounts("[::1]:8448")),
        ("room:!Abc-9:example.org", RoomSubject(RoomId("!Abc-9:example.org"))),
        ("room:!no-domain-since-v12", RoomSubject(RoomId("!no-domain-since-v12"))),
    ],
)
def test_parse_subject_reads_each_form(text: str, subject: Subject) -> None:
    assert parse_subject(text) == subject
    assert parse_subject(str(subject)) == subject


@pytest.mark.parametrize(
    "text",
    ["", "alice", "@alice", "user:alice", "user:", "server:", "server:*", "server:*.example.org",
     "server:example.org/x", "@alice:exam ple.org", "server:example.org\n", "@alice:example.org\n", "group:ops", "**",
     "room:", "room:#alias:example.org", "room:!", "room:!a b", "room:!" + "a" * 255, "!room:example.org",
     "guest-accounts:", "guest-accounts:*", "guest:example.org", "guest", "guests:example.org",
     "server:" + "a" * 231, "@" + "a" * 255 + ":b"],
)  # fmt: skip
def test_parse_subject_refuses_everything_else(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_subject(text)


def test_an_asterisk_in_a_user_id_is_no_pattern() -> None:
    """It is a legal historical user id, and means the user of that name."""
    policy = Policy([grant("star", "@*:example.org", SSH)])
    assert policy.service_access(UserId("@*:example.org"), BUILD, "ssh", 0) == Allow("star")
    assert policy.service_access(UserId("@alice:example.org"), BUILD, "ssh", 0) == Deny("no grant")


# -- against a reference evaluator that walks everything -------------------------------------------------------------

USERS = [
    UserId(f"@{local}:{server}")
    for local in ("a", "b", "A", "0", "19", "1a", "-1", "+1", "")
    for server in ("one.test", "ONE.test", "one.test:8449", "one.test.", "two.test")
]
ROOMS = [RoomId("!one:one.test"), RoomId("!two:one.test")]
SUBJECTS: list[Subject] = [
    Everyone(),
    *(ServerSubject(s) for s in ("one.test", "two.test", "three.test", "one.test:8449")),
    *(GuestAccounts(s) for s in ("one.test", "two.test", "one.test:8449")),
    *(UserSubject(local, s) for local in ("a", "b", "A", "0") for s in ("one.test", "two.test", "one.test:8449")),
    *(RoomSubject(room) for room in ROOMS),
]
DENIABLE = [subject for subject in SUBJECTS if not isinstance(subject, RoomSubject)]
SERVICES = [SSH, WEB, DB, LAB_SSH]


def matches(subject: Subject, user: UserId, rooms: Collection[RoomId] = ()) -> bool:
    """Whether a grant to ``subject`` means ``user``."""
    local, server = user[1:].split(":", 1)
    guest = local != "" and set(local) <= set("0123456789")
    match subject:
        case UserSubject():
            return subject.localpart == local and subject.server == server.lower()
        case ServerSubject():
            return not guest and subject.server == server.lower()
        case GuestAccounts():
            return guest and subject.server == server.lower()
        case RoomSubject():
            return subject.room in rooms
        case Everyone():
            return not guest


def denies(subject: Subject, user: UserId) -> bool:
    """Whether a denial of ``subject`` means ``user``."""
    local, server = user[1:].split(":", 1)
    host = re.sub(r"\.?(:[0-9]+)?$", "", server.lower())
    match subject:
        case UserSubject():
            return (subject.localpart, subject.server.partition(":")[0]) == (local, host)
        case ServerSubject():
            return subject.server.partition(":")[0] == host
        case GuestAccounts():
            return local.isdigit() and subject.server.partition(":")[0] == host
        case _:
            return isinstance(subject, Everyone)


def allowed(
    grants: list[Grant], deny: list[Subject], user: UserId, service: Service, now: int, rooms: Collection[RoomId]
) -> str | None:
    """The reference: the id of the deciding grant, or None."""
    if any(denies(s, user) for s in deny):
        return None
    for g in grants:
        if (
            any(matches(s, user, rooms) for s in g.subjects)
            and service in g.services
            and (g.until_ms is None or now < g.until_ms)
        ):
            return g.id
    return None


grants_strategy = st.lists(
    st.builds(
        lambda subjects, services, until: (subjects, services, until),
        st.frozensets(st.sampled_from(SUBJECTS), max_size=4),
        st.frozensets(st.sampled_from(SERVICES), max_size=4),
        st.sampled_from([None, 9, 10, 11]),
    ),
    max_size=5,
).map(lambda rows: [Grant(f"g{i}", *row) for i, row in enumerate(rows)])


@settings(max_examples=examples(300), deadline=None)
@given(
    grants=grants_strategy,
    deny=st.lists(st.sampled_from(DENIABLE), max_size=2),
    user=st.sampled_from(USERS),
    rooms=st.frozensets(st.sampled_from(ROOMS)),
)
def test_policy_agrees_with_the_reference(
    grants: list[Grant], deny: list[Subject], user: UserId, rooms: frozenset[RoomId]
) -> None:
    policy, now = Policy(grants, deny), 10
    expected: dict[UserId, set[str]] = {}
    for service in SERVICES:
        rule = allowed(grants, deny, user, service, now, rooms)
        decision = policy.service_access(user, service.peer, service.name, now, rooms)
        if rule is None:
            assert isinstance(decision, Deny)
        else:
            assert decision == Allow(rule)
            expected.setdefault(service.peer, set()).add(service.name)
    assert {peer: set(names) for peer, names in policy.services_for(user, now, rooms).items()} == expected
    for peer in (BUILD, LAB):
        assert isinstance(policy.peer_access(user, peer, now, rooms), Allow) == (peer in expected)


@settings(max_examples=examples(100), deadline=None)
@given(grants=grants_strategy, extra=grants_strategy, user=st.sampled_from(USERS), data=st.data())
def test_grants_only_ever_add_and_denials_only_ever_remove(
    grants: list[Grant], extra: list[Grant], user: UserId, data: st.DataObject
) -> None:
    fewer = Policy(grants).services_for(user, 10)
    more = Policy(grants + extra).services_for(user, 10)
    assert all(set(names) <= set(more.get(peer, ())) for peer, names in fewer.items())
    denied = data.draw(st.sampled_from([s for s in DENIABLE if denies(s, user)]))
    assert Policy(grants + extra, [denied]).services_for(user, 10) == {}


@settings(max_examples=examples(200), deadline=None)
@given(user=st.sampled_from(USERS), subject=st.sampled_from(DENIABLE))
def test_whom_a_grant_means_a_denial_means_too(user: UserId, subject: Subject) -> None:
    given_something = bool(Policy([Grant("g", frozenset({subject}), frozenset({SSH}))]).services_for(user, 0))
    assert given_something == matches(subject, user)
    if given_something:
        assert Policy(deny=[subject]).denial(user) is not None


SERVER_NAMES = st.from_regex(r"([A-Za-z0-9.\-]{1,12}|\[[0-9A-Fa-f:.]{2,20}\])(:[0-9]{0,5})?", fullmatch=True)


@given(SERVER_NAMES, st.integers(0, 99999))
def test_a_host_is_the_same_on_every_port(server: str, port: int) -> None:
    host = host_of(server)
    assert host_of(host) == host == host.lower()
    bare = re.sub(r":[0-9]*$", "", server) if not server.endswith("]") else server
    assert host_of(f"{bare}:{port}") == host
    assert host_of(bare.upper()) == host


@pytest.mark.parametrize(
    ("server", "host"),
    [("Evil.TEST:8448", "evil.test"), ("evil.test..", "evil.test"), (".", "."), ("...:1", "..."), ("[::1]:1", "[::1]"),
     ("[0:0:0:0:0:0:0:1]", "[::1]"), ("[::FFFF:1.2.3.4]:80", "1.2.3.4"), ("1.2.3.4:80", "1.2.3.4"),
     ("[:.:]", "[:.:]"), ("evil.test:", "evil.test"), ("evil.test:80a", "evil.test:80a")],
)  # fmt: skip
def test_the_host_of_a_server_name(server: str, host: str) -> None:
    assert host_of(server) == host


@pytest.mark.parametrize(
    ("user", "is_guest"),
    [("@1:a.test", True), ("@0123456789:a.test:1", True), ("@1a:a.test", False), ("@a1:a.test", False),
     ("@-1:a.test", False), ("@1_0:a.test", False), ("@:a.test", False), ("@1.0:a.test", False),
     ("@\u0661:a.test", False)],
)  # fmt: skip
def test_a_guest_account_has_a_number_for_a_name(user: str, is_guest: bool) -> None:
    assert is_guest_account(UserId(user)) is is_guest
