"""Configurations of earlier versions: read as they were meant, and upgraded without a change of what they say."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.config.values import LATEST_VERSION
from mxrtc_bridge.config.versions import additions, upgraded, upgraded_text, version_of
from mxrtc_bridge.config.yaml_reader import read_yaml
from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.errors import ConfigError

from .samples import GOOD, changed, load, mistakes

EARLIER = Path(__file__).parent / "earlier"
FILES = sorted(EARLIER.glob("*.yaml"))
INBOX = ("peers", "build", "services", "inbox")
COMMENT = re.compile(r"(?:^|\s)(#[^\r\n]*)", re.MULTILINE)
NAMES = {
    "d3f536d-init": {},
    "d3f536d-example": {"build/inbox": "refuse"},
    "d3f536d-flow": {"build/inbox": "refuse"},
    "c0d1e40": {"nas/drop": "refuse"},
    "046e3b2": {"lab/inbox": "refuse", "lab/camera": "refuse"},
    "b9edcaa": {"build/inbox": "refuse"},
    "42f7e67": {"git/checkouts": "any", "git/kept": "keep", "git/strict": "sanitise"},
    "7707401": {},
}
"""How names are treated in each directory that receives."""


def read(text: str) -> Config:
    return parse_config(text, Path("/etc/mxrtc/config.yaml"), {})


def rules(config: Config) -> dict[str, str]:
    return {
        f"{peer.name}/{service.name}": service.target.names.value
        for peer, service in config.services()
        if isinstance(service.target, FilesTarget) and service.target.direction.receives
    }


def test_each_earlier_version_has_its_files() -> None:
    assert {path.stem for path in FILES} == set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_earlier_configuration_is_read_as_it_was_meant(path: Path) -> None:
    config = read(path.read_bytes().decode())
    assert config.version == 1
    assert rules(config) == NAMES[path.stem]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_upgraded_configuration_says_the_same_with_all_its_comments(path: Path) -> None:
    before = path.read_bytes().decode()
    after = upgraded_text(before)
    assert replace(read(after), version=1) == read(before)
    assert read(after).version == LATEST_VERSION
    assert COMMENT.findall(after) == COMMENT.findall(before)
    # Nothing but the number is another one, and what is added.
    kept = (
        after.replace(", names: refuse", "").replace("version: 2", "version: 1").replace('"version": 2', '"version": 1')
    )
    lines = [line for line in kept.splitlines(keepends=True) if line.strip() != "names: refuse"]
    assert "".join(lines).replace(', "names": "refuse"', "") == before
    assert upgraded_text(after) == after, "once is enough"


def test_what_is_added_is_told_with_its_place_and_its_reason() -> None:
    data = read_yaml((EARLIER / "046e3b2.yaml").read_text()).data
    assert [str(each) for each in additions(data)] == [
        f"peers.lab.services.{name}.files.names: refuse, which was the default before; now it is keep"
        for name in ("inbox", "camera")
    ]
    assert additions(upgraded_data(data)) == []


def upgraded_data(data: Any) -> Any:
    result = upgraded(data)
    assert data["version"] == 1, "what was read is left as it was"
    return result


def test_a_new_configuration_keeps_the_names_that_the_file_system_can_hold() -> None:
    config = load(changed(*INBOX, to={"files": {"dir": "/srv/inbox", "direction": "receive"}}))
    assert rules(config) == {"build/inbox": "keep"}


@pytest.mark.parametrize(("version", "said"), [(3, "newer mxrtc-bridge"), (0, "no version"), (-1, "no version")])
def test_a_version_that_is_not_known_is_refused_with_what_to_do(version: int, said: str) -> None:
    (mistake,) = mistakes(changed("version", to=version))
    assert said in mistake


@pytest.mark.parametrize("version", [True, "1", 1.0, None])
def test_a_version_that_is_no_number_is_a_mistake_and_nothing_is_added_for_it(version: object) -> None:
    data = changed(*INBOX, to={"files": {"dir": "/srv/inbox", "direction": "receive"}}) | {"version": version}
    assert version_of(data) == LATEST_VERSION
    (mistake,) = mistakes(data)
    assert mistake.startswith("line 1: version: must be ")


def test_mistakes_of_an_earlier_file_are_told_with_their_lines() -> None:
    data = changed(*INBOX, to={"files": {"dir": "inbox", "direction": "receive"}}) | {"version": 1}
    (mistake,) = mistakes(data)
    assert mistake.startswith("line 4: peers.build.services.inbox.files.dir: 'inbox' is not an absolute path")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["receive", "send", "both", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["peers", "services", "files", "direction", "names", "version", "a"]), inner)
    ),
    max_leaves=12,
)


@given(ANY)
def test_whatever_stands_in_a_file_of_an_earlier_version_nothing_but_a_list_of_mistakes_comes_of_it(found: Any) -> None:
    data = {"version": 1, "peers": found} | (found if isinstance(found, dict) else {})
    additions(data)
    upgraded(data)
    with suppress(ConfigError):
        load(GOOD | data)
