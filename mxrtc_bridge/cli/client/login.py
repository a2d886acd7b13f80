"""``mxrtc login`` as it is typed: what is secret comes from a file or the terminal, and never as an argument."""

from __future__ import annotations

import getpass
import sys
import warnings
from typing import Any, NoReturn, TextIO

import click

from mxrtc_bridge.cli.client.runner import run, run_part
from mxrtc_bridge.client.exit_codes import Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report

MAX_PASSWORD_CHARS = 4096
"""Of the line that is read from a file; homeservers take fewer."""


def ask_password(user: str) -> str:
    """Ask on the terminal; where there is none, the password is the first line of standard input."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return str(click.prompt(f"Password of {user}", hide_input=True, err=True))
        except getpass.GetPassWarning:
            return sys.stdin.readline(MAX_PASSWORD_CHARS).rstrip("\r\n")


@click.command()
@click.argument("user", metavar="@USER:SERVER")
@click.option("--homeserver", metavar="URL", help="Address of the homeserver; found by the server's name otherwise.")
@click.option(
    "--by",
    type=click.Choice(["code", "browser", "password"]),
    help="How: a code that I type into a page on any device, a browser on this machine, or a password. Else what the "
    "homeserver offers, in this order.",
)
@click.option(
    "--password-file",
    type=click.File("r"),
    help="Read the password from a file, or from '-'; else it is asked.",
)
@click.option(
    "--token-file", type=click.File("r"), help="Take an access token from a file, or from '-', and log in no other way."
)
@click.option("--prefix", default="rtc_", show_default=True, help="Prefix of the peers' names on my server.")
@click.option("--bot", default="rtcbot", show_default=True, help="Local name of the bridge's bot on my server.")
@click.pass_obj
def login(
    context: Context,
    user: str,
    homeserver: str | None,
    by: str | None,
    password_file: TextIO | None,
    token_file: TextIO | None,
    prefix: str,
    bot: str,
) -> None:
    """Log in to my homeserver, in the way that it offers.

    Where it has an authentication service, with a code that I type into a page on any device, or with a browser on this
    machine; else with a password, or by single sign-on in a browser on this machine. The token is kept in the state
    folder, readable by me only, and renewed there.
    """
    report = context.report
    if password_file is not None and token_file is not None:
        report.error("give a password or an access token, and not both", code=int(Exit.USAGE))
        sys.exit(Exit.USAGE)
    password = None if password_file is None else _secret_line(report, password_file, "password")
    token = None if token_file is None else _secret_line(report, token_file, "access token")
    chosen: list[Any] = []

    async def find() -> None:
        from mxrtc_bridge.client import account  # noqa: PLC0415
        from mxrtc_bridge.client.login.offer import Method  # noqa: PLC0415

        options = account.LoginOptions(user, homeserver, None if by is None else Method(by), prefix, bot)
        if password is not None:
            await account.login_by_password(context, options, password)
        elif token is not None:
            await account.login_by_token(context, options, token)
        else:
            offer, method = await account.find_offer(context, options)
            if method is not Method.PASSWORD:
                await account.login(context, options, offer, method)
            else:
                chosen.extend((options, offer, method))

    # A password is asked for without a loop, which could not be interrupted otherwise.
    code = run_part(report, find)
    if code is not Exit.DONE or not chosen:
        sys.exit(code)
    try:
        typed = ask_password(user)
    except click.Abort:
        sys.exit(Exit.INTERRUPTED)
    except UnicodeDecodeError:
        _refuse_text(report, "password")

    async def work() -> None:
        from mxrtc_bridge.client import account  # noqa: PLC0415

        options, offer, method = chosen
        await account.login(context, options, offer, method, typed)

    run(report, work)


def _secret_line(report: Report, file: TextIO, what: str) -> str:
    try:
        return file.readline(MAX_PASSWORD_CHARS).rstrip("\r\n")
    except UnicodeDecodeError:
        _refuse_text(report, what)


def _refuse_text(report: Report, what: str) -> NoReturn:
    report.error(f"the {what} is not text in UTF-8", code=int(Exit.USAGE))
    sys.exit(Exit.USAGE)
