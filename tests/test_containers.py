"""The image and the compose file do what they say, as far as that can be seen without a container engine.

The scripts inside of them are taken out and run by a shell, with the real bridge, the real Synapse and the real
coturn; what is left are statements about the files themselves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.demo.processes import ManagedProcess
from mxrtc_bridge.demo.synapse import find_synapse_python
from tests.compose_files import ComposeError, as_compose_reads
from tests.first_hour import Machine, base_of
from tests.long import LONG

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = ["synapse", "bridge", "coturn"]
SET_UP = ["bridge-setup", "synapse-setup"]
UID = "10001"

# The image


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile without the embedded script, continued lines joined."""
    text = re.sub(r"<<'SCRIPT' (\S+)\n.*?^SCRIPT$", r"SCRIPT \1", DOCKERFILE, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def final_stage() -> list[tuple[str, str]]:
    steps = instructions()
    return steps[max(index for index, (name, _) in enumerate(steps) if name == "FROM") :]


def test_the_image_runs_as_a_numbered_user_without_rights() -> None:
    assert [value for name, value in final_stage() if name == "USER"] == [f"{UID}:{UID}"]
    names = [name for name, _ in final_stage()]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in {"RUN", "COPY"})


def test_the_image_keeps_its_data_in_one_volume() -> None:
    steps = dict(final_stage())
    assert (steps["VOLUME"], steps["WORKDIR"]) == ("/data", "/data")


def test_the_image_is_made_from_named_versions_and_existing_files() -> None:
    assert [value.split()[0] for name, value in instructions() if name == "FROM"] == ["python:3.12-slim-bookworm"] * 2
    assert "ADD" not in {name for name, _ in instructions()}
    sources = [
        source
        for name, value in instructions()
        if name == "COPY" and not value.startswith("--")
        for source in value.split()[:-1]
    ]
    assert sources == [
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "docs/man",
        "completions",
        "mxrtc_bridge",
    ]
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_knows_whether_it_lives() -> None:
    command = re.search(r"CMD (\[.+\])$", dict(final_stage())["HEALTHCHECK"])
    assert command is not None
    program, flag, source = json.loads(command[1])
    assert (program, flag) == ("python", "-c")
    compile(source, "healthcheck", "exec")
    assert "/_matrix/mau/live" in source


