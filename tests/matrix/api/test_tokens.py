"""Tokens that stay, and those that are replaced when the homeserver does not know them any more."""

from __future__ import annotations

from http import HTTPMethod as Method

import pytest
from aiohttp import web

from mxrtc_bridge.core.errors import HomeserverError, StateError
from mxrtc_bridge.matrix.api.tokens import FixedToken
from mxrtc_bridge.matrix.api.transport import Repeat, Transport
from tests.catch_all import answering


class Renewed:
    """Has another token after each that was refused, as long as there are some. Implements TokenSource."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.refused: list[str] = []
        self.taken: list[str] = []
        self.closed = 0

    async def token(self) -> str:
        return self.tokens[0]

    async def replace(self, refused: str) -> bool:
        self.refused.append(refused)
        if len(self.tokens) == 1:
            return False
        self.tokens.pop(0)
        return True

    def accepted(self, token: str) -> None:
        self.taken.append(token)

    async def close(self) -> None:
        self.closed += 1


class Server:
    def __init__(self, errcode: str = "M_UNKNOWN_TOKEN") -> None:
        self.errcode = errcode
        self.seen: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.seen[-1] == "good":
            return web.json_response({"fine": True})
        return web.json_response({"errcode": self.errcode, "error": "no"}, status=401)


async def ask(server: Server, tokens: Renewed, repeat: Repeat) -> dict[str, object]:
    async with answering(server.answer) as url:
        transport = Transport(url, tokens)
        try:
            return await transport.request("try it", Method.POST, "x", repeat=repeat)
        finally:
            await transport.close()


@pytest.mark.parametrize("repeat", list(Repeat))
async def test_request_that_was_refused_for_its_token_is_sent_once_more(repeat: Repeat) -> None:
    server, tokens = Server(), Renewed("old", "good")
    assert await ask(server, tokens, repeat) == {"fine": True}
    assert (server.seen, tokens.refused, tokens.closed) == (["old", "good"], ["old"], 1)
    assert tokens.taken == ["good"]


@pytest.mark.parametrize("tokens", [Renewed("old"), Renewed("old", "older", "oldest")])
async def test_and_no_more_than_once(tokens: Renewed) -> None:
    server, sent = Server(), tokens.tokens[:2]
    with pytest.raises(HomeserverError, match="401 M_UNKNOWN_TOKEN"):
        await ask(server, tokens, Repeat.ALWAYS)
    # Whoever gives them learns of the second refusal as well, as they may know why.
    assert (server.seen, tokens.refused, tokens.taken) == (sent, sent, [])


async def test_why_there_is_no_other_token_is_what_is_told() -> None:
    class Locked(Renewed):
        async def replace(self, refused: str) -> bool:
            if not await super().replace(refused):
                raise HomeserverError("the account is locked", 401)
            return True

    with pytest.raises(HomeserverError, match="the account is locked"):
        await ask(Server(), Locked("old", "new"), Repeat.ALWAYS)


async def test_another_refusal_is_no_fault_of_the_token() -> None:
    server, tokens = Server("M_FORBIDDEN"), Renewed("old", "good")
    with pytest.raises(HomeserverError, match="M_FORBIDDEN"):
        await ask(server, tokens, Repeat.ALWAYS)
    assert tokens.refused == []


async def test_token_that_stays_has_no_other_in_its_place() -> None:
    token = FixedToken("x")
    assert (await token.token(), await token.replace("x")) == ("x", False)
    await token.close()


async def test_token_that_is_renewed_is_sent_nowhere_else_either() -> None:
    transport = Transport("http://127.0.0.1:1", Renewed("x"))
    with pytest.raises(StateError, match="must not follow redirects"):
        transport.follow_redirects()
    await transport.close()
