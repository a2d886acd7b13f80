"""The page of what can be written in a chat, made from what the commands declare."""

from __future__ import annotations

from pathlib import Path

from mxrtc_bridge.core.bot.commands import Effect
from tests.chat_commands import COMMANDS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "chat-commands.md"

HEAD = """# What can be written in a chat

<!-- Made from the commands in mxrtc_bridge/bridge by `make docs`; do not edit. -->

In a direct chat with the bot or a peer you write the command alone; in a room with others, `!rtc` comes in front.
In a direct chat the name of the bot or the peer may stand in front of it (`rtcbot: peers`), or a slash (`/peers`).
A peer that you have invited into a direct chat says once who it is, and what you may do there.
A command may be marked as code there, if it gives nothing.
A command is one line, alone in a message of text; it may answer another message or stand in a thread.
Nothing else is a command: no quotation, edit, forwarded message, caption or name of a file.
What was written more than five minutes ago gives nothing any more; what takes away counts for three days.
A name of a peer is its name in the configuration (`build`), its user id, or a mention of it.
A user is an id or a mention.
Where the formatted text of a message says anything else than its plain text, you are told so, and nothing is done.
The same goes for formatted text with parts that are quoted, struck out or hidden.
{giving} give something.
They count in a direct chat, where nobody else is or is invited, and in the room of the admins.
Where others than admins are in that room, you are asked first, and answer with `!rtc yes N`.
They are refused with characters that nobody sees.
They are refused as well where they mention somebody whose place in the text is not certain.
A time is like `45s`, `30m`, `2h`, `3d`, `1w` or `1h30m`, here as at the command line.
`ls` is another word for `peers`.
What comes after `because` is kept with the grant or the request, or told to whom it is about.

How it is used: [ask for access, give it, and take it back](../how-to/access.md).
"""

FIELD = """
## What programs read

Notices about a request have a field beside their body, which `mxrtc request` goes by; the words may change at any time.

```json
{"msgtype": "m.notice", "body": "...", "io.mxrtc.request": {"number": 12, "state": "open"}}
```

`state` is `open`, `allowed` (for a time or for one session), `denied`, `expired` (nobody answered) or `withdrawn`.
`number` is that of the request, from 1; it is missing with `allowed` where there is a right already.
Further keys are ignored.
A notice without the field, or with another form of it, is about no request: an answer like that to `mxrtc request` is shown and counts as a refusal.
So are the answers of a bridge that does not send the field yet; bring bridge and client to the same version.

The greeting of a peer has the field `io.mxrtc.greeting`, an object without keys: it answers nothing.
"""  # noqa: E501 - one sentence a line


def render() -> str:
    """Return the page."""
    giving = [f"`{form.verb}`" for form in COMMANDS if form.effect is Effect.GIVES]
    parts = [HEAD.format(giving=", ".join(giving[:-1]) + f" and {giving[-1]}")]
    for title, admin in (("For everybody who may use or ask for something", False), ("For admins", True)):
        parts.append(f"\n## {title}\n\n| Write | For | Like |\n|---|---|---|\n")
        for form in COMMANDS:
            if form.admin is admin:
                usage = form.usage.replace("|", "\\|")
                examples = ", ".join(f"`{example}`" for example in form.examples)
                parts.append(f"| `{usage}` | {form.summary} | {examples} |\n")
    return "".join([*parts, FIELD])
