"""Paillier in batches against phe, raw and encoded, measured in the same run: `python -m benchmarks.paillier`.

With the argument `portable`, without the C kernel, as on a machine that has none.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gmpy2
import numpy as np
import phe
from phe.util import mulmod

from protocols import montgomery, paillier

KEY_BITS = (2048, 3072)
ROUNDS = 5
FEATURES, BINS = 6, 10


@dataclass
class Trial:
    """One operation on one engine: `run` does it `count` times."""

    name: str
    engine: str
    count: int
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Operations a second, by the median round."""
        return self.count / statistics.median(self.seconds)


def trials(key: paillier.KeyPair, rows: int, peer_rows: int) -> list[Trial]:
    """What is compared; the ciphertexts to decrypt and add up are made here, outside the clock."""
    public, private = key.public, key.private
    rng = np.random.default_rng(1)
    values = [int(v) for v in rng.integers(0, 1 << 60, rows)]
    batch = key.encrypt(values, os.urandom)
    codes = rng.integers(0, BINS, (rows, FEATURES))
    raw = [int(c) for c in batch]
    encoded = [phe.EncryptedNumber(public, c) for c in raw]
    data = paillier.to_bytes(batch, public)
    square = public.nsquare
    flat_codes = codes[:, 0].tolist()
    few = slice(0, peer_rows)

    def raw_products() -> None:
        cells = [1] * BINS
        for code, c in zip(flat_codes, raw, strict=True):
            cells[code] = mulmod(cells[code], c, square)

    def encoded_sums() -> None:
        cells: list[phe.EncryptedNumber | int] = [0] * BINS
        for code, c in zip(flat_codes, encoded, strict=True):
            cells[code] = cells[code] + c

    def each(function: Callable[[object], object], items: Sequence[object]) -> Callable[[], object]:
        return lambda: [function(item) for item in items]

    return [
        Trial("encrypt", "ours", rows, lambda: key.encrypt(values, os.urandom)),
        Trial("encrypt", "phe raw", peer_rows, each(public.raw_encrypt, values[few])),
        Trial("encrypt", "phe encoded", peer_rows, each(public.encrypt, values[few])),
        Trial("decrypt", "ours", 4 * peer_rows, lambda: key.decrypt(batch[: 4 * peer_rows])),
        Trial("decrypt", "phe raw", 4 * peer_rows, each(private.raw_decrypt, raw[: 4 * peer_rows])),
        Trial("decrypt", "phe encoded", 4 * peer_rows, each(private.decrypt, encoded[: 4 * peer_rows])),
        Trial(
            "accumulate", "ours", rows * FEATURES, lambda: paillier.accumulate(batch, codes, [BINS] * FEATURES, public)
        ),
        Trial("accumulate", "phe raw", rows, raw_products),
        Trial("accumulate", "phe encoded", rows, encoded_sums),
        Trial("read and check", "ours", rows, lambda: paillier.from_bytes(data, rows, public)),
        Trial("seal", "ours", 64, lambda: paillier.seal(batch[:64], [1] * 64, public, os.urandom)),
    ]


def cpu_model() -> str:
    """Name of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or "unknown"


def main() -> None:
    """Prints the machine, the versions, and operations a second for each engine."""
    if "portable" in sys.argv[1:]:
        montgomery.kernel = None
    print(f"machine   {cpu_model()}, {os.cpu_count()} cores, one used")
    print(f"engine    {montgomery.engine_name()}")
    print(f"versions  python {platform.python_version()}, gmpy2 {gmpy2.version()} ({gmpy2.mp_version()}), ", end="")
    print(f"phe {phe.__version__}")
    print(f"rounds    {ROUNDS}, interleaved, medians; accumulate counts one row of one feature, {BINS} bins a feature")
    for key_bits in KEY_BITS:
        started = time.perf_counter()
        key = paillier.generate_key_pair(key_bits, os.urandom)
        made = time.perf_counter()
        key.encrypt([0], os.urandom)
        tabled = time.perf_counter()
        measured = trials(key, rows=1000, peer_rows=6)
        for _ in range(ROUNDS):
            for trial in measured:
                start = time.perf_counter()
                trial.run()
                trial.seconds.append(time.perf_counter() - start)
        print(f"\n{key_bits} bits: key made in {made - started:.2f} s, tables in {tabled - made:.2f} s")
        print(f"{'operations a second':22}{'ours':>12}{'phe raw':>12}{'phe encoded':>14}{'ours / phe raw':>16}")
        for name in dict.fromkeys(trial.name for trial in measured):
            rates = {trial.engine: trial.rate for trial in measured if trial.name == name}
            cells = [f"{rates[e]:,.0f}" if e in rates else "" for e in ("ours", "phe raw", "phe encoded")]
            ratio = f"{rates['ours'] / rates['phe raw']:.1f}" if "phe raw" in rates else ""
            print(f"{name:22}{cells[0]:>12}{cells[1]:>12}{cells[2]:>14}{ratio:>16}")


if __name__ == "__main__":
    main()