class Container:
    """The image's entry script, with a folder of the test's own instead of ``/data``."""

    def __init__(self, folder: Path) -> None:
        script = re.search(r"^COPY .*<<'SCRIPT' \S+\n(.*?)^SCRIPT$", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert script is not None
        self._entry = folder / "mxrtc-container"
        self._entry.write_text(script[1])
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)

    def __call__(self, *words: str, programs: Path = BIN, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", self._entry, *words],
            env={"PATH": f"{programs}:{os.environ['PATH']}", "MXRTC_DATA": str(self.data), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


ANSWERS = {"MXRTC_DOMAIN": "example.org", "MXRTC_ALLOW": "@alice:example.org"}


@pytest.mark.programs
@pytest.mark.parametrize("words", [[], ["run"], ["setup"]])
def test_the_first_run_writes_its_files_and_says_what_to_do(container: Container, words: list[str]) -> None:
    result = container(*words, **ANSWERS)
    assert result.returncode == 0, result.stderr
    files = {path.name: path.stat().st_mode & 0o777 for path in container.data.iterdir()}
    assert files == {"config.yaml": 0o600, "registration.yaml": 0o600}
    assert list(load_config(container.data / "config.yaml").peers) == ["@rtc_host:example.org"]
    assert "app_service_config_files" in result.stdout
    assert "start the container again" in result.stderr


@pytest.mark.programs
def test_a_later_setup_changes_nothing(container: Container) -> None:
    container("setup", **ANSWERS)
    before = {path.name: path.read_bytes() for path in container.data.iterdir()}
    assert container("setup", **ANSWERS).returncode == 0
    assert {path.name: path.read_bytes() for path in container.data.iterdir()} == before


@pytest.mark.parametrize("missing", ANSWERS)
def test_a_first_run_without_an_answer_names_it_and_writes_nothing(container: Container, missing: str) -> None:
    result = container("run", **{name: value for name, value in ANSWERS.items() if name != missing})
    assert (result.returncode, result.stderr.splitlines()[-1]) == (78, f"Missing: {missing}")
    assert list(container.data.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["run", "-c", "{data}/config.yaml"]),
        (["run", "--new-identity"], ["run", "-c", "{data}/config.yaml", "--new-identity"]),
        (["explain", "two words"], ["explain", "two words"]),
    ],
)
def test_a_later_run_becomes_the_bridge(
    container: Container, tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    (container.data / "config.yaml").touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mxrtc-bridge").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "mxrtc-bridge").chmod(0o755)
    output = container(*words, programs=programs).stdout.splitlines()
    assert output == [word.format(data=container.data) for word in expected]


if LONG:

    @pytest.mark.real
    @pytest.mark.timeout(1800)
    def test_the_steps_of_the_image_make_a_bridge(tmp_path: Path) -> None:
        """On the Debian that the image is made from, with the Python of that, which is a version older."""
        machine = Machine("bookworm", tmp_path)
        try:
            prepare = "apt-get install --yes -q=2 --no-install-recommends python3-venv python-is-python3"
            machine.make(base_of("bookworm"), prepare)
            carry_out(machine)
            entry = (
                "cd /data && umask 022 && setpriv --reuid {uid} --regid {uid} --clear-groups "
                "env PATH=/opt/mxrtc/bin:$PATH MXRTC_DOMAIN=example.org MXRTC_ALLOW=@alice:example.org "
                "mxrtc-container {words}"
            )
            code, said = machine.command(entry.format(uid=UID, words="run"))
            assert (code, "start the container again" in said) == (0, True), said
            files = {path.name: path.stat() for path in (machine.root / "data").iterdir()}
            assert {name: (stat.st_uid, stat.st_mode & 0o777) for name, stat in files.items()} == {
                "config.yaml": (int(UID), 0o600),
                "registration.yaml": (int(UID), 0o600),
            }
            code, said = machine.command(entry.format(uid=UID, words="check --offline -c /data/config.yaml"))
            assert code == 0, said
            assert (machine.root / "opt/mxrtc/share/man/man1/mxrtc-bridge.1").exists()
        finally:
            machine.remove()

    def carry_out(machine: Machine) -> None:
        """Do what the Dockerfile says; both stages are one machine, so nothing is copied from one to the other."""
        script = re.search(r"^COPY .*<<'SCRIPT' \S+\n(.*?)^SCRIPT$", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert script is not None
        folder = "/"
        for name, value in instructions():
            if name == "WORKDIR":
                folder = value
            elif name == "RUN":
                code, said = machine.command(f"mkdir -p {folder} && cd {folder} && {value}", outside=True)
                assert code == 0, f"{value}\n{said}"
            elif name == "COPY" and "SCRIPT" in value:
                path = machine.root / value.split()[-1].lstrip("/")
                path.write_text(script[1])
                path.chmod(0o755)
            elif name == "COPY" and "--from" not in value:
                *sources, place = value.split()
                target = machine.root / folder.lstrip("/") / place
                for source in sources:
                    if (ROOT / source).is_dir():
                        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        target.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / source, target)


# Compose


@pytest.mark.programs
def test_compose_takes_the_file_with_all_answers_and_names_one_that_is_missing() -> None:
    answers = {**ANSWERS, "MXRTC_PUBLIC_ADDRESS": "203.0.113.7"}
    project = as_compose_reads(ROOT / "docker-compose.yml", answers)
    assert sorted(project["services"]) == sorted(LASTING + SET_UP)
    for missing in answers:
        with pytest.raises(ComposeError, match=missing):
            as_compose_reads(
                ROOT / "docker-compose.yml", {name: value for name, value in answers.items() if name != missing}
            )


def test_compose_has_the_three_services_and_their_set_up() -> None:
    assert sorted(SERVICES) == sorted(LASTING + SET_UP)
    assert {SERVICES[name]["restart"] for name in LASTING} == {"unless-stopped"}
    assert {(SERVICES[name]["restart"], SERVICES[name]["network_mode"]) for name in SET_UP} == {("no", "none")}


@pytest.mark.parametrize("name", LASTING + SET_UP)
def test_a_service_has_a_read_only_root_and_gains_nothing(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "devices", "pid", "ipc"} & service.keys()
    assert "docker.sock" not in json.dumps(service)


def test_no_lasting_service_is_root_or_has_a_capability_it_does_not_need() -> None:
    assert {name: SERVICES[name]["user"] for name in LASTING} == {
        "synapse": f"{UID}:{UID}",
        "bridge": f"{UID}:{UID}",
        "coturn": "65534:65534",
    }
    assert {name: SERVICES[name]["cap_add"] for name in LASTING if "cap_add" in SERVICES[name]} == {
        "coturn": ["NET_BIND_SERVICE"]
    }


def test_every_lasting_service_has_a_health_check() -> None:
    """The bridge's is in its image."""
    assert [name for name in LASTING if "healthcheck" not in SERVICES[name]] == ["bridge"]
    assert "HEALTHCHECK" in dict(final_stage())


def test_every_volume_is_declared_and_has_the_writers_it_needs() -> None:
    mounts = [(name, *volume.split(":")) for name, service in SERVICES.items() for volume in service["volumes"]]
    assert {volume for _, volume, *_ in mounts} == set(COMPOSE["volumes"])
    assert {(volume, name) for name, volume, _, *mode in mounts if mode != ["ro"]} == {
        ("bridge-data", "bridge"),
        ("bridge-data", "bridge-setup"),
        ("synapse-data", "synapse"),
        ("synapse-data", "synapse-setup"),
        ("turn-settings", "synapse-setup"),
    }


def test_services_start_in_an_order_that_can_end() -> None:
    waits = {name: dict(service.get("depends_on", {})) for name, service in SERVICES.items()}
    started: set[str] = set()
    while ready := {name for name, needs in waits.items() if name not in started and needs.keys() <= started}:
        started |= ready
    assert started == set(SERVICES)
    conditions = {(other in SET_UP, need["condition"]) for needs in waits.values() for other, need in needs.items()}
    assert conditions == {(True, "service_completed_successfully"), (False, "service_healthy")}


def test_every_image_has_a_version_and_every_answer_is_explained() -> None:
    images = {service["image"] for service in SERVICES.values()} - {"mxrtc-bridge"}
    assert [image for image in images if not re.search(r":v?\d+\.\d+", image)] == []
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    page = (ROOT / "docs/how-to/docker.md").read_text()
    assert [name for name in sorted(asked) if name not in page] == []


@pytest.fixture
def set_up_script(tmp_path: Path) -> str:
    """The script of synapse-setup, with folders of the test's own and the real Synapse behind ``/start.py``."""
    service = SERVICES["synapse-setup"]
    assert service["entrypoint"] == ["/bin/sh", "-euc"]
    script: str = service["command"][0].replace("$$", "$")
    for name in ("data", "turn"):
        (tmp_path / name).mkdir()
        script = re.sub(rf"(?<=[ ])/{name}\b", f"{tmp_path}/{name}", script)
    generate = (
        f"{find_synapse_python()} -m synapse.app.homeserver --server-name $SYNAPSE_SERVER_NAME --report-stats no "
        f"--config-path {tmp_path}/data/homeserver.yaml --config-directory {tmp_path}/data "
        f"--data-directory {tmp_path}/data --generate-config --open-private-ports"
    )
    script = re.sub(r"^chown .*\n", "", script.replace("/start.py generate", generate), flags=re.MULTILINE)
    assert "chown" not in script
    return script


def run_set_up(script: str) -> None:
    env = {**os.environ, "SYNAPSE_SERVER_NAME": "example.org", "PUBLIC_ADDRESS": "127.0.0.1"}
    subprocess.run(["/bin/sh", "-euc", script], env=env, check=True, capture_output=True, timeout=60)


def synapse_settings(*files: Path) -> Any:
    """Return some of the settings as Synapse itself reads them."""
    source = (
        "import json, sys\n"
        "from synapse.config.homeserver import HomeServerConfig\n"
        "c = HomeServerConfig.load_config('', [w for f in sys.argv[1:] for w in ('-c', f)])\n"
        "print(json.dumps({'server_name': c.server.server_name,\n"
        "  'app_services': c.appservice.app_service_config_files,\n"
        "  'turn_uris': c.voip.turn_uris, 'turn_allow_guests': c.voip.turn_allow_guests}))\n"
    )
    command = [find_synapse_python(), "-c", source, *files]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.real
def test_the_set_up_writes_what_synapse_accepts_and_is_private(set_up_script: str, tmp_path: Path) -> None:
    run_set_up(set_up_script)
    files = [tmp_path / "data/mxrtc.yaml", tmp_path / "turn/turnserver.conf"]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]
    assert synapse_settings(tmp_path / "data/homeserver.yaml", files[0]) == {
        "server_name": "example.org",
        "app_services": ["/bridge/registration.yaml"],
        "turn_uris": ["turn:127.0.0.1:3478?transport=udp", "turn:127.0.0.1:3478?transport=tcp"],
        "turn_allow_guests": False,
    }
    listeners = YAML(typ="safe").load(files[0])["listeners"]
    assert [listener["bind_addresses"] for listener in listeners] == [["127.0.0.1"]]

    before = [path.read_bytes() for path in files]
    run_set_up(set_up_script)
    assert [path.read_bytes() for path in files] == before, "a second run keeps the secrets"


