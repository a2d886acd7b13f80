"""The example files are what the program prints, they can be used, and their policy tests guard every rule."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.config.example import DOMAIN, TOKEN, InitAnswers, example_config, new_config
from mxrtc_bridge.config.problems import InvalidConfigError
from mxrtc_bridge.config.yaml_reader import read_yaml
from mxrtc_bridge.core.access.policy import Allow, Deny
from tests.config.reference_page import reference_page
from tests.config.registration_example import example_registration

from .samples import load, mistakes

ROOT = Path(__file__).parent.parent.parent


def filled_in() -> dict[str, Any]:
    """The example with its placeholders replaced, as data."""
    document = read_yaml(example_config().replace(DOMAIN, "example.org").replace(TOKEN, "0123456789abcdef"))
    assert document.problems == []
    assert isinstance(document.data, dict)
    return document.data


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("config.example.yaml", example_config()),
        ("registration.yaml.example", example_registration()),
        ("docs/reference/configuration.md", reference_page()),
    ],
)
def test_generated_files_are_up_to_date(path: str, text: str) -> None:
    assert (ROOT / path).read_text() == text


def test_example_is_refused_as_long_as_it_holds_placeholders() -> None:
    rows = mistakes(example_config())
    assert rows
    assert all("still holds the placeholder" in row for row in rows)
    for key in ("homeserver.domain", "appservice.hs_token", "appservice.as_token"):
        assert any(key in row for row in rows)


def test_example_can_be_used_when_it_is_filled_in() -> None:
    config = load(filled_in())
    assert config.service_names(config.peer_id("build")) == ("inbox", "ssh", "web")


def test_registration_example_belongs_to_the_config_example() -> None:
    data = read_yaml(example_registration()).data
    assert isinstance(data, dict)
    assert data["hs_token"] == f"{TOKEN}-hs_token"
    assert data["as_token"] == f"{TOKEN}-as_token"


def test_commented_examples_can_be_used() -> None:
    """Whoever removes the comment sign before a key gets a value that is accepted."""
    text = example_config().replace(DOMAIN, "example.org").replace(TOKEN, "0123456789abcdef")
    for line in (
        "url: http",
        "sender_localpart: mx",
        "idle: 1h",
        "port_range: [",
        "metrics:",
        "listen: 127.0.0.1:29351",
    ):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    config = load(text)
    assert config.ice.port_range == (50000, 50999)
    assert config.metrics_listen is not None


def mutations() -> Iterator[Any]:
    """The example without one of its rules, or without one part of a rule."""
    data = filled_in()
    for index, grant in enumerate(data["grants"]):
        yield pytest.param(("grants",), index, id=f"grants-{index}")
        for key in ("from", "to"):
            for part in range(len(grant[key])):
                yield pytest.param(("grants", index, key), part, id=f"grants-{index}-{key}-{part}")
    for index in range(len(data["deny"])):
        yield pytest.param(("deny",), index, id=f"deny-{index}")
    for index in range(len(data["groups"]["ops"])):
        yield pytest.param(("groups", "ops"), index, id=f"ops-{index}")


@pytest.mark.parametrize(("path", "index"), list(mutations()))
def test_dropping_any_rule_of_the_example_fails_one_of_its_tests(path: tuple[Any, ...], index: int) -> None:
    data = copy.deepcopy(filled_in())
    place: Any = data
    for part in path:
        place = place[part]
    del place[index]
    rows = mistakes(data)
    assert any("tests[" in row or "at least 1 needed" in row for row in rows), rows


@pytest.mark.parametrize("subject", ["server:elsewhere.example", "*"])
def test_widening_any_rule_of_the_example_fails_one_of_its_tests(subject: str) -> None:
    for index in range(len(filled_in()["grants"])):
        data = filled_in()
        data["grants"][index]["from"].append(subject)
        if subject == "*":
            data["grants"][index]["acknowledge"] = "open-to-federation"
        assert any("may_not" in row for row in mistakes(data))


def test_new_configuration_lets_in_whom_it_names_and_nobody_else() -> None:
    wishes = InitAnswers(
        address="https://matrix.example.org",
        domain="example.org",
        listen="127.0.0.1:29350",
        peer="build",
        services={"ssh": "tcp:127.0.0.1:22", "web": "unix:/run/web.sock"},
        allow=("@alice:example.org",),
    )
    config = load(new_config(wishes))
    policy, peer = config.policy(), config.peer_id("build")
    assert isinstance(policy.service_access(config.tests[0].user, peer, "web", 0), Allow)
    assert isinstance(policy.peer_access(config.appservice.bot, peer, 0), Deny)
    assert config.appservice.sender_localpart is not None
    assert len(config.tests) == 2


def test_new_configuration_without_a_peer_is_complete() -> None:
    config = load(new_config(InitAnswers("http://127.0.0.1:8008", "example.org", "127.0.0.1:29350")))
    assert config.peers == {}
    assert config.tests == ()


def test_new_configurations_have_tokens_of_their_own() -> None:
    wishes = InitAnswers("http://127.0.0.1:8008", "example.org", "127.0.0.1:29350")
    first, second = load(new_config(wishes)).appservice, load(new_config(wishes)).appservice
    assert len({first.hs_token, first.as_token, second.hs_token, second.as_token}) == 4


def test_new_configuration_with_a_wrong_wish_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="not a server name"):
        load(new_config(InitAnswers("http://127.0.0.1:8008", "https://example.org", "127.0.0.1:29350")))
