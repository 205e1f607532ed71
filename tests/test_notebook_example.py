"""The example of the Python interface runs as it is, and its pictures are pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "notebook.py"


@pytest.mark.process
def test_the_example_of_a_notebook_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    joint, alone = map(float, re.findall(r"AUC on test rows (\S+), of the bank's columns alone (\S+)", done.stdout)[0])
    assert 0.5 < alone < joint < 1
    assert re.search(r"^ *bureau +late_payments ", done.stdout, re.MULTILINE)
    assert re.search(r"^bureau +\d+$", done.stdout, re.MULTILINE)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.stem for path in pictures] == ["calibration", "ks", "roc", "score_distribution", "woe"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000 for path in pictures)
