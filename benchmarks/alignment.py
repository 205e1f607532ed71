"""Alignment file to file beside SecretFlow's SPU, in one run: `python -m benchmarks.alignment [IDS ...]`.

Both parties are fresh processes pinned to the same core, joined by a loopback socket: each reads a file of ids, plays,
and writes the ids that both have to a file. Ours is `kkrt` and, where sets are small, `ecdh`, without relay and channel
encryption, as the peer has none. The peer runs where an interpreter that has it is named in CONCORDAT_PEERS
(`make bench-peers` makes one). Rounds are interleaved; medians.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paillier import cpu_model
from protocols.disclosure import Ledger
from protocols.messages import Bounds
from protocols.psi.blinding import Context
from protocols.psi.label_owner import LabelOwner
from protocols.psi.messages import STEPS_OF
from protocols.psi.provider import Provider
from protocols.roles import Parties
from protocols.session import Player, Session

SIZES = (10_000, 100_000, 1_000_000)
ROUNDS = 3
LARGEST_ECDH = 10_000
CORE = 0
PARTIES = Parties("bank", ("bureau",))
PEERS = {"spu rr22": "PROTOCOL_RR22", "spu kkrt": "PROTOCOL_KKRT", "spu ecdh": "PROTOCOL_ECDH"}
LARGEST_OF = {"ecdh": LARGEST_ECDH, "spu ecdh": 100_000}


class SocketChannel:
    """A channel over one socket: length, then bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb", buffering=1 << 20)

    def send(self, to: str, stage: str, step: str, data: bytes) -> None:
        self._connection.sendall(struct.pack("<Q", len(data)))
        self._connection.sendall(data)

    def receive(self, sender: str, stage: str, step: str, max_bytes: int) -> bytes:
        (length,) = struct.unpack("<Q", self._file.read(8))
        if length > max_bytes:
            sys.exit("a message is longer than it may be")
        return self._file.read(length)


def party(name: str, engine: str, ids: Path, out: Path, port: int) -> None:
    """One party, from its file of ids to its file of common ids."""
    if name == PARTIES.label_owner:
        server = socket.create_server(("127.0.0.1", port))
        connection, _ = server.accept()
    else:
        connection = connected(port)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    own = ids.read_text(encoding="utf-8").split("\n")[1:-1]
    bounds = Bounds(rows=len(own), set_size=4 * len(own), features=0, key_bytes=0)
    session = Session(name, PARTIES, "align", STEPS_OF[engine], bounds, Ledger(name))
    context = Context(bytes(32), "bench")
    if name == PARTIES.label_owner:
        role = LabelOwner(own, PARTIES, context, os.urandom, None, 0.7, 1, bounds.set_size, None, engine)
    else:
        role = Provider(name, own, PARTIES, context, os.urandom, 1, bounds.set_size, engine)
    alignment = Player(role.play(), session, SocketChannel(connection)).run()
    out.write_text("\n".join([own[row] for row in alignment.rows.tolist()]) + "\n", encoding="utf-8")
    print(f"peak={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", flush=True)


def connected(port: int) -> socket.socket:
    """To the other party, which may not have begun to listen."""
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.01)
    sys.exit("the other party does not listen")


@dataclass(frozen=True)
class Run:
    """Wall seconds of both parties, and the peak memory of the larger in MB."""

    seconds: float
    megabytes: float


def run(engine: str, folder: Path) -> Run:
    """Both parties once, on one core, results compared."""
    port = free_port()
    commands = []
    for rank, name in enumerate(PARTIES.all):
        ids, out = folder / f"{name}.csv", folder / f"{name}.{engine.replace(' ', '-')}.csv"
        if engine in PEERS:
            script = Path(__file__).with_name("peer_alignment.py")
            commands.append([os.environ["CONCORDAT_PEERS"], script, PEERS[engine], rank, ids, out, port])
        else:
            commands.append([sys.executable, "-m", "benchmarks.alignment", "party", name, engine, ids, out, port])
    started = time.perf_counter()
    processes = [
        subprocess.Popen(
            ["taskset", "-c", str(CORE), *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    outputs = [process.communicate(timeout=3600) for process in processes]
    seconds = time.perf_counter() - started
    if any(process.returncode for process in processes):
        sys.exit(f"{engine} failed: {outputs[0][1][-500:]}{outputs[1][1][-500:]}")
    found = {digest_of(folder / f"{name}.{engine.replace(' ', '-')}.csv") for name in PARTIES.all}
    if found != {digest_of(folder / "common.csv")}:
        sys.exit(f"{engine} found another intersection")
    return Run(seconds, max(peak_of(out) for out, _ in outputs) / 1024)


def peak_of(printed: str) -> int:
    """Kilobytes that a party says it took at most."""
    (peak,) = re.findall(r"peak=(\d+)", printed)
    return int(peak)


def digest_of(path: Path) -> str:
    """Of the ids in a file, whatever their order and headline."""
    ids = sorted(line.strip().strip('"') for line in path.read_text(encoding="utf-8").split("\n"))
    return hashlib.sha256("\n".join(item for item in ids if item and item != "id").encode()).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_sets(folder: Path, size: int) -> None:
    """Two files of `size` ids of 18 characters, half of them in common, each in an order of its own."""
    draw = random.Random(size)
    both = [f"91{number:016d}" for number in draw.sample(range(10**12), size + size // 2)]
    common = both[: size // 2]
    for name, own in (("bank", both[:size]), ("bureau", common + both[size:]), ("common", common)):
        draw.shuffle(own)
        (folder / f"{name}.csv").write_text("id\n" + "\n".join(own) + "\n", encoding="utf-8")


def main() -> None:
    """Print seconds and memory of each engine at each size."""
    sizes = [int(text) for text in sys.argv[1:]] or SIZES
    peers = list(PEERS) if os.environ.get("CONCORDAT_PEERS") else []
    print(f"machine   {cpu_model()}, {os.cpu_count()} cores, one used; load {os.getloadavg()[0]:.1f} before")
    print(f"rounds    {ROUNDS}, interleaved, medians; both parties as fresh processes on one core, file to file")
    if not peers:
        print("peers     none: name an interpreter that has spu in CONCORDAT_PEERS")
    for size in sizes:
        engines = [name for name in ("kkrt", "ecdh", *peers) if size <= LARGEST_OF.get(name, size)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_sets(folder, size)
            runs: dict[str, list[Run]] = {engine: [] for engine in engines}
            for _ in range(ROUNDS):
                for engine in engines:
                    runs[engine].append(run(engine, folder))
        print(f"\n{size:,} x {size:,} ids{'seconds':>16}{'MB a party':>14}{'times kkrt':>14}")
        ours = statistics.median(r.seconds for r in runs["kkrt"])
        for engine, measured in runs.items():
            seconds = statistics.median(r.seconds for r in measured)
            memory = statistics.median(r.megabytes for r in measured)
            print(f"{engine:<24}{seconds:>12.2f}{memory:>14,.0f}{seconds / ours:>14.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["party"]:
        party(sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
