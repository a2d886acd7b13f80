"""The files around the code agree with it and with each other: packaging, make, continuous integration, the unit."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

# Packaging


@pytest.mark.programs
@pytest.mark.parametrize(("script", "target"), PROJECT["scripts"].items())
def test_a_console_script_can_be_called_and_is_installed(script: str, target: str) -> None:
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    version = subprocess.run([BIN / script, "--version"], capture_output=True, text=True, check=True).stdout
    assert importlib.import_module("mxrtc_bridge").__version__ in version


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_file_of_the_source_distribution_exists_and_no_other_of_its_name_is_meant() -> None:
    """They are patterns as in ``.gitignore``: without a slash in front they mean every folder's file of that name."""
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in included if not name.startswith("/") or not (ROOT / name[1:]).exists()] == []


@pytest.mark.programs
def test_the_types_of_the_package_are_there_for_type_checkers(tmp_path: Path) -> None:
    """Who imports the package gets its types, and what may be imported is written at its head."""
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "mxrtc_bridge/py.typed").read_bytes() == b""
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel.keys() == {"hooks", "shared-data"}, "nothing of the package is left out of the wheel"
    program = "from mxrtc_bridge import __version__\nlength: int = __version__\n"
    (tmp_path / "user.py").write_text(program)
    result = subprocess.run(
        [BIN / "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "user.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'expression has type "str", variable has type "int"' in result.stdout
    assert "import-untyped" not in result.stdout


def test_the_wheel_brings_a_manual_page_for_each_program_to_where_man_looks() -> None:
    shared = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    (folder,) = [place for place, to in shared.items() if to == "share/man/man1"]
    assert {page.name for page in (ROOT / folder).iterdir()} == {f"{program}.1" for program in PROJECT["scripts"]}
    assert f"/{folder}" in PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"], "made from it as well"


def test_what_may_be_imported_is_told_at_the_head_of_the_package() -> None:
    package = importlib.import_module("mxrtc_bridge")
    told = re.findall(r"^    (\w+) {2,}", package.__doc__ or "", re.MULTILINE)
    assert told == package.__all__
    assert all(hasattr(package, name) for name in told)


def test_make_and_the_demo_extra_ask_for_the_same_synapse() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (synapse,) = re.findall(r"^SYNAPSE := (.+)$", makefile, re.MULTILINE)
    assert PROJECT["optional-dependencies"]["demo"] == ["mxrtc-bridge[bridge]", synapse]


def test_a_dependency_that_we_reach_into_has_an_upper_limit() -> None:
    dependencies = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["bridge"]]
    limits = {re.split(r"[<>=;\[]", each)[0]: each for each in dependencies}
    assert all("<" in limits[name] for name in ("aiortc", "aioice", "mautrix", "aiohttp", "pydantic"))


# The folder of the project

ROOT_FILES = {
    ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile",
    "README.md", "SECURITY.md",
    "config.example.yaml", "constraints.txt", "docker-compose.yml", "mkdocs.yml", "pyproject.toml",
    "registration.yaml.example",
}  # fmt: skip
LEFT_BY_A_RUN = (
    "config.yaml", "registration.yaml", "encryption.key", "mxrtc-bridge.db", "mxrtc-bridge.db-wal",
    "mxrtc-bridge.db-shm", "mxrtc-bridge.db.lock", "audit.jsonl", "audit-000000000001.jsonl",
    "audit-acts.jsonl", "bench.json",
)  # fmt: skip


def test_the_root_holds_the_files_that_are_named_here_and_no_other() -> None:
    """Whoever adds one adds it here; what a run has left behind is no part of the project."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name for name in tracked.split("\0") if name and "/" not in name} == ROOT_FILES


@pytest.mark.parametrize("name", LEFT_BY_A_RUN)
def test_what_a_run_leaves_behind_is_ignored(name: str) -> None:
    """Tokens, keys and rooms of somebody's bridge do not get into a commit by ``git add``."""
    assert subprocess.run(["git", "check-ignore", "--quiet", "--no-index", name], cwd=ROOT, check=False).returncode == 0


# Continuous integration


@pytest.mark.parametrize("script", ["run", "packages", "venv", "find-python", "interop"])
def test_a_script_of_continuous_integration_can_be_run(script: str) -> None:
    path = ROOT / ".ci" / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shell, "-n", path], check=True)


def test_continuous_integration_runs_what_a_person_runs() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("#!/usr/bin/env bash", "exec make test")
    assert "set -euo pipefail" in lines


def workflow_of(name: str) -> dict[str, Any]:
    """Return a workflow of the forge as the forge reads it (where ``on`` is a word and no truth)."""
    return YAML(typ="safe", pure=True).load((ROOT / ".github/workflows" / name).read_text())


def test_the_forge_has_two_workflows() -> None:
    assert {file.name for file in (ROOT / ".github/workflows").iterdir()} == {"test.yml", "release.yml"}


