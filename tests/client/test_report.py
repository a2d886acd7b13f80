"""What the user reads."""

from __future__ import annotations

import json

import pytest

from mxrtc_bridge.client.report import Report


def test_sentences_go_to_standard_error_and_untrusted_text_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    Report().say("stream", "closed: \x1b]8;;evil\x07 \u202e done", code="x")
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "done" in err


def test_objects_go_to_standard_output_one_a_line_each_with_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report.say("connected", "not shown", path="direct\n")
    report.error("it failed", code=1)
    out, err = capsys.readouterr()
    assert err == ""
    objects = [json.loads(line) for line in out.splitlines()]
    assert [each["kind"] for each in objects] == ["connected", "error"]
    assert objects[1]["message"] == "It failed."


def test_objects_leave_standard_output_to_data_where_it_carries_data(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report.leave_stdout_to_data()
    report.say("connected", "", path="direct")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["kind"] == "connected"


def test_quiet_says_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(quiet=True)
    report.say("connected", "hello")
    report.error("it failed")
    assert capsys.readouterr().err == "mxrtc: It failed.\n"


def test_what_has_no_sentence_is_told_as_an_object_only(capsys: pytest.CaptureFixture[str]) -> None:
    Report().say("stream", "", code="x")
    Report(as_json=True).say("stream", "", code="x")
    out, err = capsys.readouterr()
    assert (json.loads(out)["code"], err) == ("x", "")


def test_data_is_a_line_or_an_object_and_quiet_does_not_hide_it(capsys: pytest.CaptureFixture[str]) -> None:
    Report(quiet=True).data("service", "build/ssh", name="build/ssh")
    Report(as_json=True).data("service", "build/ssh", name="build/ssh")
    line, data = capsys.readouterr().out.splitlines()
    assert (line, json.loads(data)["name"]) == ("build/ssh", "build/ssh")
