"""25 fits of a cross-validation beside one training, on uci_default: `python -m benchmarks.cross_validation [BITS]`.

Two whole jobs between real processes (relay, dealer, two parties): one fit; and five penalties on five folds, then the
fit of the model. Training is row encryption, binning, selection and fits; stage `train` is the fits alone, with the
encrypted passes over the rows that they need beyond the first.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training import Cost, consortium_of, data_folder, job, machine
from protocols.recipe import Keys, Recipe, Validation

BITS = 2048
FOLDS, PENALTIES = 5, (100.0, 30.0, 10.0, 3.0, 1.0)
MOST_RATIO = 8
WHOLE, STAGES = "whole job", {"training": ("encrypt", "validate"), "stage train": ("train", "validate")}


def measured(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], dict[str, Cost]]:
    """The report of a job on uci_default, and its cost by part."""
    report, costs, whole = job(consortium_of(data_folder(), "uci_default"), recipe, folder, *STAGES.values())
    return report, {WHOLE: whole} | dict(zip(STAGES, costs, strict=True))


def main() -> int:
    """Print the table; 1 if the cross-validation cost more than promised."""
    if not (data_folder() / "uci_default" / "bank.csv").exists():
        sys.exit("uci_default is not there: name its folder in CONCORDAT_DATA")
    bits = int(sys.argv[1]) if len(sys.argv) > 1 else BITS
    plain = Recipe(keys=Keys(bits=bits))
    validated = plain.model_copy(update={"validation": Validation(folds=FOLDS, penalties=PENALTIES)})
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        one, single = measured(plain, Path(name) / "one")
        many, crossed = measured(validated, Path(name) / "crossed")
        own = json.loads((Path(name) / "crossed" / "bank" / "report.json").read_bytes())["estimation"]
    print(
        f"\nuci_default, {one['training']['n']:,} training rows, {bits} bits, load {os.getloadavg()[0]:.1f} at the end"
    )
    for words, report in ((f"{len(PENALTIES)} penalties on {FOLDS} folds", many), ("one fit", one)):
        training = report["training"]
        print(f"{words}: {training['iterations']} gradients in {training['passes']} encrypted passes")
    print("log-likelihood out of fold: ", end="")
    print(", ".join(f"{row['log_likelihood']:.2f} at {row['l2']:g}" for row in own["cross_validation"]["penalties"]))
    print(f"\n{'':<24}{'one fit':>20}{'25 fits and one':>20}{'ratio':>16}")
    print(f"{'':<24}{'wall s':>10}{'CPU s':>10}{'wall s':>10}{'CPU s':>10}{'wall':>8}{'CPU':>8}")
    for part, cost in crossed.items():
        alone = single[part]
        ratios = f"{cost.wall / alone.wall:>8.1f}{cost.cpu / alone.cpu:>8.1f}"
        print(f"{part:<24}{alone.wall:>10.1f}{alone.cpu:>10.1f}{cost.wall:>10.1f}{cost.cpu:>10.1f}{ratios}")
    ratio = crossed["training"].cpu / single["training"].cpu
    print(
        f"\ntraining, CPU: {ratio:.1f} times one; at most {MOST_RATIO}: {'kept' if ratio <= MOST_RATIO else 'NOT kept'}"
    )
    return 0 if ratio <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
