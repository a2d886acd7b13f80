"""The homeserver's methods: against a real Synapse, and against answers that no honest server gives."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from yarl import URL

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.matrix.api import login, ping
from mxrtc_bridge.matrix.api.homeserver import Homeserver, RoomFacts, TokenOwner, rooms_with
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from tests import virtual_time
from tests.honesty import NO_ANSWERS, Honesty
from tests.matrix.conftest import APPSERVICE_ID, BridgeWorld, MakePerson, ScriptedServer
from tests.waiting import until

real = pytest.mark.asyncio(loop_scope="session")
ROOM = RoomId("!room:example.org")


@real
async def test_virtual_user_is_registered_once_and_named_only_when_the_name_differs(
    bridge_world: BridgeWorld, bridge: Homeserver
) -> None:
    peer = bridge_world.peer()
    assert await bridge.register_user(peer) is True
    assert await bridge.register_user(peer) is False
    assert await bridge.set_displayname(peer, "Build machine") is True
    assert await bridge.set_displayname(peer, "Build machine") is False
    assert await bridge.displayname(peer) == "Build machine"
    assert await bridge.whoami(peer) == TokenOwner(peer, None)


@real
async def test_user_outside_the_namespace_cannot_be_registered(bridge_world: BridgeWorld, bridge: Homeserver) -> None:
    with pytest.raises(HomeserverError, match=r"could not register @other:example.test: .*M_EXCLUSIVE") as caught:
        await bridge.register_user(UserId("@other:example.test"))
    assert not caught.value.retryable


@real
async def test_profile_of_nobody_is_404(bridge_world: BridgeWorld, bridge: Homeserver) -> None:
    with pytest.raises(HomeserverError) as caught:
        await bridge.displayname(bridge_world.peer())
    assert caught.value.status == 404


@real
async def test_ping_reaches_the_bridge(bridge_world: BridgeWorld, bridge: Homeserver) -> None:
    before = len(bridge_world.receiver.pings)
    assert await ping.ping(bridge, APPSERVICE_ID) >= 0
    assert len(bridge_world.receiver.pings) == before + 1


@real
async def test_ping_with_another_id_says_so(bridge_world: BridgeWorld, bridge: Homeserver) -> None:
    with pytest.raises(HomeserverError, match="another appservice id"):
        await ping.ping(bridge, "nobody")


@real
async def test_wrong_token_is_explained_and_not_waited_for(bridge_world: BridgeWorld) -> None:
    async with Homeserver(Transport(bridge_world.synapse.url, "wrong")) as homeserver:
        with pytest.raises(HomeserverError, match="app_service_config_files"):
            await ping.wait_for_homeserver(homeserver)


@real
async def test_room_is_made_joined_read_and_left(
    bridge_world: BridgeWorld, bridge: Homeserver, make_person: MakePerson
) -> None:
    alice = await make_person()
    peer = bridge_world.peer()
    await bridge.register_user(peer)
    room = await alice.homeserver.create_direct_room(peer)
    assert await alice.homeserver.membership(room, peer) == "invite"
    await bridge.join(room, peer)
    guest = bridge_world.peer()
    await bridge.register_user(guest)
    await alice.homeserver.invite(room, guest)
    assert await bridge.invited_members(room, peer) == {guest}
    await bridge.leave(room, guest)
    assert await bridge.invited_members(room, peer) == frozenset()
    assert await bridge.joined_rooms(peer) == (room,)
    assert await bridge.joined_members(room, peer) == {alice.user_id, peer}
    assert await bridge.room_facts(room, peer) == RoomFacts(encrypted=False, join_rule="invite", room_type=None)
    await alice.state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    assert (await bridge.room_facts(room, peer)).encrypted
    await bridge.leave(room, peer)
    assert await bridge.joined_rooms(peer) == ()
    assert await alice.homeserver.membership(room, peer) == "leave"
    assert await alice.homeserver.membership(room, UserId("@nobody:example.test")) is None
    with pytest.raises(HomeserverError, match=r"could not list the members of .*403 M_FORBIDDEN"):
        await bridge.joined_members(room, peer)


@real
async def test_event_is_sent_as_it_is_and_can_be_redacted(bridge_world: BridgeWorld, make_person: MakePerson) -> None:
    alice = await make_person()
    room = await alice.homeserver.create_direct_room(bridge_world.peer())
    content = {"msgtype": "m.notice", "body": "for <b>@room</b>", "m.mentions": {}}
    event = await alice.homeserver.send_event(room, "m.room.message", content, "txn")
    assert [item["content"] for item in await alice.timeline(room, "m.room.message")] == [content]
    await alice.homeserver.redact(room, event, "txn-2")
    assert [item["content"] for item in await alice.timeline(room, "m.room.message")] == [{}]


@real
async def test_turn_servers_of_a_server_without_any_are_none(bridge_world: BridgeWorld, bridge: Homeserver) -> None:
    peer = bridge_world.peer()
    await bridge.register_user(peer)
    assert await bridge.turn_server(peer) == ()


@real
async def test_login_check_and_logout(bridge_world: BridgeWorld, make_person: MakePerson) -> None:
    alice = await make_person()
    account = await login.log_in(bridge_world.synapse.url, alice.name, alice.password, "mxrtc test")
    assert account.user_id == alice.user_id
    assert account.access_token not in repr(account)
    await login.check(account)
    assert await login.log_out(account) is True
    assert await login.log_out(account) is False
    with pytest.raises(HomeserverError, match="M_UNKNOWN_TOKEN"):
        await login.check(account)


@real
async def test_login_with_a_wrong_password_is_one_plain_sentence(
    bridge_world: BridgeWorld, make_person: MakePerson
) -> None:
    alice = await make_person()
    with pytest.raises(HomeserverError, match=r"^the homeserver does not accept this user and password$") as caught:
        await login.log_in(bridge_world.synapse.url, alice.user_id, "wrong", "mxrtc test")
    assert not caught.value.retryable


@real
async def test_direct_chats_are_kept(make_person: MakePerson) -> None:
    alice = await make_person()
    assert await alice.homeserver.direct_rooms(alice.user_id) == {}
    content = {"@a:example.org": ["!1:example.org", 5, "no room", "!2:example.org"], "@b:example.org": "odd"}
    await alice.homeserver.set_direct_rooms(alice.user_id, content)
    read = await alice.homeserver.direct_rooms(alice.user_id)
    assert read == content
    assert rooms_with(read, UserId("@a:example.org"), 5) == ["!2:example.org", "!1:example.org"]
    assert rooms_with(read, UserId("@a:example.org"), 1) == ["!2:example.org"]
    assert rooms_with(read, UserId("@b:example.org"), 5) == []


def plain(server: ScriptedServer) -> Homeserver:
    return Homeserver(Transport(server.url, "token", RequestPolicy(RetryPolicy(total_s=0))))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, ()),
        ({"uris": "turn:x"}, ()),
        ({"uris": [5, None, "turn://a", "turn:" + "x" * 600]}, (IceServer(("turn://a", "turn:" + "x" * 507)),)),
        (
            {"uris": ["turn:a?transport=udp", "stun:b"], "username": "u", "password": "p", "ttl": 60},
            (IceServer(("turn:a?transport=udp", "stun:b"), "u", "p"),),
        ),
        ({"uris": ["turn:a"], "username": ["u"], "password": "p" * 1025}, (IceServer(("turn:a",)),)),
        ({"uris": ["turn:a"] * 17}, (IceServer(("turn:a",) * 16),)),
    ],
)
async def test_turn_answer_is_parsed_and_bounded(
    scripted: ScriptedServer, answer: object, expected: tuple[IceServer, ...]
) -> None:
    scripted.answers = [web.json_response(answer)]
    async with plain(scripted) as homeserver:
        assert await homeserver.turn_server() == expected


async def test_a_server_without_turn_servers_may_say_so_by_an_error(scripted: ScriptedServer) -> None:
    missing = web.json_response({"errcode": "M_NOT_FOUND", "error": "no TURN server"}, status=404)
    unknown = web.json_response({"errcode": "M_UNRECOGNIZED", "error": "no such path"}, status=404)
    scripted.answers = [missing, unknown]
    async with plain(scripted) as homeserver:
        assert await homeserver.turn_server() == ()
        with pytest.raises(HomeserverError, match="ask for TURN servers"):  # nobody knows what it has
            await homeserver.turn_server()


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_no_answer_is_an_error_and_no_empty_room_or_list(scripted: ScriptedServer, lie: Honesty) -> None:
    scripted.honesty = lie
    async with Homeserver(Transport(scripted.url, "token", RequestPolicy(RetryPolicy(total_s=0)))) as homeserver:
        for question in (
            homeserver.joined_members(ROOM),
            homeserver.invited_members(ROOM),
            homeserver.all_state(ROOM, ("m.policy.rule.user",)),
            homeserver.joined_rooms(),
        ):
            with pytest.raises(HomeserverError):
                await question


@pytest.mark.parametrize("answer", [{}, {"joined": []}, {"joined": None}])
async def test_member_list_that_is_none_is_refused(scripted: ScriptedServer, answer: object) -> None:
    """An unreadable list must never count as an empty room."""
    scripted.answers = [web.json_response(answer)]
    async with plain(scripted) as homeserver:
        with pytest.raises(HomeserverError, match="no list"):
            await homeserver.joined_members(ROOM)


@pytest.mark.parametrize(
    "answer", [{}, {"chunk": {}}, {"chunk": ["x"]}, {"chunk": [{}]}, {"chunk": [{"state_key": 7}]}]
)
async def test_a_list_of_invitations_that_names_nobody_is_refused(scripted: ScriptedServer, answer: object) -> None:
    """Somebody who is not seen must never count as nobody."""
    scripted.answers = [web.json_response(answer)]
    async with plain(scripted) as homeserver:
        with pytest.raises(HomeserverError, match="could not list who is invited"):
            await homeserver.invited_members(ROOM)
    assert scripted.requests[0][1].endswith("/members?membership=invite")


async def test_odd_member_ids_count(scripted: ScriptedServer) -> None:
    scripted.answers = [web.json_response({"joined": {"@a:example.org": {}, "not an id": {}}})]
    async with plain(scripted) as homeserver:
        assert await homeserver.joined_members(ROOM) == {"@a:example.org", "not an id"}


async def test_ids_are_escaped_in_paths(scripted: ScriptedServer) -> None:
    scripted.answers = [web.json_response({"event_id": "$e"})]
    async with plain(scripted) as homeserver:
        await homeserver.send_event(RoomId("!a/../b?c#d:e"), "m.x", {}, "t/1")
    assert scripted.requests[0][1] == "/_matrix/client/v3/rooms/%21a%2F..%2Fb%3Fc%23d%3Ae/send/m.x/t%2F1"


@pytest.mark.parametrize("answer", [{}, {"event_id": 5}, {"event_id": "$" + "x" * 300}])
async def test_bad_event_id_is_refused(scripted: ScriptedServer, answer: object) -> None:
    scripted.answers = [web.json_response(answer)]
    async with plain(scripted) as homeserver:
        with pytest.raises(HomeserverError, match="bad event id"):
            await homeserver.send_event(ROOM, "m.x", {}, "t")


async def test_virtual_user_is_registered_without_a_session(scripted: ScriptedServer) -> None:
    """A server with delegated login accepts nothing else, and no device is left behind."""
    scripted.answers = [web.json_response({"user_id": "@rtc_a:example.org"})]
    async with plain(scripted) as homeserver:
        await homeserver.register_user(UserId("@rtc_a:example.org"))
    assert scripted.requests[0][3] == {
        "type": "m.login.application_service",
        "username": "rtc_a",
        "inhibit_login": True,
    }


async def test_room_is_created_at_most_once_whatever_fails(scripted: ScriptedServer) -> None:
    scripted.answers = [web.Response(status=502)]
    async with Homeserver(Transport(scripted.url, "token")) as homeserver:
        with pytest.raises(HomeserverError):
            await homeserver.create_direct_room(UserId("@rtc_a:example.org"))
    assert len(scripted.requests) == 1
    assert scripted.requests[0][3]["preset"] == "private_chat"


async def test_a_room_is_joined_by_another_server(scripted: ScriptedServer) -> None:
    scripted.answers = [web.json_response({"room_id": "!new"})]
    async with plain(scripted) as homeserver:
        await homeserver.join_by(RoomId("!new"), "[::1]:8448", UserId("@rtcbot:example.org"))
    asked = URL(scripted.requests[0][1])
    assert asked.path == "/_matrix/client/v3/join/!new"
    assert dict(asked.query) == {"via": "[::1]:8448", "server_name": "[::1]:8448", "user_id": "@rtcbot:example.org"}


async def test_bridge_waits_for_a_homeserver_that_is_away(scripted: ScriptedServer) -> None:
    scripted.answers = [
        web.Response(status=502),
        web.json_response({"versions": ["v1.15"]}),
        web.json_response({"errcode": "M_UNKNOWN", "error": ""}, status=500),
        web.json_response({"versions": ["v1.15"]}),
        web.json_response({"user_id": "@bot:example.org"}),
    ]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with plain(scripted) as homeserver:
        identity = await ping.wait_for_homeserver(homeserver, sleep=sleep)
    assert identity == TokenOwner(UserId("@bot:example.org"), None)
    assert slept == [0.5, 1.0]


async def test_what_the_bridge_waits_for_is_told_at_once(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Not after a minute, in which the request would have been repeated."""
    never = asyncio.Event()

    async def silent(_: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response(status=502)

    async def sleep(_seconds: float) -> None:
        told.append([each.getMessage() for each in caplog.records])

    told: list[list[str]] = []
    async with Homeserver(Transport("http://127.0.0.1:9", "token")) as homeserver:
        waiting = asyncio.ensure_future(ping.wait_for_homeserver(homeserver))
        await until(lambda: "connection refused" in caplog.text, 3)
        waiting.cancel()
    caplog.clear()
    scripted.answers = [silent, silent, web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": ""}, status=401)]
    async with Homeserver(Transport(scripted.url, "token")) as homeserver:
        waiting = asyncio.ensure_future(ping.wait_for_homeserver(homeserver, told_s=0.05, sleep=sleep))
        await until(lambda: "waiting for the homeserver: it has not answered yet" in caplog.text)
        never.set()
        with pytest.raises(HomeserverError, match="does not know"):
            await waiting
    assert [len(each) for each in told] == [2, 2]
    assert "502" in told[0][1]


async def test_bridge_waits_behind_a_proxy_whose_homeserver_is_not_up_yet(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Proxies answer 404, 403 or even 200 then, with a page of their own."""
    scripted.answers = [
        web.Response(status=404, text="404 page not found"),
        web.Response(status=403, text="<html></html>", content_type="text/html"),
        web.Response(text="<html>We are back soon.</html>", content_type="text/html"),
        web.json_response({"hello": "world"}),
        web.json_response({"versions": ["v1.15"]}),
        web.Response(status=404),
        web.json_response({"versions": ["v1.15"]}),
        web.json_response({"user_id": "@bot:example.org"}),
    ]

    async def sleep(_seconds: float) -> None:
        pass

    async with plain(scripted) as homeserver:
        identity = await ping.wait_for_homeserver(homeserver, sleep=sleep)
        assert identity.user_id == "@bot:example.org"
        assert "404 without a Matrix error; is there a proxy" in caplog.text
        scripted.answers = [web.json_response({"errcode": "M_UNRECOGNIZED", "error": ""}, status=404)]
        with pytest.raises(HomeserverError, match="M_UNRECOGNIZED"):
            await ping.wait_for_homeserver(homeserver, sleep=sleep)


FAILED = "M_CONNECTION_FAILED"


class PingScript:
    """Answers pings as told, and ends the loop when the script does."""

    def __init__(self, *results: HomeserverError | int) -> None:
        self.results = list(results)

    async def versions(self) -> tuple[str, ...]:
        return ()

    async def whoami(self) -> TokenOwner:
        raise AssertionError

    async def ping_appservice(self, appservice_id: str, txn_id: str) -> int:
        if not self.results:
            raise EOFError
        result = self.results.pop(0)
        if isinstance(result, HomeserverError):
            raise result
        return result


async def test_ping_loop_pings_often_while_the_way_is_closed_and_tells_each_change_once() -> None:
    failed = HomeserverError("no", 502, "M_BAD_STATUS")
    slept: list[float] = []
    told: list[bool] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with pytest.raises(EOFError):
        await ping.ping_loop(
            PingScript(5, 5, failed, failed, 5),
            "id",
            on_change=lambda problem: told.append(problem is None),
            every_s=60,
            retry_s=3,
            sleep=sleep,
        )
    assert slept == [60, 60, 3, 3, 60]
    assert told == [True, False, True]


async def test_ping_that_comes_too_often_is_repeated_when_it_may_be() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with pytest.raises(EOFError):
        await ping.ping_loop(PingScript(HomeserverError("no", 429, "M_LIMIT_EXCEEDED", 90.0), 5), "id", sleep=sleep)
    assert slept == [90.0, ping.PING_EVERY_S]


async def test_homeserver_without_a_ping_is_asked_hourly_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    none, failed = HomeserverError("no such path", 404, "M_UNRECOGNIZED"), HomeserverError("no", 502, "M_BAD_STATUS")
    slept: list[float] = []
    told: list[bool] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with pytest.raises(EOFError):
        await ping.ping_loop(
            PingScript(none, none, failed, none, 5),
            "id",
            on_change=lambda problem: told.append(problem is None),
            sleep=sleep,
        )
    assert slept == [ping.NO_PING_S, ping.NO_PING_S, ping.PING_RETRY_S, ping.NO_PING_S, ping.PING_EVERY_S]
    assert told == [True, False, True, True]
    assert [record.getMessage() for record in caplog.records].count(
        "whether the homeserver reaches the bridge is not told: it has no ping"
    ) == 1


async def test_a_ping_that_synapse_fails_after_it_has_reached_the_bridge_has_reached_it() -> None:
    """It sends already what waits, and cannot begin to: so no word of the address in the registration."""
    words = "the homeserver answered 502 M_CONNECTION_FAILED: {}"
    reached = HomeserverError(
        words.format("AlreadyCancelled: Tried to cancel an already-cancelled event."), 502, FAILED
    )
    assert await ping.ping(PingScript(reached), "id") >= 0
    refused = HomeserverError(words.format("ConnectionRefusedError: Connection was refused by other side"), 502, FAILED)
    with pytest.raises(HomeserverError, match="cannot connect to the url of the registration"):
        await ping.ping(PingScript(refused), "id")


def test_who_was_failed_goes_on_as_soon_as_the_homeserver_is_back() -> None:
    pinged: list[float] = []

    class AwayForAWhile(PingScript):
        async def ping_appservice(self, appservice_id: str, txn_id: str) -> int:
            pinged.append(now := asyncio.get_running_loop().time())
            if 100 <= now < 109:
                raise HomeserverError("away")
            return 5

    async def story() -> None:
        now = asyncio.get_running_loop().time
        returns = ping.HomeserverReturn()
        assert not returns.reachable, "nobody has asked yet"
        pinging = asyncio.create_task(
            ping.ping_loop(AwayForAWhile(), "id", on_change=returns.changed, sleep=returns.until_next_ping)
        )
        await asyncio.sleep(100)
        assert returns.reachable
        await returns.pause(0.5)
        assert not returns.reachable
        assert now() == 100.5, "a pause is never longer than it was to be"
        await asyncio.gather(*(returns.pause(seconds) for seconds in (30, 60)))
        assert now() == 109
        assert returns.reachable
        # A homeserver that fails somebody and answers pings is asked no more often than one that is away.
        for _ in range(10):
            await returns.pause(0.9)
        assert now() == 118
        await asyncio.sleep(61)
        pinging.cancel()

    virtual_time.run(story())
    assert pinged == [0, 60, 100, 103, 106, 109, 112, 115, 118, 178]


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        ({"m.homeserver": {"base_url": "https://m.example.org/"}}, "https://m.example.org"),
        ({"m.homeserver": {"base_url": "http://m.example.org"}}, None),
        ({"m.homeserver": []}, None),
        ({}, None),
    ],
)
def test_discovery_takes_only_an_https_address(answer: dict[str, object], address: str | None) -> None:
    if address is None:
        with pytest.raises(HomeserverError, match="give the address of the homeserver instead"):
            login._named_address(answer, "example.org")
    else:
        assert login._named_address(answer, "example.org") == address


@pytest.mark.parametrize(("server", "host"), [("a.org", "a.org"), ("a.org:8448", "a.org"), ("[::1]:8448", "[::1]")])
def test_discovery_asks_the_host_and_not_the_federation_port(server: str, host: str) -> None:
    assert login._host(server) == host


@pytest.mark.parametrize(("succession", "requests"), [(False, 3), (True, 4)])
async def test_facts_of_a_room_are_asked_for_at_the_same_time(
    scripted: ScriptedServer, succession: bool, requests: int
) -> None:
    all_asked = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if len(scripted.requests) == requests:
            all_asked.set()
        await all_asked.wait()
        name = request.path.rpartition("/state/")[2].strip("/")
        return web.json_response({"m.room.tombstone": {"replacement_room": "!new:x"}}.get(name, {"join_rule": "knock"}))

    scripted.answers = [answer] * requests
    async with plain(scripted) as homeserver:
        facts = await homeserver.room_facts(ROOM, succession=succession)
    assert facts == RoomFacts(True, "knock", None, RoomId("!new:x") if succession else None)


@pytest.mark.parametrize("body", [{}, {"errcode": "M_UNRECOGNIZED", "error": "unknown path"}, "no page"])
async def test_404_of_a_proxy_is_no_room_without_encryption_and_no_empty_list(
    scripted: ScriptedServer, body: object
) -> None:
    """What is sent to a room that seems plain can be read by all, and a list that seems empty is written anew."""
    async with plain(scripted) as homeserver:
        for ask in (lambda: homeserver.room_facts(ROOM), lambda: homeserver.direct_rooms(UserId("@a:example.org"))):
            scripted.answers = [web.json_response(body, status=404) for _ in range(3)]
            with pytest.raises(HomeserverError):
                await ask()
