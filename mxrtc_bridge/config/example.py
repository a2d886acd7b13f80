"""The example of a configuration, and new ones: written from the models, so that they cannot fall behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxrtc_bridge.config.problems import KeyPath, Problem, quoted
from mxrtc_bridge.config.registration import random_sender, random_token
from mxrtc_bridge.config.schema import Root
from mxrtc_bridge.config.service_edits import settings_of
from mxrtc_bridge.config.values import LATEST_VERSION
from mxrtc_bridge.config.yaml_reader import Value
from mxrtc_bridge.config.yaml_writer import Off, section

DOMAIN = "your-domain.example"
"""For the name of the homeserver."""
TOKEN = "CHANGE-ME"  # noqa: S105 - the opposite of a secret
"""Part of both tokens."""

_PLACEHOLDERS = (DOMAIN, TOKEN)

_HEAD = """\
# Configuration of mxrtc-bridge. Every key that may be left out is shown with its default.
# `mxrtc-bridge check` tells what is wrong with it and how to mend it.
# Nothing is reachable that is not named here, and nobody may use anything that is not granted below.

"""

_NEW_HEAD = """\
# Configuration of mxrtc-bridge, written by `mxrtc-bridge init`. All keys: `mxrtc-bridge example-config`.
# It holds secrets: keep its mode at 0600. After a change: `mxrtc-bridge check`, then `mxrtc-bridge reload`.

"""

_EXAMPLE: dict[str, Any] = {
    "version": LATEST_VERSION,
    "homeserver": {"address": "http://127.0.0.1:8008", "domain": DOMAIN},
    "appservice": {
        "url": Off("http://127.0.0.1:29350"),
        "sender_localpart": Off("mxrtc4f0x0r5wq2mvnbt1k7h3"),
        "hs_token": f"{TOKEN}-hs_token",
        "hs_token_file": Off("hs_token"),
        "as_token": f"{TOKEN}-as_token",
        "as_token_file": Off("as_token"),
    },
    "peers": {
        "build": {
            "displayname": "Build machine",
            "services": {
                "ssh": {
                    "target": "tcp:127.0.0.1:22",
                    "files": Off({"dir": "/srv/inbox", "direction": "receive"}),
                    "expect": ["127.0.0.1/32"],
                    "limits": {"idle": Off("1h")},
                },
                "web": {"target": "unix:/run/build/web.sock", "raw": True},
                "inbox": {"files": {"dir": "/srv/inbox", "direction": "receive", "allow": ["*.pdf", "*.zip"]}},
            },
        }
    },
    "groups": {"ops": [f"@alice:{DOMAIN}", f"@bob:{DOMAIN}"]},
    "grants": [
        {"id": "ops-all", "from": ["group:ops"], "to": ["build"]},
        {"id": "staff-web", "from": [f"server:{DOMAIN}"], "to": ["build/web"]},
        {"id": "partner-web", "from": ["@carol:partner.example"], "to": ["build/web"], "until": "2035-01-31"},
    ],
    "deny": [f"@mallory:{DOMAIN}"],
    "policy_lists": Off([f"!ghi:{DOMAIN}"]),
    "admins": [f"@alice:{DOMAIN}"],
    "rooms": {"admin": Off(f"!abc:{DOMAIN}"), "notices": Off(f"!def:{DOMAIN}"), "audit": Off(f"!jkl:{DOMAIN}")},
    "ice": {"port_range": Off([50000, 50999]), "remote": {}},
    "limits": {},
    "audit": {"file": Off("audit.jsonl")},
    "control": {"socket": Off("control.sock")},
    "encryption": {
        "key": Off(f"{TOKEN}-encryption-key"),
        "key_file": Off("encryption.key"),
        "identities": Off({f"@alice:{DOMAIN}": "A" * 43}),
    },
    "metrics": {"listen": Off("127.0.0.1:29351")},
    "logging": {},
    "tests": [
        {"as": f"@alice:{DOMAIN}", "may": ["build"]},
        {"as": f"@bob:{DOMAIN}", "may": ["build/ssh", "build/web"]},
        {"as": f"@zoe:{DOMAIN}", "may": ["build/web"], "may_not": ["build/ssh"]},
        {"as": "@carol:partner.example", "may": ["build/web"], "may_not": ["build/ssh"]},
        {"as": f"@mallory:{DOMAIN}", "may_not": ["build"]},
        {"as": "@alice:elsewhere.example", "may_not": ["build"]},
    ],
}


def example_config() -> str:
    """The commented example of the configuration; it is refused as it stands, because of its placeholders."""
    return _HEAD + "\n".join(section(Root, _EXAMPLE, complete=True)) + "\n"


def placeholder_problems(value: Value, path: KeyPath = ()) -> list[Problem]:
    """Find every text that holds a placeholder of the example: what only the admin knows."""
    match value:
        case str():
            return [
                Problem(path, f"still holds the placeholder {quoted(word)} of the example; write your own value")
                for word in _PLACEHOLDERS
                if word in value
            ]
        case list():
            return [p for index, item in enumerate(value) for p in placeholder_problems(item, (*path, index))]
        case dict():
            return [p for key, item in value.items() for p in placeholder_problems(item, (*path, key))]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class InitAnswers:
    """What an admin tells about a new installation."""

    address: str
    domain: str
    listen: str
    peer: str | None = None
    services: Mapping[str, str] | None = None
    """Targets by name of the service, as :func:`mxrtc_bridge.config.service_edits.settings_of` reads them."""
    allow: tuple[str, ...] = ()
    """Users who may use all services of the peer."""
    admins: tuple[str, ...] = ()
    advertise: tuple[str, ...] = ()
    """Addresses that a router or a cloud maps to this machine."""
    turn: tuple[str, ...] = ()
    """URIs of a TURN server; those that the homeserver names are not used then."""
    turn_username: str = ""
    turn_password: str = ""


def _ice(wishes: InitAnswers) -> dict[str, Any] | None:
    ice: dict[str, Any] = {}
    if wishes.turn:
        account = {"username": wishes.turn_username, "credential": wishes.turn_password}
        ice["servers"] = [{"urls": list(wishes.turn), **account}]
    if wishes.advertise:
        ice["advertise"] = list(wishes.advertise)
    return ice or None


def new_config(wishes: InitAnswers) -> str:
    """Write a configuration with fresh tokens, a grant for the users named, and tests that hold it to that.

    Raises:
        ValueError: a target is none.
    """
    values: dict[str, Any] = {
        "version": LATEST_VERSION,
        "homeserver": {"address": wishes.address, "domain": wishes.domain},
        "appservice": {
            "listen": wishes.listen,
            "sender_localpart": random_sender(),
            "hs_token": random_token(),
            "as_token": random_token(),
        },
        "database": "sqlite:mxrtc-bridge.db",
        "admins": list(wishes.admins) or None,
        "ice": _ice(wishes),
    }
    if wishes.peer is not None:
        services = {name: settings_of(target) for name, target in (wishes.services or {}).items()}
        values["peers"] = {wishes.peer: {"services": services}}
        nobody = "@nobody:elsewhere.invalid"
        if wishes.allow:
            values["grants"] = [{"id": f"{wishes.peer}-users", "from": list(wishes.allow), "to": [wishes.peer]}]
            values["tests"] = [{"as": user, "may": [wishes.peer]} for user in wishes.allow if user.startswith("@")]
        values["tests"] = [*values.get("tests", []), {"as": nobody, "may_not": [wishes.peer]}]
    return _NEW_HEAD + "\n".join(section(Root, values, complete=False)) + "\n"
