"""Sinusoidal position tables: computed when a model is loaded, not stored in files.

Vaswani et al., "Attention Is All You Need" (2017), section 3.5: feature pair i of position p turns
by the angle p / 10000^(2i / d).  Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .config_enums import Positions

Table = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


def _sines_and_cosines(first: int, n_positions: int, rates: Wide) -> tuple[Wide, Wide]:
    """Sine and cosine of position times rate [n_positions, n_rates], positions from `first` on.

    Position 32 i + j turns by the sum of two angles, so that few sines and many products are
    computed: most of the time of loading a model would go into sines otherwise.
    """
    fine = np.arange(first, first + 32)[:, None] * rates
    coarse = np.arange(0, n_positions, 32)[:, None, None] * rates
    sin_fine, cos_fine, sin_coarse, cos_coarse = (
        np.sin(fine),
        np.cos(fine),
        np.sin(coarse),
        np.cos(coarse),
    )
    sines = sin_coarse * cos_fine + cos_coarse * sin_fine
    cosines = cos_coarse * cos_fine - sin_coarse * sin_fine
    shape = (-1, len(rates))
    return sines.reshape(shape)[:n_positions], cosines.reshape(shape)[:n_positions]


def _paper_rates(d_model: int) -> Wide:
    """[ceil(d_model / 2)]"""
    return 10000.0 ** (-2.0 * np.arange((d_model + 1) // 2) / d_model)


def sinusoidal(n_positions: int, d_model: int) -> Table:
    """The paper's table [n_positions, d_model]: sine and cosine of a pair side by side."""
    sines, cosines = _sines_and_cosines(0, n_positions, _paper_rates(d_model))
    table = np.empty((n_positions, d_model), np.float32)
    table[:, 0::2] = sines
    table[:, 1::2] = cosines[:, : d_model // 2]
    return table


def sinusoidal_halves(n_positions: int, d_model: int) -> Table:
    """Marian's table [n_positions, d_model]: all sines, then all cosines."""
    sines, cosines = _sines_and_cosines(0, n_positions, _paper_rates(d_model))
    n_sines = sines.shape[1]
    table = np.empty((n_positions, d_model), np.float32)
    table[:, :n_sines] = sines
    table[:, n_sines:] = cosines[:, : d_model - n_sines]
    return table


def sinusoidal_fairseq(n_positions: int, d_model: int) -> Table:
    """fairseq's table [n_positions, d_model], d_model >= 4: h = d_model // 2 sines, then h cosines,
    then 0 if d_model is odd.

    As in tensor2tensor, feature i of position p turns by p / 10000^(i / (h - 1)); the first
    position is 2, since fairseq keeps 0 and 1 for symbols that have none.
    """
    half = d_model // 2
    rates = np.exp(np.arange(half) * (-np.log(10000.0) / max(half - 1, 1)))
    sines, cosines = _sines_and_cosines(2, n_positions, rates)
    table = np.zeros((n_positions, d_model), np.float32)
    table[:, :half] = sines
    table[:, half : 2 * half] = cosines
    return table


TABLES: Mapping[Positions, Callable[[int, int], Table]] = {
    Positions.SINUSOIDAL: sinusoidal,
    Positions.SINUSOIDAL_HALVES: sinusoidal_halves,
    Positions.SINUSOIDAL_FAIRSEQ: sinusoidal_fairseq,
}
"""The kinds of positions that are computed: (n_positions, d_model) -> table."""
