"""A configuration becomes values, or a complete list of its mistakes."""

from __future__ import annotations

import copy
import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.config.loader import load_config, parse_config
from mxrtc_bridge.config.problems import MAX_SHOWN_PROBLEMS, InvalidConfigError
from mxrtc_bridge.config.schema import Root
from mxrtc_bridge.config.values import TcpListen, UnixListen
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.access.targets import TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from tests.long import examples

from .samples import AS_TOKEN, GOOD, HS_TOKEN, PATH, changed, load, mistakes, text_of

BUILD, LAB = "@rtc_build:example.org", "@rtc_lab:example.org"
SSH = ("peers", "build", "services", "ssh")


def test_good_configuration_becomes_values() -> None:
    config = load(GOOD)
    assert config.homeserver.domain == "example.org"
    assert config.appservice.listen == TcpListen("127.0.0.1", 29350)
    assert config.appservice.url == "http://127.0.0.1:29350"
    assert config.appservice.bot == "@rtcbot:example.org"
    assert (config.appservice.hs_token, config.appservice.as_token) == (HS_TOKEN, AS_TOKEN)
    assert config.database == "sqlite:///etc/mxrtc/mxrtc-bridge.db"
    assert list(config.peers) == [BUILD, LAB]
    assert config.peers[config.peer_id("lab")].displayname == "The lab"
    assert config.peers[config.peer_id("build")].displayname == "build"
    assert config.target(config.peer_id("build"), "ssh") == TcpTarget("127.0.0.1", 22)
    assert config.target(config.peer_id("build"), "web") == UnixTarget("/run/build/web.sock")
    assert config.service_names(config.peer_id("build")) == ("ssh", "web")


def test_defaults_are_the_safe_ones() -> None:
    config = load(GOOD)
    assert config.ice.use_homeserver_servers
    assert config.ice.servers == ()
    assert config.ice.policy is IcePolicy.ALL
    policy = config.ice.remote
    assert (policy.private, policy.loopback, policy.allow, policy.deny) == (False, False, (), ())
    assert config.metrics_listen is None
    assert config.deny == ()
    service = config.service(config.peer_id("build"), "ssh")
    assert service is not None
    assert (service.raw, service.max_streams, service.idle_s) == (False, 256, None)
    limits = config.limits
    assert (limits.calls_per_user, limits.calls_per_server, limits.calls_total) == (4, 20, 200)
    assert (limits.setup_s, limits.session_max_s, limits.idle_room_s) == (30, 43200, 2592000)


def test_server_with_capitals_is_the_same_server_wherever_a_user_is_named() -> None:
    data = changed("encryption", to={"identities": {"@Alice:EXAMPLE.org": "A" * 43}})
    data["tests"] = [{"as": "@alice:Example.Org", "may": ["build/ssh"]}]
    config = load(data)
    assert list(config.encryption.identities) == ["@Alice:example.org"]
    assert [test.user for test in config.tests] == ["@alice:example.org"]


def test_unknown_names_lead_nowhere() -> None:
    config = load(GOOD)
    assert config.target(config.peer_id("build"), "telnet") is None
    assert config.target(config.peer_id("nobody"), "ssh") is None
    assert config.service_names(config.peer_id("nobody")) == ()


@pytest.mark.parametrize(
    ("user", "claimed", "own"),
    [
        (BUILD, True, True),
        ("@rtcbot:example.org", True, True),
        ("@rtc_other:example.org", True, False),
        ("@rtc_other:EXAMPLE.org", True, False),
        ("@alice:example.org", False, False),
        ("@rtc_build:example.com", False, False),
        ("@rtcbot2:example.org", False, False),
    ],
)
def test_namespace_is_known(user: Any, claimed: bool, own: bool) -> None:
    config = load(GOOD)
    assert (config.claims(user), config.own_user(user)) == (claimed, own)


def test_secrets_are_not_shown_by_repr() -> None:
    data = changed("database", to="postgres://bridge:db-password@localhost/bridge")
    data["ice"] = {"servers": [{"urls": ["turn:t.example.org"], "username": "u", "credential": "turn-password"}]}
    shown = repr(load(data))
    for secret in (HS_TOKEN, AS_TOKEN, "db-password", "turn-password"):
        assert secret not in shown


