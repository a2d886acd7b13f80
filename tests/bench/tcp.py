"""TCP over a test link, with the congestion control of one's choice: what a pipe over the same link is compared with.

``tcp receive ADDRESS`` listens and prints ``ready``; ``tcp send ADDRESS CONTROL SECONDS`` sends for so long. The
receiver prints ``received BYTES in SECONDS`` for each connection, counted from the first byte to the last.
"""

from __future__ import annotations

import socket
import sys
import time

PORT = 7008
CHUNK = bytes(1 << 17)


def receive(address: str) -> None:
    with socket.create_server((address, PORT)) as listening:
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                total, began = 0, 0.0
                while data := connection.recv(1 << 18):
                    began = began or time.perf_counter()
                    total += len(data)
                print(f"received {total} in {time.perf_counter() - began:.3f}", flush=True)


def send(address: str, control: str, seconds: float) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        sock.connect((address, PORT))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sock.sendall(CHUNK)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(sys.argv[2], sys.argv[3], float(sys.argv[4]))
