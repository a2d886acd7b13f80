"""The product on the networks that users have: homeserver, TURN server, bridge and client, each in one of its own.

    hs 4.0.0.10 ───┐                       ┌── br_router 4.0.2.2 ── bridge 192.168.2.10
                   ├── core (the internet) ┤
    turn 4.0.1.10 ─┘                       ├── cl_router 4.0.3.2 ── client 192.168.1.10
                                           └── mobile 4.0.4.2 ───── client 10.64.0.10, its second way, down at first

Each is a network namespace (root, iproute2, nftables and conntrack needed). Routers have NAT and firewalls of nftables;
the client's line is the wire of :mod:`tests.links`. The addresses look public, as the bridge sends nothing to others,
and exist in these namespaces only; IPv6 ones are ``2a0a:N::10`` for ``4.0.N.10``.

``topology.py`` has the networks, ``bed.py`` the programs, ``streams.py`` the services, ``rows.py`` which networks there
are and what works in them, and ``page.py`` makes ``docs/explanation/networks.md`` of that and of ``measured.json``, the
times that tests have noted.
"""
