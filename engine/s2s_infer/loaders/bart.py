"""BART checkpoints of Hugging Face: BartForConditionalGeneration in transformers.

Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training" (2019).  Post-norm layers, learned
positions whose table begins with two unused rows, a norm on the embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import NormPlace, Positions
from . import fairseq
from .checkpoint import Checkpoint

STYLE = fairseq.Style(
    family="bart",
    activation="gelu",
    norm_place=NormPlace.POST,
    embed_norm=True,
    final_norm=False,
    positions=Positions.LEARNED,
    output_bias=True,
    ids={
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    unused_rows=2,
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a BART directory whose config.json is `config`.  Raises ModelError."""
    return fairseq.load(path, config, dtype, STYLE)
