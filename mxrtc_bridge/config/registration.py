"""The registration file: what the homeserver is told about the bridge (application service API, "Registration").

The namespaces are exclusive, so nobody can register a user that looks like a peer, and their expressions are anchored
at both ends, because Synapse anchors only the beginning. The ``sender_localpart`` is a random name that nobody uses:
some homeservers treat that user in a special way, and the bridge's bot must be an ordinary member of the namespace.
Virtual users are not rate limited by the homeserver; the bridge has its own limits for what callers cause.
"""

from __future__ import annotations

import re
import secrets
import string

from mxrtc_bridge.config.config import AppserviceSettings, Config
from mxrtc_bridge.config.yaml_reader import read_yaml
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.ids import localpart_of

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_LETTERS = string.ascii_lowercase + string.digits

_HEAD = """\
# Registration of mxrtc-bridge with the homeserver. The tokens in it are secrets: mode 0600 or 0640, readable for the
# homeserver only. The homeserver reads it at its start; after a change, restart the homeserver.
"""

_ANNOUNCED = (
    "# Messages for devices, and changes of devices, are announced (MSC2409, MSC4203, MSC3202).",
    "receive_ephemeral: true",
    "de.sorunome.msc2409.push_ephemeral: true",
    "org.matrix.msc3202: true",
)


def random_token() -> str:
    """A new token: 384 random bits, safe in a header and in YAML."""
    return secrets.token_urlsafe(48)


def random_sender() -> str:
    """A new ``sender_localpart``: nobody can guess it, and it needs no quoting anywhere."""
    return "mxrtc" + "".join(secrets.choice(_LETTERS) for _ in range(24))


def render_registration(config: Config, sender_localpart: str) -> str:
    """Return the text of ``registration.yaml``; it holds both tokens.

    Args:
        config: the bridge's configuration.
        sender_localpart: written only if the configuration itself has none.
    """
    announced = config.encryption.announced
    return registration_text(config.appservice, config.homeserver.domain, sender_localpart, announced=announced)


def registration_text(
    appservice: AppserviceSettings, domain: str, sender_localpart: str, *, announced: bool = False
) -> str:
    """Return the text of ``registration.yaml`` from the parts that matter for it."""
    bot = _escape(localpart_of(appservice.bot))
    prefix, server = _escape(appservice.peer_prefix), _escape(domain)
    patterns = (f"^@{bot}:{server}$", f"^@{prefix}[a-z0-9._=/+-]+:{server}$")
    lines = [
        f"id: {scalar(appservice.id)}",
        f"url: {scalar(appservice.url)}",
        f"as_token: {scalar(appservice.as_token)}",
        f"hs_token: {scalar(appservice.hs_token)}",
        f"sender_localpart: {scalar(appservice.sender_localpart or sender_localpart)}",
        "rate_limited: false",
        *(_ANNOUNCED if announced else ()),
        "namespaces:",
        "  users:",
    ]
    for pattern in patterns:
        lines += ["    - exclusive: true", f"      regex: '{pattern}'"]
    lines += ["  aliases: []", "  rooms: []"]
    return _HEAD + "\n".join(lines) + "\n"


def other_values(text: str, config: Config) -> list[str]:
    """Keys by which a registration is that of another bridge than this one, or of another configuration of it.

    Args:
        text: of the registration.
        config: the bridge's configuration.

    Raises:
        ConfigError: it is no YAML that can be read.
    """
    data = read_yaml(text).data
    found = data if isinstance(data, dict) else {}
    ours = config.appservice
    wanted = {"id": ours.id, "as_token": ours.as_token, "hs_token": ours.hs_token}
    if ours.sender_localpart is not None:
        wanted["sender_localpart"] = ours.sender_localpart
    return [key for key, value in wanted.items() if found.get(key) != value]


def _escape(text: str) -> str:
    """Escape for a regular expression of any homeserver's language: only what is special in all of them."""
    return _SPECIAL.sub(r"\\\g<0>", text)
