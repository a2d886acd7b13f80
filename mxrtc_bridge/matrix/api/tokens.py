"""The token that goes with each request: one that stays, or one that is renewed from time to time."""

from __future__ import annotations

from typing import Protocol


class TokenSource(Protocol):
    """Gives the token to each request, where that is renewed from time to time."""

    async def token(self) -> str:
        """The token to send now; may ask somebody for it.

        Raises:
            HomeserverError: there is none to be had.
        """
        ...

    async def replace(self, refused: str) -> bool:
        """Whether there is another token in the place of one that the homeserver does not know (any more).

        Raises:
            HomeserverError: there is none, and it is known why.
        """
        ...

    def accepted(self, token: str) -> None:
        """The homeserver has taken this token."""
        ...

    async def close(self) -> None:
        """Let what is under way come to its end."""
        ...


class FixedToken:
    """A token that is what it is; empty for none. Implements :class:`TokenSource`."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token

    async def replace(self, refused: str) -> bool:  # noqa: ARG002 - there is no other
        return False

    def accepted(self, token: str) -> None:
        """It is what it is."""

    async def close(self) -> None:
        """Nothing is under way."""
