"""Legal settings that deserve a second look are found, each with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.config.lint import inspect
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.config.values import LATEST_VERSION
from tests.other_user import as_other, needs_root, public_directory

from .samples import GOOD, changed, load

YEAR_2001_MS = 1_000_000_000_000


def careful(tmp_path: Path) -> dict[str, Any]:
    """A configuration about which there is nothing to say."""
    data = changed("peers", to={"build": {"services": {"ssh": {"target": "tcp:127.0.0.1:22"}}}})
    data["tests"] = [{"as": "@alice:example.org", "may": ["build"]}]
    data["database"] = f"sqlite:{tmp_path}/bridge.db"
    return data


def findings(data: dict[str, Any], now_ms: int = YEAR_2001_MS) -> list[Finding]:
    return inspect(load(data), now_ms)


def test_a_careful_configuration_passes(tmp_path: Path) -> None:
    [finding] = findings(careful(tmp_path))
    assert finding.level is Level.OK
    assert "peers: 1, services: 1, grants: 1, tests passed: 1" in finding.what


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("peers",), {}, "there are no peers"),
        (("grants",), [], "there are no grants"),
        (("tests",), [], "there are no policy tests"),
        (("appservice", "listen"), "192.0.2.1:1", "without encryption on 192.0.2.1:1"),
        (("metrics",), {"listen": "0.0.0.0:9000"}, "can read the metrics"),
        (("ice",), {"remote": {"loopback": True}}, "to this machine itself"),
        (("ice",), {"port_range": [50000, 50398]}, "has 399 ports, but 200 calls need 400"),
        (("peers", "build", "services", "ssh", "target"), "tcp:build.internal:22", "which may be rebound"),
        (("peers", "build", "services", "ssh", "grantable_to"), ["@bob:example.org"], "nobody can ask for them"),
        (("peers", "build", "services", "ssh", "listed"), True, "build/ssh is listed for those who may ask for it"),
        (("peers", "build", "services", "web"), {"target": "tcp:127.0.0.1:80"}, "nobody may use build/web"),
    ],
)
def test_what_is_perhaps_not_meant_is_a_warning(tmp_path: Path, path: tuple[str, ...], value: Any, what: str) -> None:
    data = careful(tmp_path)
    if path in (("peers",), ("grants",)):
        del data["tests"]
        data["grants"] = []
    elif path[-1] == "web":
        data["tests"][0]["may"] = ["build/ssh"]
    place: Any = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    warnings = [finding for finding in findings(data) if finding.level is not Level.OK]
    assert [what in finding.what for finding in warnings] == [True], warnings
    assert all(finding.level is Level.WARN and finding.fix for finding in warnings)


def test_enough_ports_are_no_warning(tmp_path: Path) -> None:
    data = careful(tmp_path) | {"ice": {"port_range": [50000, 50399]}}
    assert [finding.level for finding in findings(data)] == [Level.OK]


def test_a_grant_that_has_ended_is_a_warning_and_no_mistake(tmp_path: Path) -> None:
    """A temporary right that ran out as planned must not keep the bridge from starting."""
    data = careful(tmp_path)
    data["grants"][0]["until"] = "2001-09-08"
    whats = [finding.what for finding in findings(data)[1:]]
    assert whats == ["the grant ops-ssh has ended", "nobody may use build/ssh"]
    assert len(findings(data, now_ms=0)) == 1


def test_a_grant_to_guest_accounts_is_a_warning(tmp_path: Path) -> None:
    data = careful(tmp_path)
    data["grants"][0]["from"] = ["@alice:example.org", "guest-accounts:example.org"]
    [warning] = [finding for finding in findings(data) if finding.level is not Level.OK]
    assert warning.level is Level.WARN
    assert "guest-accounts:example.org" in warning.what


def test_an_admin_who_is_denied_in_any_way_is_a_warning(tmp_path: Path) -> None:
    data = careful(tmp_path) | {"admins": ["@root:example.org"], "deny": ["server:example.org:8449"]}
    data["tests"][0] = {"as": "@alice:example.org", "may_not": ["build"]}
    [warning] = [finding for finding in findings(data) if finding.level is not Level.OK]
    assert "@root:example.org is an admin and denied (deny: server:example.org:8449)" in warning.what


def test_a_grant_to_everybody_is_a_warning(tmp_path: Path) -> None:
    data = careful(tmp_path)
    data["grants"][0] |= {"from": ["*"], "acknowledge": "open-to-federation"}
    assert findings(data)[1].what == "the grant ops-ssh lets in users of every server"


def test_a_database_that_others_can_read_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "bridge.db"
    file.touch(0o644)
    file.chmod(0o644)
    [finding] = findings(careful(tmp_path))[1:]
    assert finding.level is Level.FAIL
    assert finding.fix == f"chmod 0600 {file}"
    file.chmod(0o600)
    assert len(findings(careful(tmp_path))) == 1


def test_a_missing_folder_of_the_database_is_a_failure() -> None:
    [finding] = [f for f in findings(changed("database", to="sqlite:/does/not/exist/x.db")) if f.level is Level.FAIL]
    assert "/does/not/exist" in finding.what


@needs_root
def test_a_database_in_a_folder_that_is_closed_to_the_user_is_a_failure() -> None:
    with public_directory() as folder:
        (folder / "closed").mkdir(0o700)

        def look() -> None:
            found = findings(changed("database", to=f"sqlite:{folder}/closed/x.db"))
            [finding] = [each for each in found if each.level is Level.FAIL]
            assert f"{folder}/closed" in finding.what

        as_other(look)


def test_the_good_sample_has_only_warnings() -> None:
    levels = {f.level for f in findings(changed("database", to="postgres://localhost/x"))}
    assert levels == {Level.OK, Level.WARN}
    assert GOOD["version"] == LATEST_VERSION


@pytest.mark.parametrize(
    ("make", "direction", "names", "what"),
    [
        (".ssh", "receive", "keep", "has a folder .ssh in it"),
        (".ssh", "both", "any", "has a folder .ssh in it, and takes hidden files"),
        ("home", "receive", "keep", "is a home directory"),
        ("linked home", "receive", "sanitise", "is a home directory"),
        (".ssh", "send", "", ""),
        ("", "receive", "any", ""),
    ],
)
def test_an_inbox_that_is_a_home_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, direction: str, names: str, what: str
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    if make == ".ssh":
        (inbox / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(inbox if make == "home" else tmp_path / "somebody"))
    if make == "linked home":
        (tmp_path / "somebody").mkdir()
        inbox.rmdir()
        inbox.symlink_to(tmp_path / "somebody")
    data = careful(tmp_path)
    files = {"dir": str(inbox), "direction": direction, **({"names": names} if names else {})}
    data["peers"]["build"]["services"]["inbox"] = {"files": files}
    data["tests"][0]["may"] = ["build/ssh"]
    found = [finding for finding in findings(data) if "callers put files into" in finding.what]
    assert [what in finding.what and finding.level is Level.WARN for finding in found] == [True] * bool(what)
