"""A whole job on a large seeded consortium: time by stage, peak memory of each party: `python -m benchmarks.capacity`.

    python -m benchmarks.capacity [TRAINING_ROWS [FEATURES_OF_EACH_PARTY [BITS]]]

Two parties with the same ids and informative columns, aligned by `kkrt`; every feature is kept, so that training bears
all of them. Peak memory is what the kernel of the system says of a party's process (VmHWM), read every half second.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.training import PARTIES, job, machine
from coordinator.simulate import PartyInput
from protocols.recipe import Alignment, Keys, Recipe, Sample, Selection

TRAINING_ROWS, FEATURES, BITS = 150_000, 50, 3072
SHARE = 0.95
STAGES = ("align", "encrypt", "bin", "train", "validate", "statement")


def write_consortium(folder: Path, rows: int, features: int) -> list[PartyInput]:
    """Two files of `rows` common ids; bads depend on every column a little."""
    rng = np.random.default_rng(2024)
    x = rng.standard_normal((rows, 2 * features))
    effects = np.tile([0.35, -0.3], features) * np.sqrt(14 / features)
    bad = rng.random(rows) < 1 / (1 + np.exp(2.4 - x @ effects))
    ids = np.array([f"id{i:08d}" for i in range(rows)])
    inputs = []
    for k, party in enumerate(PARTIES):
        order = rng.permutation(rows)
        columns = range(k * features, (k + 1) * features)
        table = {"id": ids[order]} | ({"y": bad[order].astype(int)} if k == 0 else {})
        table |= {f"x{j}": np.round(x[order, j], 4) for j in columns}
        path = folder / f"{party}.csv"
        pd.DataFrame(table).to_csv(path, index=False)
        inputs.append(PartyInput(party, path, "id", "y" if k == 0 else None))
    return inputs


class PeakMemory:
    """Megabytes that each party's process took at most, by name, while the block ran."""

    def __init__(self) -> None:
        self.megabytes: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    words = (folder / "cmdline").read_text().split("\0")
                    if "party_agent" in words and "--name" in words:
                        self._note(words[words.index("--name") + 1], (folder / "status").read_text())
                except OSError:  # it has ended meanwhile
                    continue

    def _note(self, party: str, status: str) -> None:
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.megabytes[party] = max(self.megabytes.get(party, 0), int(line.split()[1]) // 1024)


def main() -> int:
    """Print the table; 1 if not every feature trained."""
    numbers = [int(text) for text in sys.argv[1:]]
    rows, features, bits = (*numbers, *(TRAINING_ROWS, FEATURES, BITS)[len(numbers) :])
    recipe = Recipe(
        keys=Keys(bits=bits),
        sample=Sample(training_share=SHARE),
        alignment=Alignment(engine="kkrt"),
        selection=Selection(minimum_iv=0.0, maximum_correlation=1.0),
    )
    print(machine())
    with tempfile.TemporaryDirectory() as name, PeakMemory() as peak:
        inputs = write_consortium(Path(name), round(rows / SHARE), features)
        report, costs, whole = job(inputs, recipe, Path(name) / "out", *pairwise(STAGES))
    training = report["training"]
    kept = sum(line["kept"] for lines in report["features"].values() for line in lines)
    print(f"\n{training['n']:,} training rows x ({features} + {features}), {kept} kept, {bits} bits", end=", ")
    print(f"{training['iterations']} gradients in {training['passes']} encrypted passes")
    print(f"\n{'':<16}{'wall s':>10}{'CPU s':>10}")
    for stage, cost in zip(STAGES, costs, strict=False):
        print(f"{stage:<16}{cost.wall:>10.1f}{cost.cpu:>10.1f}")
    print(f"{'whole job':<16}{whole.wall:>10.1f}{whole.cpu:>10.1f}")
    print("peak memory     " + ", ".join(f"{party} {mb:,} MB" for party, mb in sorted(peak.megabytes.items())))
    return 0 if kept == 2 * features else 1


if __name__ == "__main__":
    sys.exit(main())
