"""Versions of the format of the configuration, and what leads from each to the next.

A file is read as it was meant when it was written: where a default has another value now, a file of an earlier version
keeps the one of before. What that means for a file is said by :func:`additions` alone. A file that is read has them
added to its data, and one that is upgraded has them written into its text, so an upgrade changes nothing but the words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.config import yaml_editor
from mxrtc_bridge.config.problems import KeyPath, path_text
from mxrtc_bridge.config.values import LATEST_VERSION
from mxrtc_bridge.config.yaml_reader import Value, read_yaml


@dataclass(frozen=True, slots=True)
class Addition:
    """A key that a file of an earlier version leaves out, and what it means there."""

    path: KeyPath
    value: str
    now: str
    """What it would mean today if it were left out."""

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.value}, which was the default before; now it is {self.now}"


def version_of(data: Value) -> int:
    """The version that a file says it has; the latest one where it says none that was ever there."""
    version = data.get("version") if isinstance(data, dict) else None
    return version if type(version) is int and 1 <= version <= LATEST_VERSION else LATEST_VERSION


def additions(data: Value) -> list[Addition]:
    """What is to be written into a file so that it means in the latest version what it says in its own.

    Args:
        data: what was read; it may have any mistakes.
    """
    return list(_to_version_2(data)) if version_of(data) == 1 else []


def upgraded(data: dict[str, Value]) -> dict[str, Value]:
    """The same configuration in the latest version; the data itself where it is that already."""
    if version_of(data) == LATEST_VERSION:
        return data
    result: dict[str, Value] = copy.deepcopy(data)
    for addition in additions(data):
        place: Any = result
        for key in addition.path[:-1]:
            place = place[key]
        place[addition.path[-1]] = addition.value
    return {**result, "version": LATEST_VERSION}


def upgraded_text(text: str) -> str:
    """The text of a configuration in the latest version, with every comment where it was.

    Args:
        text: a configuration without mistakes.

    Raises:
        ConfigError: it is written in a form that cannot be changed so.
    """
    data = read_yaml(text).data
    assert isinstance(data, dict)
    if version_of(data) == LATEST_VERSION:
        return text
    for addition in additions(data):
        text = yaml_editor.insert(text, addition.path, addition.value)
    return yaml_editor.checked(yaml_editor.replace(text, ("version",), LATEST_VERSION), upgraded(data))


def _to_version_2(data: Value) -> Iterator[Addition]:
    """Directories took only names that every system can hold; since version 2 they keep what their own can hold."""
    for peer, settings in _items(data, "peers"):
        for service, section in _items(settings, "services"):
            files = section.get("files") if isinstance(section, dict) else None
            if isinstance(files, dict) and "names" not in files and files.get("direction") in ("receive", "both"):
                yield Addition(("peers", peer, "services", service, "files", "names"), "refuse", "keep")


def _items(data: Value, key: str) -> Iterator[tuple[str, Value]]:
    found = data.get(key) if isinstance(data, dict) else None
    return iter(found.items() if isinstance(found, Mapping) else ())
