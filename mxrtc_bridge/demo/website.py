"""The service that the demonstration reaches through the bridge: a page and a large file over HTTP, on loopback.

``python -m mxrtc_bridge.demo.website`` prints its port and the SHA-256 of the file, then serves until it is ended; its
access log goes to standard error. It is an ordinary web server and knows nothing of Matrix or WebRTC.
"""

from __future__ import annotations

import hashlib
import http.server
from typing import Final

FILE_BYTES: Final = 64 << 20
FILE_PATH: Final = "/64MiB.bin"

PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Behind the bridge</title>
<h1>You are behind the bridge</h1>
<p>This page came from a web server that listens on loopback only.
<p>Matrix events arranged the connection. The bytes took a WebRTC data channel and never passed the homeserver.
<p><a href="/64MiB.bin">64 MiB to download</a>
</html>
"""


def file_bytes(size: int = FILE_BYTES) -> bytes:
    """Return the file: the same in every run, and nothing that compression or repetition could shorten."""
    return hashlib.shake_256(b"mxrtc-bridge demonstration").digest(size)


_BLOCK_BYTES = 256 * 1024


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET for two paths."""

    server_version = "demo"
    sys_version = ""
    timeout = 60
    """Seconds without progress after which a client that does not read is given up."""
    contents: dict[str, tuple[str, bytes]]

    def do_GET(self) -> None:
        """Send the page or the file."""
        found = self.contents.get(self.path)
        if found is None:
            self.send_error(404, "There are only / and /64MiB.bin")
            return
        kind, body = found
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # In blocks: the timeout is for all that one call writes.
        for start in range(0, len(body), _BLOCK_BYTES):
            self.wfile.write(body[start : start + _BLOCK_BYTES])


def make_server(file: bytes) -> http.server.ThreadingHTTPServer:
    """Return a server on a free port of loopback that serves the page and ``file``; it does not run yet."""
    contents = {
        "/": ("text/html; charset=utf-8", PAGE.encode()),
        FILE_PATH: ("application/octet-stream", file),
    }
    handler = type("BoundHandler", (Handler,), {"contents": contents})
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def main() -> None:
    """Serve until ended."""
    file = file_bytes()
    with make_server(file) as server:
        print(f"sha256 {hashlib.sha256(file).hexdigest()}")
        print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
