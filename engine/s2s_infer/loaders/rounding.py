"""Rounding that makes up for itself: each weight's error is carried to the weights still to come.

The method of GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323): with H the second
moments of a matrix's inputs, the error of rounding one input's weights changes the products least
if the weights of the inputs not yet rounded move by a row of the inverse of H.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

DAMPING = 0.03
"""Share of the mean of H's diagonal that is added to the diagonal: few samples then do no harm."""
BLOCK = 128
"""Inputs that are rounded before what they change is carried on to all later ones."""

Array = npt.NDArray[Any]


def compensated(
    weight: Array, scale: Array, moments: Array, steps: Array | None = None
) -> npt.NDArray[np.int8]:
    """Codes [n_out, n_in], from -127 to 127, of a weight [n_out, n_in] with these scales [n_out].

    steps: [n_out, n_in]; then codes are from -8 to 7 times their steps.

    moments: H [n_in, n_in], not negative definite; where it is all zeros rounding is plain.
    """
    n_in = weight.shape[1]
    damping = DAMPING * np.trace(moments) / n_in
    if not damping > 0:
        damping = 1.0
    order = np.argsort(-np.diag(moments), kind="stable")  # those that matter most first
    h = moments[np.ix_(order, order)] + damping * np.eye(n_in)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T  # inv(H) = upper^T upper
    left = weight[:, order] / scale[:, None].astype(np.float64)
    codes = np.empty(weight.shape, np.int8)
    for first in range(0, n_in, BLOCK):
        last = min(first + BLOCK, n_in)
        block = left[:, first:last]
        errors = np.empty_like(block)
        for i in range(last - first):
            row = upper[first + i, first:last]
            if steps is None:
                rounded = np.clip(np.rint(block[:, i]), -127, 127)
            else:
                step = steps[:, order[first + i]]
                rounded = np.clip(np.rint(block[:, i] / step), -8, 7) * step
            codes[:, order[first + i]] = rounded
            errors[:, i] = (block[:, i] - rounded) / row[i]
            block[:, i + 1 :] -= np.outer(errors[:, i], row[i + 1 :])
        left[:, last:] -= errors @ upper[first:last, last:]
    return codes