def test_ice_settings_become_values() -> None:
    servers = ["stun:stun.example.org", {"urls": ["turn:t.example.org"], "username": "u", "credential": "p"}]
    ice = {
        "servers": servers,
        "policy": "relay",
        "interfaces": ["eth0", "192.0.2.0/24"],
        "advertise": ["203.0.113.1"],
        "port_range": [50000, 50010],
        "remote": {"private": True, "deny": ["10.0.0.0/8"]},
    }
    config = load(changed("ice", to=ice))
    assert not config.ice.use_homeserver_servers
    assert config.ice.servers == (
        IceServer(("stun:stun.example.org",)),
        IceServer(("turn:t.example.org",), "u", "p"),
    )
    assert (config.ice.policy, config.ice.port_range) == (IcePolicy.RELAY, (50000, 50010))
    assert config.ice.remote.private
    assert str(config.ice.remote.deny[0]) == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("database", "url"),
    [
        ("sqlite:bridge.db", "sqlite:///etc/mxrtc/bridge.db"),
        ("sqlite:sub folder/bridge.db", "sqlite:///etc/mxrtc/sub%20folder/bridge.db"),
        ("sqlite:/var/lib/bridge.db", "sqlite:///var/lib/bridge.db"),
        ("sqlite:///var/lib/bridge.db", "sqlite:///var/lib/bridge.db"),
        ("postgres://u:p@localhost/bridge", "postgres://u:p@localhost/bridge"),
        ("postgresql:///bridge?host=/run/postgresql", "postgresql:///bridge?host=/run/postgresql"),
    ],
)
def test_database_url_is_complete(database: str, url: str) -> None:
    assert load(changed("database", to=database)).database == url


def test_listening_elsewhere() -> None:
    data = changed("appservice", "listen", to="unix:/run/mxrtc/as.sock")
    data["appservice"]["url"] = "http://proxy.internal/"
    data["metrics"] = {"listen": "[::1]:9000"}
    config = load(data)
    assert config.appservice.listen == UnixListen("/run/mxrtc/as.sock")
    assert config.appservice.url == "http://proxy.internal"
    assert str(config.metrics_listen) == "[::1]:9000"


def in_group_of_service(member: str) -> dict[str, Any]:
    data = changed("groups", "ops", to=[member])
    data["peers"]["build"]["services"]["ssh"]["grantable_to"] = ["group:ops"]
    return data


