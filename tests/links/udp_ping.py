"""Measure a link with datagrams: ``udp_ping serve ADDRESS`` echoes what the others send.

``udp_ping ask ADDRESS COUNT`` prints ``mean MS lost COUNT``; a question without an answer within 300 ms counts as lost.
``udp_ping flood ADDRESS COUNT`` sends numbers, 1 ms apart, and prints them in the order in which they come back.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress

PORT = 7007


def serve(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("ready", flush=True)
        while True:
            data, sender = sock.recvfrom(2048)
            sock.sendto(data, sender)


def ask(address: str, count: int) -> None:
    times: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        sock.settimeout(0.3)
        for number in range(count):
            began = time.perf_counter()
            sock.send(number.to_bytes(4))
            try:
                while sock.recv(2048) != number.to_bytes(4):
                    pass
            except TimeoutError:
                continue
            times.append((time.perf_counter() - began) * 1000)
    mean = sum(times) / len(times) if times else 0.0
    print(f"mean {mean:.3f} lost {count - len(times)}", flush=True)


def flood(address: str, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(TimeoutError):
        sock.connect((address, PORT))
        for number in range(count):
            sock.send(number.to_bytes(4))
            time.sleep(0.001)
        sock.settimeout(0.3)
        while True:
            print(int.from_bytes(sock.recv(2048)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", address]:
            serve(address)
        case ["ask", address, count]:
            ask(address, int(count))
        case ["flood", address, count]:
            flood(address, int(count))
