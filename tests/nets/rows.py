"""Which networks there are, and what works in them: the rows of ``docs/explanation/networks.md``.

The tests of a row are called ``test_row_NN_...``, and note how long a person waited for what.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A network, and what works in it, in words for a person who has it."""

    number: int
    network: str
    works: str
    ordinary: bool = False
    """Whether each run tries it, and not only ``make test-long``."""


ROWS = (
    Row(
        1,
        "Both sides behind routers, and the homeserver names neither a TURN nor a STUN server",
        "nothing: exit code 5, and the sentence names the server that is missing",
        ordinary=True,
    ),
    Row(
        4,
        "The client's network lets no UDP out; the TURN server takes TCP as well",
        "relayed",
        ordinary=True,
    ),
    Row(
        5,
        "The client's network lets out nothing but TCP to port 443; the TURN server has TLS there, with a certificate "
        "of a private authority that the machine trusts (`SSL_CERT_FILE`)",
        "relayed, without any option",
        ordinary=True,
    ),
)
