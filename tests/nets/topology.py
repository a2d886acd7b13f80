"""Network namespaces, the cables between them, and what routers do: see :mod:`tests.nets`."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Self

from tests.links import Quality, Wire

APPSERVICE_PORT = 29350
CLONE_NEWNET = 0x40000000
PUBLIC_BRIDGE = "4.0.22.10"
"""The bridge, where it is not behind a NAT."""
SECOND_TURN = "4.0.1.11"
"""For a second TURN server."""
SECOND_OF_BRIDGE = "4.0.5.10"
"""The bridge at its second network card, where it has one."""
BESIDE_BRIDGE = "192.168.2.20"
"""The client, where it is in the network of the bridge."""
NOWHERE = "2a0a:dead::"
"""A network of IPv6 from which nothing ever comes back."""
FILES_OF_NAMESPACES = Path("/etc/netns")
"""Where ``ip netns exec`` finds files that stand for those of ``/etc``."""


class Nat(Enum):
    """What a router does to addresses, and whom it lets in."""

    NONE = "none"
    """Public addresses behind it, and no firewall."""
    PORT_RESTRICTED = "port-restricted"
    """One port for all destinations; only who was written to may answer."""
    SYMMETRIC = "symmetric"
    """Another port for each destination."""
    FULL_CONE = "full cone"
    """One port, and everybody may write to it."""


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    """A network namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._files = FILES_OF_NAMESPACES / namespace

    def command(self, *argv: str | Path) -> list[str]:
        """The command line that runs ``argv`` there."""
        return ["ip", "netns", "exec", self.namespace, *map(str, argv)]

    def run(self, script: str, *, check: bool = True) -> str:
        """Run lines of shell there, to the first that fails; returns what they say."""
        result = subprocess.run(
            self.command("sh", "-ec", script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert not check or result.returncode == 0, f"{self.namespace}: {script}\n{result.stdout}"
        return result.stdout

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread make its sockets there; no other code of the thread may run in the block."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            _set_namespace(there)
            try:
                yield
            finally:
                _set_namespace(here)
        finally:
            os.close(here)
            os.close(there)

    def write_etc(self, name: str, text: str) -> None:
        """Have programs that begin there later find ``text`` in a file of ``/etc``."""
        self._files.mkdir(parents=True, exist_ok=True)
        (self._files / name).write_text(text)

    def add(self) -> None:
        """Make the namespace."""
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)

    def remove(self) -> None:
        """Remove it, with all that leads to it."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)
        shutil.rmtree(self._files, ignore_errors=True)


class Router(Host):
    """A namespace between the internet (``wan``) and one host (``lan``)."""

    def __init__(self, namespace: str, number: int, behind: str) -> None:
        super().__init__(namespace)
        self.number = number
        """The third part of its public address."""
        self.behind = behind
        """The private address of the host."""

    @property
    def public(self) -> str:
        """Its public address."""
        return f"4.0.{self.number}.2"

    def rules(
        self,
        nat: Nat,
        *,
        drop: Sequence[str] = (),
        forward: Sequence[str] = (),
        clamp: int | None = None,
        portal: bool = False,
    ) -> None:
        """Replace what the router does, and have it forget how it has let UDP through.

        Args:
            nat: what it does to addresses.
            drop: rules of nftables; the packets of either direction that one of them fits are lost without a word.
            forward: rules for packets from the internet, which go to the host.
            clamp: the largest segment that it lets TCP agree on, as routers on narrow lines do.
            portal: whether it answers at port 443 in everybody's place.
        """
        to_host = [f'iifname "wan" {rule} dnat to {self.behind}' for rule in forward]
        if portal:
            to_host.append('iifname "lan" tcp dport 443 redirect')
        masquerade, firewall = [], []
        if nat is not Nat.NONE:
            how = " fully-random" if nat is Nat.SYMMETRIC else ""
            masquerade = [f'oifname "wan" masquerade{how}']
            # What belongs to no connection that it knows, as after a new start, is lost as well.
            firewall = [
                "ct state invalid drop",
                'iifname "wan" ct status dnat accept',
                'iifname "wan" ct state new drop',
            ]
        if nat is Nat.FULL_CONE:
            to_host.append(f'iifname "wan" udp dport 1024-65535 dnat to {self.behind}')
        clamping = [] if clamp is None else [f"tcp flags syn tcp option maxseg size set {clamp}"]
        through = [*clamping, *(f"{rule} drop" for rule in drop), *firewall]
        chains = [
            ("ip addresses", "from_wan", "nat hook prerouting priority dstnat", to_host),
            ("ip addresses", "to_wan", "nat hook postrouting priority srcnat", masquerade),
            ("inet firewall", "through", "filter hook forward priority filter", through),
            ("inet firewall", "to_me", "filter hook input priority filter", firewall),
        ]  # fmt: skip
        text = "flush ruleset\n"
        for table, name, kind, rules in chains:
            text += f"table {table} {{\nchain {name} {{\ntype {kind};\n" + "\n".join(rules) + "\n}\n}\n"
        subprocess.run(self.command("nft", "-f", "-"), input=text, text=True, check=True)
        self.run("conntrack -D -p udp", check=False)

    def give_other_ports(self) -> None:
        """Forget all connections and give UDP other ports from now on, as many routers do that start anew."""
        self.run('nft insert rule ip addresses to_wan oifname "wan" meta l4proto udp masquerade to :40000-40999')
        self.forget()

    def forget(self) -> None:
        """Forget all connections, as a router does that starts anew."""
        self.run("conntrack -F", check=False)


class Internet:
    """All namespaces and cables of one bed; an asynchronous context manager."""

    def __init__(self, folder: Path) -> None:
        tag = f"mxn-{os.getpid()}-{id(self) & 0xFFFF:x}"
        self.core, self.homeserver, self.turn, self.bridge, self.client = (
            Host(f"{tag}-{name}") for name in ("core", "hs", "turn", "br", "cl")
        )
        self.bridge_router = Router(f"{tag}-br-router", 2, "192.168.2.10")
        self.client_router = Router(f"{tag}-cl-router", 3, "192.168.1.10")
        self.mobile = Router(f"{tag}-mobile", 4, "10.64.0.10")
        self.routers = (self.bridge_router, self.client_router, self.mobile)
        self._hosts = (self.core, self.homeserver, self.turn, self.bridge, self.client, *self.routers)
        self.line = Wire(folder, (self.core.namespace, self.client_router.namespace), Quality())
        """From the internet to the client's router, and back."""

    async def __aenter__(self) -> Self:
        # Addresses of IPv6 are used at once, and not looked for first.
        quick = "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0\nip link set lo up\n"
        for host in self._hosts:
            host.add()
            passes_on = host is self.core or isinstance(host, Router)
            host.run(quick + "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1" * passes_on)
            if isinstance(host, Router):
                host.run("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0")
        self._cable(self.core, "core0", self.homeserver, "wan")
        self._cable(self.core, "core1", self.turn, "wan")
        self._cable(self.core, "core2", self.bridge_router, "wan")
        self._cable(self.core, "core4", self.mobile, "wan")
        self._cable(self.bridge_router, "lan", self.bridge, "eth0")
        self._cable(self.client_router, "lan", self.client, "eth0")
        self._cable(self.mobile, "lan", self.client, "eth1")
        await self.line.__aenter__()
        self.core.run("ip link set wire0 down\nip link set wire0 name core3")
        self.client_router.run("ip link set wire0 down\nip link set wire0 name wan")
        for number, host, last in (
            (0, self.homeserver, 10), (1, self.turn, 10), *((router.number, router, 2) for router in self.routers)
        ):  # fmt: skip
            self._address(self.core, f"core{number}", f"4.0.{number}.1", f"2a0a:{number}::1")
            self._address(host, "wan", f"4.0.{number}.{last}", f"2a0a:{number}::{last}")
            host.run(f"ip route add default via 4.0.{number}.1\nip -6 route add default via 2a0a:{number}::1")
        self.turn.run(f"ip address add {SECOND_TURN}/24 dev wan")
        self.core.run(f"ip -6 route add blackhole {NOWHERE}/32")
        return self

    def usual_lans(self) -> None:
        """Give bridge and client their private IPv4 addresses, and no other way out."""
        self.client_router.behind, self.bridge_router.behind = "192.168.1.10", "192.168.2.10"
        self._address(self.mobile, "lan", gateway(self.mobile.behind))
        for host, router in ((self.bridge, self.bridge_router), (self.client, self.client_router)):
            self._address(router, "lan", gateway(router.behind))
            self._address(host, "eth0", router.behind)
            host.run(f"ip link set eth0 mtu 1500\nip route replace default via {gateway(router.behind)}")
            router.run("ip link set lan mtu 1500")
        self.client.run("ip address flush dev eth1\nip link set eth1 down")
        self.line_mtu(1500)
        # An interface whose packets were too small for IPv6 has lost all of it.
        line = f"2a0a:{self.client_router.number}:"
        self.core.run(f"ip -6 address replace {line}:1/64 dev core3")
        self.client_router.run(f"ip -6 address replace {line}:2/64 dev wan\nip -6 route replace default via {line}:1")

    def with_ipv6(self, host: Host, *, ipv4: bool = True) -> None:
        """Give bridge or client a public IPv6 address too, or instead."""
        router = self.bridge_router if host is self.bridge else self.client_router
        network = f"2a0a:{router.number}1:"
        router.run(f"ip address add {network}:1/64 dev lan")
        host.run(f"ip address add {network}:10/64 dev eth0\nip -6 route replace default via {network}:1")
        self.core.run(f"ip -6 route replace {network}:/64 via 2a0a:{router.number}::2")
        if not ipv4:
            host.run("ip -4 address flush dev eth0")

    def roam(self) -> None:
        """Take the client from its wifi to the mobile network."""
        behind = self.mobile.behind
        self._address(self.client, "eth1", behind)
        self.client.run(
            f"ip address flush dev eth0\nip link set eth0 down\nip route replace default via {gateway(behind)}"
        )

    def readdress(self, address: str) -> None:
        """Give the client another address in its network."""
        self._address(self.client, "eth0", address)
        self.client.run(f"ip route replace default via {gateway(address)}")

    def vpn(self) -> None:
        """Have all that the client sends leave by its second way, though the first one has its address still."""
        self._address(self.client, "eth1", self.mobile.behind)
        self.client.run(f"ip route replace default via {gateway(self.mobile.behind)}")

    def client_lan(self, address: str) -> None:
        """Give the client and its router another private network."""
        self.client_router.behind = address
        self._address(self.client_router, "lan", gateway(address))
        self.readdress(address)

    def open_bridge(self) -> None:
        """Give the bridge a public address."""
        self.bridge_router.behind = PUBLIC_BRIDGE
        self._address(self.bridge_router, "lan", gateway(PUBLIC_BRIDGE))
        self._address(self.bridge, "eth0", PUBLIC_BRIDGE)
        self.bridge.run(f"ip route replace default via {gateway(PUBLIC_BRIDGE)}")
        self.core.run(f"ip route replace {PUBLIC_BRIDGE.rpartition('.')[0]}.0/24 via {self.bridge_router.public}")

    @contextmanager
    def client_beside_bridge(self, *, isolated: bool = False) -> Iterator[None]:
        """Take the client to the network of the bridge.

        Args:
            isolated: each reaches nobody but the router, as guests of many access points.
        """
        router = self.bridge_router
        self._cable(router, "lan1", self.client, "eth2")
        router.run(
            "ip link set lan down\nip link set lan name lan0\nip link add name lan type bridge\n"
            "for port in lan0 lan1; do ip address flush dev $port; ip link set $port master lan up; done"
        )
        self._address(router, "lan", gateway(router.behind))
        if isolated:
            router.run("for port in lan0 lan1; do bridge link set dev $port isolated on; done")
        self._address(self.client, "eth2", BESIDE_BRIDGE)
        self.client.run(
            f"ip address flush dev eth0\nip link set eth0 down\nip route replace default via {gateway(BESIDE_BRIDGE)}"
        )
        try:
            yield
        finally:
            self.client.run("ip link delete eth2")
            router.run("ip link delete lan\nip link set lan0 down\nip link set lan0 name lan")
            self._address(router, "lan", gateway(router.behind))

    @contextmanager
    def second_card_of_bridge(self, *, routed: bool) -> Iterator[None]:
        """Give the bridge a second network card, with a public address, beside that of its default route.

        Args:
            routed: what it sends with that address leaves by that card, and not by the default route.
        """
        self._cable(self.core, "core5", self.bridge, "eth1")
        self._address(self.core, "core5", gateway(SECOND_OF_BRIDGE))
        self._address(self.bridge, "eth1", SECOND_OF_BRIDGE)
        if routed:
            self.bridge.run(
                f"ip rule add from {SECOND_OF_BRIDGE} table 5\n"
                f"ip route add default via {gateway(SECOND_OF_BRIDGE)} table 5"
            )
        try:
            yield
        finally:
            self.bridge.run(f"ip link delete eth1\nip rule delete from {SECOND_OF_BRIDGE} || true")

    @contextmanager
    def container_bridges(self, host: Host, count: int) -> Iterator[None]:
        """Let a machine have the networks that container engines make."""
        names = [f"docker{number}" for number in range(count)]
        for number, name in enumerate(names):
            host.run(
                f"ip link add name {name} type bridge\nip address add 172.{17 + number}.0.1/16 dev {name}\n"
                f"ip link set {name} up"
            )
        try:
            yield
        finally:
            host.run("\n".join(f"ip link delete {name}" for name in names))

    def cable_client_anew(self) -> None:
        """Take the client's network card out and put it in again."""
        self.client.run("ip link delete eth0")
        self._cable(self.client_router, "lan", self.client, "eth0")
        self._address(self.client_router, "lan", gateway(self.client_router.behind))
        self.readdress(self.client_router.behind)

    def line_mtu(self, mtu: int) -> None:
        """Let no larger packets on the client's line; those that may be are fragmented."""
        for host, interface in ((self.core, "core3"), (self.client_router, "wan")):
            host.run(f"ip link set {interface} mtu {mtu}")

    def lan_mtu(self, mtu: int) -> None:
        """Let no larger packets through the client's own network."""
        for host, interface in ((self.client, "eth0"), (self.client_router, "lan")):
            host.run(f"ip link set {interface} mtu {mtu}")

    async def __aexit__(self, *_: object) -> None:
        await self.line.__aexit__()
        for host in self._hosts:
            host.remove()

    @staticmethod
    def _cable(one: Host, its_name: str, other: Host, others_name: str) -> None:
        argv = ["ip", "link", "add", "name", its_name, "netns", one.namespace, "type", "veth"]
        subprocess.run([*argv, "peer", "name", others_name, "netns", other.namespace], check=True)

    @staticmethod
    def _address(host: Host, interface: str, v4: str, v6: str | None = None) -> None:
        script = (
            f"ip address flush dev {interface}\nip link set {interface} up\nip address add {v4}/24 dev {interface}\n"
        )
        host.run(script + (f"ip address add {v6}/64 dev {interface}" if v6 else ""))


def gateway(address: str) -> str:
    """The address of the router in the network of a host."""
    return f"{address.rpartition('.')[0]}.1"
