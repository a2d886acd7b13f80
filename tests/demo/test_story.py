"""What the demonstration prints: steps in order, failures with their logs, nobody's escape sequences."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.demo.__main__ import keep_logs
from mxrtc_bridge.demo.story import StepError, Story


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def story(output: io.StringIO) -> Story:
    return Story(Console(file=output, width=40, highlight=False))


def test_steps_are_numbered_and_tell_what_happened(story: Story, output: io.StringIO) -> None:
    with story.step("First") as step:
        step.command("true [bold]")
        step.output("it said\n\x1b[31mred")
    with story.step("Second") as step:
        step.say("a long line is not broken, since somebody may want to copy it")
    assert output.getvalue().splitlines() == [
        "  1.  First",
        "      $ true [bold]",
        "      | it said",
        "      | \\x1b[31mred",
        "      done in 0.0 s",
        "  2.  Second",
        "      a long line is not broken, since somebody may want to copy it",
        "      done in 0.0 s",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("it broke", "it broke"),
        ("x ended with exit code 1; its last lines:\nsecret", "x ended with exit code 1"),
        ("Synapse ended with exit code 1 at its start:\nlines", "Synapse ended with exit code 1 at its start"),
        ("no answer; its log in /tmp/a ends with:\nlines", "no answer"),
    ],
)
def test_a_failed_step_keeps_the_sentence_and_leaves_the_lines_to_the_log(
    story: Story, text: str, message: str
) -> None:
    with pytest.raises(StepError) as caught, story.step("Break"):
        raise LocalError(text)
    assert (caught.value.number, caught.value.title, str(caught.value)) == (1, "Break", message)


def test_a_defect_is_not_taken_for_a_failed_step(story: Story) -> None:
    with pytest.raises(ZeroDivisionError), story.step("Break"):
        _ = 1 / 0


def test_a_failure_shows_the_ends_of_its_logs_and_keeps_them(
    story: Story, output: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logs = [tmp_path / name for name in ("first.stderr", "empty.stdout", "missing.stderr", "second.stderr")]
    logs[0].write_text("one\n\x1b]0;title\x07two\n")
    logs[1].write_text("")
    logs[3].write_text("three\n")
    error = StepError(4, "Break", "it broke", (*logs, logs[0]))
    kept = keep_logs(error)
    assert list(kept) == [logs[0], logs[3]]
    story.failure(error, kept)
    assert output.getvalue().splitlines() == [
        "",
        "Step 4 failed (Break): it broke",
        "",
        f"Read {kept[logs[0]]}; it ends with:",
        "    one",
        "    \\x1b]0;title\\x07two",
        "",
        f"Read {kept[logs[3]]}; it ends with:",
        "    three",
    ]
    assert kept[logs[0]].parent.stat().st_mode & 0o777 == 0o700


def test_a_failure_without_logs_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert keep_logs(StepError(1, "Break", "it broke", (tmp_path / "missing",))) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_step_prints_the_likeliest_log_first(story: Story, tmp_path: Path) -> None:
    def fail() -> None:
        with story.step("Break") as step:
            step.see(tmp_path / "bridge")
            step.see(tmp_path / "command")
            raise LocalError("it broke")

    with pytest.raises(StepError) as caught:
        fail()
    assert caught.value.logs == (tmp_path / "command", tmp_path / "bridge")


def test_the_last_line_moves_on_a_terminal_only(output: io.StringIO) -> None:
    story = Story(Console(file=output, width=40, force_terminal=True, highlight=False))
    with story.step("Long") as step:
        step.busy("3 of 64 MiB")
    assert "\x1b" in output.getvalue()
