"""Read a configuration file, or say everything that is wrong with it.

The order: the file (size, encoding), YAML, placeholders of the example, names that refer to each other, types and
bounds, what needs several keys at once, who may read the file's secrets, and last the policy tests on the finished
rules. Whatever can still be judged after a mistake is judged, so that one round of corrections is enough.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mxrtc_bridge.config import access, build, schema
from mxrtc_bridge.config.config import Config, PeerSettings
from mxrtc_bridge.config.encryption import beside, build_encryption
from mxrtc_bridge.config.example import placeholder_problems
from mxrtc_bridge.config.problems import InvalidConfigError, KeyPath, Problem
from mxrtc_bridge.config.secrets import read_file
from mxrtc_bridge.config.validation_errors import keys_of, problems_from, unknown_key
from mxrtc_bridge.config.values import LATEST_VERSION, parse_listen
from mxrtc_bridge.config.versions import upgraded, version_of
from mxrtc_bridge.config.yaml_reader import Document, Value, read_yaml
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import RoomId, folded, parse_user_id

_PASSWORD_IN_URL = re.compile(r"//[^/@]*:[^/@]+@")


def load_config(path: Path | str, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the configuration.

    Args:
        path: the file.
        environ: where ``MXRTC_*`` and ``CREDENTIALS_DIRECTORY`` are looked up; the process's environment by default.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; ``str`` of the error lists them all.
    """
    path = Path(path).absolute()
    file = read_file(path)
    if file.open_to_all:
        raise ConfigError(f"{path} can be written by everybody, so anybody could grant anything; run: chmod o-w {path}")
    return parse_config(file.text, path, os.environ if environ is None else environ, file.exposure)


def parse_config(text: str, path: Path, environ: Mapping[str, str], exposure: str | None = None) -> Config:
    """Like :func:`load_config`, for text that has been read.

    Args:
        text: the YAML text.
        path: where it stands or will stand; relative paths in it are relative to its folder.
        environ: the environment.
        exposure: why the file must not hold secrets, or None if it may.

    Raises:
        ConfigError: there are mistakes.
    """
    document = read_yaml(text)
    reader = _Reader(document, path, environ, exposure)
    config = reader.read()
    if config is None or reader.problems:
        raise InvalidConfigError(str(path), _first_of_each_place(reader.problems), document.lines)
    return config


def _first_of_each_place(problems: list[Problem]) -> list[Problem]:
    """Keep one mistake for each place: what follows from a mistake is no news."""
    seen: dict[tuple[KeyPath, int | None], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.path, problem.line), problem)
    return list(seen.values())


@cache
def _adapter(section: str) -> TypeAdapter[Any]:
    return TypeAdapter(schema.Root.model_fields[section].rebuild_annotation())


class _Reader:
    """One attempt to turn a document into a configuration."""

    def __init__(self, document: Document, path: Path, environ: Mapping[str, str], exposure: str | None) -> None:
        self._document = document
        self._path = path
        self._environ = environ
        self._exposure = exposure
        self._sections: dict[str, Any] = {}
        self.problems = list(document.problems)

    def _complain(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(path, message))

    def read(self) -> Config | None:
        data = self._document.data
        if not self._document.complete:
            return None
        if not isinstance(data, dict):
            found = "the file is empty" if data is None else "the file must hold keys with values"
            self._complain((), f"{found}; begin with `mxrtc-bridge init`, or with `mxrtc-bridge example-config`")
            return None
        self.problems += placeholder_problems(data)
        data = upgraded(data)
        self._validate(data)
        self.problems += access.reference_problems(data)
        config = self._build()
        if config is None or self.problems:
            return None
        names = {peer.user_id: peer.name for peer in config.peers.values()}
        self.problems += access.failed_tests(config.tests, config.grants, config.deny, names)
        return config

    def _validate(self, data: Mapping[str, Value]) -> None:
        """Validate each section alone, so that the others can still be judged when one has a mistake."""
        for key in data:
            if key not in schema.Root.model_fields:
                self._complain((key,), unknown_key(key, keys_of(schema.Root)))
        for name, field in schema.Root.model_fields.items():
            if name in data:
                try:
                    self._sections[name] = _adapter(name).validate_python(data[name], strict=True)
                except ValidationError as error:
                    located = problems_from(error.errors(include_url=False), prefix=(name,))
                    self.problems += located
            elif field.is_required():
                self._complain(
                    (name,), "this section is missing" if name != "version" else f"write version: {LATEST_VERSION}"
                )
            else:
                self._sections[name] = field.get_default()

    def _build(self) -> Config | None:
        """Judge every section that could be read; the result is None unless all of them could."""
        sections, folder, environ, complain = self._sections, self._path.parent, self._environ, self._complain
        homeserver: schema.HomeserverSection | None = sections.get("homeserver")
        appservice_section: schema.AppserviceSection | None = sections.get("appservice")
        domain = homeserver.domain if homeserver is not None else "unknown.invalid"
        appservice = ice = database = None
        peers: dict[str, PeerSettings] = {}
        # After a mistake nothing comes of it: what groups hold may be anything then.
        groups: Mapping[str, Sequence[str]] = defaultdict(tuple) if self.problems else sections["groups"]
        subjects = access.SubjectReader(groups)
        if appservice_section is not None:
            appservice = build.build_appservice(appservice_section, domain, folder, environ, complain)
            if "peers" in sections:
                peers = build.build_peers(sections["peers"], subjects, appservice_section, domain, complain)
        if "ice" in sections:
            ice = build.build_ice(sections["ice"], folder, complain)
        if "database" in sections:
            database = build.build_database(sections["database"], folder, environ, complain)
        encryption = None
        if database is not None and "encryption" in sections:
            encryption = build_encryption(sections["encryption"], database, folder, environ, complain)
        control_socket = None
        if database is not None and "control" in sections:
            control_socket = build.build_control(sections["control"], beside(database, folder), folder, complain)
        if self._exposure is not None and self._holds_secret():
            self._complain((), self._exposure)
        if self.problems or not (homeserver and appservice and database and ice and encryption):
            return None
        return Config(
            path=self._path,
            homeserver=homeserver,
            appservice=appservice,
            database=database,
            peers=MappingProxyType({peer.user_id: peer for peer in peers.values()}),
            grants=access.make_grants(sections["grants"], subjects, peers),
            deny=tuple(sorted(subjects.read(sections["deny"]), key=str)),
            ice=ice,
            limits=sections["limits"],
            encryption=encryption,
            audit=build.build_audit(sections["audit"], beside(database, folder), folder),
            control_socket=control_socket,
            metrics_listen=sections["metrics"].listen and parse_listen(sections["metrics"].listen),
            log_level=sections["logging"].level,
            tests=access.make_tests(sections["tests"], peers),
            admins=frozenset(folded(parse_user_id(user)) for user in sections["admins"]),
            rooms=sections["rooms"],
            policy_lists=tuple(RoomId(room) for room in sections["policy_lists"]),
            version=version_of(self._document.data),
        )

    def _holds_secret(self) -> bool:
        appservice, ice = self._sections.get("appservice"), self._sections.get("ice")
        tokens = appservice is not None and (appservice.hs_token or appservice.as_token)
        encryption = self._sections.get("encryption")
        key = encryption is not None and encryption.key
        credentials = ice is not None and any(server.credential for server in ice.servers or [])
        database = _PASSWORD_IN_URL.search(str(self._sections.get("database", "")))
        return bool(tokens or key or credentials or database)