TABLE: list[tuple[str, dict[str, Any], str]] = [
    ("a missing section", {k: v for k, v in GOOD.items() if k != "homeserver"},
     "line 1: homeserver: this section is missing"),
    ("a missing version", {k: v for k, v in GOOD.items() if k != "version"}, "line 1: version: write version: 2"),
    ("a newer version", changed("version", to=3),
     ("line 1: version: 3 is of a newer mxrtc-bridge, and this one knows up to 2; "
     "upgrade the program, or put back the copy that `mxrtc-bridge config upgrade` has kept")),
    ("a missing key", changed("homeserver", to={"address": "http://x.test"}),
     "line 2: homeserver.domain: this key is missing"),
    ("an unknown section", changed("grant", to=[]),
     ("line 7: grant: unknown key; allowed here: admins, appservice, audit, control, database, deny, encryption, "
     "grants, groups, homeserver, ice, limits, logging, metrics, peers, policy_lists, rooms, tests, version; "
     "did you mean 'grants'?")),
    ("an unknown key", changed("logging", to={"levle": "info"}),
     "line 7: logging.levle: unknown key; allowed here: level; did you mean 'level'?"),
    ("a word that is nothing like", changed("metrics", to={"port": 9}),
     "line 7: metrics.port: unknown key; allowed here: listen"),
    ("a number for text", changed("homeserver", "domain", to=7),
     "line 2: homeserver.domain: must be text, not a whole number; write it in quotes"),
    ("text for a number", changed("limits", "calls_total", to="200"),
     "line 7: limits.calls_total: must be a whole number, not text"),
    ("text for a switch", changed(*SSH, "raw", to="yes"),
     "line 4: peers.build.services.ssh.raw: must be true or false, not text"),
    ("one for a list", changed("deny", to="@a:b.test"), "line 7: deny: must be a list, not text"),
    ("nothing at all", changed("metrics", to=None),
     "line 7: metrics: must be keys with values, but nothing stands here; fill it in or remove the line"),
    ("a list for a section", changed("ice", to=[1]), "line 7: ice: must be keys with values, not a list"),
    ("too small", changed("limits", "calls_total", to=0), "line 7: limits.calls_total: '0' is too small; at least 1"),
    ("too large", changed("limits", "calls_total", to=10001),
     "line 7: limits.calls_total: '10001' is too large; at most 10000"),
    ("too short a time", changed("limits", "setup", to="4s"), "line 7: limits.setup: '4s' is too small; at least 5s"),
    ("a time without unit", changed("limits", "setup", to=30),
     "line 7: limits.setup: '30' is not a duration; write a whole number and a unit, like 500ms, 10s, 5m, 12h, 30d"),
    ("another word", changed("logging", "level", to="loud"),
     "line 7: logging.level: 'loud' is not one of: 'debug', 'info', 'warning' or 'error'"),
    ("a bad name", changed("peers", "Build", to={"services": {"x": {"target": "tcp:h:1"}}}),
     "line 4: peers.Build: 'Build' does not have the form [a-z0-9][a-z0-9._-]{0,62}"),
    ("a peer without services", changed("peers", "empty", to={"services": {}}),
     "line 4: peers.empty.services: has 0 entries; at least 1 needed"),
    ("a bad target", changed(*SSH, "target", to="localhost:22"),
     ("line 4: peers.build.services.ssh.target: 'localhost:22' is not a target; write tcp:HOST:PORT, unix:/path, "
     "append:/path or read:/path")),
    ("a socket of the machine", changed(*SSH, "target", to="unix:/var/run/docker.sock"),
     ("line 4: peers.build.services.ssh.target: '/var/run/docker.sock' controls a container engine, and so this "
     "machine; if you mean it, add i_know_this_is_root: true")),
    ("an expectation that cannot hold", changed(*SSH, "expect", to=["10.0.0.0/8"]),
     ("line 4: peers.build.services.ssh.expect: does not hold the target's own address 127.0.0.1, so nothing could be "
     "reached")),
    ("networks for a unix socket", changed("peers", "build", "services", "web", "expect", to=["10.0.0.0/8"]),
     "line 4: peers.build.services.web.expect: is for TCP targets; a path has no network"),
    ("the bot as a peer", changed("appservice", "bot", to="rtc_build"),
     "line 4: peers.build: would have the same user id as the bot, @rtc_build:example.org; rename one of them"),
    ("the sender as a peer", changed("appservice", "sender_localpart", to="rtc_x"),
     "line 3: appservice.sender_localpart: must be neither the bot nor one of the peers; use a random word"),
    ("no way back to us", changed("appservice", "listen", to="0.0.0.0:1"),
     "line 3: appservice.url: needed because the homeserver cannot call 0.0.0.0:1; write where it reaches the bridge"),
    ("equal tokens", changed("appservice", "as_token", to=HS_TOKEN),
     "line 3: appservice.as_token: must not be the same as hs_token"),
    ("a short token", changed("appservice", "as_token", to="hunter2hunter2x"),
     "line 3: appservice.as_token: the token has 15 characters; at least 16, better 64 random ones"),
    ("a token with a space", changed("appservice", "as_token", to="hunter2 hunter2 hunter2"),
     ("line 3: appservice.as_token: the token must consist of printable ASCII characters without spaces: it travels in "
     "an HTTP header")),
    ("no token", changed("appservice", to={"hs_token": HS_TOKEN}),
     "line 3: appservice.as_token: there is no token; set as_token, as_token_file or $MXRTC_AS_TOKEN"),
    ("two tokens", changed("appservice", "as_token_file", to="x"),
     "line 3: appservice.as_token: give as_token or as_token_file, not both"),
    ("a database in memory", changed("database", to="sqlite::memory:"),
     "line 7: database: is not sqlite:FILE, like sqlite:mxrtc-bridge.db or sqlite:/var/lib/mxrtc/bridge.db"),
    ("another database", changed("database", to="mysql://user:secret@host/db"),
     "line 7: database: is neither sqlite:FILE nor postgres://USER:PASSWORD@HOST/NAME"),
    ("ports the wrong way round", changed("ice", "port_range", to=[50001, 50000]),
     "line 7: ice.port_range: the first port 50001 is larger than the last one 50000"),
    ("one port", changed("ice", "port_range", to=[50001]),
     "line 7: ice.port_range: has 1 entries; at least 2 needed"),
    ("a low port", changed("ice", "port_range", to=[80, 2000]),
     "line 7: ice.port_range[0]: '80' is too small; at least 1024"),
    ("a relay without server", changed("ice", to={"servers": ["stun:s.test"], "policy": "relay"}),
     "line 7: ice.policy: relay needs a TURN server, but ice.servers names none"),
    ("TURN without password", changed("ice", "servers", to=["turn:t.test"]),
     "line 7: ice.servers[0]: a TURN server needs username and credential (or credential_file)"),
    ("another word for servers", changed("ice", "servers", to="google"),
     "line 7: ice.servers: 'google' is neither the word homeserver nor a list of servers"),
    ("a group that is not there", changed("grants", 0, "from", to=["group:opps"]),
     "line 6: grants[0].from[0]: there is no group 'opps'; did you mean 'ops'?"),
    ("a peer that is not there", changed("grants", 0, "to", to=["biuld/ssh"]),
     "line 6: grants[0].to[0]: there is no peer 'biuld'; did you mean 'build'?"),
    ("a service that is not there", changed("grants", 0, "to", to=["build/sssh"]),
     "line 6: grants[0].to[0]: the peer build has no service 'sssh'; did you mean 'ssh'?"),
    ("a group in a group", changed("groups", "all", to=["group:ops"]),
     "line 5: groups.all[0]: a group cannot hold another group; name its members"),
    ("a group in a group that is granted to", in_group_of_service("group:ops"),
     "line 5: groups.ops[0]: a group cannot hold another group; name its members"),
    ("everybody in a group", changed("groups", "all", to=["*"]),
     'line 5: groups.all[0]: a group cannot hold everybody; write "*" in the grant, where it must be acknowledged'),
    ("everybody by accident", changed("grants", 0, "from", to=["@a:b.test", "*"]),
     ('line 6: grants[0].from[1]: "*" lets in users of every server in the world; if you mean it, add acknowledge: '
     "open-to-federation")),
    ("an idle acknowledgement", changed("grants", 0, "acknowledge", to="open-to-federation"),
     'line 6: grants[0].acknowledge: there is nothing to acknowledge without "*" in from'),
    ("a pattern", changed("deny", to=["@a:*.x"]),
     "line 7: deny[0]: '@a:*.x' is not a subject (@user:server, server:name, guest-accounts:name, room:!id or *)"),
    ("a test that says nothing", changed("tests", to=[{"as": "@a:b.test"}]),
     "line 7: tests[0]: a test without may and may_not says nothing"),
    ("a test of a service that is not there", changed("tests", to=[{"as": "@a:b.test", "may_not": ["lab/web"]}]),
     "line 7: tests[0].may_not[0]: the peer lab has no service 'web'"),
    ("a test that fails", changed("tests", to=[{"as": "@alice:example.org", "may": ["build"]}]),
     "line 7: tests[0].may: @alice:example.org may not use build/web, but this test says so (no grant)"),
    ("another test that fails", changed("tests", to=[{"as": "@x:ops.example.org", "may_not": ["build/ssh"]}]),
     "line 7: tests[0].may_not: @x:ops.example.org may use build/ssh, but this test forbids it (grant ops-ssh)"),
    ("a placeholder", changed("homeserver", "domain", to="your-domain.example"),
     ("line 2: homeserver.domain: still holds the placeholder 'your-domain.example' of the example; write your own "
     "value")),
    ("a hostile key", changed("limits", "\x1b[2J" + "x" * 100, to=1),
     (f"line 7: limits.'\\x1b[2J{'x' * 76}'...: unknown key; allowed here: calls_per_server, calls_per_user, "
     "calls_total, idle_room, invites_per_minute, "
     "invites_per_minute_per_server, session_max, setup, streams_per_session")),
]  # fmt: skip


