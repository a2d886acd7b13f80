"""``mxrtc login``, ``logout``, ``accounts`` and ``status``: what needs the homeserver, or less, but no call.

Scripts and prompts ask for the status often, so nothing is loaded here that only calls need.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.login import methods
from mxrtc_bridge.client.login import offer as offers
from mxrtc_bridge.client.login.offer import Method, Offer, read_user
from mxrtc_bridge.client.login.tokens import login_lock, tokens_of
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.service_table import service_lines
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.login.server import AuthorizationServer
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.engine.undone import taken_back
from mxrtc_bridge.matrix.api import login as matrix_login
from mxrtc_bridge.matrix.api.login import Account

MAX_COLUMNS = 400
_OURS = frozenset({"kind", "time"})
"""Keys that every object has."""


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """How to log in."""

    user: str
    """As it was typed."""
    homeserver: str | None = None
    """Its address; None to find it."""
    by: Method | None = None
    """The way; None for what the homeserver offers."""
    prefix: str = "rtc_"
    bot: str = "rtcbot"


async def find_offer(context: Context, options: LoginOptions) -> tuple[Offer, Method]:
    """What the homeserver offers, and the way that will be taken; asks nothing that would begin a login.

    Raises:
        ClientError: somebody else is logged in here, or there is no way that could be taken.
        HomeserverError: the homeserver does not say.
    """
    user = read_user(options.user)
    _check_free(context, user)
    # First, as the homeserver makes a device each time, which nobody could use.
    context.state.try_to_save()
    waiting = Waiting(context.report, context.call.timeout_s)
    async with waiting.limited():
        with _refusals():
            offer = await offers.find_offer(user, options.homeserver, waiting.patience)
    return offer, offer.choose(options.by)


async def login(context: Context, options: LoginOptions, offer: Offer, method: Method, password: str = "") -> None:
    """Log in by one of the ways that are offered, and keep the token.

    Raises:
        ClientError: it did not work, and why.
        HomeserverError: the homeserver refuses us, or is away.
    """
    waiting = Waiting(context.report, context.call.timeout_s)
    means = methods.Means(context.report, waiting.patience, open_browser=methods.usual_browser())
    with _refusals():
        match method, offer.server:
            case Method.CODE, AuthorizationServer() as server:
                made = await methods.by_code(offer, server, means)
            case Method.BROWSER, AuthorizationServer() as server:
                made = await methods.by_browser(offer, server, means)
            case Method.BROWSER, _:
                made = await methods.by_sso(offer.homeserver, means)
            case _:
                await login_by_password(context, options, password, found=offer.homeserver)
                return
    await _keep(context, options, made, waiting)


async def login_by_password(
    context: Context, options: LoginOptions, password: str, *, found: str | None = None
) -> None:
    """Log in with a password, whatever else is offered, and keep the token."""
    if not password:
        raise ClientError(Exit.USAGE, "the password is empty; type it, or give it with --password-file")

    async def log_in(address: str, user: UserId, means: methods.Means) -> methods.LoggedIn:
        return await methods.by_password(address, user, password, means)

    await _login_at(context, options, log_in, found)


async def login_by_token(context: Context, options: LoginOptions, token: str) -> None:
    """Keep an access token that the user has from elsewhere."""
    if not token:
        raise ClientError(Exit.USAGE, "the file given with --token-file holds no access token in its first line")

    async def log_in(address: str, _user: UserId, means: methods.Means) -> methods.LoggedIn:
        return await methods.by_token(address, token, means)

    await _login_at(context, options, log_in, options.homeserver)


async def _login_at(
    context: Context,
    options: LoginOptions,
    log_in: Callable[[str, UserId, methods.Means], Awaitable[methods.LoggedIn]],
    found: str | None,
) -> None:
    user = read_user(options.user)
    _check_free(context, user)
    context.state.try_to_save()
    waiting = Waiting(context.report, context.call.timeout_s)
    async with waiting.limited():
        address = found or options.homeserver or await matrix_login.discover(user, waiting.patience)
        made = await log_in(address, user, methods.Means(context.report, waiting.patience))
    await _keep(context, options, made, waiting)


async def _keep(context: Context, options: LoginOptions, made: methods.LoggedIn, waiting: Waiting) -> None:
    """Write a login down, if it is that of the user who was meant; the one that was there before is ended.

    Args:
        context: what all commands share.
        options: who was meant.
        made: the login.
        waiting: how to ask the homeserver.
    """
    account, user = made.account, read_user(options.user)
    login = Login(
        account.base_url,
        account.user_id,
        account.device_id,
        made.token,
        prefix=options.prefix,
        bot=options.bot,
        renewal=made.renewal,
        from_elsewhere=made.from_elsewhere,
    )
    try:
        _check_user(account, user)
        # A renewal by another command would be written over it.
        async with login_lock(context.state):
            _check_free(context, user)
            before = _login_before(context.state, login)
            context.state.save_login(login)
    except BaseException:  # Ctrl-C as well: nobody would know of the session
        if not made.from_elsewhere:
            await taken_back(methods.end_session(made, waiting.patience))
        raise
    context.report.say(
        "login",
        f"logged in as {account.user_id}",
        user=account.user_id,
        device=account.device_id,
        homeserver=account.base_url,
    )
    with contextlib.suppress(ClientError):  # it took too long: neither is needed
        async with waiting.limited():
            await methods.name_device(made, waiting.patience)
            if before is not None:
                with contextlib.suppress(HomeserverError):
                    await _end_session(context.state, before, waiting)


def _login_before(state: StateFolder, new: Login) -> Login | None:
    """The login whose place a new one takes, where that leaves a session behind that nobody would end."""
    if not state.has_login():
        return None
    try:
        before = state.load_login()
    except ClientError:
        return None
    return None if before.from_elsewhere or before.device_id == new.device_id else before


async def _end_session(state: StateFolder, login: Login, waiting: Waiting) -> None:
    """End the session of a login, whoever has begun it.

    Raises:
        HomeserverError: it goes on.
    """
    if login.renewal is not None:
        await methods.revoke(login.renewal, waiting.patience)
    else:
        await matrix_login.log_out(_account(state, login), waiting.patience)


def _check_user(account: Account, user: UserId) -> None:
    """Refuse the login of somebody else, whom a browser was logged in as, or that another page has brought."""
    if account.user_id != user:
        raise ClientError(Exit.USAGE, f"this is a login of {account.user_id}, and not of {user}; nothing is kept")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What goes wrong with a login is the end of the command."""
    try:
        yield
    except LoginError as error:
        raise ClientError(Exit.USAGE, str(error)) from error


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


