"""``init --systemd`` where a real systemd runs, and where none does; and the pages that go on from there.

The machine is one of namespaces (booted_machine.py): its own ``/etc``, ``/var/lib`` and processes, and this network.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from mxrtc_bridge.cli.bridge import systemd_setup
from mxrtc_bridge.cli.bridge.installation import Installation
from mxrtc_bridge.cli.bridge.systemd_setup import UNIT, packaged, unit_text
from mxrtc_bridge.demo.processes import PortReservation
from tests.bridge_command import Run, run_in_process
from tests.cli.bridge.booted_machine import Machine, booted
from tests.other_user import as_other, needs_root
from tests.synapse import Synapse

HOW_TO = Path(__file__).parents[3] / "docs/how-to"
DOMAIN = "example.test"
ODD_NAMES = ["a b", "100%", "%z", "%n", 'q"', "it's", "\\", "x\\n", "\u00fc", "a;b", "#", "-", "$HOME", "a: b"]
COPY = "/etc/matrix-synapse/mxrtc.yaml"
HOMESERVER = f"""
useradd --system matrix-synapse
mkdir -p /etc/matrix-synapse
cat > /etc/matrix-synapse/homeserver.yaml <<END
server_name: {DOMAIN}
app_service_config_files:
  - /etc/matrix-synapse/other.yaml
