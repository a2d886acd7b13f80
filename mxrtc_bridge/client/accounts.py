"""The accounts of ``mxrtc``: each has a folder of its own, with its login, device, accepted identities and rooms.

The first account is the state folder itself, where the only one was before there could be several: so what lies there
is used as it is, nothing is moved, and an earlier version finds it too. The others are below ``accounts`` in it.
Which ones there are is what lies there; only the choice of the user is written down, in ``accounts.json``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.text.display import quoted

FIRST = "default"
"""Name of the account that is in the state folder itself."""
MAX_ACCOUNTS = 64
_FILE = "accounts.json"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,30}[a-z0-9])?")
"""Of a folder on any file system, and short enough for the path of a socket in it."""


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account in which somebody has logged in."""

    name: str
    folder: StateFolder


class Accounts:
    """All accounts below one state folder.

    Args:
        root: the state folder.
    """

    def __init__(self, root: StateFolder) -> None:
        self._root = root

    @classmethod
    def default(cls) -> Accounts:
        """Those of the state folder that the environment names; see :meth:`StateFolder.default`."""
        return cls(StateFolder.default())

    def folder(self, name: str | None = None) -> StateFolder:
        """The folder of an account, which need not exist.

        Args:
            name: its name, or the user id of somebody who is logged in; None for the account that is used where none
                is named. Looked at when the folder is first used, which raises ClientError for what is no account.
        """
        return StateFolder(lambda: self._path_of(self.default_name() if name is None else name), above=self._root)

    def found(self) -> list[FoundAccount]:
        """The accounts in which somebody has logged in, the first one first, then by name.

        Raises:
            ClientError: the state folder cannot be used.
        """
        first = self.folder(FIRST)
        found = [FoundAccount(FIRST, first)] if first.has_login() else []
        for name in self._names():
            folder = self.folder(name)
            if folder.has_login():
                found.append(FoundAccount(name, folder))
        return found

    def default_name(self) -> str:
        """The account that is used where none is named.

        The one that was chosen, as long as somebody is logged in there; else the first one that there is.

        Raises:
            ClientError: the state folder cannot be used, or what is in it.
        """
        chosen = (self._root.load(_FILE) or {}).get("default")
        names = [each.name for each in self.found()]
        if isinstance(chosen, str) and chosen in names:
            return chosen
        return names[0] if names else FIRST

    def choose(self, name: str) -> str:
        """Use this account from now on where none is named.

        Args:
            name: as for :meth:`folder`.

        Returns:
            The name of the account.

        Raises:
            ClientError: nobody is logged in there, or the choice cannot be written.
        """
        path = self._path_of(name)
        for each in self.found():
            if each.folder.path == path:
                self._root.save(_FILE, {"default": each.name})
                return each.name
        raise ClientError(Exit.USAGE, f"nobody is logged in to the account {quoted(name)}; 'mxrtc accounts' lists them")

    def _path_of(self, name: str) -> Path:
        if name.startswith("@"):
            name = self._name_of_user(name)
        if name == FIRST:
            return self._root.path
        if _NAME.fullmatch(name) is None:
            raise ClientError(
                Exit.USAGE,
                f"{quoted(name)} cannot be the name of an account: take up to 32 of a-z, 0-9, '.', '_' and '-', "
                "beginning and ending with a letter or digit",
            )
        return self._root.path / "accounts" / name

    def _name_of_user(self, user: str) -> str:
        names = []
        for each in self.found():
            with contextlib.suppress(ClientError):  # one that is damaged is nobody's
                if each.folder.load_login().user_id == user:
                    names.append(each.name)
        if len(names) == 1:
            return names[0]
        if names:
            raise ClientError(Exit.USAGE, f"{quoted(user)} is logged in to {', '.join(names)}; name one of them")
        raise ClientError(Exit.USAGE, f"{quoted(user)} is not logged in here; 'mxrtc accounts' lists who is")

    def _names(self) -> Iterator[str]:
        try:
            names = os.listdir(self._root.path / "accounts")  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{self._root.path / 'accounts'} cannot be read: {error.strerror}") from error
        ours = sorted(name for name in names if name != FIRST and _NAME.fullmatch(name))
        return itertools.islice(ours, MAX_ACCOUNTS)
