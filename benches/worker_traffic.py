#!/usr/bin/env python3
"""Counts what travels between a training and a worker: WebSocket messages and bytes per training step.

    python3 benches/worker_traffic.py target/release/mopteq [options of train]

The program needs a build with --features remote. One device of two is a worker on this machine, behind a
proxy that counts. The figures are the differences between a training of one epoch and one of two.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

PICTURES, BATCH = 320, 32


class Counter:
    """The WebSocket frames of one direction."""

    def __init__(self):
        self.bytes = self.messages = 0
        self.rest, self.upgraded = b"", False

    def take(self, data):
        self.bytes += len(data)
        self.rest += data
        if not self.upgraded:
            _, end, rest = self.rest.partition(b"\r\n\r\n")
            if not end:
                return
            self.upgraded, self.rest = True, rest
        while len(self.rest) >= 2:
            length, head = self.rest[1] & 127, 2
            size = {126: 2, 127: 8}.get(length, 0)
            if len(self.rest) < head + size:
                return
            if size:
                length = int.from_bytes(self.rest[head : head + size], "big")
            whole = head + size + (4 if self.rest[1] & 128 else 0) + length
            if len(self.rest) < whole:
                return
            # A continued message counts once.
            self.messages += self.rest[0] >> 7
            self.rest = self.rest[whole:]


def proxy(worker, counters):
    """Forwards connections to a worker. Returns the address to use instead of its own."""
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink, counter):
        while data := source.recv(1 << 16):
            counter.take(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def accept():
        while True:
            client, _ = server.accept()
            host, port = worker.rsplit(":", 1)
            there = socket.create_connection((host, int(port)))
            pair = [Counter(), Counter()]
            counters.append(pair)
            for ends, counter in (((client, there), pair[0]), ((there, client), pair[1])):
                threading.Thread(target=pump, args=(*ends, counter), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "127.0.0.1:%d" % server.getsockname()[1]


def main():
    program, options = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        token = ["--token-file", str(pathlib.Path(folder, "token"))]
        command = [program, "worker", "--device", "cpu", "--port", "0", "--json", *token]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = json.loads(worker.stdout.readline())["address"]
        totals = []
        for epochs in (1, 2):
            counters = []
            devices = "cpu,remote:" + proxy(address, counters)
            command = [program, "train", "--devices", devices, *token, "--limit", str(PICTURES)]
            command += ["--batch-size", str(BATCH), "--test-limit", "10", "--epochs", str(epochs)]
            command += ["--set", "validation_fraction=0.0", "--out", str(pathlib.Path(folder, f"run{epochs}"))]
            subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
            both = [[sum(getattr(pair[k], name) for pair in counters) for name in ("messages", "bytes")] for k in (0, 1)]
            totals.append(both)
        worker.kill()
    steps = PICTURES // BATCH
    print(f"a step with a batch of {BATCH} pictures, {BATCH // 2} of them on the worker")
    for k, name in enumerate(("to the worker", "from the worker")):
        messages, count = [(totals[1][k][i] - totals[0][k][i]) / steps for i in (0, 1)]
        print(f"{name:16} {messages:8.0f} messages  {count / 1e6:7.2f} MB")


if __name__ == "__main__":
    main()
