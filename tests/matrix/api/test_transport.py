"""Requests against a web server that answers what a test prepared, in virtual time."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from http import HTTPMethod as Method
from time import time as wall_clock
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import AnswerTooLongError, ConfigError, HomeserverError, StateError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.matrix.api.transport import ARRAY, MAX_ANSWER_BYTES, Repeat, RequestPolicy, RetryPolicy, Transport
from tests.fakes import VirtualTime
from tests.matrix.conftest import ScriptedServer


def limited(retry_after_ms: object = None, header: str | None = None, date: str = "") -> web.Response:
    body = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"}
    if retry_after_ms is not None:
        body["retry_after_ms"] = retry_after_ms
    headers = {"Retry-After": header or "", "Date": date}
    return web.json_response(body, status=429, headers={name: value for name, value in headers.items() if value})


def make(
    server: ScriptedServer | str, time: VirtualTime, *, max_answer_bytes: int = MAX_ANSWER_BYTES, **policy: Any
) -> Transport:
    return Transport(
        server if isinstance(server, str) else server.url,
        "secret-token",
        RequestPolicy(**policy),
        max_answer_bytes=max_answer_bytes,
        clock=time.clock,
        sleep=time.sleep,
        jitter=lambda: 0.5,
    )


async def ask(transport: Transport, **options: object) -> dict[str, object]:
    try:
        return await transport.request("ask", Method.PUT, "_matrix/client/v3/x", content={"k": "v"}, **options)
    finally:
        await transport.close()


async def test_request_waits_as_long_as_a_rate_limit_asks(scripted: ScriptedServer) -> None:
    time = VirtualTime()
    scripted.answers = [limited(12_500), limited(None, "3"), limited(1500, "7"), web.json_response({"ok": 1})]
    assert await ask(make(scripted, time)) == {"ok": 1}
    assert time.slept == [12.5, 3.0, 1.5]
    assert [(method, body) for method, _, _, body in scripted.requests] == [("PUT", {"k": "v"})] * 4
    assert scripted.requests[0][2]["Authorization"] == "Bearer secret-token"


@pytest.mark.parametrize("apart_s", [0, -86_400 * 3650])
async def test_request_waits_until_the_date_that_a_rate_limit_names_by_its_own_clock(
    scripted: ScriptedServer, apart_s: float
) -> None:
    time = VirtualTime()
    now = wall_clock() + apart_s
    dates = [formatdate(now + ahead_s, usegmt=True) for ahead_s in (0, 7, -7)]
    scripted.answers = [limited(None, each, date=dates[0]) for each in dates[1:]] + [web.json_response({})]
    await ask(make(scripted, time))
    assert time.slept == [7.0, 1.0], "what is over asks for nothing"


@pytest.mark.parametrize("nonsense", ["soon", -1, None, [5], float("1e300"), True])
async def test_request_uses_its_own_pause_when_the_rate_limit_names_none(
    scripted: ScriptedServer, nonsense: object
) -> None:
    time = VirtualTime()
    scripted.answers = [limited(nonsense, "never"), web.json_response({})]
    await ask(make(scripted, time))
    assert 0 < time.slept[0] <= 1


async def test_request_fails_at_once_when_the_rate_limit_exceeds_the_budget(scripted: ScriptedServer) -> None:
    time = VirtualTime()
    scripted.answers = [limited(60_001)]
    with pytest.raises(HomeserverError, match=r"^could not ask: .* 429 M_LIMIT_EXCEEDED.*wait 60 seconds") as caught:
        await ask(make(scripted, time))
    assert (time.slept, caught.value.status, caught.value.errcode) == ([], 429, "M_LIMIT_EXCEEDED")
    assert caught.value.wait_s == 60.001
    scripted.answers = [limited(60_000), web.json_response({})]
    await ask(make(scripted, time))
    assert time.slept == [60.0]


async def test_request_repeats_server_errors_with_growing_pauses_within_the_budget(scripted: ScriptedServer) -> None:
    time = VirtualTime()
    scripted.answers = [web.Response(status=502, text="<html>") for _ in range(20)]
    with pytest.raises(HomeserverError, match="502 without a Matrix error") as caught:
        await ask(make(scripted, time, retry=RetryPolicy(total_s=30)))
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("repeat", "status", "attempts"),
    [
        (Repeat.ALWAYS, 500, 2),
        (Repeat.ALWAYS, 429, 2),
        (Repeat.ALWAYS, 403, 1),
        (Repeat.IF_UNTOUCHED, 500, 1),
        (Repeat.IF_UNTOUCHED, 429, 2),
        (Repeat.NEVER, 429, 1),
        (Repeat.NEVER, 500, 1),
    ],
)
async def test_request_is_repeated_only_as_allowed(
    scripted: ScriptedServer, repeat: Repeat, status: int, attempts: int
) -> None:
    scripted.answers = [
        web.json_response({"errcode": "M_X", "error": "no"}, status=status),
        web.json_response({"errcode": "M_LAST", "error": "no"}, status=400),
    ]
    with pytest.raises(HomeserverError):
        await ask(make(scripted, VirtualTime()), repeat=repeat)
    assert len(scripted.requests) == attempts


async def test_request_says_why_nobody_answers() -> None:
    time = VirtualTime()
    with pytest.raises(HomeserverError, match=r"^could not ask: .*cannot be reached: connection refused$") as caught:
        await ask(make("http://127.0.0.1:9", time, retry=RetryPolicy(total_s=2)))
    assert caught.value.status == 0
    assert caught.value.retryable
    assert time.slept == [0.5, 1.0]


async def test_who_is_in_front_of_it_learns_soon_what_is_wrong_and_when_it_is_over(scripted: ScriptedServer) -> None:
    time, heard = VirtualTime(), list[str]()
    retry = RetryPolicy(total_s=15, failing_s=2)
    scripted.answers = [web.Response(status=502), limited(9_000), web.json_response({"ok": 1})]
    transport = make(scripted, time, retry=retry, on_change=lambda error: heard.append(str(error)))
    assert await ask(transport) == {"ok": 1}
    assert time.slept == [0.5, 9.0]
    assert [each[:28] for each in heard] == ["the homeserver answered 502 ", "the homeserver answered 429 ", "None"]
    with pytest.raises(HomeserverError, match="connection refused"):
        await ask(make("http://127.0.0.1:9", time, retry=retry))
    assert time.slept[2:] == [0.5, 1.0]


async def test_the_cause_that_was_known_is_not_lost_in_a_silence_behind_it(scripted: ScriptedServer) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    scripted.answers = [web.Response(status=502), never]
    with pytest.raises(HomeserverError, match="the homeserver answered 502"):
        await ask(make(scripted, VirtualTime(), timeout_s=0.05, retry=RetryPolicy(total_s=0.6)))


async def test_request_ends_at_its_time_limit(scripted: ScriptedServer) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    scripted.answers = [never]
    with pytest.raises(HomeserverError, match=r"did not answer within 0\.05 seconds"):
        await ask(make(scripted, VirtualTime(), timeout_s=0.05), repeat=Repeat.NEVER)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, 2),
        ({"repeat": Repeat.NEVER}, 1),
        ({"repeat": Repeat.IF_UNTOUCHED}, 1),
        ({"timeout_s": 0.3}, 1),
        ({"timeout_s": 30, "repeat": Repeat.NEVER, "hedges": True}, 2),
        ({"hedges": False}, 1),
    ],
)
async def test_silent_request_is_sent_once_more_beside_where_it_may_be(
    scripted: ScriptedServer, options: dict[str, object], asked: int
) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    scripted.answers = [never, web.json_response({"ok": 1})]
    transport = make(scripted, VirtualTime(), timeout_s=0.3 if asked == 1 else 30, hedge_s=0.05, retry=RetryPolicy(0))
    if asked == 2:
        assert await ask(transport, **options) == {"ok": 1}
    else:
        with pytest.raises(HomeserverError, match="did not answer within"):
            await ask(transport, **options)
    assert len(scripted.requests) == asked


@pytest.mark.parametrize(
    "second",
    [limited(2000), web.Response(status=502, text="<html>"), web.json_response({"errcode": "M_UNKNOWN"}, status=500)],
    ids=["limited", "page", "failure"],
)
async def test_a_second_question_too_many_does_not_end_the_first(
    scripted: ScriptedServer, second: web.Response
) -> None:
    """It would be asked again from its beginning, and be refused again, where the first takes long."""
    refused = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await refused.wait()
        return web.json_response({"ok": 1})

    async def refusal(_: web.Request) -> web.StreamResponse:
        asyncio.get_running_loop().call_later(0.05, refused.set)
        return second

    scripted.answers = [slow, refusal]
    assert await ask(make(scripted, VirtualTime(), timeout_s=30, hedge_s=0.05)) == {"ok": 1}
    assert len(scripted.requests) == 2


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
async def test_answer_is_read_up_to_its_limit(scripted: ScriptedServer, size: int, fits: bool) -> None:
    body = json.dumps({"x": ""})
    scripted.answers = [web.Response(text=json.dumps({"x": "y" * (size - len(body))}))]
    transport = make(scripted, VirtualTime(), max_answer_bytes=1000)
    if fits:
        await ask(transport)
    else:
        with pytest.raises(HomeserverError, match="longer than 1000 bytes") as caught:
            await ask(transport)
        assert not caught.value.retryable


async def test_answer_without_end_is_cut(scripted: ScriptedServer) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except ConnectionError:
            return response

    scripted.answers = [flood]
    with pytest.raises(HomeserverError, match="longer than"):
        await ask(make(scripted, VirtualTime(), max_answer_bytes=1 << 20))


@pytest.mark.parametrize("body", ["", "3", "nonsense", "[" * 100_000, '{"a"', "null"])
async def test_answer_that_is_no_object_is_refused(scripted: ScriptedServer, body: str) -> None:
    scripted.answers = [web.Response(text=body)]
    with pytest.raises(HomeserverError, match="not a JSON object") as caught:
        await ask(make(scripted, VirtualTime()), repeat=Repeat.NEVER)
    assert (caught.value.status, caught.value.retryable) == (0, True), "a page of a proxy is no homeserver"


async def test_an_array_is_handed_on_under_a_name_that_no_object_has(scripted: ScriptedServer) -> None:
    scripted.answers = [web.Response(text='[1, {"type": "x"}]')]
    assert await ask(make(scripted, VirtualTime())) == {ARRAY: [1, {"type": "x"}]}


@pytest.mark.parametrize("body", [[], "x", None, {"errcode": 5, "error": {}}, {"errcode": "M_\x1b[31m" + "x" * 900}])
async def test_refusal_of_any_form_becomes_one_short_printable_sentence(scripted: ScriptedServer, body: object) -> None:
    scripted.answers = [web.json_response(body, status=403)]
    with pytest.raises(HomeserverError) as caught:
        await ask(make(scripted, VirtualTime()), repeat=Repeat.NEVER)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 410])
async def test_page_of_a_proxy_is_no_answer_of_the_homeserver(scripted: ScriptedServer, status: int) -> None:
    """What follows from "there is no such room", or from "you may not", must not follow from it."""
    scripted.answers = [web.Response(status=status, text="<html>", content_type="text/html")]
    with pytest.raises(HomeserverError, match=f"answered {status}") as page:
        await ask(make(scripted, VirtualTime()), repeat=Repeat.NEVER)
    assert (page.value.status, page.value.retryable) == (0, True)
    scripted.answers = [web.json_response({"errcode": "M_X", "error": "no"}, status=status)]
    with pytest.raises(HomeserverError) as answer:
        await ask(make(scripted, VirtualTime()), repeat=Repeat.NEVER)
    assert (answer.value.status, answer.value.retryable) == (status, False)


async def test_request_that_meets_a_page_of_a_proxy_is_repeated(scripted: ScriptedServer) -> None:
    scripted.answers = [web.Response(status=404), web.Response(text="soon back"), web.json_response({"ok": 1})]
    time = VirtualTime()
    assert await ask(make(scripted, time)) == {"ok": 1}
    assert time.slept == [0.5, 1.0]


async def test_an_endless_page_is_no_answer_and_an_endless_object_is_what_somebody_has_filled(
    scripted: ScriptedServer,
) -> None:
    """Whoever has more keys than an answer can hold has none; nobody has none because of a page."""
    transport = make(scripted, VirtualTime(), max_answer_bytes=1000)
    scripted.answers = [web.Response(text="<!doctype html>" + "x" * 2000, content_type="text/html")]
    with pytest.raises(HomeserverError, match="longer than 1000 bytes, and no JSON") as page:
        await transport.request("ask", Method.GET, "x")
    assert (type(page.value), page.value.status) == (HomeserverError, 0)
    scripted.answers = [web.json_response({"x": "y" * 2000})]
    with pytest.raises(AnswerTooLongError):
        await transport.request("ask", Method.GET, "x")
    await transport.close()
    scripted.answers = [web.Response(text='{"a":' * 1_000_001 + "1" + "}" * 1_000_001)]
    with pytest.raises(AnswerTooLongError, match="nested"):
        await ask(make(scripted, VirtualTime()))


async def test_what_a_homeserver_says_is_not_escaped_twice(scripted: ScriptedServer) -> None:
    answer = {"errcode": "M_FORBIDDEN", "error": "no\x1b[31m \u202eüber"}
    scripted.answers = [web.json_response(answer, status=403)]
    with pytest.raises(HomeserverError) as caught:
        await ask(make(scripted, VirtualTime()))
    assert display(str(caught.value)).endswith("M_FORBIDDEN: no\ufffd[31m \ufffdüber")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wants a login"),
        (413, "longer than a proxy"),
        (429, "limits how often"),
        (502, "does not reach it"),
        (504, "does not reach it"),
        (521, "does not reach it"),
        (530, "does not reach it"),
        (404, "does not pass /_matrix/ on"),
    ],
)
async def test_a_page_is_named_by_its_cause(scripted: ScriptedServer, status: int, words: str) -> None:
    scripted.answers = [web.Response(status=status, text="<html></html>", content_type="text/html")]
    with pytest.raises(HomeserverError, match=words):
        await ask(make(scripted, VirtualTime()), repeat=Repeat.NEVER)


@pytest.mark.parametrize(
    ("status", "errcode", "outside"),
    [
        (403, "M_FORBIDDEN", True),
        (404, "M_NOT_FOUND", True),
        (404, "M_UNRECOGNIZED", False),
        (400, "M_BAD_JSON", False),
        (401, "M_UNKNOWN_TOKEN", False),
    ],
)
async def test_only_a_refusal_says_that_one_is_not_in_a_room(
    scripted: ScriptedServer, status: int, errcode: str, outside: bool
) -> None:
    scripted.answers = [web.json_response({"errcode": errcode, "error": "no"}, status=status)]
    with pytest.raises(HomeserverError) as caught:
        await ask(make(scripted, VirtualTime()))
    assert caught.value.is_outside is outside


async def test_cookies_are_not_kept(scripted: ScriptedServer) -> None:
    """A proxy that gives a new one with each answer would have us keep and send them without a bound."""
    scripted.answers = [web.json_response({}, headers={"Set-Cookie": "a=b; Path=/"}), web.json_response({})]
    # To a host without a name none are sent in any case.
    transport = make(scripted.url.replace("127.0.0.1", "localhost"), VirtualTime())
    await transport.request("ask", Method.GET, "x")
    await ask(transport)
    assert [headers.get("Cookie") for _, _, headers, _ in scripted.requests] == [None, None]


async def test_who_asks_for_no_pause_and_fails_again_is_asked_less_and_less(scripted: ScriptedServer) -> None:
    time = VirtualTime()
    scripted.answers = [limited(0) if each % 2 else limited(None, "0") for each in range(1000)]
    with pytest.raises(HomeserverError, match="429"):
        await ask(make(scripted, time, retry=RetryPolicy(total_s=60)))
    assert time.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]


async def test_redirect_is_not_followed_with_a_token(scripted: ScriptedServer) -> None:
    scripted.answers = [web.Response(status=307, headers={"Location": scripted.url + "/elsewhere"})]
    with pytest.raises(HomeserverError, match="redirects"):
        await ask(make(scripted, VirtualTime()))
    assert len(scripted.requests) == 1
    transport = make(scripted, VirtualTime())
    with pytest.raises(StateError):
        transport.follow_redirects()
    await transport.close()


async def test_request_names_the_user_it_is_made_for(scripted: ScriptedServer) -> None:
    scripted.answers = [web.json_response({})]
    await ask(make(scripted, VirtualTime()), as_user=UserId("@rtc_a+b:example.org"))
    assert scripted.requests[0][1] == "/_matrix/client/v3/x?user_id=@rtc_a%2Bb:example.org"


async def test_address_may_have_a_path(scripted: ScriptedServer) -> None:
    scripted.answers = [web.json_response({})]
    await ask(make(scripted.url + "/prefix/", VirtualTime()))
    assert scripted.requests[0][1] == "/prefix/_matrix/client/v3/x"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.org",
        "ftp://example.org",
        "http://",
        "http://a:99999",
        "http://[::1",
        "https://u:p@h",
        "http://h/?q",
    ],
)
async def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="homeserver address"):
        Transport(address)


async def test_closed_transport_refuses_requests(scripted: ScriptedServer) -> None:
    transport = make(scripted, VirtualTime())
    await transport.close()
    with pytest.raises(StateError):
        await ask(transport)


async def test_log_holds_neither_token_nor_body_even_at_debug(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    scripted.answers = [limited(1), web.Response(status=502), web.json_response({"answer": "private-words"})]
    transport = make(scripted, VirtualTime())
    await transport.request("ask", Method.PUT, "x", content={"sdp": "candidate-line"})
    await transport.close()
    assert scripted.requests[0][3] == {"sdp": "candidate-line"}
    of_the_server = "aiohttp.access"
    logged = "\n".join(f"{each.getMessage()} {each.__dict__}" for each in caplog.records if each.name != of_the_server)
    assert not any(word in logged for word in ("secret-token", "candidate-line", "private-words"))


@given(
    attempt=st.integers(1, 10_000),
    spent=st.floats(0, 1000),
    asked=st.none() | st.floats(0, 1e9),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_pause_is_never_shorter_than_asked_nor_beyond_the_budget(
    attempt: int, spent: float, asked: float | None, jitter: float
) -> None:
    policy = RetryPolicy(total_s=60, first_s=0.5, longest_s=8)
    pause = policy.pause(attempt, spent, asked, jitter)
    if pause is None:
        assert spent + (asked or policy.longest_s * 1.25) >= 60
    else:
        assert pause > 0
        assert spent + pause <= 60
        assert pause >= (asked or 0)
        assert asked is not None or pause <= policy.longest_s * 1.25
