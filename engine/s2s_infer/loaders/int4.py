"""Matrices of four bits a weight: int8 ones whose weights are small multiples of a step.

An output's inputs are cut into groups of 32; a weight is from -8 to 7 times the step of its group,
a whole number from 0 to 15, times the scale of the output.  csrc/s2s.h says how that is stored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import _core

TILE, GROUP, PIECE = 16, 32, 128
LARGEST_STEP = 15
_LEVELS = (8.0, 7.5, 7.0, 6.5, 6.0)
"""How many of its steps a group's largest weight may be: what is left of all is least with one."""

Matrix = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


def is_int4(name: str) -> bool:
    """Whether the matrix of that name may be int4: those of layers are."""
    parts = name.split(".")
    return parts[0] in ("encoder", "decoder") and parts[1].isdigit()


def choose_steps(weight: Matrix) -> tuple[npt.NDArray[np.int8], Matrix]:
    """Steps [n_out, n_groups] and scales [n_out] of a finite weight [n_out, n_in]."""
    groups = _grouped(weight)
    most = np.abs(groups).max(2, keepdims=True)
    groups = groups / np.where(most > 0, most, np.float32(1))
    best, least = np.zeros_like(most), np.full_like(most, np.inf)
    for levels in _LEVELS:
        near = np.clip(np.rint(groups * np.float32(levels)), -8, 7) / np.float32(levels)
        error = ((groups - near) ** 2).sum(2, keepdims=True)
        best = np.where(error < least, most / np.float32(levels), best)
        least = np.minimum(error, least)
    scale = best.max((1, 2)) / np.float32(LARGEST_STEP)
    scale = np.where(scale < np.finfo(np.float32).tiny, 1, scale).astype(np.float32)
    steps = np.clip(np.rint(best[:, :, 0] / scale[:, None]), 1, LARGEST_STEP)
    return steps.astype(np.int8), scale


def round_to(weight: Matrix, steps: npt.NDArray[np.int8], scale: Matrix) -> Codes:
    """The int8 weights [n_out, n_in] of what is nearest."""
    own = spread(steps, weight.shape[1])
    nearest = np.rint(weight / (scale[:, None] * own))
    return (np.clip(nearest, -8, 7) * own).astype(np.int8)


def spread(steps: npt.NDArray[np.int8], n_in: int) -> npt.NDArray[np.int8]:
    """Steps of groups as those of their inputs, [n_out, n_in]."""
    return np.repeat(steps, GROUP, 1)[:, :n_in]


def pack(codes: Codes, steps: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 weights [n_out, n_in], multiples of their steps -> tiles [n_tiles, n_pieces, 17, 64]."""
    n_out, n_in = codes.shape
    n_tiles, n_pieces = -(-n_out // TILE), -(-n_in // PIECE)
    numbers = np.zeros((n_tiles * TILE, n_pieces * PIECE), np.int8)
    numbers[:n_out, :n_in] = codes // spread(steps, n_in)
    all_steps = np.zeros((n_tiles * TILE, n_pieces * PIECE // GROUP), np.uint8)
    all_steps[:n_out, : steps.shape[1]] = steps
    all_steps *= numbers.reshape(*all_steps.shape, GROUP).any(2)  # nothing but zeros: no step
    # [tile, output, piece, line, half, input] -> [tile, piece, line, half, output, input]
    nibbles = numbers.reshape(n_tiles, TILE, n_pieces, 16, 2, 4).transpose(0, 2, 3, 4, 1, 5)
    low, high = (nibbles[:, :, :, half].astype(np.uint8) & 15 for half in (0, 1))
    tiles: npt.NDArray[np.uint8] = _core.empty_aligned((n_tiles, n_pieces, 17, 64), np.uint8)
    tiles[:, :, 0] = (
        all_steps.reshape(n_tiles, TILE, n_pieces, 4).transpose(0, 2, 3, 1).reshape(n_tiles, -1, 64)
    )
    tiles[:, :, 1:] = (low | high << 4).reshape(n_tiles, n_pieces, 16, 64)
    return tiles


def as_int8(tiles: npt.NDArray[np.uint8]) -> Codes:
    """Tiles of `pack`, or of an untrusted file, as tiles of int8, [n_tiles, 32 n_pieces, 16, 4]."""
    n_tiles, n_pieces = tiles.shape[:2]
    steps = (tiles[:, :, 0] & 15).reshape(n_tiles, n_pieces, 4, 1, TILE, 1)
    lines = tiles[:, :, 1:].reshape(n_tiles, n_pieces, 4, 4, TILE, 4)
    halves = np.stack([lines & 15, lines >> 4], 4).astype(
        np.int8
    )  # [.., line, half, output, input]
    numbers = (halves ^ 8) - 8
    codes: Codes = (numbers * steps[:, :, :, :, None].astype(np.int8)).reshape(n_tiles, -1, TILE, 4)
    return codes


def _grouped(weight: Matrix) -> npt.NDArray[np.float32]:
    n_out, n_in = weight.shape
    return np.pad(weight, ((0, 0), (0, -n_in % GROUP))).reshape(n_out, -1, GROUP)
