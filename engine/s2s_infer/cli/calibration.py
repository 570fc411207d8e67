"""What a model's matrices multiply on a user's own text, for rounding to int8 or int4 to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..loaders import Checkpoint, load_checkpoint
from ..loaders.packing import to_dtype
from ..model import Model

Moments = dict[str, npt.NDArray[np.float64]]
"""Matrix -> [n_in, n_in], the sum of x x^T over the inputs x that it met."""
_HEADS = ("output.weight", "shared.embed")


def calibrated(
    source: Path, dtype: str, texts: Sequence[str], how: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint in int8 or int4, rounded for what it computes for these texts.

    how: what `text_options` gives.
    """
    checkpoint = load_checkpoint(source, dtype="float32")
    tensors = to_dtype(
        checkpoint.tensors, dtype, checkpoint.config, moments(checkpoint, texts, how)
    )
    return replace(checkpoint, tensors=tensors, dtype=dtype)


def moments(checkpoint: Checkpoint, texts: Sequence[str], how: Mapping[str, Any]) -> Moments:
    """Run the model on the texts (greedy search) and collect the moments."""
    result: Moments = {}
    with Model(checkpoint) as model:
        for text in texts:
            for name, rows in model.trace(text, **how).items():
                for matrix in _matrices(name, model.config.decoder.n_layers):
                    add(result, matrix, rows)
    return result


def add(to: Moments, matrix: str, rows: npt.NDArray[Any]) -> None:
    """Count rows [n, n_in] of inputs."""
    wide = rows.astype(np.float64)
    product = wide.T @ wide
    if matrix in to:
        to[matrix] += product
    else:
        to[matrix] = product


def _matrices(name: str, n_decoder_layers: int) -> list[str]:
    """The matrices that multiply the tensor which a trace has under that name."""
    if name == "encoder.output":
        return [f"decoder.{i}.cross_attn.kv.weight" for i in range(n_decoder_layers)]
    if name == "decoder.output":
        return list(_HEADS)
    if name.endswith(".input") and name not in ("encoder.input", "decoder.input"):
        return [name.removesuffix("input") + "weight"]
    return []
