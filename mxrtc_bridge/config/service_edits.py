"""Add a service to the text of a configuration, or remove one, with the rules that speak of it.

The text is changed in as few places as possible, and read again: what does not say what was meant is not returned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mxrtc_bridge.config import yaml_editor
from mxrtc_bridge.config.problems import KeyPath
from mxrtc_bridge.config.values import parse_directory, parse_target
from mxrtc_bridge.config.yaml_reader import read_yaml

_MAX_RULE_NAME = 63
_DIRECTIONS = {"inbox": "receive", "share": "send"}
"""How a directory is given as a target, and what callers do with it."""


def settings_of(target: str) -> dict[str, Any]:
    """What stands in the configuration for a service that is given as a target in one word.

    Args:
        target: a target of the configuration, ``inbox:/directory`` or ``share:/directory``.

    Raises:
        ValueError: it is none of these.
    """
    kind, _, rest = target.partition(":")
    if kind in _DIRECTIONS:
        return {"files": {"dir": parse_directory(rest), "direction": _DIRECTIONS[kind]}}
    parse_target(target)
    return {"target": target}


def add_service(text: str, peer: str, service: str, settings: Mapping[str, Any], subjects: Sequence[str]) -> str:
    """Add a service, and a grant for those who may use it.

    Args:
        text: a configuration without mistakes.
        peer: its name; it is made where there is none.
        service: its name, which the peer must not have yet.
        settings: of the service, as in the file.
        subjects: who may use it, as in the file.

    Raises:
        ConfigError: the text cannot be changed so.
    """
    data = _data(text)
    wanted = copy.deepcopy(data)
    there = wanted.setdefault("peers", {}).setdefault(peer, {}).setdefault("services", {})
    there[service] = dict(settings)
    text = yaml_editor.insert(text, ("peers", peer, "services", service), settings)
    if subjects:
        grants = wanted.setdefault("grants", [])
        grant = {"id": _free_id(f"{peer}-{service}", grants), "from": list(subjects), "to": [f"{peer}/{service}"]}
        text = yaml_editor.insert(text, ("grants", len(grants)), grant)
        grants.append(grant)
    return yaml_editor.checked(text, wanted)


def remove_service(text: str, peer: str, service: str) -> str:
    """Remove a service, what grants and tests say of it, and its peer if it was the last one.

    A grant or test that says nothing else goes as a whole.

    Args:
        text: a configuration without mistakes.
        peer: which has the service.
        service: its name.

    Raises:
        ConfigError: the text cannot be changed so.
    """
    data = _data(text)
    paths = frozenset(_paths_about(data, peer, service))
    return yaml_editor.checked(yaml_editor.remove(text, paths), _without(data, paths, ()))


def _data(text: str) -> dict[str, Any]:
    data = read_yaml(text).data
    return data if isinstance(data, dict) else {}


def _free_id(wanted: str, grants: Sequence[Mapping[str, Any]]) -> str:
    taken = {grant["id"] for grant in grants}
    name, number = wanted[:_MAX_RULE_NAME], 1
    while name in taken:
        number += 1
        end = f"-{number}"
        name = wanted[: _MAX_RULE_NAME - len(end)] + end
    return name


def _paths_about(data: Mapping[str, Any], peer: str, service: str) -> Iterator[KeyPath]:
    yield "peers", peer, "services", service
    gone = {f"{peer}/{service}"}
    if set(data["peers"][peer]["services"]) == {service}:
        gone.add(peer)
        yield "peers", peer
    for section, keys in ("grants", ("to",)), ("tests", ("may", "may_not")):
        for index, rule in enumerate(data.get(section, ())):
            said = {key: rule[key] for key in keys if key in rule}
            if any(said.values()) and all(each in gone for names in said.values() for each in names):
                yield section, index
            yield from (
                (section, index, key, place)
                for key, names in said.items()
                for place, each in enumerate(names)
                if each in gone
            )


def _without(value: Any, paths: frozenset[KeyPath], here: KeyPath) -> Any:
    """The data after a removal; None for what is gone, as no value that stays is None here."""
    if here in paths:
        return None
    if isinstance(value, dict):
        kept = {key: _without(item, paths, (*here, key)) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None or value[key] is None} or (value and None)
    if isinstance(value, list):
        items = [_without(item, paths, (*here, index)) for index, item in enumerate(value)]
        return [item for item in items if item is not None] or (value and None)
    return value
