"""Pegasus checkpoints of Hugging Face: PegasusForConditionalGeneration in transformers.

Zhang et al., "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization"
(2019).  Pre-norm layers with a norm after the last one, sinusoidal positions (sines first).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import NormPlace, Positions
from . import fairseq
from .checkpoint import Checkpoint

STYLE = fairseq.Style(
    family="pegasus",
    activation="gelu",
    norm_place=NormPlace.PRE,
    embed_norm=False,
    final_norm=True,
    positions=Positions.SINUSOIDAL_HALVES,
    output_bias=True,
    ids={
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 1,
    },
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a Pegasus directory whose config.json is `config`.  Raises ModelError."""
    return fairseq.load(path, config, dtype, STYLE)
