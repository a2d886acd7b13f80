"""Requests to the authorization server of a homeserver (OAuth 2.0): each sends one form and reads one answer.

Must never repeat by itself what uses up a code or a refresh token: some servers take a second use for a theft, and end
the session.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from http import HTTPMethod as Method
from urllib.parse import parse_qsl, urlsplit

from mxrtc_bridge import __version__
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.login.answers import (
    DeviceCode,
    Tokens,
    read_client_id,
    read_device_code,
    read_tokens,
)
from mxrtc_bridge.core.login.server import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    AuthorizationServer,
    is_on_loopback,
    read_authorization_server,
)
from mxrtc_bridge.matrix.api.path import Path
from mxrtc_bridge.matrix.api.transport import Repeat, RequestPolicy, Transport

MAX_ANSWER_BYTES = 256 * 1024
_USER_AGENT = f"mxrtc/{__version__} ({platform.system()}; {platform.machine()})"
"""Authorization servers show people by it which program has a session, and on what kind of machine."""
_METADATA = (Path.v1.auth_metadata, Path.unstable["org.matrix.msc2965"].auth_metadata)


async def authorization_server(homeserver: str, policy: RequestPolicy) -> AuthorizationServer | None:
    """The authorization server of a homeserver (client-server API, "Server metadata discovery"); None if it has none.

    Raises:
        HomeserverError: the homeserver does not say for now; that it has none would be another answer.
        LoginError: what it says cannot be used.
    """
    transport = Transport(homeserver, "", policy, max_answer_bytes=MAX_ANSWER_BYTES)
    try:
        for path in _METADATA:
            try:
                answer = await transport.request("ask how to log in", Method.GET, path)
            except HomeserverError as error:
                if error.status in (404, 405) or error.errcode == "M_UNRECOGNIZED":
                    continue
                raise
            return read_authorization_server(answer, loopback=is_on_loopback(homeserver))
    finally:
        await transport.close()
    return None


async def register(server: AuthorizationServer, *, name: str, uri: str, redirect: str, policy: RequestPolicy) -> str:
    """Tell the server of this program (RFC 7591); returns the id that it gives.

    Args:
        server: the authorization server.
        name: of the program, which the user sees.
        uri: where to read about the program.
        redirect: where a browser is sent back to on this machine, without a port (RFC 8252, section 7.3).
        policy: how long it may take.

    Raises:
        HomeserverError: it does not take us.
        LoginError: its answer cannot be used.
    """
    grants = [
        *([DEVICE_CODE] if server.has_device_code else []),
        *([AUTHORIZATION_CODE] if server.has_authorization_code else []),
        "refresh_token",
    ]
    content: dict[str, object] = {
        "client_name": name,
        "client_uri": uri,
        "application_type": "native",
        "token_endpoint_auth_method": "none",
        "grant_types": grants,
        "response_types": ["code"] if server.has_authorization_code else [],
    }
    if server.has_authorization_code:
        content["redirect_uris"] = [redirect]
    answer = await _post(server.registration_endpoint, "register with", policy, content=content)
    return read_client_id(answer)


async def ask_device_code(
    server: AuthorizationServer, *, client_id: str, scope: str, policy: RequestPolicy
) -> DeviceCode:
    """Ask for a code that the user types elsewhere (RFC 8628, section 3.1).

    Raises:
        HomeserverError: the server gives none.
        LoginError: its answer cannot be used.
    """
    form = {"client_id": client_id, "scope": scope}
    answer = await _post(server.device_endpoint, "get a code from", policy, form=form)
    parts = urlsplit(server.device_endpoint)
    return read_device_code(answer, loopback=parts.scheme == "http")


async def ask_tokens(endpoint: str, form: Mapping[str, str], *, scope: str, policy: RequestPolicy) -> Tokens:
    """Exchange a code, or a refresh token, for tokens (RFC 6749, section 4.1.3 and 6; RFC 8628, section 3.4).

    Args:
        endpoint: the token endpoint.
        form: the request.
        scope: what the tokens must be good for.
        policy: how long it may take.

    Raises:
        HomeserverError: the server gives none; its ``errcode`` is the error of OAuth, if it is one.
        LoginError: the answer cannot be used.
    """
    answer = await _post(endpoint, "get a token from", policy, form=form)
    return read_tokens(answer, scope=scope)


async def revoke(endpoint: str, *, client_id: str, refresh_token: str, policy: RequestPolicy) -> None:
    """End a session (RFC 7009); one that has ended already is no error.

    Raises:
        HomeserverError: the server does not do it.
    """
    # A wrong hint is answered as if all were well, and nothing is revoked: this one is right.
    form = {"client_id": client_id, "token": refresh_token, "token_type_hint": "refresh_token"}
    await _post(endpoint, "end the session at", policy, form=form, repeat=Repeat.ALWAYS)


async def _post(
    endpoint: str,
    what: str,
    policy: RequestPolicy,
    *,
    form: Mapping[str, str] | None = None,
    content: Mapping[str, object] | None = None,
    repeat: Repeat = Repeat.IF_UNTOUCHED,
) -> dict[str, object]:
    parts = urlsplit(endpoint)
    transport = Transport(
        f"{parts.scheme}://{parts.netloc}", "", policy, max_answer_bytes=MAX_ANSWER_BYTES, user_agent=_USER_AGENT
    )
    try:
        return await transport.request(
            f"{what} {parts.hostname}",
            Method.POST,
            parts.path.removeprefix("/"),
            query=dict(parse_qsl(parts.query)),
            content=content,
            form=form,
            repeat=repeat,
        )
    finally:
        await transport.close()
