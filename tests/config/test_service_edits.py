"""Services added to and removed from the text of a configuration, with the rules about them."""

from __future__ import annotations

import pytest

from mxrtc_bridge.config.service_edits import add_service, remove_service
from mxrtc_bridge.core.errors import ConfigError
from tests.config.samples import GOOD, load, text_of

SSH = {"target": "tcp:127.0.0.1:22"}
FORMS = {
    "each section on one line": text_of(GOOD),
    "in lines": """\
# Ours.
version: 2
homeserver: {address: "http://127.0.0.1:8008", domain: example.org}
appservice: {hs_token: hs-token-for-the-tests, as_token: as-token-for-the-tests}
peers:
    build:   # where we build
        services:
            # for the developers
            ssh: {target: "tcp:127.0.0.1:22"}   # by key only
            # the pages
            web:
                target: "unix:/run/build/web.sock"
                raw: true
    # Only on Mondays.
    lab: {displayname: "The lab", services: {ssh: {target: "tcp:lab.internal:22"}}}
groups: {ops: ["@alice:example.org", "server:ops.example.org"]}
grants:
- id: ops-ssh
  from:
  - group:ops   # all of them
  to:
  - build/ssh
# The end.
""",
}  # fmt: skip
forms = pytest.mark.parametrize("text", FORMS.values(), ids=list(FORMS))


@forms
def test_what_is_added_is_in_force_for_those_who_are_named_and_no_other_line_is_touched(text: str) -> None:
    after = add_service(text, "build", "db", {"target": "unix:/run/db"}, ["@zoe:example.org", "group:ops"])
    config = load(after)
    peer = config.peer_id("build")
    assert str(config.target(peer, "db")) == "unix:/run/db"
    (grant,) = [grant for grant in config.grants if grant.id == "build-db"]
    assert sorted(map(str, grant.subjects)) == ["@alice:example.org", "@zoe:example.org", "server:ops.example.org"]
    if "\n    build" in text:
        there = iter(after.splitlines())
        assert all(line in there for line in text.splitlines())


@forms
@pytest.mark.parametrize("peer", ["build", "new"])
def test_removing_what_was_added_leaves_the_file_of_before(text: str, peer: str) -> None:
    assert remove_service(add_service(text, peer, "db", SSH, ["@zoe:example.org"]), peer, "db") == text


def test_a_grant_gets_a_name_that_nobody_has() -> None:
    text = FORMS["in lines"].replace("id: ops-ssh", "id: build-db")
    assert "{id: build-db-2, from:" in add_service(text, "build", "db", SSH, ["@zoe:example.org"])
    long = "b" * 63
    after = add_service(add_service(text, long, "db", SSH, ["@zoe:example.org"]), long, "web", SSH, ["@eve:other.org"])
    assert [grant.id for grant in load(after).grants][1:] == ["b" * 63, "b" * 61 + "-2"]


def test_rules_lose_the_name_of_what_is_removed_and_go_if_they_have_no_other() -> None:
    text = (
        FORMS["in lines"]
        + """\
  # about both
- {id: both, from: ["@zoe:example.org"], to: [build/web, lab]}
- {id: lab, from: ["@eve:other.org"], to: [lab/ssh]}
tests:
  # eve and the lab
  - {as: "@eve:other.org", may: [lab], may_not: [build]}
  - as: "@bob:other.org"
    may_not:
      - lab/ssh
"""
    )
    after = remove_service(text, "lab", "ssh")
    config = load(after)
    assert list(config.peers) == [config.peer_id("build")]
    assert [grant.id for grant in config.grants] == ["ops-ssh", "both"]
    assert '  # about both\n- {id: both, from: ["@zoe:example.org"], to: [build/web]}\ntests:\n' in after
    assert after.endswith('  # eve and the lab\n  - {as: "@eve:other.org", may_not: [build]}\n')
    assert "# Only on Mondays.\n" in after, "what people wrote above it is theirs to remove"


def test_the_last_service_takes_its_sections_along() -> None:
    text = remove_service(remove_service(FORMS["in lines"], "lab", "ssh"), "build", "web")
    config = load(remove_service(text, "build", "ssh"))
    assert (len(config.peers), config.grants) == (0, ())


def test_what_does_not_come_out_as_it_was_meant_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mxrtc_bridge.config.yaml_editor.insert", lambda text, _path, _value: text)
    with pytest.raises(ConfigError, match="edit it by hand"):
        add_service(FORMS["in lines"], "build", "db", SSH, [])
