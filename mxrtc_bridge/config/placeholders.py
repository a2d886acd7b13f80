"""Words that stand in the example for what only the admin knows; a configuration that still holds one is refused."""

from __future__ import annotations

from mxrtc_bridge.config.problems import KeyPath, Problem, quoted
from mxrtc_bridge.config.yaml_reader import Value

DOMAIN = "your-domain.example"
"""For the name of the homeserver."""
TOKEN = "CHANGE-ME"  # noqa: S105 - the opposite of a secret
"""Part of both tokens."""

_ALL = (DOMAIN, TOKEN)


def placeholder_problems(value: Value, path: KeyPath = ()) -> list[Problem]:
    """Find every text that holds a placeholder."""
    match value:
        case str():
            return [
                Problem(path, f"still holds the placeholder {quoted(word)} of the example; write your own value")
                for word in _ALL
                if word in value
            ]
        case list():
            return [p for index, item in enumerate(value) for p in placeholder_problems(item, (*path, index))]
        case dict():
            return [p for key, item in value.items() for p in placeholder_problems(item, (*path, key))]
        case _:
            return []