def stun_answer(port: int, within_s: float) -> bytes:
    """Return the first answer to a STUN binding request (RFC 8489, section 5); asked again while there is none."""
    request = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"twelve bytes")
    deadline = time.monotonic() + within_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                client.send(request)
                return client.recv(1500)
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.02)
    return b""


@pytest.mark.real
async def test_the_turn_server_starts_with_the_set_up_and_shares_synapses_secret(
    set_up_script: str, tmp_path: Path
) -> None:
    run_set_up(set_up_script)
    conf = (tmp_path / "turn/turnserver.conf").read_text()
    secret = re.search(r"^static-auth-secret=(\w{64})$", conf, re.MULTILINE)
    assert secret is not None
    assert secret[1] == YAML(typ="safe").load(tmp_path / "data/mxrtc.yaml")["turn_shared_secret"]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = f"listening-port={port}\nlistening-ip=127.0.0.1\nuserdb={tmp_path}/turndb"
    conf = conf.replace("listening-port=3478", here).replace("/tmp/turnserver.pid", f"{tmp_path}/turnserver.pid")
    (tmp_path / "turn/turnserver.conf").write_text(conf)
    command = [shutil.which("turnserver") or "/usr/bin/turnserver", "-c", tmp_path / "turn/turnserver.conf"]
    async with ManagedProcess("turnserver", command, folder=tmp_path) as server:
        answer = stun_answer(port, within_s=20)
        assert answer[:2] == b"\x01\x01", server.tail()
        assert [line for line in server.lines() if re.search(r"(?i)bad config|unknown|unrecogni[sz]ed", line)] == []
