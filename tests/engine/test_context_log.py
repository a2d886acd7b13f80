"""Lines of a call and of its streams say which one they are about."""

from __future__ import annotations

import logging

import pytest

from mxrtc_bridge.engine.context_log import ContextLog


def test_the_context_stands_between_the_mark_and_the_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    call = ContextLog(logging.getLogger("of.session"), "call c1")
    call.warning("! %s: %d wait", "homeserver", 3)
    call.debug("no mark: %s", "text")
    call.info("alone")
    call.to(logging.getLogger("of.channels")).child("stream web").info("x right withdrawn")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("of.session", "WARNING", "! call c1: homeserver: 3 wait"),
        ("of.session", "DEBUG", "call c1: no mark: text"),
        ("of.session", "INFO", "call c1: alone"),
        ("of.channels", "INFO", "x call c1, stream web: right withdrawn"),
    ]


def test_no_part_of_a_line_that_others_have_chosen_is_a_format(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ContextLog(logging.getLogger("x"), "call %s%d").info("! %s", "%s%n")
    ContextLog(logging.getLogger("x"), "call %s%d").info("100% of it")
    assert caplog.messages == ["! call %s%d: %s%n", "call %s%d: 100% of it"]


def test_an_unexpected_error_has_its_traceback_and_a_quiet_level_writes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("quiet")
    logger.setLevel(logging.ERROR)
    call = ContextLog(logger, "call c1")
    try:
        raise ValueError("inside")
    except ValueError:
        call.exception("! unexpected error")
    call.warning("not written")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    assert record.getMessage() == "! call c1: unexpected error"
