"""What is sent as JSON or as a form, and how the answer to a form is understood."""

from __future__ import annotations

import pytest

from mxrtc_bridge.matrix.api.body import Body, answer_to_form


def test_body_is_json_or_a_form() -> None:
    json = Body({"a": "b c"}, None)
    assert (json.kind, json.text) == ("application/json", '{"a": "b c"}')
    assert Body(None, None).text == "{}"
    form = Body(None, {"a": "b c&d=e", "f": "ä"})
    assert (form.kind, form.text) == ("application/x-www-form-urlencoded", "a=b+c%26d%3De&f=%C3%A4")


@pytest.mark.parametrize(
    ("status", "answer", "understood"),
    [
        (200, None, {}),
        (200, {"a": 1}, {"a": 1}),
        (200, [1], [1]),
        (400, {"error": "x", "error_description": "y"}, {"errcode": "x", "error": "y"}),
        (400, {"errcode": "M_X"}, {"errcode": None, "error": None}),
        (502, None, {"errcode": None, "error": None}),
        (400, "x", {"errcode": None, "error": None}),
    ],
)
def test_error_of_oauth_is_one_of_matrix(status: int, answer: object, understood: object) -> None:
    assert answer_to_form(status, answer) == understood
