"""Small seeded consortia as CSV files, and `concordat` run on them as the separate processes a user gets.

A bank and one to three providers know some 1,550 customers in common: enough for the guards (1,000 training rows, three
features a party), few enough for a whole job at 2048 bits in seconds. Ids and most values are recognisable, so that a
test can search messages and folders for them.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROVIDERS = ("bureau", "tax", "telecom")
CUSTOMERS = 1_750
KEY_BITS = 2048
RECIPE = f"[sample]\nseed = 7\n\n[keys]\nbits = {KEY_BITS}\n"
END_S = 15.0

Row = dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How one `concordat` command ended: exit code, the JSON it printed, its error output and how long it took."""

    returncode: int
    document: dict[str, Any]
    text: str
    stderr: str
    seconds: float
    out: Path

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.document["error"]["code"])


class SmallConsortium:
    """The files of a bank and `providers` providers in `folder`, the same for the same seed; edit them before a run."""

    def __init__(self, folder: Path, providers: int = 1, seed: int = 1, customers: int = CUSTOMERS) -> None:
        self.folder = folder
        self.names = ("bank", *PROVIDERS[:providers])
        self.recipe = RECIPE
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in _rows(self.names, seed, customers).items():
            self.write(name, rows)

    def file(self, name: str) -> Path:
        """A party's file."""
        return self.folder / f"{name}.csv"

    def read(self, name: str) -> list[Row]:
        """A party's rows."""
        with self.file(name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def write(self, name: str, rows: Sequence[Row]) -> None:
        """Replace a party's rows."""
        with self.file(name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def edit(self, name: str, change: Callable[[list[Row]], None]) -> None:
        """Change a party's rows in place."""
        rows = self.read(name)
        change(rows)
        self.write(name, rows)

    def ids(self, name: str) -> set[str]:
        """A party's ids."""
        return {row["id"] for row in self.read(name)}

    def arguments(self, out: Path, *more: str) -> list[str]:
        """The command line of `concordat simulate` on these files."""
        (self.folder / "recipe.toml").write_text(self.recipe, encoding="utf-8")
        parties = [item for name in self.names for item in ("--party", f"{name}={self.file(name)}")]
        recipe = ["--recipe", str(self.folder / "recipe.toml")]
        return ["simulate", *parties, *recipe, "--out", str(out), "--json", *more]

    def simulate(self, *more: str, out: Path | None = None) -> Ended:
        """Run `concordat simulate --json` to its end."""
        target = out or self.folder / "out"
        return concordat(self.arguments(target, *more), target)

    def secrets(self) -> set[str]:
        """Cells of all files that cannot be in a text by chance: ids and numbers of many digits."""
        there = [name for name in self.names if self.file(name).exists()]
        return {cell for name in there for row in self.read(name) for cell in row.values() if len(cell) >= 8}


def concordat(arguments: Sequence[str], out: Path) -> Ended:
    """Run one `concordat` command with --json to its end."""
    begin = time.monotonic()
    done = subprocess.run(command(arguments), capture_output=True, text=True, timeout=120, check=False)
    seconds = time.monotonic() - begin
    return Ended(done.returncode, parsed(done.stdout), done.stdout, done.stderr, seconds, out)


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of `concordat`."""
    return [sys.executable, "-m", "coordinator", *arguments]


def parsed(text: str) -> dict[str, Any]:
    """The JSON object in `text`, or an empty one."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def party_processes(out: Path) -> dict[str, int]:
    """The processes of parties whose command line names `out`: party -> process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and "--folder" in words:
            folder = Path(words[words.index("--folder") + 1])
            if folder.parent == out:
                found[folder.name] = int(entry.name)
    return found


def relay_port(process: int) -> int:
    """The relay's port on the command line of a party's process."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    return int(words[words.index("--relay") + 1].rpartition(":")[2])


def wait_until(holds: Callable[[], bool], seconds: float = END_S) -> bool:
    """Whether `holds` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def log_of(out: Path, party: str) -> list[dict[str, Any]]:
    """The events in a party's log, so far."""
    path = out / party / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [parsed(line) for line in lines]


def stage_begun(out: Path, party: str, stage: str) -> bool:
    """Whether a party has begun a stage."""
    return any(event.get("event") == "stage begins" and event.get("stage") == stage for event in log_of(out, party))


def tokens(*texts: str) -> set[str]:
    """The words and numbers in some texts."""
    return set(re.findall(r"[\w.+-]+", "\n".join(texts)))


def _rows(names: Sequence[str], seed: int, customers: int) -> Mapping[str, list[Row]]:
    """Every party's rows: nearly all customers, in an order of its own."""
    rng = np.random.Generator(np.random.PCG64(seed))
    risk = {name: rng.normal(size=customers) for name in names}
    logit = -1.7 + sum(0.75 * part for part in risk.values())
    bad = rng.random(customers) < 1 / (1 + np.exp(-logit))
    tables = {}
    for name in names:
        rows = []
        noise = rng.normal(size=(4, customers))
        missing = rng.random(customers) < 0.07
        classes = np.digitize(risk[name] + 0.9 * noise[3], [-0.7, 0.3, 1.2])
        for i in range(customers):
            row = {"id": f"QX{700_000 + 37 * i:07d}"}
            if name == "bank":
                row["y"] = str(int(bad[i]))
            row |= {
                f"{name}_ratio": f"{risk[name][i] + 0.5 * noise[0][i]:.7f}",
                f"{name}_turnover": "" if missing[i] else f"{np.exp(0.8 * risk[name][i] + noise[1][i]) * 1e4:.4f}",
                f"{name}_late": str(max(0, int(2 * risk[name][i] + 1.6 * noise[2][i]))),
                f"{name}_class": "ABCD"[classes[i]],
            }
            rows.append(row)
        known = rng.random(customers) < 0.97
        order = rng.permutation(customers)
        tables[name] = [rows[i] for i in order if known[i]]
    return tables


def no_process_of(out: Path) -> bool:
    """Whether no party of this run is alive."""
    return not party_processes(out)
