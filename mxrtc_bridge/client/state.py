"""The folder of one account of ``mxrtc``: the login, known rooms, sockets of running commands.

Everything in it is readable by its owner only. What it holds is data, read as strictly as anything from outside:
another version, or a person with an editor, may have written it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.config.private_files import (
    exposure_of_path,
    open_private_directory,
    open_private_file,
    write_private_file,
)
from mxrtc_bridge.core.access.peer_names import short_name
from mxrtc_bridge.core.errors import EventError, LocalError, LoginError
from mxrtc_bridge.core.ids import RoomId, UserId, parse_room_id, parse_user_id, server_of
from mxrtc_bridge.core.login.server import checked_address, is_on_loopback
from mxrtc_bridge.system import files, state_home

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 256 * 1024
MAX_ROOMS = 1000
MAX_LOGIN_BYTES = 4096
"""What a login takes at most, as a rule."""
MAX_FIELD_CHARS = 8192
"""Of a token or an address in it."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """How the access token of a login by OAuth 2.0 is renewed, and the session ended."""

    token_endpoint: str
    revocation_endpoint: str
    """Empty if the server has none."""
    client_id: str
    refresh_token: str = field(repr=False)
    renew_at: float
    """When a new access token is due, in seconds since 1970; 0 for when the homeserver does not take it any more."""
    expires_at: float
    """When it is of no use any more; 0 if that is not known."""


@dataclass(frozen=True, slots=True)
class Login:
    """A logged-in user; the token never leaves this value but for requests."""

    homeserver: str
    user_id: UserId
    device_id: str
    access_token: str
    prefix: str = "rtc_"
    """Prefix of the bridge's virtual users on the user's own server."""
    bot: str = "rtcbot"
    """Localpart of the bridge's bot, which knows all peers."""
    renewal: Renewal | None = None
    """None where the access token is good until the session ends."""
    from_elsewhere: bool = False
    """Whether another program has begun the session, so that no new login here ends it."""

    @property
    def server(self) -> str:
        return server_of(self.user_id)

    def name_of(self, peer: UserId) -> str:
        """How this user names a peer: in the shortest way."""
        return short_name(peer, server=self.server, prefix=self.prefix)

    def __repr__(self) -> str:
        return f"Login(user_id={self.user_id!r}, homeserver={self.homeserver!r})"


