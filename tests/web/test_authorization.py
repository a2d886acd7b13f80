"""Only the exact token, in the one place for it, opens the door."""

from __future__ import annotations

import pytest

from mxrtc_bridge.web.authorization import Authorization, authorize

TOKEN = "s3cr3t-hömeserver-token"
WIRE = TOKEN.encode().decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("header", [f"Bearer {WIRE}", f"bearer {WIRE}", f"BEARER {WIRE}"])
def test_right_token_is_granted(header: str) -> None:
    assert authorize([header], TOKEN) is Authorization.GRANTED


@pytest.mark.parametrize(
    ("headers", "query", "result"),
    [
        ([], [TOKEN], Authorization.GRANTED),
        ([], [""], Authorization.MISSING),
        ([], [TOKEN, TOKEN], Authorization.MISSING),
        ([], [TOKEN + "x"], Authorization.WRONG),
        ([""], [TOKEN], Authorization.MISSING),
        (["Bearer wrong"], [TOKEN], Authorization.WRONG),
        ([f"Bearer {WIRE}"], ["wrong"], Authorization.GRANTED),
    ],
)
def test_query_counts_where_there_is_no_header(headers: list[str], query: list[str], result: Authorization) -> None:
    assert authorize(headers, TOKEN, query) is result


@pytest.mark.parametrize(
    ("headers", "result"),
    [
        ([], Authorization.MISSING),
        ([""], Authorization.MISSING),
        (["Bearer"], Authorization.MISSING),
        (["Bearer "], Authorization.MISSING),
        ([TOKEN], Authorization.MISSING),
        ([f"Basic {TOKEN}"], Authorization.MISSING),
        ([f"Bearer{TOKEN}"], Authorization.MISSING),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], Authorization.MISSING),
        ([f"Bearer {TOKEN}", "Bearer wrong"], Authorization.MISSING),
        (["Bearer wrong"], Authorization.WRONG),
        ([f"Bearer {TOKEN} "], Authorization.WRONG),
        ([f"Bearer  {TOKEN}"], Authorization.WRONG),
        ([f"Bearer {TOKEN[:-1]}"], Authorization.WRONG),
        ([f"Bearer {TOKEN}x"], Authorization.WRONG),
        ([f"Bearer {TOKEN.upper()}"], Authorization.WRONG),
        ([f'Bearer "{TOKEN}"'], Authorization.WRONG),
        ([f"Bearer {TOKEN},{TOKEN}"], Authorization.WRONG),
        (["Bearer \udcff\udcfe"], Authorization.WRONG),
        (["Bearer " + "x" * 8000], Authorization.WRONG),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_anything_else_is_not(headers: list[str], result: Authorization) -> None:
    assert authorize(headers, TOKEN) is result


def test_empty_expected_token_is_an_error_of_ours() -> None:
    """Or the request 'Bearer ' would be let in one day."""
    with pytest.raises(ValueError, match="must not be empty"):
        authorize(["Bearer "], "")
