"""Why this machine does not accept the certificate of a server, and what on this machine may be the cause.

The TLS library names the fault of the certificate alone. A clock that is years off, or a list of authorities that
cannot be read, makes a fault of each good certificate, and nothing else says so: the library takes a list that is not
there for an empty one.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

from mxrtc_bridge.core.text.display import presentable

_OF_TIME = frozenset({9, 10})
"""Codes of OpenSSL: not valid yet, expired."""
_OF_AUTHORITY = frozenset({2, 18, 19, 20, 21})
"""Codes of OpenSSL: nobody who is trusted has signed it."""
_OF_NAME = frozenset({62, 64})
"""Codes of OpenSSL: another host name, another address. Its own words repeat what was asked for."""
_MAX_CHARS = 120


def certificate_fault(error: BaseException) -> str:
    """Return a phrase without addresses, for whatever exception that is about a certificate."""
    why = presentable(str(getattr(error, "verify_message", None) or "no reason is given")[:_MAX_CHARS])
    code = getattr(error, "verify_code", 0)
    if code in _OF_NAME:
        return "it is made for another name"
    if code in _OF_TIME:
        return f"{why} (it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by the clock of this machine)"
    if code in _OF_AUTHORITY and (lack := _lack_of_authorities()):
        return f"{why} ({lack})"
    return why


def _lack_of_authorities() -> str:
    """What keeps this machine from knowing any authority; nothing if it knows some."""
    paths = ssl.get_default_verify_paths()
    for name in (paths.openssl_cafile_env, paths.openssl_capath_env):
        if (value := os.environ.get(name)) and not _is_list(Path(value)):
            return f"{name} names no certificates that can be read"
    places = (Path(each) for each in (paths.cafile, paths.capath) if each)
    return "" if any(map(_is_list, places)) else "this machine has no list of authorities: install ca-certificates"


def _is_list(path: Path) -> bool:
    try:
        if path.is_dir():
            return any(path.iterdir())
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError:  # that it holds no certificate is one as well
        return False
    return True
