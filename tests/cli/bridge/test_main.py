"""``mxrtc-bridge`` as an admin meets it: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mxrtc_bridge
from mxrtc_bridge.cli.bridge.main import invoke
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.example import example_config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.errors import HomeserverError, StateError
from mxrtc_bridge.matrix.virtual_users import AdminConsent

FLAGS = [
    "--domain",
    "example.org",
    "--peer",
    "build",
    "--service",
    "ssh=tcp:127.0.0.1:22",
    "--allow",
    "@alice:example.org",
]


class Admin:
    """Runs commands and keeps what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder
        self.config = folder / "config.yaml"
        self.registration = folder / "registration.yaml"

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = invoke([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    def init(self) -> None:
        code, _, err = self("init", *FLAGS, "--output", self.folder)
        assert code == 0, err


@pytest.fixture
def admin(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admin:
    for name in list(os.environ):
        if name.startswith("MXRTC_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    return Admin(capsys, tmp_path / "new")


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_writes_two_private_files_that_load(admin: Admin) -> None:
    code, out, err = admin("init", *FLAGS, "--output", admin.folder)
    assert code == 0
    assert sorted(os.listdir(admin.folder)) == ["config.yaml", "registration.yaml"]
    for path in (admin.config, admin.registration):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = load_config(admin.config, {})
    assert config.homeserver.domain == "example.org"
    assert config.service_names(config.peer_id("build")) == ("ssh",)
    registration = admin.registration.read_text()
    for value in (config.appservice.as_token, config.appservice.hs_token, config.appservice.sender_localpart):
        assert value is not None
        assert value in registration
    assert out == f"app_service_config_files:\n  - {admin.registration}\n"
    assert "mxrtc-bridge check -c" in err
    assert "mxrtc-bridge run -c" in err
    assert config.appservice.as_token not in out + err


def test_init_never_replaces_without_force(admin: Admin) -> None:
    admin.init()
    before = admin.config.read_text(), admin.registration.read_text()
    code, _, err = admin("init", *FLAGS, "--output", admin.folder)
    assert code == 2
    assert "exists already; use --force" in err
    assert (admin.config.read_text(), admin.registration.read_text()) == before
    code, _, _ = admin("init", *FLAGS, "--output", admin.folder, "--force")
    assert code == 0
    assert admin.config.read_text() != before[0]


def test_init_writes_nothing_when_only_the_registration_exists(admin: Admin) -> None:
    admin.folder.mkdir()
    admin.registration.write_text("precious")
    code, _, _ = admin("init", *FLAGS, "--output", admin.folder)
    assert code == 2
    assert os.listdir(admin.folder) == ["registration.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domain", "https://example.org"], "without https://"),
        (["--domain", "--help"], "is not a server name"),
        (["--domain", "example.org", "--listen", "29350"], "'--listen': '29350' is not HOST:PORT"),
        (["--domain", "example.org", "--homeserver-address", "matrix.example.org"], "'--homeserver-address'"),
        (["--domain", "example.org", "--admin", "alice"], "'--admin'"),
        (["--domain", "example.org", "--advertise", "example.org"], "'--advertise': 'example.org' is neither an IP"),
        (["--domain", "example.org", "--inbox", "/srv/inbox"], "add --peer NAME"),
        (["--domain", "example.org", "--peer", "b", "--inbox", "inbox"], "--inbox: 'inbox' is not an absolute path"),
        (["--domain", "example.org", "--peer", "b", "--inbox", "/srv/a", "--service", "inbox=tcp:h:1"], "given twice"),
        (["--domain", "example.org", "--turn", "turn.example.org"], "'--turn'"),
        (["--domain", "example.org", "--turn", "turn:turn.example.org"], "needs --turn-username"),
        (
            ["--domain", "example.org", "--turn", "turn:t.example.org", "--turn-username", "u"],
            "--turn-password-file FILE",
        ),
        (["--domain", "example.org", "--turn-username", "u"], "add --turn URI"),
        (
            [
                *("--domain", "example.org", "--turn", "turn:t.test", "--turn-username", "u"),
                "--turn-password-file",
                "-",
            ],
            "is no line of 1 to",
        ),
        (["--domain", "example.org", "--service", "ssh=tcp:h:1"], "add --peer NAME"),
        (["--domain", "example.org", "--allow", "@a:b.test"], "add --peer NAME"),
        (["--domain", "example.org", "--peer", "build"], "at least one --service"),
        (["--domain", "example.org", "--peer", "build", "--service", "ssh"], "is not NAME=TARGET"),
        (["--domain", "example.org", "--peer", "b", "--service", "s=h:1"], "is not a target"),
        (["--domain", "example.org", "--peer", "b", "--service", "s=tcp:h:1", "--service", "s=tcp:h:2"], "given twice"),
        (["--domain", "example.org", "--peer", "B", "--service", "s=tcp:h:1"], "does not have the form"),
        (["--domain", "example.org", "--peer", "b", "--service", "s=tcp:h:1", "--allow", "*"], "acknowledge"),
        (["--domain", "example.org", "--peer", "b", "--service", "s=unix:/run/docker.sock"], "a container engine"),
        (["--domain", "your-domain.example"], "placeholder"),
        ([], "--domain is needed when there is nobody to ask"),
    ],
)
def test_init_refuses_and_writes_nothing(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = admin("init", *arguments, "--output", admin.folder)
    assert (code, out) == (2, "")
    assert message in err
    assert not admin.folder.exists()


class Typing(io.StringIO):
    """A keyboard."""

    def isatty(self) -> bool:
        return True


def test_init_asks_when_somebody_is_there(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        *(
            "https://example.org",
            "your-domain.example",
            "example.org",
            "nowhere",
            "",
            "29350",
            "",
            "My Box",
            "box",
            "We b",
            "web",
        ),
        *("nonsense", "unix:/run/docker.sock", "unix:/run/web.sock", "alice", "@alice:example.org"),
    ]
    monkeypatch.setattr("sys.stdin", Typing("\n".join(answers) + "\n"))
    code, out, err = admin("init", "--output", admin.folder)
    assert code == 0, err
    assert out.startswith("app_service_config_files:")
    # Each of the wrong ones was asked again, and none of the others.
    for refused in ("without https://", "'nowhere'", "'29350'", "'nonsense' is not a target", "a container engine"):
        assert refused in err
    assert err.count("Error: ") == 9
    config = load_config(admin.config, {})
    assert config.homeserver.address == "http://127.0.0.1:8008"
    assert str(config.target(config.peer_id("box"), "web")) == "unix:/run/web.sock"
    assert [str(subject) for subject in config.grants[0].subjects] == ["@alice:example.org"]


def test_init_asks_nothing_that_an_option_has_said_and_for_a_password_that_none_has(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Typing(""))
    asked: list[str] = []

    def hidden(question: str) -> str:
        asked.append(question)
        return "pass: word"

    monkeypatch.setattr("click.termui.hidden_prompt_func", hidden)
    turn = ("--turn", "turn:turn.example.org", "--turn", "turns:turn.example.org", "--turn-username", "bridge")
    code, out, err = admin(
        "init", *FLAGS, *turn, "--inbox", "/srv/inbox", "--share", "/srv/share", "--admin", "@alice:example.org",
        "--admin", "@bob:example.org", "--advertise", "203.0.113.7/10.0.0.5", "--output", admin.folder,
    )  # fmt: skip
    assert code == 0, err
    assert asked == ["Password at the TURN server: "]
    assert "pass: word" not in out + err
    config = load_config(admin.config, {})
    assert {name: str(settings.target) for _, settings in config.services() for name in [settings.name]} == {
        "ssh": "tcp:127.0.0.1:22",
        "inbox": "files:/srv/inbox (receive)",
        "share": "files:/srv/share (send)",
    }
    assert config.admins == {"@alice:example.org", "@bob:example.org"}
    assert list(map(str, config.ice.advertise)) == ["203.0.113.7/10.0.0.5"]
    (server,) = config.ice.servers or ()
    assert (server.username, server.credential) == ("bridge", "pass: word")
    assert server.turn_urls == ("turn:turn.example.org", "turns:turn.example.org")


def test_init_reads_the_password_of_a_turn_server_from_a_file(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    turn = (
        "--turn",
        "turn:turn.example.org",
        "--turn-username",
        "bridge",
        "--turn-password-file",
        tmp_path / "password",
    )
    assert admin("init", *FLAGS, *turn, "--output", admin.folder)[0] == 0
    (server,) = load_config(admin.config, {}).ice.servers or ()
    assert server.credential == "from a file"


def test_init_can_be_abandoned(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Typing("example.org\n"))
    code, _, err = admin("init", "--output", admin.folder)
    assert code == 130
    assert "interrupted" in err
    assert not admin.folder.exists()


def test_init_says_when_the_folder_cannot_be_made(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = admin("init", *FLAGS, "--output", tmp_path / "file" / "sub")
    assert code == 78
    assert "cannot be made" in err


def test_a_path_that_no_file_can_have_is_no_trouble_that_passes(admin: Admin, tmp_path: Path) -> None:
    """Root looks first whose it is, and must come to the same end."""
    for command in ("who", "reload", "check", "identity"):
        code, _, err = admin(command, "-c", tmp_path / ("x" * 300))
        assert code == 78, command
        assert "cannot be read: File name too long" in err
        assert "Errno" not in err


def test_init_says_in_words_what_is_wrong_with_the_folder_that_it_looks_into(admin: Admin, tmp_path: Path) -> None:
    code, _, err = admin("init", *FLAGS, "--output", tmp_path / ("x" * 300))
    assert code == 78
    assert "config.yaml cannot be written: File name too long" in err
    assert "Errno" not in err


# -- example-config, registration -----------------------------------------------------------------------------------


def test_example_config_goes_to_stdout(admin: Admin) -> None:
    assert admin("example-config") == (0, example_config(), "")


def test_registration_is_the_one_that_init_wrote(admin: Admin) -> None:
    admin.init()
    code, out, err = admin("registration", "-c", admin.config)
    assert (code, out, err) == (0, admin.registration.read_text(), "")


def test_registration_is_written_privately_and_never_over_another(admin: Admin) -> None:
    admin.init()
    target = admin.folder / "again.yaml"
    code, out, _ = admin("registration", "-c", admin.config, "-o", target)
    assert (code, out) == (0, "")
    assert target.read_text() == admin.registration.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    code, _, err = admin("registration", "-c", admin.config, "-o", target)
    assert code == 78
    assert "exists already" in err


def test_registration_says_when_its_sender_changes_each_time(admin: Admin) -> None:
    admin.init()
    lines = [line for line in admin.config.read_text().splitlines() if "sender_localpart:" not in line]
    admin.config.write_text("\n".join(lines))
    code, _, err = admin("registration", "-c", admin.config)
    assert code == 0
    assert "sender_localpart is not set" in err


# -- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "service", "code", "out", "err"),
    [
        ("@alice:example.org", "build/ssh", 0, "allow: grant build-users\n", ""),
        ("@alice:example.org", "build", 0, "allow: grant build-users\n", ""),
        ("@alice:example.org", "@rtc_build:example.org/ssh", 0, "allow: grant build-users\n", ""),
        ("@alice:EXAMPLE.org", "@rtc_build:Example.ORG/ssh", 0, "allow: grant build-users\n", ""),
        ("@eve:example.org", "build/ssh", 3, "deny: no grant\n", ""),
        ("@alice:example.org", "build/web", 3, "deny: no grant\n", "Peer build has no service 'web'; known: ssh.\n"),
        ("@alice:example.org", "biuld/ssh", 3, "deny: no grant\n", "There is no peer 'biuld'; known: build.\n"),
    ],
)
def test_explain_names_the_rule(admin: Admin, user: str, service: str, code: int, out: str, err: str) -> None:
    admin.init()
    found, printed, said = admin("explain", "-c", admin.config, user, service)
    assert (found, printed, said.startswith(err)) == (code, out, True)
    assert said.removeprefix(err).startswith("by the file alone")


def test_explain_names_the_deny_list(admin: Admin) -> None:
    admin.init()
    text = admin.config.read_text().split("# Claims")[0]
    admin.config.write_text(text + 'deny: ["server:example.org"]\n')
    code, out, _ = admin("explain", "-c", admin.config, "@alice:example.org", "build/ssh")
    assert (code, out) == (3, "deny: server:example.org\n")


def test_explain_decides_for_another_time(admin: Admin) -> None:
    admin.init()
    admin.config.write_text(admin.config.read_text().replace("to: [build]}", "to: [build], until: 2040-01-01}"))
    question = ("@alice:example.org", "build/ssh")
    assert admin("explain", "-c", admin.config, "--at", "2039-12-31T23:59:59Z", *question)[0] == 0
    code, out, _ = admin("explain", "-c", admin.config, "--at", "2040-01-01", *question)
    assert (code, out) == (3, "deny: no grant: build-users has ended\n")


@pytest.mark.parametrize("arguments", [["alice", "build/ssh"], ["--at", "soon", "@alice:example.org", "build/ssh"]])
def test_explain_refuses_what_it_cannot_read(admin: Admin, arguments: list[str]) -> None:
    admin.init()
    assert admin("explain", "-c", admin.config, *arguments)[:2] == (2, "")


# -- check ------------------------------------------------------------------------------------------------------------


@contextmanager
def ports_in_use(count: int) -> Iterator[tuple[int, int]]:
    """A range of four UDP ports of which ``count`` are taken."""
    for first in range(20000, 60000, 4):
        sockets = []
        try:
            for port in range(first, first + 4):
                taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sockets.append(taken)
                taken.bind(("", port))
        except OSError:
            for taken in sockets:
                taken.close()
            continue
        for taken in sockets[count:]:
            taken.close()
        try:
            yield first, first + 3
        finally:
            for taken in sockets[:count]:
                taken.close()
        return
    pytest.fail("no free ports at all")


@pytest.mark.parametrize(("taken", "code", "level"), [(0, 0, "ok"), (2, 0, "ok"), (3, 0, "warn"), (4, 1, "fail")])
def test_check_tries_the_udp_ports(admin: Admin, taken: int, code: int, level: str) -> None:
    admin.init()
    with ports_in_use(taken) as (first, last):
        with admin.config.open("a") as stream:
            stream.write(f"ice: {{port_range: [{first}, {last}]}}\nlimits: {{calls_total: 2}}\n")
        result, out, _ = admin("check", "-c", admin.config, "--offline", "--json")
    findings = [json.loads(line) for line in out.splitlines()]
    assert result == code
    assert [finding["level"] for finding in findings] == ["ok", level]
    assert all(finding["kind"] == "finding" for finding in findings)
    assert bool(findings[1]["fix"]) is (level != "ok")


def test_check_shows_findings_with_their_fix(admin: Admin) -> None:
    admin("init", "--domain", "example.org", "--output", admin.folder)
    code, out, err = admin("check", "-c", admin.config, "--offline")
    assert code == 0
    assert err == ""
    assert out.splitlines()[1:] == [
        "warn  there are no peers, so there is nothing to call",
        "      fix: add a peer with a service under peers:",
    ]


def test_check_asks_the_network_and_fails_with_it(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    async def check(config: Config) -> list[Finding]:
        seen.append(config)
        return [Finding(Level.FAIL, "the homeserver said \x1b[2Jno", "mend it")]

    monkeypatch.setattr("mxrtc_bridge.bridge.check.check", check)
    admin.init()
    code, out, _ = admin("check", "-c", admin.config)
    assert code == 1
    assert out.splitlines()[-2:] == ["FAIL  the homeserver said \\x1b[2Jno", "      fix: mend it"]
    assert [config.path for config in seen] == [admin.config]


# -- run, and the command line as a whole ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (HomeserverError("the homeserver does not answer"), 1, "The homeserver does not answer."),
        (HomeserverError("the token is unknown", 401, "M_UNKNOWN_TOKEN"), 78, "The token is unknown."),
        (StateError("already running"), 1, "Already running."),
        (OSError(98, "Address already in use"), 1, "Address already in use"),
    ],
)
def test_run_ends_with_a_code_that_says_whether_to_retry(
    admin: Admin, monkeypatch: pytest.MonkeyPatch, error: Exception | None, code: int, said: str
) -> None:
    async def run(config: Config, consent: AdminConsent, *, leave: object, **_: object) -> None:
        assert consent == AdminConsent()
        assert config.homeserver.domain == "example.org"
        if error is not None:
            raise error

    monkeypatch.setattr("mxrtc_bridge.bridge.runner.run", run)
    admin.init()
    result, out, err = admin("run", "-c", admin.config)
    assert (result, out) == (code, "")
    assert said in err


@pytest.mark.parametrize("command", ["run", "check", "registration", "explain"])
def test_every_command_lists_the_mistakes_of_the_configuration(admin: Admin, command: str) -> None:
    admin.init()
    admin.config.write_text(admin.config.read_text().replace("domain:", "domian:").replace("tcp:", "tpc:"))
    arguments = ["@alice:example.org", "build/ssh"] if command == "explain" else []
    code, out, err = admin(command, "-c", admin.config, *arguments)
    assert (code, out) == (78, "")
    assert "has 3 mistakes:" in err
    assert "homeserver.domian: unknown key" in err
    assert "did you mean 'domain'?" in err
    assert "peers.build.services.ssh.target" in err


def test_a_configuration_that_others_can_read_stops_the_bridge(admin: Admin) -> None:
    admin.init()
    admin.config.chmod(0o644)
    code, _, err = admin("run", "-c", admin.config)
    assert code == 78
    assert f"run: chmod 0600 {admin.config}" in err


@pytest.mark.parametrize("arguments", [["fly"], ["check", "--fast"], ["explain", "@a:b"], ["run", "extra"]])
def test_a_command_line_that_makes_no_sense_is_a_usage_error(admin: Admin, arguments: list[str]) -> None:
    code, out, err = admin(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_a_missing_configuration_is_named(admin: Admin) -> None:
    code, _, err = admin("check", "-c", "/does/not/exist.yaml")
    assert code == 78
    assert err == "/does/not/exist.yaml cannot be read: No such file or directory\n"


def test_help_and_version_are_data(admin: Admin) -> None:
    code, out, err = admin("--version")
    assert (code, out, err) == (0, f"mxrtc-bridge, version {mxrtc_bridge.__version__}\n", "")
    for command in ([], ["init"], ["check"], ["run"], ["example-config"], ["registration"], ["explain"]):
        code, out, err = admin(*command, "--help")
        assert (code, err) == (0, "")
        assert out.startswith("Usage: mxrtc-bridge")


@pytest.mark.programs
def test_program_survives_a_reader_that_goes_away() -> None:
    """`mxrtc-bridge example-config | head -1` says nothing about a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "from mxrtc_bridge.cli.bridge.main import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, "example-config"], stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_json_means_the_same_before_the_command_and_behind_it(admin: Admin) -> None:
    admin.init()
    before = admin("--json", "list", "-c", admin.config)
    assert before == admin("list", "--json", "-c", admin.config)
    assert (before[0], [type(json.loads(line)) for line in before[1].splitlines()]) == (0, [dict]), before
    assert admin("list", "-c", admin.config)[1] != before[1]
    code, out, err = admin("--json", "example-config")
    assert (code, out, "The command example-config has no --json." in err) == (2, "", True), err
