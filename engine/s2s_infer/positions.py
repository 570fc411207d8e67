"""Sinusoidal position tables: computed when a model is loaded, not stored in files.

Vaswani et al., "Attention Is All You Need" (2017), section 3.5: feature pair i of position p turns
by the angle p / 10000^(2i / d).  Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .config_enums import Positions

if TYPE_CHECKING:
    import numpy.typing as npt

    Table = npt.NDArray[np.float32]
    Wide = npt.NDArray[np.float64]


def _fill(sines: Table, cosines: Table, first: int, rates: Wide) -> None:
    """Write sine and cosine of position times rate [n_positions, n_rates], positions from `first`
    on; there may be fewer columns of cosines.

    Position 32 i + j turns by the sum of two angles, so that few sines and many products are
    computed, 32 rows at a time in memory that stays in the cache: most of the time of loading a
    model would go into this otherwise.
    """
    fine = np.arange(first, first + 32)[:, None] * rates
    coarse = np.arange(0, len(sines), 32)[:, None] * rates
    sin_fine, cos_fine = np.sin(fine), np.cos(fine)
    sin_coarse, cos_coarse = np.sin(coarse), np.cos(coarse)
    a, b = np.empty_like(fine), np.empty_like(fine)
    for i in range(len(coarse)):
        rows = slice(32 * i, min(32 * i + 32, len(sines)))
        n = rows.stop - rows.start
        np.multiply(sin_coarse[i], cos_fine, out=a)
        np.multiply(cos_coarse[i], sin_fine, out=b)
        np.add(a, b, out=a)
        sines[rows] = a[:n]
        np.multiply(cos_coarse[i], cos_fine, out=a)
        np.multiply(sin_coarse[i], sin_fine, out=b)
        np.subtract(a, b, out=a)
        cosines[rows] = a[:n, : cosines.shape[1]]


def _paper_rates(d_model: int) -> Wide:
    """[ceil(d_model / 2)]"""
    return 10000.0 ** (-2.0 * np.arange((d_model + 1) // 2) / d_model)


def sinusoidal(n_positions: int, d_model: int) -> Table:
    """The paper's table [n_positions, d_model]: sine and cosine of a pair side by side."""
    table = np.empty((n_positions, d_model), np.float32)
    _fill(table[:, 0::2], table[:, 1::2], 0, _paper_rates(d_model))
    return table


def sinusoidal_halves(n_positions: int, d_model: int) -> Table:
    """Marian's table [n_positions, d_model]: all sines, then all cosines."""
    rates = _paper_rates(d_model)
    table = np.empty((n_positions, d_model), np.float32)
    _fill(table[:, : len(rates)], table[:, len(rates) :], 0, rates)
    return table


def sinusoidal_fairseq(n_positions: int, d_model: int) -> Table:
    """fairseq's table [n_positions, d_model], d_model >= 4: h = d_model // 2 sines, then h cosines,
    then 0 if d_model is odd.

    As in tensor2tensor, feature i of position p turns by p / 10000^(i / (h - 1)); the first
    position is 2, since fairseq keeps 0 and 1 for symbols that have none.
    """
    half = d_model // 2
    rates = np.exp(np.arange(half) * (-np.log(10000.0) / max(half - 1, 1)))
    table = np.zeros((n_positions, d_model), np.float32)
    _fill(table[:, :half], table[:, half : 2 * half], 2, rates)
    return table


TABLES: Mapping[Positions, Callable[[int, int], Table]] = {
    Positions.SINUSOIDAL: sinusoidal,
    Positions.SINUSOIDAL_HALVES: sinusoidal_halves,
    Positions.SINUSOIDAL_FAIRSEQ: sinusoidal_fairseq,
}
"""The kinds of positions that are computed: (n_positions, d_model) -> table."""