def test_what_is_published_was_tried_and_no_secret_is_needed_for_it() -> None:
    """Who publishes is known by the workflow and its environment; a token could be taken away and used elsewhere."""
    workflow = workflow_of("release.yml")
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert (workflow["permissions"], build.get("permissions")) == ({"contents": "read"}, None)
    assert [step["run"] for step in build["steps"] if "run" in step][-2:] == ["sudo .ci/run", "sudo make dist"]
    assert (publish["needs"], publish["environment"]) == ("build", "release")
    assert publish["permissions"] == {"id-token": "write"}
    assert [step for step in publish["steps"] if "run" in step] == []
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.programs
@pytest.mark.parametrize(("tag", "sources", "codes"), [
    ("v1.2.3", "", [0, 0]), ("v1.2.4", "", [1, 0]), ("v1.2.3", "https://x", [0, 1]),
])  # fmt: skip
def test_a_tag_that_is_not_the_version_is_not_released(
    tmp_path: Path, tag: str, sources: str, codes: list[int]
) -> None:
    (tmp_path / "mxrtc_bridge/core/text").mkdir(parents=True)
    for name, variable, value in (
        ("__init__.py", "__version__", "1.2.3"),
        ("core/text/installing.py", "SOURCES", sources),
    ):
        assert re.search(rf'^{variable} = ".*"$', (ROOT / "mxrtc_bridge" / name).read_text(), re.MULTILINE)
        (tmp_path / "mxrtc_bridge" / name).write_text(f'{variable} = "{value}"\n')
    steps = [step["run"] for step in workflow_of("release.yml")["jobs"]["build"]["steps"] if "run" in step]
    env = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag}
    found = [subprocess.run(["bash", "-ec", step], cwd=tmp_path, env=env, check=False).returncode for step in steps[:2]]
    assert found == codes


def test_the_workflow_of_the_forge_runs_the_same_and_may_write_nothing() -> None:
    workflow = workflow_of("test.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["jobs"]) == {"test", "macos", "windows"}
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["sudo .ci/run"]


def test_the_hooks_before_a_commit_are_the_linters_of_make() -> None:
    config = YAML(typ="safe", pure=True).load((ROOT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local", "no other version than that of the environment"
    hooks = {hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]}
    makefile = (ROOT / "Makefile").read_text()
    lint = makefile.partition("\nlint: ")[2].partition("\n\n")[0].splitlines()[1:]
    assert hooks == {line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in lint}


@pytest.mark.programs
@pytest.mark.parametrize(("late", "code"), [(True, 0), (False, 2)])
def test_a_file_in_which_a_test_was_late_is_run_once_more(tmp_path: Path, late: bool, code: int) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ncache_dir = {settings['cache_dir']}\n")
    (tmp_path / "test_one.py").write_text(
        "from pathlib import Path\n"
        "def test_before(): Path('runs').open('a').write('.')\n"
        f"def test_late(): assert {late} and Path('runs').read_text() == '..'\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other(): open('other', 'x').close()\n")
    rule = f"tried:\n\t$(call run,{sys.executable} -m pytest -p no:xdist)"
    made = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "--eval", rule, "tried"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (made.returncode, (tmp_path / "runs").read_text()) == (code, ".."), made.stdout + made.stderr


def test_what_make_fast_leaves_out_is_run_by_make_test() -> None:
    """Each test is in one of its three selections, whatever else it is marked with. Two steps are of another side."""
    makefile = (ROOT / "Makefile").read_text()
    named = dict(re.findall(r'^(IN_PROCESS|REAL) := -m "(.+)"$', makefile, re.MULTILINE))
    assert named == {"IN_PROCESS": "not real and not alone", "REAL": "real and not alone"}
    steps = [line for line in makefile.splitlines() if line.startswith("\t$(call run,")]
    assert [re.findall(r"\$\((?:IN_PROCESS|REAL)\)|-m alone", step) for step in steps] == [
        ["$(IN_PROCESS)"], ["$(IN_PROCESS)"], [], [], ["$(REAL)"], ["$(REAL)"], ["-m alone"],
    ]  # fmt: skip


def test_missing_programs_are_named_to_who_may_not_install_them(tmp_path: Path) -> None:
    """Somebody who is not root gets the command to paste, with every package that is missing, and a failure."""
    for name in ("sh", "dirname", "basename"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    result = subprocess.run(
        ["/bin/sh", ROOT / ".ci/packages", "test"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    advice = result.stderr.splitlines()[-1]
    assert "apt-get install" in advice
    assert {"python3", "python3-venv", "npm", "gcc"} <= set(advice.split())
    assert result.stdout == ""


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    for name, answer in (("python3", 1), ("python3.13", 1), ("python3.12", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {answer}\n")
        (tmp_path / name).chmod(0o755)

    def find(**env: str) -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", ROOT / ".ci/find-python"]
        env["PATH"] = str(tmp_path)
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert find().stdout.strip() == str(tmp_path / "python3.12")
    refused = find(PYTHON="python3")
    assert (refused.returncode, "3.11 or newer" in refused.stderr) == (1, True)


def test_browser_packages_are_exact_and_bound_to_no_registry() -> None:
    package = json.loads((ROOT / "tests/browser/package.json").read_text())
    lock = json.loads((ROOT / "tests/browser/package-lock.json").read_text())
    asked = {**package["dependencies"], **package["devDependencies"]}
    locked = {path.removeprefix("node_modules/"): entry for path, entry in lock["packages"].items() if path}
    assert {name: locked[name]["version"] for name in asked} == asked
    assert [name for name, entry in locked.items() if "resolved" in entry] == []
    assert [name for name, entry in locked.items() if "integrity" not in entry] == []


# The service unit


def test_the_service_unit_is_hardened_and_runs_the_bridge() -> None:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "docs/how-to/mxrtc-bridge.service")
    service = dict(parser["Service"])
    assert service["ExecStart"].split()[0].endswith("/mxrtc-bridge")
    assert service["ExecStart"].split()[1:3] == ["run", "-c"]
    assert {name: service[name] for name in ("User", "NoNewPrivileges", "ProtectSystem", "UMask")} == {
        "User": "mxrtc",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "UMask": "0077",
    }
    assert service["CapabilityBoundingSet"] == ""
    assert {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"} == set(service["RestrictAddressFamilies"].split())
