"""Measure a link with datagrams: ``udp_ping serve ADDRESS`` echoes, ``udp_ping ask ADDRESS COUNT`` asks.

Prints ``mean MS lost COUNT``; a question without an answer within 300 ms counts as lost.
"""

from __future__ import annotations

import socket
import sys
import time

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


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], int(sys.argv[3]))
