"""The artefact of the intersection: which row of a party's own file is row i of the aligned table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Engine = Literal["ecdh", "kkrt"]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Row i of the aligned table is row `rows[i]` of this party's own id list, for every party alike.

    rows: shape (n,), distinct, in the common order that the label owner drew; training_rows: the first so many rows are
    for training, the others for testing; pairwise_sizes: provider -> ids it has in common with the label owner, known
    to the label owner only (a provider has an empty one); set_sizes: party -> ids it brought, as far as this party
    knows.
    """

    rows: IntArray
    training_rows: int
    pairwise_sizes: Mapping[str, int]
    set_sizes: Mapping[str, int]

    @property
    def training(self) -> IntArray:
        """Own file positions of the training rows, in common order."""
        return self.rows[: self.training_rows]

    @property
    def test(self) -> IntArray:
        """Own file positions of the test rows, in common order."""
        return self.rows[self.training_rows :]
