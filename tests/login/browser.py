"""What a person does in a browser, by a program: opens an address, follows where it leads, agrees to what is asked.

As a program it is what ``BROWSER`` names: it takes the address as its argument. Python's own jar of cookies knows
nothing of those that are for secure connections and for loopback as well, as browsers do (and takes none of them back).
"""

from __future__ import annotations

import http.client
import re
import sys
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import urljoin, urlsplit

MAX_STEPS = 20


def visit(address: str) -> str:
    """Open an address and go on until nothing is asked any more; returns the last page."""
    cookies: dict[str, str] = {}
    for _ in range(MAX_STEPS):
        status, headers, page = _get(address, cookies)
        for name, value in headers:
            if name.lower() == "set-cookie":
                cookies |= {key: morsel.coded_value for key, morsel in SimpleCookie(value).items()}
        where = next((value for name, value in headers if name.lower() == "location"), None)
        # A homeserver asks whether the program that is being logged in is known.
        asked = re.search(r'<a href="([^"]*loginToken=[^"]*)"', page)
        if where is None and asked is None:
            if status >= 400:
                sys.exit(f"{address}: {status}: {page[:2000]}")
            return page
        address = urljoin(address, where or unescape(asked[1] if asked else ""))
    sys.exit(f"{address}: leads nowhere")


def _get(address: str, cookies: dict[str, str]) -> tuple[int, list[tuple[str, str]], str]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()), "Accept": "text/html"}
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    visit(sys.argv[1])
