"""The commands of everybody in a chat, carried out by the rules in force at that moment.

Everything said here is about the person who asks: their services, their sessions. A peer or service that does not exist
and one that they may not use get the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.admin.access_requests import AccessRequests
from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.bot.confirmation import Giving
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.target_health import TargetStates
from mxrtc_bridge.core.access.peer_names import short_name
from mxrtc_bridge.core.access.policy import Allow, Service
from mxrtc_bridge.core.bot.arguments import Names, nothing
from mxrtc_bridge.core.bot.commands import Command, CommandForm, Effect, Mistake, command, commands_of
from mxrtc_bridge.core.bot.parser import addressed, form_of
from mxrtc_bridge.core.bot.recipes import lines_for, name_for
from mxrtc_bridge.core.bot.reply import Code, Line, MatrixLink, Reply, Strong, answer, code, item, say, text
from mxrtc_bridge.core.bot.request_text import RequestAnswer
from mxrtc_bridge.core.bot.words import PREFIX, unquoted
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceState
from mxrtc_bridge.core.text.durations import say_duration, say_rest
from mxrtc_bridge.engine.live_sessions import LiveSessions
from mxrtc_bridge.matrix.command_bot import CommandSender, Rank, mistake_answer
from mxrtc_bridge.matrix.relations import Reaction
from mxrtc_bridge.matrix.rooms.direct_chats import DirectChats

_SHOWN = 20
"""Given grants of one user that are listed."""
CLOSED = "you ended the session with the command 'close'"


class UserCommands:
    """Implements :class:`mxrtc_bridge.matrix.command_bot.CommandHandler`."""

    def __init__(
        self,
        rights: Rights,
        config: CurrentConfig,
        sessions: LiveSessions,
        direct_chats: DirectChats,
        states: TargetStates,
        requests: AccessRequests,
        admins: AdminCommands,
        giving: Giving,
        *,
        why_down: Callable[[UserId], str | None],
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        """Make it.

        Args:
            rights: the rules in force.
            config: names the peers and their services.
            sessions: live sessions.
            direct_chats: makes them.
            states: whether targets answer.
            requests: for access.
            admins: the commands of admins.
            giving: judges where what gives something counts, and asks back.
            why_down: why a peer takes no calls, in words that go on after its name.
            monotonic: seconds, of the clock that sessions use.
            wall_ms: milliseconds since the epoch.
        """
        self._wall_ms = wall_ms
        self._why_down = why_down
        self._rights = rights
        self._config = config
        self._sessions = sessions
        self._direct_chats = direct_chats
        self._states = states
        self._requests = requests
        self._giving = giving
        self._monotonic = monotonic
        self._owners = {form: owner for owner in (self, admins) for form in commands_of(type(owner))}
        self.forms = in_order(self._owners)

    # What the dispatcher asks

    def rank(self, user: UserId) -> Rank:
        """What the rules in force make of ``user``."""
        if self._rights.is_admin(user):
            return Rank.ADMIN
        known = self._services(user) or self._rights.could_ask_for_anything(user)
        return Rank.USER if known else Rank.STRANGER

    def names(self) -> Names:
        """What short names stand for: peers of this bridge."""
        config = self._config.in_force
        return Names(config.homeserver.domain, config.appservice.peer_prefix)

    async def carry_out(self, command: Command, sender: CommandSender) -> Reply:
        """Do what was said."""
        owner, admin = self._owners[command.form], self._rights.is_admin(sender.user)
        try:
            told = await self._giving.judge(command, sender, owner) if admin else None
            return await self._do(command, sender) if told is None else told
        except AdminError as error:
            return say(str(error))

    def mistaken(self, sender: CommandSender) -> None:
        """Take down that somebody has written what is no command."""
        self._giving.forget(sender.user)

    async def _do(self, command: Command, sender: CommandSender) -> Reply:
        # By the rules of this moment, not of the moment at which it was read or asked back.
        if command.form.admin and not self._rights.is_admin(sender.user):
            return say("Only admins may do that.")
        owner = self._owners[command.form]
        return await command.form.carry_out(owner, sender if owner is self else sender.user, *command.arguments)

    async def reacted(self, reaction: Reaction) -> None:
        """Take an admin's reaction to a request."""
        await self._requests.reacted(reaction.room, reaction.target, reaction.key, reaction.user)

    # Commands

    @command(
        "help [COMMAND]",
        "list the commands, or explain one",
        Effect.LOOKS,
        lambda said: (next(iter(said.rest()), None),),
        "help",
        "help request",
        admin=False,
    )
    async def help(self, sender: CommandSender, topic: str | None) -> Reply:
        forms = [form for form in self.forms if sender.admin or not form.admin]
        form = None if topic is None else form_of(unquoted(topic).lower(), forms)
        if form is not None:
            examples = [item(Code(addressed(example, direct=sender.direct))) for example in form.examples]
            return answer(text(Code(addressed(form.usage, direct=sender.direct)), ": ", form.summary, "."), *examples)
        where = (
            "Here you write the command alone."
            if sender.direct
            else f"In a direct chat with me you need no {PREFIX} in front."
        )
        return answer(
            text("These are my commands. ", where),
            *(item(Code(addressed(form.usage, direct=sender.direct)), ": ", form.summary) for form in forms),
        )

    @command(
        "peers",
        "what you may use, whether it is up, and what you may ask for",
        Effect.LOOKS,
        lambda said: (said.keyword("all"),),
        "peers",
        admin=False,
        also="ls",
    )
    async def peers(self, sender: CommandSender, everything: bool) -> Reply:
        config = self._config.in_force
        services = self._services(sender.user)
        if everything:
            if not self._rights.is_admin(sender.user):
                return mistake_answer(Mistake('After peers, "all" is too much.', usage="peers"), direct=sender.direct)
            services = {peer.user_id: tuple(sorted(peer.services)) for peer in config.peers.values()}
        found = await self._states.of_services(list(services.items()), config.target, self._why_down)
        lines = []
        for peer, names in services.items():
            why = self._why_down(peer)
            said = {ServiceState.UP: "up", ServiceState.DOWN: "down", ServiceState.UNKNOWN: "not looked at"}
            states = [f"{name} ({said[found[peer, name]]})" for name in names]
            down = f"; it takes no calls, as its account {why}" if why else ""
            lines.append(item(MatrixLink(peer, self._name(peer)), ": ", ", ".join(states), down))
        more = [
            item(MatrixLink(peer, self._name(peer)), ": ", ", ".join(names))
            for peer, names in ([] if everything else self._rights.to_ask_for(sender.user))
        ]
        ask = _typed("request PEER/SERVICE", sender)
        asking = [text("You may ask for:"), *more, text("To ask the admins: ", ask)] if more else []
        if not lines:
            nothing_now = "There is nothing that you may use now"
            return answer(text(nothing_now, "."), *asking) if more else say(nothing_now, "; ", ask, " asks for it.")
        head = "All there is:" if everything else "You may use:"
        return answer(text(head), *lines, text("For commands to paste: ", _typed("how PEER/SERVICE", sender)), *asking)

    @command(
        "open PEER",
        "have a peer invite you to a direct chat",
        Effect.CHANGES,
        lambda said: (said.peer(),),
        "open build",
        admin=False,
    )
    async def open(self, sender: CommandSender, peer: UserId) -> Reply:
        if not isinstance(self._rights.may_call(sender.user, peer), Allow):
            return self._unknown(peer, None, sender)
        if (why := self._why_down(peer)) is not None:
            return say(Strong(self._name(peer)), f" takes no calls now, as its account {why}.")
        opened = await self._direct_chats.open(peer, sender.user)
        link = MatrixLink(opened.room, "this room")
        if opened.joined:
            return say(Strong(self._name(peer)), " is in ", link, " with you already.")
        return say(Strong(self._name(peer)), " has invited you to ", link, ".")

    @command(
        "status",
        "your live sessions, what you were granted, and what you asked for",
        Effect.LOOKS,
        nothing,
        "status",
        admin=False,
    )
    async def status(self, sender: CommandSender) -> Reply:
        lines: list[Line] = []
        for session in self._sessions.sessions:
            if session.remote == sender.user:
                streams, sent, received = session.links.totals()
                age = say_duration(self._monotonic() - session.started_at)
                path = "connecting" if session.path is None else str(session.path)
                path += "" if session.device is None else f", by your device {session.device}"
                lines.append(
                    item(
                        MatrixLink(session.local, self._name(session.local)),
                        f": {path}, for {age}, {streams} open streams; "
                        f"{received} bytes came from you and {sent} went to you",
                    )
                )
        head = text("Your live sessions:") if lines else text("You have no live session.")
        services = self._services(sender.user)
        count = sum(len(names) for names in services.values())
        given = [
            item(
                f"{self._name(grant.service.peer)}/{grant.service.name}, for "
                f"{say_rest((grant.until_ms - self._wall_ms()) / 1000)} more{', for one session' * grant.once}"
            )
            for grant in self._rights.given_to(sender.user)[:_SHOWN]
        ]
        waiting = [
            item(f"request {each.number} for {self._name(each.peer)}/{each.service}, for {say_duration(each.for_s)}")
            for each in await self._requests.open_of(sender.user)
        ]
        return answer(
            head,
            *lines,
            text(f"You may use {count} service{'s' * (count != 1)}; ", _typed("peers", sender), " lists them."),
            *([text("For a time:"), *given] if given else []),
            *([text("Waiting for an answer:"), *waiting] if waiting else []),
        )

    @command(
        "how PEER/SERVICE",
        "commands to paste into a terminal",
        Effect.LOOKS,
        lambda said: said.target(),
        "how build/ssh",
        "how build",
        admin=False,
    )
    async def how(self, sender: CommandSender, peer: UserId, service: ServiceName | None) -> Reply:
        usable = self._services(sender.user).get(peer, ())
        wanted = usable if service is None else tuple(name for name in usable if name == service)
        if not wanted:
            return self._unknown(peer, service, sender)
        config = self._config.in_force
        name = name_for(sender.user, peer, config.appservice.peer_prefix)
        lines: list[Line] = []
        for each in wanted:
            target = config.target(peer, each)
            if target is not None:
                lines += [text(Strong(f"{self._name(peer)}/{each}"), ":"), *map(code, lines_for(name, each, target))]
        return answer(*lines)

    @command(
        "request PEER/SERVICE [for 2h] [because ...]",
        "ask the admins for a service",
        Effect.CHANGES,
        lambda said: (*said.service(), said.for_time(), said.because()),
        "request build/ssh",
        "request build/db for 2h because the report is due",
        admin=False,
    )
    async def request(
        self, sender: CommandSender, peer: UserId, service: ServiceName, for_s: int | None, because: str
    ) -> Reply:
        told = await self._requests.ask(Service(peer, service), for_s, because, sender.user, sender.room)
        return self._unknown(peer, service, sender) if told is None else _told(told)

    @command(
        "withdraw N",
        "take back a request",
        Effect.ENDS,
        lambda said: (said.number("request"),),
        "withdraw 12",
        admin=False,
    )
    async def withdraw(self, sender: CommandSender, number: int) -> Reply:
        return _told(await self._requests.withdraw(number, sender.user))

    @command(
        "close [PEER]",
        "end your live sessions, or those with one peer",
        Effect.ENDS,
        lambda said: (said.peer() if said.words else None,),
        "close",
        "close build",
        admin=False,
    )
    async def close(self, sender: CommandSender, peer: UserId | None) -> Reply:
        count = self._sessions.end_sessions(
            lambda session: session.remote == sender.user and peer in (None, session.local), CLOSED
        )
        return say("You had no live session." if not count else f"I have ended {count} of your sessions.")

    @command(
        "yes N",
        "confirm what I have asked you about",
        Effect.CONFIRMS,
        lambda said: (said.number("question"),),
        "yes 17",
    )
    async def yes(self, sender: CommandSender, number: int) -> Reply:
        meant = self._giving.confirmed(number, sender)
        if meant is None:
            return say(f"No question {number} waits for your answer here, so I have done nothing.")
        return await self._do(meant, sender)

    # Words

    def _services(self, user: UserId) -> dict[UserId, tuple[ServiceName, ...]]:
        """What ``user`` may use and what exists, by peer."""
        listing = self._rights.listing(user, self._config.in_force.appservice.bot)
        return {peer: names for peer, names in listing if names}

    def _name(self, peer: UserId) -> str:
        names = self.names()
        return short_name(peer, server=names.server, prefix=names.prefix)

    def _unknown(self, peer: UserId, service: ServiceName | None, sender: CommandSender) -> Reply:
        named = self._name(peer) + (f"/{service}" if service else "")
        return say("There is no ", Code(named), " that you may use; ", _typed("peers", sender), " lists what there is.")


def in_order(forms: Iterable[CommandForm]) -> tuple[CommandForm, ...]:
    """Order commands as they are shown: those of everybody, those of admins, and the answer to a question."""
    return tuple(sorted(forms, key=lambda form: (form.admin, form.effect is Effect.CONFIRMS)))


def _typed(command: str, sender: CommandSender) -> Code:
    return Code(addressed(command, direct=sender.direct))


def _told(said: RequestAnswer) -> Reply:
    return Reply((text(said.text),), said.fields)