@pytest.mark.parametrize(("data", "line"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_mistake_is_reported_with_line_and_remedy(data: dict[str, Any], line: str) -> None:
    assert mistakes(data) == [line]


def test_everybody_can_be_let_in_on_purpose() -> None:
    data = changed("grants", 0, "from", to=["*"])
    data["grants"][0]["acknowledge"] = "open-to-federation"
    assert mistakes(data) == []


def test_admins_and_rooms_of_the_bot_are_read() -> None:
    data = changed("admins", to=["@alice:example.org"])
    data["rooms"] = {"admin": "!room:example.org", "notices": "#rtc:example.org"}
    config = load(data)
    assert config.admins == {"@alice:example.org"}
    assert config.rooms.named() == {"admin": "!room:example.org", "notices": "#rtc:example.org"}
    assert (load(GOOD).admins, load(GOOD).rooms.named()) == (frozenset(), {})


def test_admin_who_is_denied_and_names_that_are_none_are_mistakes() -> None:
    data = changed("admins", to=["@alice:example.org", "alice", "@bob:example.org"])
    data["deny"] = ["@bob:example.org"]
    data["rooms"] = {"admin": "room:example.org", "notices": "#two words:example.org"}
    assert [line.partition(": ")[2].partition(": ")[0] for line in mistakes(data)] == [
        "admins[1]",
        "admins[2]",
        "rooms.admin",
        "rooms.notices",
    ]


def test_a_socket_of_the_machine_can_be_published_on_purpose() -> None:
    data = changed(*SSH, "target", to="unix:/var/run/docker.sock")
    data["peers"]["build"]["services"]["ssh"]["i_know_this_is_root"] = True
    assert mistakes(data) == []


def test_all_mistakes_are_reported_at_once_and_in_the_order_of_the_file() -> None:
    data = changed("homeserver", "domain", to="https://example.org")
    data["appservice"]["as_token"] = "short"
    data["peers"]["build"]["services"]["ssh"]["target"] = "nowhere"
    data["grants"][0]["from"] = ["group:none"]
    data["limits"] = {"calls_total": 0, "cals_per_user": 1}
    data["deny"] = ["nobody"]
    assert [line.split(": ")[:2] for line in mistakes(data)] == [
        ["line 2", "homeserver.domain"],
        ["line 3", "appservice.as_token"],
        ["line 4", "peers.build.services.ssh.target"],
        ["line 6", "grants[0].from[0]"],
        ["line 7", "limits.calls_total"],
        ["line 7", "limits.cals_per_user"],
        ["line 8", "deny[0]"],
    ]


def test_the_report_names_the_file_and_counts() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        load(changed("version", to=3))
    assert str(caught.value).startswith("the configuration /etc/mxrtc/config.yaml has 1 mistake:\n  line 1: version:")


def test_a_flood_of_mistakes_is_cut() -> None:
    rows = mistakes(changed("deny", to=["x"] * (MAX_SHOWN_PROBLEMS + 3)))
    assert len(rows) == MAX_SHOWN_PROBLEMS + 1
    assert rows[-1] == "and 3 more"


def test_a_repeated_key_is_reported_once_with_both_lines() -> None:
    assert mistakes(text_of(GOOD) + "peers: {}\n") == ["line 7: peers: this key was given before, in line 4"]


@pytest.mark.parametrize(("text", "message"), [("", "the file is empty"), ("- a\n", "must hold keys with values")])
def test_a_file_without_keys_says_how_to_begin(text: str, message: str) -> None:
    [line] = mistakes(text)
    assert message in line
    assert "mxrtc-bridge init" in line


def test_no_mistake_shows_a_secret() -> None:
    secret = "s3cr3t-s3cr3t-s3cr3t-s3cr3t"
    for data in (
        changed("appservice", "hs_token", to=f"{secret} {secret}"),
        changed("appservice", "hs_token", to=[secret]),
        changed("appservice", "hs_token", to=secret * 200),
        changed("database", to=f"postgre://user:{secret}@host/db"),
        changed("database", to=[f"postgres://user:{secret}@host/db"]),
        changed("homeserver", "address", to=f"http://user:{secret}@host"),
        changed("ice", "servers", to=[{"urls": ["turn:t.test"], "credential": secret}]),
        changed("ice", "servers", to=[{"urls": ["turn:t.test"], "credential": {"a": secret}}]),
    ):
        rows = mistakes(data)
        assert rows
        assert secret not in "\n".join(rows)


def test_load_reads_the_file_and_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(text_of(GOOD))
    (tmp_path / "config.yaml").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    config = load_config("config.yaml", {})
    assert config.path == tmp_path / "config.yaml"
    assert config.database == f"sqlite://{tmp_path}/mxrtc-bridge.db"


def test_a_file_with_secrets_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text_of(GOOD))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=re.escape(f"run: chmod 0600 {path}")):
        load_config(path, {})


