#!/usr/bin/env python3
"""Load on `mopteq serve` by ab (Debian's apache2-utils), with clients that misbehave at the same time.

    benches/load.py target/release/mopteq runs/digits-1 five.png [requests] [clients]
"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

program, run, picture = sys.argv[1:4]
requests = int(sys.argv[4]) if len(sys.argv) > 4 else 100_000
clients = sys.argv[5] if len(sys.argv) > 5 else "32"

server = subprocess.Popen(
    [program, "serve", "--run", run, "--port", "0", "--timeout", "6", "--json"], stdout=subprocess.PIPE, text=True
)
address = json.loads(server.stdout.readline())["address"]
host, port = address.rsplit(":", 1)


def metric(name):
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found.group(1)) if found else 0.0


def resident():
    return metric("process_resident_memory_bytes") / 2**20


def ab(count):
    """Requests per second, p50 and p99 in milliseconds, failures."""
    command = ["ab", "-q", "-k", "-n", str(count), "-c", clients, "-p", picture, "-T", "image/png"]
    text = subprocess.run(
        [*command, f"http://{address}/v1/classify?top=3"], capture_output=True, text=True, check=True
    ).stdout
    number = lambda pattern: float((re.search(pattern, text) or [0, 0])[1])
    return (
        number(r"Requests per second:\s+(\S+)"),
        number(r"50%\s+(\d+)"),
        number(r"99%\s+(\d+)"),
        number(r"Failed requests:\s+(\d+)") + number(r"Non-2xx responses:\s+(\d+)"),
    )


stop = threading.Event()
faults = {"garbage": 0, "hang-up": 0, "slow head": 0, "slow body": 0, "bad picture": 0}


def connect():
    return socket.create_connection((host, int(port)), timeout=30)


def head(length, path="/v1/classify"):
    return f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n".encode()


def misbehave(kind):
    """One client of this kind after the other."""
    draw = random.Random(kind)
    while not stop.is_set():
        try:
            with connect() as client:
                if kind == "garbage":
                    client.sendall(draw.randbytes(draw.randrange(1, 4000)))
                    client.settimeout(0.2)
                    client.recv(100)
                elif kind == "hang-up":
                    client.sendall(head(5000) + draw.randbytes(draw.randrange(1, 4000)))
                elif kind == "slow head":
                    for byte in head(10):
                        client.sendall(bytes([byte]))
                        time.sleep(0.1)
                elif kind == "slow body":
                    client.sendall(head(1000))
                    for _ in range(100):
                        client.sendall(b"x")
                        time.sleep(0.1)
                else:
                    client.sendall(head(2000) + draw.randbytes(2000))
                    client.recv(100)
        except OSError:
            pass
        faults[kind] += 1
        time.sleep(0.02)


warm = ab(max(1000, requests // 50))
print(f"{requests} requests of {clients} clients, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
print(f"warm-up: {warm[0]:.0f} requests/s, p50 {warm[1]:.0f} ms, p99 {warm[2]:.0f} ms, {resident():.1f} MiB")
for disturbed in (False, True):
    threads = [threading.Thread(target=misbehave, args=(kind,)) for kind in faults for _ in range(4) if disturbed]
    for thread in threads:
        thread.start()
    print("with clients that misbehave" if disturbed else "undisturbed")
    failed = 0
    for part in range(5):
        rate, middle, late, bad = ab(requests // 10)
        failed += bad
        print(f"  {rate:6.0f} requests/s, p50 {middle:3.0f} ms, p99 {late:3.0f} ms, {bad:.0f} failed, {resident():.1f} MiB")
    stop.set()
    for thread in threads:
        thread.join()
    stop.clear() if not disturbed else None
    assert failed == 0, f"{failed} requests failed"
print("clients that misbehaved:", ", ".join(f"{count} {kind}" for kind, count in faults.items()))
print(f"faults of the server: {metric('mopteq_faults_total'):.0f}")
server.send_signal(signal.SIGTERM)
print(f"exit code after SIGTERM: {server.wait(timeout=60)}")
