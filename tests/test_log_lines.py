"""Each line of the log at INFO and above is limited by kind and by sender, or judged in a list.

Whoever can repeat what a line is about chooses how long the log is. So a line goes through
:class:`mxrtc_bridge.engine.rate_limited_log.RateLimitedLog`, or stands in ``log_lines.toml`` under the reason why
nobody but the admin, this machine or a limit decides how often it is written.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.test_architecture import PACKAGE

LIST = Path(__file__).with_name("log_lines.toml")
LEVELS = {"info", "warning", "error", "exception", "critical", "log"}
LIMITED = ("seldom", "_seldom", "_SELDOM", "_at_limit", "refused")
"""What objects of the limited log are called."""
NOT_LOGS = {"math", "report", "self._service"}
"""``report`` is what the programs of a user say to that user."""
MECHANISM = ("engine/rate_limited_log.py", "engine/context_log.py")
"""What writes the lines of others."""


def lines_of(source: str) -> Iterator[str]:
    """The texts of the lines that are written without a limit; what is no constant stands as its source."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        receiver = ast.unparse(node.func.value)
        if not node.args or receiver in NOT_LOGS or receiver.rpartition(".")[2] in LIMITED:
            continue
        text = node.args[1 if node.func.attr == "log" and len(node.args) > 1 else 0]
        yield str(text.value) if isinstance(text, ast.Constant) else f"{receiver}: {ast.unparse(text)}"


def written() -> Counter[str]:
    return Counter(
        f"{path.relative_to(PACKAGE)}: {line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if str(path.relative_to(PACKAGE)) not in MECHANISM
        for line in lines_of(path.read_text())
    )


def judged() -> Counter[str]:
    reasons = tomllib.loads(LIST.read_text())["reason"]
    assert all(len(each["because"].split()) > 3 for each in reasons)
    return Counter(line for each in reasons for line in each["lines"])


def test_each_line_is_limited_or_judged() -> None:
    lines, listed = written(), judged()
    missing, gone = lines - listed, listed - lines
    assert not missing, f"write these through RateLimitedLog, or say in {LIST.name} who decides how often they come"
    assert not gone, f"{LIST.name} judges what is not written any more"


def test_lines_are_found_however_the_log_is_called() -> None:
    source = """
log.info("a %s", 1)
self._log.child("x").warning("b")
journal.log(level, "c")
logging.getLogger("x").exception(text)
self._seldom.info(who, "limited")
_SELDOM.exception(who, "limited", error=error)
math.log(2)
log.debug("no matter")
"""
    assert sorted(lines_of(source)) == ["a %s", "b", "c", "logging.getLogger('x'): text"]
