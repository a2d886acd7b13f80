"""The ways to log in that a homeserver offers, and which of them is taken."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import UserId, typed_user_id
from mxrtc_bridge.core.login.server import AuthorizationServer
from mxrtc_bridge.matrix.api import login as matrix_login
from mxrtc_bridge.matrix.api.oauth import authorization_server
from mxrtc_bridge.matrix.api.transport import RequestPolicy

SSO = "m.login.sso"
PASSWORD = "m.login.password"  # noqa: S105 - the name of a way to log in


class Method(Enum):
    """A way to log in."""

    CODE = "code"
    """A code that is typed into a page on any device: OAuth 2.0, RFC 8628."""
    BROWSER = "browser"
    """A browser on this machine: OAuth 2.0, RFC 8252; or single sign-on of before that."""
    PASSWORD = "password"  # noqa: S105 - as above
    """A password that is typed here."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a homeserver offers a user."""

    user: UserId
    homeserver: str
    server: AuthorizationServer | None
    """None where the homeserver logs people in itself."""
    flows: frozenset[str] = frozenset()
    """What it does itself."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """The ways that there are, the one that is taken first."""
        offered: tuple[tuple[Method, bool], ...]
        if self.server is not None:
            offered = (
                (Method.CODE, self.server.has_device_code),
                (Method.BROWSER, self.server.has_authorization_code),
                # Some have it for programs of before, at the address of the homeserver.
                (Method.PASSWORD, PASSWORD in self.flows),
            )
        else:
            # A password needs nothing but this terminal.
            offered = ((Method.PASSWORD, PASSWORD in self.flows), (Method.BROWSER, SSO in self.flows))
        return tuple(method for method, there in offered if there)

    def choose(self, wanted: Method | None) -> Method:
        """The way that is taken.

        Args:
            wanted: by the user, if they have said so.

        Raises:
            ClientError: there is none, or not this one.
        """
        if wanted is None and self.methods:
            return self.methods[0]
        if wanted in self.methods:
            assert wanted is not None
            return wanted
        words = " or ".join(f"'--by {method.value}'" for method in self.methods) or "no way that mxrtc knows"
        remedy = "" if self.methods else "; get an access token in another way, and give it with --token-file"
        what = f"the homeserver {self.homeserver} offers {words}"
        raise ClientError(
            Exit.USAGE, f"{what}{remedy}" if wanted is None else f"{what}, and not '--by {wanted.value}'{remedy}"
        )


def read_user(text: str) -> UserId:
    """Read the user id that was typed.

    Raises:
        ClientError: it is none.
    """
    try:
        return typed_user_id(text)
    except EventError as error:
        raise ClientError(Exit.USAGE, f"{error}; write it like @you:example.org") from error


async def find_offer(user: UserId, homeserver: str | None, patience: RequestPolicy) -> Offer:
    """Ask what a user's homeserver offers.

    Args:
        user: who wants to log in.
        homeserver: its address; None to find it by the user id.
        patience: how to ask.

    Raises:
        HomeserverError: it does not say, for now.
        LoginError: what it says cannot be used.
        ConfigError: it has no address that could be used.
    """
    address = homeserver or await matrix_login.discover(user, patience)
    server = await authorization_server(address, patience)
    try:
        flows = await matrix_login.flows(address, patience)
    except HomeserverError:
        if server is None:
            raise
        flows = frozenset()  # what else there is does without
    return Offer(user, address, server, flows)
