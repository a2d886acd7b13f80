"""What people see of a homeserver and its authorization server: TLS and ``.well-known``, by a real Caddy."""

from __future__ import annotations

import random
import ssl
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.certificates import make_certificate
from tests.waiting import until

STARTED_S = 90.0
_CADDY = """
{{
    admin off
    auto_https disable_redirects
    storage file_system {folder}/caddy
}}
https://{address} {{
    bind {address}
    tls {certificate} {certificate}
    handle /.well-known/matrix/client {{
        header Content-Type application/json
        respond `{{"m.homeserver": {{"base_url": "{matrix}"}}}}`
    }}
}}
{matrix} {{
    bind {address}
    tls {certificate} {certificate}
    @logins path_regexp ^/_matrix/client/[^/]+/(login|logout|refresh)(/.*)?$
    handle @logins {{
        reverse_proxy {logins}
    }}
    handle {{
        reverse_proxy {homeserver}
    }}
}}
{account} {{
    bind {address}
    tls {certificate} {certificate}
    reverse_proxy {service}
}}
"""


class Front:
    """At an address of loopback that nobody else has; only root may listen there at the port of ``.well-known``.

    Args:
        folder: for its files.
        stack: ends it.
    """

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.server = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        """Its address, and the name of the server."""
        matrix, account = (stack.enter_context(PortReservation()).port for _ in range(2))
        self.matrix = f"https://{self.server}:{matrix}"
        """Where programs find the homeserver."""
        self.account = f"https://{self.server}:{account}"
        """Where people log in."""
        self.certificate = folder / "certificate.pem"
        """Whom they have to trust."""
        make_certificate(self.certificate, addresses=[self.server])

    async def start(self, homeserver: str, service: str, *, logins: bool) -> None:
        """Begin to pass on what comes.

        Args:
            homeserver: its address.
            service: the address of what logs people in.
            logins: whether that has the logins of before OAuth as well.
        """
        places = {"homeserver": homeserver, "service": service, "logins": service if logins else homeserver}
        text = _CADDY.format(
            folder=self._folder,
            address=self.server,
            certificate=self.certificate,
            matrix=self.matrix,
            account=self.account,
            **{name: place.removeprefix("http://").rstrip("/") for name, place in places.items()},
        )
        config = self._folder / "Caddyfile"
        config.write_text(text)
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
        proxy = await self._stack.enter_async_context(
            ManagedProcess("caddy", command, folder=self._folder, env={"XDG_CONFIG_HOME": str(self._folder)})
        )
        context = ssl.create_default_context(cafile=str(self.certificate))

        def answers() -> bool:
            assert proxy.returncode is None, proxy.tail()
            try:
                known = f"https://{self.server}/.well-known/matrix/client"
                urllib.request.urlopen(known, timeout=5, context=context).close()
            except OSError:
                return False
            return True

        await until(answers, STARTED_S)
