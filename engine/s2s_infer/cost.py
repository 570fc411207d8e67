"""What a model must read and compute at least, for comparing a measured speed with the machine."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .records import record

if TYPE_CHECKING:
    from .loaders import Checkpoint


@record
class Cost:
    """One pass over the weights of some part of a model."""

    n_bytes: int
    """Read once a pass, however many rows it has."""
    n_weights: int
    """Multiply-adds of each row."""

    def seconds(self, n_rows: int, bytes_per_second: float, operations_per_second: float) -> float:
        """The least that a pass of n_rows takes; a multiply-add is two operations."""
        return max(
            self.n_bytes / bytes_per_second, 2 * self.n_weights * n_rows / operations_per_second
        )


@record
class Costs:
    """Matrices only: what attention, norms and the search do comes on top."""

    encoder: Cost
    """The source's tokens are rows."""
    cross_kv: Cost
    """Keys and values of cross-attention, all layers; the source's tokens are rows."""
    step: Cost
    """One token of every hypothesis, output projection included; hypotheses are rows."""


def costs(checkpoint: Checkpoint) -> Costs:
    """The costs of a checkpoint, as its tensors are stored."""
    parts: dict[str, list[tuple[int, int]]] = {"encoder": [], "cross_kv": [], "step": []}
    tensors = checkpoint.tensors
    output = "output.weight" if "output.weight" in tensors else "shared.embed"
    if output not in tensors:
        output = "decoder.embed"
    for name, array in tensors.items():
        if array.ndim < 3 or (name.endswith("embed") and name != output):
            continue  # not a packed matrix, or a table of which single columns are read
        if name == output:
            part = "step"
        elif name.startswith("encoder."):
            part = "encoder"
        else:
            part = "cross_kv" if "cross_attn.kv" in name else "step"
        parts[part].append((array.nbytes, _n_weights(array)))
    return Costs(
        **{
            name: Cost(sum(b for b, _ in found), sum(n for _, n in found))
            for name, found in parts.items()
        }
    )


def _n_weights(tiles: npt.NDArray[Any]) -> int:
    """How many weights tiles hold, padding included."""
    if tiles.dtype == np.uint8:  # int4: pieces of 128 inputs
        return len(tiles) * int(tiles.shape[1]) * 128 * 16
    return prod(int(n) for n in tiles.shape)