def test_a_file_without_secrets_may_be_public(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text_of(changed("appservice", to={})))
    path.chmod(0o644)
    tokens = {"MXRTC_HS_TOKEN": HS_TOKEN, "MXRTC_AS_TOKEN": AS_TOKEN}
    assert load_config(path, tokens).appservice.hs_token == HS_TOKEN


# -- any input at all -------------------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20)
    | st.sampled_from(["*", "group:ops", "@a:b.test", "build/ssh", "10s", "tcp:h:1", "unix:/x", "homeserver", "1"])
)  # fmt: skip
keys = st.sampled_from([*Root.model_fields, "build", "ssh", "services", "target", "from", "to", "as", "may", "id"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(keys, values, max_size=8))
def test_any_yaml_is_a_configuration_or_a_config_error(data: dict[str, Any]) -> None:
    """Nothing else is ever raised, and every line of the report is printable."""
    rows = mistakes(scalar(data))
    assert all(row.isprintable() for row in rows)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The good configuration with one to three places replaced by something else, or removed."""
    data: dict[str, Any] = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while True:
            options = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not options:
                break
            key = draw(st.sampled_from(options))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = draw(values)
            else:
                del place[key]
            break
    return data


@settings(max_examples=examples(300), deadline=None)
@given(damaged())
def test_a_damaged_configuration_is_read_or_refused(data: dict[str, Any]) -> None:
    assert all(row.isprintable() for row in mistakes(data))


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, PATH, {})


def test_settings_of_a_service_reach_its_target() -> None:
    data = changed(*SSH, to={"target": "tcp:h:22", "connect_timeout": "3s", "expect": ["10.0.0.0/8"]})
    data["peers"]["build"]["services"]["web"] |= {"connect_timeout": "500ms", "limits": {"streams": 3, "idle": "1h"}}
    config = load(data)
    ssh, web = (config.service(config.peer_id("build"), name) for name in ("ssh", "web"))
    assert ssh is not None
    assert web is not None
    assert ssh.target == TcpTarget("h", 22, (ipaddress.ip_network("10.0.0.0/8"),), 3.0)
    assert web.target == UnixTarget("/run/build/web.sock", 0.5)
    assert (web.raw, web.max_streams, web.idle_s) == (True, 3, 3600)


@pytest.mark.parametrize("until", ["1960-01-01", "2001-01-01"])
def test_policy_tests_leave_out_the_ends_of_grants(until: str) -> None:
    data = changed("grants", 0, "until", to=until)
    data["tests"] = [{"as": "@alice:example.org", "may": ["build/ssh"]}]
    assert mistakes(data) == []
