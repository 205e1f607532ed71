"""Throughput and latency of the data plane: relay, mutual TLS and end-to-end encryption, all on this machine.

    python -m benchmarks.relay

The parties run in processes of their own, as in a job; the relay and the dealer run in this one. Beside it, in the same
run, the same bytes over one plain gRPC stream through an echo server (no TLS, no relay, no encryption between parties).
"""

from __future__ import annotations

import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cryptography
import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from party_agent.transport import RelayChannel, TlsFiles, load_identity
from tests.party_agent.consortium import CONTRACT, JOB, Consortium

ROUND_TRIPS = 300
MESSAGES = 4
MESSAGE_BYTES = 64 << 20
LIMIT = 1 << 30


def party(folder: Path, address: str, me: str) -> None:
    """One party's process: the bank measures, the bureau answers."""
    names = ("bank", "bureau", "coordinator")
    keys = {n: Ed25519PublicKey.from_public_bytes((folder / f"{n}.public").read_bytes()) for n in names if n != me}
    channel = RelayChannel(
        address,
        TlsFiles(folder / me / "ca.pem", folder / me / f"{me}.pem", folder / me / f"{me}.key"),
        me=me,
        identity=load_identity(folder / f"{me}.identity"),
        peers=keys,
        contract_hash=CONTRACT,
        job=JOB,
        roles={n: "coordinator" if n == "coordinator" else "feature provider" for n in names},
        connect_timeout_s=30,
    )
    with channel:
        channel.wait_for_peers()
        peer = "bureau" if me == "bank" else "bank"
        if me == "bureau":
            for _ in range(ROUND_TRIPS + MESSAGES):
                channel.receive(peer, "bench", "ping", LIMIT)
                channel.send(peer, "bench", "pong", b"x")
            return
        begun = time.perf_counter()
        for _ in range(ROUND_TRIPS):
            channel.send(peer, "bench", "ping", b"x")
            channel.receive(peer, "bench", "pong", LIMIT)
        latency = (time.perf_counter() - begun) / ROUND_TRIPS
        payload = os.urandom(MESSAGE_BYTES)
        begun = time.perf_counter()
        for _ in range(MESSAGES):
            channel.send(peer, "bench", "ping", payload)
        for _ in range(MESSAGES):
            channel.receive(peer, "bench", "pong", LIMIT)
        rate = MESSAGES * MESSAGE_BYTES / (time.perf_counter() - begun) / 1e6
        print(f"relay + mutual TLS + end-to-end encryption: round trip {latency * 1e3:.2f} ms, {rate:.0f} MB/s")


def relayed() -> None:
    """Both parties as processes, the relay here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        consortium = Consortium(folder)
        for member, key in consortium.identities.items():
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            (folder / f"{member}.identity").write_bytes(pem)
            (folder / f"{member}.public").write_bytes(key.public_key().public_bytes_raw())
        for member in consortium.names:
            consortium.tls(member)
        dealer = consortium.dealer(connect_timeout_s=30)
        before = os.times()
        processes = [
            subprocess.Popen([sys.executable, "-m", "benchmarks.relay", name, consortium.address, member])
            for member in consortium.names
        ]
        codes = [process.wait(timeout=300) for process in processes]
        after = os.times()
        dealer.close()
        consortium.close()
        used = (after.user + after.system) - (before.user + before.system)
        children = (after.children_user + after.children_system) - (before.children_user + before.children_system)
        print(f"CPU seconds: relay {used:.2f}, both parties with their start {children:.2f}")
        if any(codes):
            raise SystemExit("a party failed")


def plain() -> None:
    """The peer measured beside it: one gRPC stream, echoed."""
    chunk = bytes(1 << 20)
    count = MESSAGES * MESSAGE_BYTES // len(chunk)
    echo = grpc.stream_stream_rpc_method_handler(lambda requests, context: iter(requests))
    server = grpc.server(
        ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("bench", {"Echo": echo})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    frames: queue.Queue[Any] = queue.Queue(8)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answers: Iterator[bytes] = channel.stream_stream("/bench/Echo")(iter(frames.get, None))
        begun = time.perf_counter()
        for _ in range(ROUND_TRIPS):
            frames.put(b"x")
            next(answers)
        latency = (time.perf_counter() - begun) / ROUND_TRIPS
        begun = time.perf_counter()
        writer = threading.Thread(target=lambda: [frames.put(chunk) for _ in range(count)])
        writer.start()
        for _ in range(count):
            next(answers)
        rate = count * len(chunk) / (time.perf_counter() - begun) / 1e6
        frames.put(None)
    server.stop(0)
    print(f"plain gRPC echo, one process:               round trip {latency * 1e3:.2f} ms, {rate:.0f} MB/s")


def main() -> None:
    """Print the machine, the versions and both measurements."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, grpcio {grpc.__version__}, "
        f"cryptography {cryptography.__version__}; X25519, Ed25519, AES-256-GCM; "
        f"{MESSAGES} messages of {MESSAGE_BYTES >> 20} MiB, {ROUND_TRIPS} round trips"
    )
    relayed()
    plain()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        party(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        main()
