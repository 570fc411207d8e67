"""Sinusoidal position tables: computed when a model is loaded, not stored in files.

Vaswani et al., "Attention Is All You Need" (2017), section 3.5: feature pair i of position p turns
by the angle p / 10000^(2i / d).  Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .config import Positions

Table = npt.NDArray[np.float32]


def _angles(n_positions: int, d_model: int) -> npt.NDArray[np.float64]:
    """[n_positions, ceil(d_model / 2)]"""
    exponents = 2.0 * np.arange((d_model + 1) // 2) / d_model
    return np.arange(n_positions)[:, None] / np.power(10000.0, exponents)


def sinusoidal(n_positions: int, d_model: int) -> Table:
    """The paper's table [n_positions, d_model]: sine and cosine of a pair side by side."""
    angles = _angles(n_positions, d_model)
    table = np.empty((n_positions, d_model), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : d_model // 2])
    return table


def sinusoidal_halves(n_positions: int, d_model: int) -> Table:
    """Marian's table [n_positions, d_model]: all sines, then all cosines."""
    angles = _angles(n_positions, d_model)
    n_sines = angles.shape[1]
    table = np.empty((n_positions, d_model), np.float32)
    table[:, :n_sines] = np.sin(angles)
    table[:, n_sines:] = np.cos(angles[:, : d_model - n_sines])
    return table


def sinusoidal_fairseq(n_positions: int, d_model: int) -> Table:
    """fairseq's table [n_positions, d_model], d_model >= 4: h = d_model // 2 sines, then h cosines,
    then 0 if d_model is odd.

    As in tensor2tensor, feature i of position p turns by p / 10000^(i / (h - 1)); the first
    position is 2, since fairseq keeps 0 and 1 for symbols that have none.
    """
    half = d_model // 2
    rates = np.exp(np.arange(half) * (-np.log(10000.0) / max(half - 1, 1)))
    angles = np.arange(2, n_positions + 2)[:, None] * rates
    table = np.zeros((n_positions, d_model), np.float32)
    table[:, :half] = np.sin(angles)
    table[:, half : 2 * half] = np.cos(angles)
    return table


TABLES: Mapping[Positions, Callable[[int, int], Table]] = {
    Positions.SINUSOIDAL: sinusoidal,
    Positions.SINUSOIDAL_HALVES: sinusoidal_halves,
    Positions.SINUSOIDAL_FAIRSEQ: sinusoidal_fairseq,
}
"""The kinds of positions that are computed: (n_positions, d_model) -> table."""
