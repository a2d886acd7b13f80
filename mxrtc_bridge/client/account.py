"""``mxrtc login``, ``logout``, ``accounts`` and ``status``: what needs the homeserver, or less, but no call.

Scripts and prompts ask for the status often, so nothing is loaded here that only calls need.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator

from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.service_table import service_lines
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import UserId, typed_user_id
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.matrix.api import login as matrix_login
from mxrtc_bridge.matrix.api.login import Account

MAX_COLUMNS = 400
_OURS = frozenset({"kind", "time"})
"""Keys that every object has."""


async def login(context: Context, user: str, password: str, homeserver: str | None, prefix: str, bot: str) -> None:
    """Log in and keep the token."""
    try:
        user_id = typed_user_id(user)
    except EventError as error:
        raise ClientError(Exit.USAGE, f"{error}; write it like @you:example.org") from error
    if not password:
        raise ClientError(Exit.USAGE, "the password is empty; type it, or give it with --password-file")
    _check_free(context, user_id)
    # First, as the homeserver makes a device each time, which nobody could use.
    context.state.try_to_save()
    waiting = Waiting(context.report, context.call.timeout_s)
    async with waiting.limited():
        address = homeserver or await matrix_login.discover(user_id, waiting.patience)
        account = await matrix_login.log_in(
            address, user_id, password, f"mxrtc on {platform.node() or 'this machine'}", waiting.patience
        )
    login = Login(account.base_url, account.user_id, account.device_id, account.access_token, prefix=prefix, bot=bot)
    try:
        context.state.save_login(login)
    except ClientError:
        with contextlib.suppress(HomeserverError):
            await matrix_login.log_out(account)
        raise
    context.report.say(
        "login", f"logged in as {account.user_id}", user=account.user_id, device=account.device_id, homeserver=address
    )


def _check_free(context: Context, user: UserId) -> None:
    """Refuse to take the place of somebody else's login, and with it of their device.

    Raises:
        ClientError: somebody else is logged in.
    """
    if not context.state.has_login():
        return
    try:
        before = context.state.load_login()
    except ClientError:
        return  # damaged: logging in again is what mends it
    if before.user_id != user:
        raise ClientError(
            Exit.USAGE,
            f"{before.user_id} is logged in here; to keep both, give the other account a name: "
            f"mxrtc --account NAME login {user}; or log out first with 'mxrtc logout'",
        )


async def accounts(context: Context, default: str | None) -> None:
    """List the accounts, once ``default`` has been made the one that is used where none is named."""
    if default is not None:
        context.accounts.choose(default)
    used = context.accounts.default_name()
    rows, objects = [], []
    for each in context.accounts.found():
        fields: dict[str, object] = {"name": each.name, "default": each.name == used}
        try:
            login = each.folder.load_login()
        except ClientError as error:
            fields |= {"user": None, "device": None, "homeserver": None, "problem": str(error)}
            words: tuple[str, str | None] = (str(error), None)
        else:
            fields |= {"user": login.user_id, "device": login.device_id, "homeserver": login.homeserver, "problem": ""}
            words = (login.user_id, _shown(login.homeserver))
        objects.append(fields)
        rows.append((f"{'*' if each.name == used else ' '} {each.name}", *words))
    if not rows:
        raise ClientError(Exit.USAGE, "nobody is logged in; log in with 'mxrtc login @you:example.org'")
    for line, fields in zip(service_lines(rows, aligned=sys.stdout.isatty()), objects, strict=True):
        context.report.data("account", line, **fields)


async def logout(context: Context) -> None:
    """End the session at the homeserver and forget the token; forgets it even where the homeserver is away."""
    login = context.state.load_login()
    waiting = Waiting(context.report, context.call.timeout_s)
    try:
        async with waiting.limited():
            await matrix_login.log_out(_account(login), waiting.patience)
    except (HomeserverError, ClientError) as error:
        context.state.forget_login()
        raise ClientError(
            Exit.RETRY,
            f"the token is forgotten here, but the homeserver was not told ({error}); "
            f"remove the session {login.device_id} in another client",
        ) from error
    context.state.forget_login()
    context.report.say("logout", f"logged out {login.user_id}", user=login.user_id)


async def status(context: Context) -> None:
    """Show the login, whether the homeserver answers, and the running commands."""
    login, report = context.state.load_login(), context.report
    waiting = Waiting(report, context.call.timeout_s)
    try:
        async with waiting.limited():
            await matrix_login.check(_account(login), waiting.patience)
        reachable, problem, code = True, "", Exit.DONE
    except HomeserverError as error:
        reachable, problem = False, explain_refusal(error)
        code = Exit.RETRY if error.retryable else Exit.USAGE
    except ClientError as error:
        reachable, problem, code = False, str(error), error.code
    report.data(
        "login",
        _shown(f"{login.user_id} at {login.homeserver}: " + ("the homeserver answers" if reachable else problem)),
        user=login.user_id,
        device=login.device_id,
        homeserver=login.homeserver,
        reachable=reachable,
        problem=problem,
    )
    found = list(_connections(await running_commands(context.state)))
    for each in found:
        _show_connection(report, each)
    if not found:
        report.data("sessions", "no connections are running", running=0)
    if not reachable:
        raise ClientError(code, problem)


def _connections(commands: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Yield each connection; what ``mxrtc up`` runs has several."""
    for command in commands:
        rows = command.get("connections")
        if "up" not in command:
            yield command
        elif isinstance(rows, list):
            for row in rows:
                if isinstance(row, dict):
                    yield {**row, "up": command["up"]}


def _show_connection(report: Report, each: dict[str, object]) -> None:
    streams = each.get("streams")
    sentence = (
        f"{each.get('peer')} (process {each.get('pid')}): {each.get('path') or 'not connected'}, {streams} "
        f"stream{'s' * (streams != 1)}, {each.get('sent')} bytes sent, {each.get('received')} received"
    )
    if (ports := each.get("listening")) and isinstance(ports, list):
        sentence += f", listening on {', '.join(map(str, ports))}"
    if problem := each.get("problem"):
        sentence += f"; {problem}"
    report.data("session", _shown(sentence), **{key: value for key, value in each.items() if key not in _OURS})


def _shown(text: str) -> str:
    """A line that may hold what a homeserver has said."""
    return display(text, MAX_COLUMNS)


def _account(login: Login) -> Account:
    return Account(login.homeserver, login.user_id, login.device_id, login.access_token)