END
"""
FILES = {
    "/etc/systemd/system/mxrtc-bridge.service": "root:root 644",
    "/etc/sysusers.d/mxrtc-bridge.conf": "root:root 644",
    "/var/lib/mxrtc": "mxrtc:mxrtc 700",
    "/var/lib/mxrtc/config.yaml": "mxrtc:mxrtc 600",
    "/var/lib/mxrtc/registration.yaml": "mxrtc:mxrtc 600",
    COPY: "root:matrix-synapse 640",
}


def answers(homeserver: str, port: int) -> list[str]:
    return [
        *("--domain", DOMAIN, "--homeserver-address", homeserver, "--listen", f"127.0.0.1:{port}"),
        *("--peer", "build", "--service", "ssh=tcp:127.0.0.1:22", "--allow", f"@alice:{DOMAIN}"),
    ]


def blocks(page: str, heading: str) -> list[str]:
    """The commands of a part of a page."""
    part = (HOW_TO / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^ *```sh\n(.*?)^ *```", part, re.DOTALL | re.MULTILINE)


# -- With systemd ------------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """A machine with a homeserver that does not know the bridge yet."""

    machine: Machine
    homeserver: Synapse
    port: int
    folder: Path

    async def tell_homeserver(self) -> None:
        """What the admin does: the lines, and a restart. It runs here, so it reads a copy here."""
        (self.folder / "mxrtc.yaml").write_text(self.machine.read(COPY))
        self.homeserver.app_services = [self.folder / "mxrtc.yaml"]
        await self.homeserver.restart()


@pytest.fixture
async def place(make_homeserver: Callable[..., Synapse], tmp_path: Path) -> AsyncIterator[Place]:
    homeserver = await make_homeserver(server_name=DOMAIN)
    with PortReservation() as reserved, booted(HOMESERVER) as machine:
        yield Place(machine, homeserver, reserved.port, tmp_path)


@pytest.mark.real
@pytest.mark.timeout(400)
@needs_root
async def test_it_ends_in_a_service_that_is_ready_and_all_of_it_can_be_removed(place: Place) -> None:
    machine = place.machine
    # The first time: all but the start, as the homeserver has not read the registration.
    inbox = '/opt/in 100%n "box"'
    done = machine.bridge("init", "--systemd", *answers(place.homeserver.url, place.port), "--inbox", inbox)
    assert done.returncode == 0, done.stderr
    assert machine.status(inbox) == "mxrtc:mxrtc 700"
    assert done.stdout == f"app_service_config_files:\n  - /etc/matrix-synapse/other.yaml\n  - {COPY}\n"
    assert {path: machine.status(path) for path in FILES} == FILES
    assert "as the homeserver does not know the bridge" in done.stderr
    assert "systemctl start mxrtc-bridge\n  mxrtc-bridge check\n" in done.stderr
    assert machine.run("systemctl", "is-enabled", "mxrtc-bridge").stdout == "enabled\n"
    assert machine.run("systemctl", "is-active", "mxrtc-bridge").stdout == "inactive\n"
    before = {path: machine.read(path) for path in FILES if path != "/var/lib/mxrtc"}

    # The second time, when it has: the same files, and a bridge that is ready.
    await place.tell_homeserver()
    done = machine.bridge("init", "--systemd")
    assert done.returncode == 0, done.stderr
    assert "The bridge is ready." in done.stderr
    assert {path: machine.read(path) for path in before} == before
    assert machine.run("systemctl", "is-active", "mxrtc-bridge").stdout == "active\n"
    status = machine.run("systemctl", "show", "--property=StatusText,User", "mxrtc-bridge").stdout
    assert "StatusText=serving" in status
    assert "User=mxrtc" in status
    shown = machine.run("systemctl", "show", "--property=ReadWritePaths", "mxrtc-bridge").stdout
    assert inbox in shown.replace("\\", ""), shown
    main = machine.run("systemctl", "show", "--property=MainPID", "--value", "mxrtc-bridge").stdout.strip()
    found = machine.run("nsenter", "--target", main, "--mount", "findmnt", "--noheadings", "--output=OPTIONS", inbox)
    assert found.stdout.startswith("rw"), found
    done = machine.bridge("check")
    assert "ok    the homeserver accepts the as_token" in done.stdout, done.stdout + done.stderr
    assert "FAIL" not in done.stdout.replace("FAIL  build/ssh", "")
    # And again, and by its owner, as every day.
    assert "The bridge is ready." in machine.bridge("init", "--systemd").stderr
    added = machine.bridge("add", "web", "tcp:127.0.0.1:80", "--allow", f"@alice:{DOMAIN}")
    assert added.returncode == 0, added.stderr
    assert "The configuration is in force" in added.stdout
    assert machine.run("systemctl", "reload", "mxrtc-bridge").returncode == 0

    # A unit that somebody has changed is left as it is, and told.
    machine.run("sh", "-c", "echo '# mine' >> /etc/systemd/system/mxrtc-bridge.service")
    done = machine.bridge("init", "--systemd")
    assert "mxrtc-bridge.service is not what this version brings, and was left as it is" in done.stderr
    assert machine.read("/etc/systemd/system/mxrtc-bridge.service").endswith("# mine\n")
    done = machine.run("sh", "-euc", "".join(blocks("upgrade.md", "A new unit")))
    assert done.returncode == 0, done.stderr
    assert (
        machine.read("/etc/systemd/system/mxrtc-bridge.service") == before["/etc/systemd/system/mxrtc-bridge.service"]
    )
    assert "The bridge is ready." in done.stderr

    # The page about removing it leaves nothing.
    stop, deactivate = blocks("remove.md", "At the homeserver")
    (remove,) = blocks("remove.md", "The bridge")
    done = machine.run("sh", "-euc", stop.replace("systemctl restart matrix-synapse\n", ""))
    assert done.returncode == 0, done.stderr
    place.homeserver.app_services = []
    await place.homeserver.restart()
    await place.homeserver.register_user("root", "password", admin=True)
    token = (await place.homeserver.login("root", "password")).access_token
    deactivate = deactivate.replace("http://127.0.0.1:8008", place.homeserver.url).replace("example.org", DOMAIN)
    done = machine.run("env", f"TOKEN={token}", "sh", "-euc", deactivate)
    assert (done.returncode, done.stderr) == (0, ""), done
    for user in ("rtc_build", "rtcbot"):
        known = await place.homeserver.request("GET", f"/_synapse/admin/v2/users/@{user}:{DOMAIN}", token=token)
        assert known["deactivated"] is True
    done = machine.run("sh", "-euc", remove)
    assert done.returncode == 0, done.stderr
    places = ("/etc", "/var/lib", "/opt", "/run", "/usr/local/bin")
    # What callers have sent is not the bridge's.
    left_alone = [word for path in ("/opt/tree/*", "/opt/in *") for word in ("-not", "-path", path)]
    assert machine.run("find", *places, "-xdev", "-name", "*mxrtc*", *left_alone).stdout == ""
    assert "mxrtc" not in machine.read("/etc/passwd") + machine.read("/etc/group")
    assert machine.run("systemctl", "cat", "mxrtc-bridge").returncode != 0


@pytest.mark.real
@needs_root
async def test_a_folder_of_somebody_else_is_left_alone_and_named(place: Place) -> None:
    machine = place.machine
    machine.run("sh", "-c", "mkdir /var/lib/mxrtc; echo x > /var/lib/mxrtc/precious")
    done = machine.bridge("init", "--systemd", *answers(place.homeserver.url, place.port))
    assert (done.returncode, "if it is of this bridge: chown -R mxrtc: /var/lib/mxrtc" in done.stderr) == (1, True), (
        done
    )
    assert machine.run("ls", "/var/lib/mxrtc").stdout == "precious\n"
    machine.run("sh", "-c", "rm /var/lib/mxrtc/precious; chown mxrtc: /var/lib/mxrtc")
    machine.run("sh", "-c", f"echo other > {COPY}")
    done = machine.bridge("init", "--systemd", *answers(place.homeserver.url, place.port))
    assert (done.returncode, f"{COPY} is another registration and was left as it is" in done.stderr) == (78, True), done
    assert machine.read(COPY) == "other\n"
    # Taken up where it was left.
    machine.run("rm", COPY)
    done = machine.bridge("init", "--systemd")
    assert done.returncode == 0, done.stderr
    assert {path: machine.status(path) for path in FILES} == {**FILES, "/var/lib/mxrtc": "mxrtc:mxrtc 755"}


# -- Without -----------------------------------------------------------------------------------------------------------


@pytest.mark.real
@needs_root
def test_where_systemd_does_not_run_the_commands_are_said() -> None:
    with booted(with_systemd=False) as machine:
        done = machine.bridge("init", "--systemd", *answers("http://127.0.0.1:1", 29399))
        assert done.returncode == 0, done.stderr
        assert "systemctl daemon-reload\n  systemctl enable --now mxrtc-bridge\n  mxrtc-bridge check\n" in done.stderr
        assert {path: machine.status(path) for path in FILES if path != COPY} == {
            path: status for path, status in FILES.items() if path != COPY
        }
        # A program that the user of the service cannot run is found before anything is written.
        machine.run("sh", "-c", "rm -r /var/lib/mxrtc; chmod 700 /opt/mxrtc")
        done = machine.bridge("init", "--systemd", *answers("http://127.0.0.1:1", 29399))
        assert (done.returncode, "cannot be run by the user mxrtc" in done.stderr) == (1, True), done.stderr
        assert machine.run("ls", "-A", "/var/lib/mxrtc").stdout == ""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/mxrtc/bin/mxrtc-bridge"])
    monkeypatch.setattr(sys, "prefix", "/opt/mxrtc")


def test_the_unit_runs_the_program_that_has_written_it(program: None) -> None:
    text = unit_text(Path("/srv/b+1/mxrtc-bridge"))
    assert "ExecStart=/srv/b+1/mxrtc-bridge run -c" in text
    assert "ExecReload=/srv/b+1/mxrtc-bridge reload -c" in text
    assert "/opt/mxrtc" not in text
    assert unit_text(Path("/opt/mxrtc/bin/mxrtc-bridge")) == packaged(UNIT.name)


@pytest.mark.parametrize("path", ["/root/x", "/home/x", "/tmp/x", "/run/user/0/x"])
def test_a_program_that_the_service_would_not_see_is_refused(program: None, path: str) -> None:
    with pytest.raises(click.UsageError, match="into a folder of its own, like /opt/mxrtc"):
        unit_text(Path(path))


def test_a_python_that_the_service_would_not_see_is_refused(program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/root/x")
    with pytest.raises(click.UsageError, match="would not see /root/x"):
        unit_text(Path("/usr/local/bin/mxrtc-bridge"))


@pytest.mark.parametrize("path", ["/opt/a b/mxrtc-bridge", "/opt/100%/mxrtc-bridge", "/opt/$x/mxrtc-bridge"])
def test_a_path_that_cannot_stand_in_a_unit_is_refused(program: None, path: str) -> None:
    with pytest.raises(click.UsageError, match="cannot stand in a unit"):
        unit_text(Path(path))


def test_a_service_that_is_to_write_elsewhere_may_and_only_where_the_admin_has_just_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.getpwuid(os.getuid()))
    drop_in, named = tmp_path / "unit.d" / "directories.conf", [tmp_path / "in 100%", tmp_path / 'a"b\\']
    hidden, own = Path("/hidden/inbox"), Path("/var/lib/mxrtc/inbox")
    where: dict[str, Any] = {"drop_in": drop_in, "hidden": (Path("/hidden"),)}
    said = systemd_setup.open_directories([*named, own, hidden], made_now=False, **where)
    assert said[0] == "The service cannot see /hidden/inbox; move it out of /hidden."
    assert "systemctl edit mxrtc-bridge" in said[1]
    assert list(tmp_path.iterdir()) == []
    said = systemd_setup.open_directories([*named, own], made_now=True, **where)
    assert said == [*(f"Made {path}, which belongs to mxrtc." for path in named), f"Wrote {drop_in}."]
    assert [path.stat().st_mode & 0o777 for path in named] == [0o700, 0o700]
    assert drop_in.read_text().splitlines() == [
        "[Service]",
        f'ReadWritePaths="-{tmp_path}/in 100%%"',
        f'ReadWritePaths="-{tmp_path}/a\\"b\\\\"',
    ]
    assert systemd_setup.open_directories([own], made_now=True, **where) == []


@pytest.mark.programs
def test_systemd_takes_what_it_is_told_of_directories_with_any_name(tmp_path: Path) -> None:
    unit = tmp_path / "x.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    drop_in = tmp_path / "x.service.d/directories.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(systemd_setup.directories_text([Path(f"/srv/{name}") for name in ODD_NAMES]))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_root
def test_another_folder_is_none_of_the_service(program: None, run: Run, tmp_path: Path) -> None:
    code, _, err = run("init", "--systemd", "--domain", DOMAIN, "--output", tmp_path / "x")
    assert (code, "has its files in /var/lib/mxrtc" in err) == (2, True), err


@needs_root
def test_nobody_but_root_can(program: None) -> None:
    def ask() -> None:
        with pytest.raises(click.UsageError, match="--systemd needs root"):
            Installation(Path("/var/lib/mxrtc"), as_service=True)

    as_other(ask)


@pytest.mark.parametrize("name", ["mxrtc-bridge.service", "mxrtc-bridge.sysusers.conf"])
def test_the_files_of_the_pages_are_those_that_come_with_the_program(name: str) -> None:
    assert (HOW_TO / name).read_text() == packaged(name), "run 'make docs'"
