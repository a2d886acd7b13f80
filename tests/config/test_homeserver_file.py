"""The list of registrations of a homeserver's configuration gets one line more, and keeps what it has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.config.homeserver_file import DENDRITE, SYNAPSE, list_of, read_homeserver_file
from mxrtc_bridge.core.errors import ConfigError
from tests.long import size

OURS = "/etc/matrix-synapse/mxrtc.yaml"
FORMS = {
    "without the key": ("server_name: a\n", SYNAPSE, []),
    "without a last line end": ("server_name: a", SYNAPSE, []),
    "a key with nothing": ("server_name: a\napp_service_config_files:\nother: 1\n", SYNAPSE, []),
    "a key with a word for nothing": (
        "server_name: a\napp_service_config_files: null  # none\nother: 1\n",
        SYNAPSE,
        [],
    ),
    "all behind comments": ("app_service_config_files: # none\n#  - example.yaml\nserver_name: a\n", SYNAPSE, []),
    "an empty list": ("app_service_config_files: []\nserver_name: a\n", SYNAPSE, []),
    "a list in lines": (
        'app_service_config_files:\n- /one.yaml\n- "/two.yaml"  # the other\n\n# end\nserver_name: a\n',
        SYNAPSE,
        ["/one.yaml", "/two.yaml"],
    ),
    "an indented list at the end": (
        "server_name: a\r\napp_service_config_files:\r\n    - /one.yaml\r\n",
        SYNAPSE,
        ["/one.yaml"],
    ),
    "a list in a line": ("app_service_config_files: [/one.yaml,\n  /two.yaml]\n", SYNAPSE, ["/one.yaml", "/two.yaml"]),
    "Dendrite": (
        "global:\n  server_name: a\napp_service_api:\n  # more\n  config_files:\n    - one.yaml\nversion: 2\n",
        DENDRITE,
        ["one.yaml"],
    ),
    "Dendrite without the list": (
        "global:\n  server_name: a\napp_service_api:\n  disable_tls_validation: false\nversion: 2\n",
        DENDRITE,
        [],
    ),
    "Dendrite without the section": ("version: 2\nglobal:\n  server_name: a\n", DENDRITE, []),
    "Dendrite with nothing in the list": (
        "global:\n  server_name: a\napp_service_api:\n  config_files:\nversion: 2\n",
        DENDRITE,
        [],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_shown_adds_one_registration_and_changes_nothing_else(form: str, tmp_path: Path) -> None:
    text, key, there = FORMS[form]
    found = read_homeserver_file(text, "homeserver.yaml")
    assert (found.key, list(found.registrations)) == (key, there)
    after = found.with_registration(OURS)
    yaml = YAML(typ="safe", pure=True)
    before_data, data = yaml.load(text), yaml.load(after)
    assert list(read_homeserver_file(after, "homeserver.yaml").registrations) == [*there, OURS]
    for each in (before_data, data):
        place = each.get(key[0]) if len(key) > 1 else each
        (place or {}).pop(key[-1], None)
    assert {k: v for k, v in data.items() if v} == {k: v for k, v in before_data.items() if v}
    assert read_homeserver_file(after, "homeserver.yaml").with_registration(OURS) == after
    assert [line for line in text.splitlines() if "#" in line and "files" not in line and line not in after] == []
    # It is what patch takes.
    (tmp_path / "homeserver.yaml").write_bytes(text.encode())
    subprocess.run(
        ["patch", "--binary", "--unified", "--quiet", "homeserver.yaml"],
        input=found.difference(OURS, "homeserver.yaml").encode(),
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "homeserver.yaml").read_bytes().decode() == after


def test_the_difference_shows_no_secret_beside_it() -> None:
    text = "macaroon_secret_key: hidden1\napp_service_config_files:\n- /one.yaml\nform_secret: hidden2\n"
    shown = read_homeserver_file(text, "homeserver.yaml").difference(OURS, "homeserver.yaml")
    assert "hidden" not in shown
    assert "+- " in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no keys"),
        ("- a\n", "has no keys"),
        ("server_name: [\n", "no YAML that can be read"),
        ("a: " + "[" * size(5000, 1500), "no YAML that can be read"),
        ("app_service_config_files: /one.yaml\n", "app_service_config_files is no list"),
        ("app_service_config_files: {}\n", "app_service_config_files is no list"),
        ("global: {}\napp_service_api: {config_files: x}\n", "app_service_api.config_files is no list"),
        ("app_service_config_files: [a]\napp_service_config_files: [b]\n", "has a key twice"),
    ],
)
def test_what_no_homeserver_takes_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_homeserver_file(text, "homeserver.yaml")


def test_the_name_of_the_server_and_paths_of_an_image_are_known() -> None:
    image = read_homeserver_file('server_name: a.test\nsigning_key_path: "/data/a.test.signing.key"\n', "x")
    assert (image.server_name, image.in_image) == ("a.test", True)
    package = read_homeserver_file("pid_file: /var/run/x.pid\nsigning_key_path: /database/key\n", "x")
    assert (package.server_name, package.in_image) == (None, False)
    assert read_homeserver_file("global: {server_name: d.test}\n", "x").server_name == "d.test"


def test_the_lines_to_write_are_the_whole_list() -> None:
    yaml = YAML(typ="safe", pure=True)
    assert yaml.load(list_of(("/one.yaml", "b c: #"))) == {"app_service_config_files": ["/one.yaml", "b c: #"]}
    assert yaml.load(list_of(("/one.yaml",), DENDRITE)) == {"app_service_api": {"config_files": ["/one.yaml"]}}
