"""Marian checkpoints of Hugging Face (opus-mt and its kin): MarianMTModel in transformers.

Post-norm layers, sinusoidal positions (sines first), a bias on the logits; source and target may
have vocabularies of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import NormPlace, Positions
from . import fairseq
from .checkpoint import Checkpoint

STYLE = fairseq.Style(
    family="marian",
    activation="gelu",
    norm_place=NormPlace.POST,
    embed_norm=False,
    final_norm=False,
    positions=Positions.SINUSOIDAL_HALVES,
    output_bias=True,
    ids={"decoder_start_token_id": 58100, "pad_token_id": 58100, "eos_token_id": 0},
    two_vocabularies=True,
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a Marian directory whose config.json is `config`.  Raises ModelError."""
    return fairseq.load(path, config, dtype, STYLE)