async def logout(context: Context, *, pauses_s: Sequence[float] = methods.ENDED_AFTER_S) -> None:
    """End the session at the homeserver and forget the token; forgets it even where the homeserver is away.

    Args:
        context: what all commands share.
        pauses_s: seconds between two looks whether it has ended.
    """
    waiting = Waiting(context.report, context.call.timeout_s)
    login = context.state.load_login()
    # A renewal by another command would leave a session behind that nobody knows, and a login would be forgotten.
    async with login_lock(context.state):
        login = context.state.load_login()
        remedy = f"remove the session {login.device_id} in another client"
        try:
            async with waiting.limited():
                await _end_session(context.state, login, waiting)
                goes_on = login.renewal is not None and await methods.goes_on(login, waiting.patience, pauses_s)
        except (HomeserverError, ClientError) as error:
            context.state.forget_login()
            raise ClientError(
                Exit.RETRY, f"the token is forgotten here, but the homeserver was not told ({error}); {remedy}"
            ) from error
        context.state.forget_login()
    if goes_on:
        raise ClientError(
            Exit.RETRY,
            "the token is forgotten here, and the authorization server says that the session has ended, but the "
            f"homeserver still takes it; {remedy}",
        )
    context.report.say("logout", f"logged out {login.user_id}", user=login.user_id)


async def status(context: Context) -> None:
    """Show the login, whether the homeserver answers, and the running commands."""
    login, report = context.state.load_login(), context.report
    waiting = Waiting(report, context.call.timeout_s)
    try:
        async with waiting.limited():
            await matrix_login.check(_account(context.state, login), waiting.patience)
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


def _account(state: StateFolder, login: Login) -> Account:
    return Account(login.homeserver, login.user_id, login.device_id, tokens_of(state, login))
