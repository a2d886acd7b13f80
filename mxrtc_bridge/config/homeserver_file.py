"""The configuration file of a homeserver, as far as it names registrations: what belongs there for the bridge.

Nothing is written here. The file is the admin's, and of two lists of the same key only one counts for a homeserver; so
what is shown is the list that is there with one line more, and never a second one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mxrtc_bridge.config import yaml_editor
from mxrtc_bridge.config.problems import KeyPath, path_text
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.errors import ConfigError

SYNAPSE: KeyPath = ("app_service_config_files",)
DENDRITE: KeyPath = ("app_service_api", "config_files")
MAX_BYTES = 4 * 1024 * 1024
"""Of such a file; what packages bring has some 200 KiB, nearly all of it comments."""
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+-]+")
_OF_DENDRITE = "global"
"""A section that Synapse does not have."""
_IMAGE = PurePosixPath("/data")
"""Where the image of Synapse has its files, wherever they are outside of it."""


@dataclass(frozen=True, slots=True)
class HomeserverFile:
    """What was read."""

    text: str
    key: KeyPath
    """Where registrations are named."""
    server_name: str | None
    registrations: tuple[str, ...]
    """As they are named now."""
    in_image: bool
    """Whether the paths in it are those of a container's."""

    def with_registration(self, path: str) -> str:
        """The text with one registration more; the text itself where that is named already."""
        if path in self.registrations:
            return self.text
        *above, last = self.key
        section = _node(_compose(self.text), tuple(above))
        for key, value in section.value if isinstance(section, MappingNode) else ():
            if key.value == last and _is_nothing(value):  # the key, and nothing behind it
                end = max(value.end_mark.index if value.value else 0, self.text.index(":", key.end_mark.index) + 1)
                return (
                    self.text[: self.text.index(":", key.end_mark.index) + 1] + f" {scalar([path])}" + self.text[end:]
                )
        return yaml_editor.insert(self.text, (*self.key, len(self.registrations)), path)

    def difference(self, path: str, name: str) -> str:
        """What :meth:`with_registration` would change, as ``patch`` takes it.

        Without the lines around it, as they may hold secrets.
        """
        before, after = self.text.splitlines(keepends=True), self.with_registration(path).splitlines(keepends=True)
        lines = difflib.unified_diff(before, after, name, name, n=0)
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def read_homeserver_file(text: str, name: str) -> HomeserverFile:
    """Read the configuration of Synapse or Dendrite.

    Args:
        text: of the file.
        name: how it is called in messages.

    Raises:
        ConfigError: it is none, or names registrations in a form that no homeserver takes.
    """
    try:
        root = _compose(text)
    except (YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} is no YAML that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(root, MappingNode):
        raise ConfigError(f"{name} is no configuration of Synapse or Dendrite: it has no keys")
    key = DENDRITE if isinstance(_node(root, (_OF_DENDRITE,)), MappingNode) else SYNAPSE
    if len({each.value for each, _ in root.value}) < len(root.value):
        raise ConfigError(f"{name} has a key twice, so it is not clear which counts")
    listed = _node(root, key)
    if not isinstance(listed, SequenceNode | None) and not _is_nothing(listed):
        raise ConfigError(f"{name}: {path_text(key)} is no list")
    items = listed.value if isinstance(listed, SequenceNode) else []
    paths = [_text(_node(root, (each,))) for each in ("signing_key_path", "media_store_path", "pid_file")]
    return HomeserverFile(
        text,
        key,
        _text(_node(root, ("server_name",) if key is SYNAPSE else (_OF_DENDRITE, "server_name"))),
        tuple(item.value for item in items if isinstance(item, ScalarNode)),
        in_image=any(path is not None and PurePosixPath(path).is_relative_to(_IMAGE) for path in paths),
    )


def list_of(registrations: tuple[str, ...], key: KeyPath = SYNAPSE) -> str:
    """The lines of a list of registrations, as they stand in the file."""
    lines, pad = list[str](), ""
    for part in key:
        lines.append(f"{pad}{part}:")
        pad += "  "
    written = (each if _PLAIN_PATH.fullmatch(each) else scalar(each) for each in registrations)
    return "\n".join((*lines, *(f"{pad}- {each}" for each in written)))


def _compose(text: str) -> Node:
    root: Node = YAML(typ="safe", pure=True).compose(text)
    return root


def _node(node: Node | None, path: KeyPath) -> Node | None:
    for part in path:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for key, value in node.value if key.value == part), None)
    return node


def _text(node: Node | None) -> str | None:
    return str(node.value) if isinstance(node, ScalarNode) and not _is_nothing(node) else None


def _is_nothing(node: Node | None) -> bool:
    return isinstance(node, ScalarNode) and node.style is None and node.value in ("", "~", "null")
