"""What a request holds, in JSON or as a form, and what the answer to a form says in the words of Matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Body:
    """What a request holds."""

    content: Mapping[str, object] | None
    form: Mapping[str, str] | None

    @property
    def kind(self) -> str:
        """For the header ``Content-Type``."""
        return "application/json" if self.form is None else "application/x-www-form-urlencoded"

    @property
    def text(self) -> str:
        """As it is sent."""
        return json.dumps(dict(self.content or {})) if self.form is None else urlencode(self.form)


def answer_to_form(status: int, answer: object) -> object:
    """The answer of an endpoint of OAuth in the form of one of Matrix."""
    if 200 <= status < 300:
        return {} if answer is None else answer  # RFC 7009, section 2.2: the status is all that there is
    fields = answer if isinstance(answer, dict) else {}
    return {"errcode": fields.get("error"), "error": fields.get("error_description")}