class StateFolder:
    """The folder itself.

    Args:
        path: where it is, perhaps beginning with ``~``, or what says so when it is asked for first; made with mode 0700
            when something is written.
        above: the folder that it is in, if that has to be private as well; may be the same one.
    """

    def __init__(
        self, path: Path | Callable[[], Path], *, max_rooms: int = MAX_ROOMS, above: StateFolder | None = None
    ) -> None:
        self._max_rooms = max_rooms
        self._named = path
        self._above = above

    @classmethod
    def default(cls) -> StateFolder:
        """``$MXRTC_STATE``, else ``mxrtc`` below what :func:`mxrtc_bridge.system.state_home` says."""
        if named := os.environ.get("MXRTC_STATE"):
            return cls(Path(named))
        return cls(state_home() / "mxrtc")

    @property
    def path(self) -> Path:
        """Where it is.

        Raises:
            ClientError: that depends on a home directory, and there is none, as for a user that a container invents.
        """
        # Once: another command may choose another account meanwhile.
        named = self._named = self._named() if callable(self._named) else self._named
        try:
            return named.expanduser()
        except RuntimeError:
            raise ClientError(
                Exit.LOCAL,
                f"there is no home directory for {named}; name a folder with --state or MXRTC_STATE, or set HOME",
            ) from None

    # Login

    def load_login(self) -> Login:
        """Return the login.

        Raises:
            ClientError: nobody is logged in, or the file cannot be trusted.
        """
        path = self.path / "login.json"
        data = self._read(path, secret=True)
        if data is None:
            raise ClientError(Exit.USAGE, "nobody is logged in; log in with 'mxrtc login @you:example.org'")
        try:
            return _read_login(data)
        except (LookupError, EventError, LoginError) as error:
            raise ClientError(Exit.USAGE, f"{path} is damaged ({error}); log in again with 'mxrtc login'") from error

    def save_login(self, login: Login) -> None:
        self._write(self.path / "login.json", asdict(login))

    def try_to_save(self) -> None:
        """Find out whether a login could be kept, before there is one.

        Raises:
            ClientError: it could not.
        """
        name = "login.json.try"  # removed with a login, should we be killed here
        self._write(self.path / name, {"": "x" * MAX_LOGIN_BYTES})
        with self.opened() as folder, contextlib.suppress(OSError):
            files.unlink_at(name, dir_fd=folder)

    def forget_login(self) -> None:
        """Remove the login and all that depends on it.

        Raises:
            ClientError: it cannot be removed.
        """
        if not self._exists():
            return
        with self.opened() as folder:
            for name in files.names_in(folder):
                # Also what a crash has left of one that was being written.
                if name.startswith(("login.", "rooms.json", "known.json", "crypto.")):
                    try:
                        files.unlink_at(name, dir_fd=folder)
                    except OSError as error:
                        words = f"{self.path / name} cannot be removed: {error.strerror}; remove it yourself"
                        raise ClientError(Exit.LOCAL, words) from error
        if self._is_below():
            # Where something is left, such as the socket of a command that still runs, it stays.
            for empty in (self.path / "run", self.path):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def has_login(self) -> bool:
        """Whether somebody is logged in, as far as names tell."""
        try:
            return (self.path / "login.json").exists()
        except OSError:
            return False  # whoever reads it says why it cannot be

    # What belongs to all accounts

    def load(self, name: str) -> dict[str, object] | None:
        """The object in a file that holds no secret; None if there is no such file.

        Raises:
            ClientError: it cannot be read, or is damaged.
        """
        return self._read(self.path / name)

    def save(self, name: str, data: dict[str, object]) -> None:
        """Write such a file.

        Raises:
            ClientError: it cannot be written.
        """
        self._write(self.path / name, data)

    # Rooms: a cache, so damage is no error

    def load_room(self, user: UserId, peer: UserId) -> RoomId | None:
        """The room in which ``user`` last met ``peer``."""
        try:
            room = self._rooms().get(f"{user} {peer}")
            return None if room is None else parse_room_id(room)
        except EventError:
            return None

    def save_room(self, user: UserId, peer: UserId, room: RoomId) -> None:
        """Remember a room; where nothing can be written it is found again, which takes a little longer."""
        rooms = self._rooms()
        rooms.pop(f"{user} {peer}", None)
        rooms[f"{user} {peer}"] = room
        self.save_cache("rooms.json", dict(list(rooms.items())[-self._max_rooms :]))

    def _rooms(self) -> dict[str, object]:
        return self.load_cache("rooms.json")

    # Other caches

    def load_cache(self, name: str) -> dict[str, object]:
        """What was kept under a name; nothing where it cannot be read."""
        try:
            return self._read(self.path / name) or {}
        except ClientError:
            return {}

    def save_cache(self, name: str, data: dict[str, object]) -> None:
        """Keep something that can be found again; where nothing can be written, it is not kept."""
        try:
            self._write(self.path / name, data)
        except ClientError as error:
            log.info("%s is not kept: %s", name, error)

    # Sockets of running commands

    def run_folder(self) -> Path:
        """The folder for sockets, made if it is missing.

        Raises:
            ClientError: it cannot be made.
        """
        folder = self.path / "run"
        try:
            with self.opened() as state:
                os.close(open_private_directory(state, folder.name, str(folder)))
        except (LocalError, OSError) as error:
            raise ClientError(Exit.LOCAL, f"{folder} cannot be used: {error}") from error
        return folder

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The descriptor of the folder, made if it is missing, once it is known to be ours alone.

        Raises:
            ClientError: it cannot be made, or others can put things into it or another folder in its place.
        """
        try:
            self._exists()
            if self._is_below():
                assert self._above is not None
                with self._above.opened() as above:
                    os.close(open_private_directory(above, self.path.parent.name, str(self.path.parent)))
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = open_private_directory(None, self.path, str(self.path))
        except LocalError as error:
            raise ClientError(Exit.LOCAL, f"{error}; MXRTC_STATE names it") from error
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{self.path} cannot be used: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_below(self) -> bool:
        return self._above is not None and self._above.path != self.path

    def _exists(self) -> bool:
        """Whether there is a folder, once its path is known to lead nowhere else: some files are opened by it."""
        try:
            if (why := exposure_of_path(self.path)) is not None:
                raise ClientError(
                    Exit.LOCAL,
                    f"{self.path} cannot be trusted: {why}. Use a folder that is yours alone; MXRTC_STATE names it",
                )
            return self.path.exists()
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{self.path} cannot be used: {error.strerror}") from error

    def _read(self, path: Path, *, secret: bool = False) -> dict[str, object] | None:
        try:
            if not self._exists():
                return None
            with (
                self.opened() as folder,
                os.fdopen(open_private_file(folder, path.name, os.O_RDONLY, str(path)), "rb") as file,
            ):
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                raw = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except LocalError as error:
            raise ClientError(Exit.USAGE, f"{error}, then log in again with 'mxrtc login'") from error
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{path} cannot be read: {error.strerror}") from error
        if secret and files.HAS_MODES and mode & 0o077:
            raise ClientError(
                Exit.USAGE,
                f"{path} can be read by others (mode {mode:04o}); close it with 'chmod 600 {path}', or log in again",
            )
        if len(raw) > MAX_FILE_BYTES:
            raise ClientError(
                Exit.USAGE, f"{path} has more than {MAX_FILE_BYTES} bytes; mxrtc has not written it, so remove it"
            )
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ClientError(Exit.USAGE, f"{path} is damaged; remove it and log in again") from error
        if not isinstance(data, dict):
            raise ClientError(Exit.USAGE, f"{path} is damaged; remove it and log in again")
        return data

    def _write(self, path: Path, data: dict[str, object]) -> None:
        try:
            with self.opened() as folder:
                write_private_file(folder, path.name, json.dumps(data, indent=1).encode(), str(path))
        except OSError as error:
            raise ClientError(Exit.LOCAL, f"{path} cannot be written: {error.strerror}") from error


def _read_login(data: Mapping[str, object]) -> Login:
    renewal = data.get("renewal")
    return Login(
        homeserver=_text(data, "homeserver"),
        user_id=parse_user_id(_text(data, "user_id")),
        device_id=_text(data, "device_id"),
        access_token=_text(data, "access_token"),
        prefix=_text(data, "prefix", "rtc_"),
        bot=_text(data, "bot", "rtcbot"),
        renewal=None if renewal is None else _read_renewal(renewal, _text(data, "homeserver")),
        from_elsewhere=data.get("from_elsewhere") is True,
    )


def _read_renewal(found: object, homeserver: str) -> Renewal:
    data: Mapping[str, object] = found if isinstance(found, dict) else {}
    loopback = is_on_loopback(homeserver)
    revocation = data.get("revocation_endpoint")
    return Renewal(
        token_endpoint=checked_address(data.get("token_endpoint"), "token_endpoint", loopback=loopback),
        revocation_endpoint=checked_address(revocation, "revocation_endpoint", loopback=loopback) if revocation else "",
        client_id=_text(data, "client_id"),
        refresh_token=_text(data, "refresh_token"),
        renew_at=_time(data, "renew_at"),
        expires_at=_time(data, "expires_at"),
    )


def _text(data: Mapping[str, object], name: str, default: str = "") -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_FIELD_CHARS:
        raise LookupError(f"{name} is missing or no short text")
    return value


def _time(data: Mapping[str, object], name: str) -> float:
    value = data.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise LookupError(f"{name} is no time")
    return float(value)
