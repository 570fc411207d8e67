"""Sinusoidal position tables: computed when a model is loaded, not stored in files.

Vaswani et al., "Attention Is All You Need" (2017), section 3.5: feature pair i of position p turns
by the angle p / 10000^(2i / d).  Computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
