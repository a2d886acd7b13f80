"""Connecting to the socket that is the target of a service.

A name is resolved for each connection (once for those that want it at the same time), each address of the answer is
compared with the networks that the target expects, and the connection goes to an address that was compared and to no
other: a name that is pointed elsewhere (DNS rebinding) leads nowhere. Error texts name no address and no path: they may
reach a log or the other side, and the caller knows which service was meant.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import stat

from mxrtc_bridge.core.access.targets import TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.core.webrtc.address_policy import IpAddress, IpNetwork
from mxrtc_bridge.engine.name_lookup import look_up
from mxrtc_bridge.engine.outside import in_one_thread
from mxrtc_bridge.sinks.sockets import SocketSink, make_reset_on_close

MAX_ADDRESSES = 8
"""Addresses of one name that are tried; each gets an equal share of the time that is left."""
BACKLOG_RETRY_S = 0.05
"""How soon a unix socket whose backlog is full is tried again."""

_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SocketAddress = tuple[socket.AddressFamily, tuple[object, ...]]


def _timed_out(seconds: float) -> TargetError:
    return TargetError(
        TargetFailure.TIMEOUT,
        f"the target did not accept the connection within {seconds:g} s; check that it runs and that no firewall "
        "drops the packets, or raise connect_timeout",
    )


def _translated(error: OSError) -> TargetError:
    if isinstance(error, ConnectionRefusedError):
        return TargetError(
            TargetFailure.REFUSED, "the target refused the connection; check that the service runs and listens there"
        )
    if isinstance(error, TimeoutError):
        return TargetError(TargetFailure.TIMEOUT, "the target's host does not answer; check that it is up")
    if isinstance(error, FileNotFoundError):
        return TargetError(TargetFailure.UNAVAILABLE, "there is no unix socket at the target's path")
    if isinstance(error, PermissionError):
        return TargetError(
            TargetFailure.UNAVAILABLE, "the target may not be opened by this user; check owner, mode or firewall"
        )
    words = os.strerror(error.errno) if error.errno is not None else str(error)
    remedy = "raise the limit of open files" if error.errno in _RESOURCES else "check the target and the route to it"
    return TargetError(TargetFailure.UNAVAILABLE, f"the target cannot be reached ({words}); {remedy}")


def _is_expected(address: IpAddress, expect: tuple[IpNetwork, ...]) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    # A scope (%eth0) says which link, not which address.
    plain = mapped or ipaddress.ip_address(str(address).partition("%")[0])
    return not expect or any(plain in network for network in expect)


async def _resolve(target: TcpTarget) -> list[_SocketAddress]:
    try:
        answers = await look_up(target.host, target.port, socket.SOCK_STREAM, protocol=socket.IPPROTO_TCP)
    except (socket.gaierror, UnicodeError) as error:
        raise TargetError(
            TargetFailure.UNAVAILABLE, "the target's host name cannot be resolved; check its spelling and the resolver"
        ) from error
    addresses: list[_SocketAddress] = [
        (family, address)
        for family, _, _, _, address in answers
        if _is_expected(ipaddress.ip_address(address[0]), target.expect)
    ]
    if not addresses:
        raise TargetError(
            TargetFailure.UNAVAILABLE,
            f"none of the {len(answers)} addresses of the target's host lies in the networks of 'expect'; "
            "somebody changed the name, or 'expect' must be corrected",
        )
    return addresses[:MAX_ADDRESSES]


async def _connect_socket(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # The other side may have the connection before we know: if this process dies then, that is no end in order.
        make_reset_on_close(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_tcp(target: TcpTarget) -> socket.socket:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + target.connect_timeout_s
    addresses = await _resolve(target)
    failure: TargetError | None = None
    for index, (family, address) in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - index)
        try:
            async with asyncio.timeout(share):
                return await _connect_socket(family, address)
        except TimeoutError as error:
            # From the system (ETIMEDOUT) or from the clock: the same to the admin.
            failure = _translated(error) if error.errno else _timed_out(target.connect_timeout_s)
        except OSError as error:
            failure = _translated(error)
    assert failure is not None
    raise failure


async def _connect_unix(target: UnixTarget) -> socket.socket:
    status = await in_one_thread(os.stat, target.path)
    if not stat.S_ISSOCK(status.st_mode):
        raise TargetError(TargetFailure.UNAVAILABLE, "the target's path leads to something that is not a unix socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(target.path)
            except BlockingIOError:
                # The backlog is full. Unlike TCP nothing is under way, and no event will come: ask again.
                await asyncio.sleep(BACKLOG_RETRY_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


async def connect_socket(target: TcpTarget | UnixTarget) -> SocketSink:
    """Connect within ``target.connect_timeout_s``, name resolution included.

    Raises:
        TargetError: REFUSED, TIMEOUT or UNAVAILABLE, with a sentence that says what to check.
    """
    try:
        async with asyncio.timeout(target.connect_timeout_s):
            if isinstance(target, TcpTarget):
                return SocketSink(await _connect_tcp(target))
            return SocketSink(await _connect_unix(target))
    except TimeoutError as error:
        raise _timed_out(target.connect_timeout_s) from error
    except OSError as error:
        raise _translated(error) from error
