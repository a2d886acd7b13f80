"""A person in front of the pages of matrix-authentication-service, by a program: reads forms, fills them in, agrees.

As a program it is what ``BROWSER`` names: it takes the address as its argument, and from the environment who it is.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

MAX_STEPS = 20
WHO, PASSWORD = "MXRTC_TEST_PERSON", "MXRTC_TEST_PASSWORD"


@dataclass
class Person:
    """Has a browser with cookies of its own."""

    name: str
    password: str
    cookies: dict[str, str] = field(default_factory=dict)
    at: str = ""
    """The address of the page that is shown."""
    page: str = ""

    def open(self, address: str, form: Mapping[str, str] | None = None) -> None:
        """Open a page, or send a form to it, and go on to where that leads."""
        for _ in range(MAX_STEPS):
            status, headers, self.page = self._send(address, None if form is None else urlencode(form))
            self.at, form = address, None
            where = next((value for name, value in headers if name.lower() == "location"), None)
            if where is None:
                assert status < 400, f"{address}: {status}: {self.page[:2000]}"
                return
            address = urljoin(address, where)
        raise AssertionError(f"{address}: leads nowhere")

    def fill_in(self, **fields: str) -> None:
        """Send the form of the page that is shown."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.page)
        assert found is not None, f"{self.at} has no form: {self.page[:2000]}"
        self.open(self.at, {"csrf": unescape(found[1]), **fields})

    def log_in_if_asked(self) -> None:
        if urlsplit(self.at).path == "/login":
            self.fill_in(username=self.name, password=self.password)
            assert urlsplit(self.at).path != "/login", f"{self.name} cannot log in: {self.page[:2000]}"

    def type_code(self, address: str, code: str, *, allow: bool = True) -> None:
        """Type a code into the page for that, and agree to what it asks, or refuse."""
        self.open(address)
        self.log_in_if_asked()
        self.fill_in(code=code)
        self.log_in_if_asked()
        assert urlsplit(self.at).path.startswith("/device/"), self.page[:2000]
        self.fill_in(**({"action": "consent", "confirm_device": "on"} if allow else {"action": "reject"}))

    def agree(self, address: str) -> None:
        """Log in where a program has sent the browser, and agree; ends where that sends it back."""
        self.open(address)
        self.log_in_if_asked()
        if urlsplit(self.at).path.startswith("/consent/"):
            self.fill_in()

    def ask(self, address: str, query: str, **variables: object) -> dict[str, Any]:
        """What a script of the account page does."""
        content = json.dumps({"query": query, "variables": variables})
        status, _, answer = self._send(address, content, "application/json")
        found: dict[str, Any] = json.loads(answer)
        assert (status, found.get("errors")) == (200, None), answer
        return found["data"]

    def _send(
        self, address: str, content: str | None, kind: str = "application/x-www-form-urlencoded"
    ) -> tuple[int, list[tuple[str, str]], str]:
        parts = urlsplit(address)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.netloc, timeout=30, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=30)  # type: ignore[assignment]
        try:
            target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            headers = {
                "Cookie": cookies,
                "Accept-Language": "en",
                **({} if content is None else {"Content-Type": kind}),
            }
            connection.request("GET" if content is None else "POST", target, content, headers)
            answer = connection.getresponse()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    self.cookies |= {key: morsel.coded_value for key, morsel in SimpleCookie(value).items()}
            return answer.status, answer.getheaders(), answer.read().decode()
        finally:
            connection.close()


if __name__ == "__main__":
    Person(os.environ[WHO], os.environ[PASSWORD]).agree(sys.argv[1])
