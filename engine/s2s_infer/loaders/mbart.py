"""mBART and mBART-50 checkpoints of Hugging Face: MBartForConditionalGeneration in transformers.

Liu et al., "Multilingual Denoising Pre-training for Neural Machine Translation" (2020); Tang et
al., "Multilingual Translation with Extensible Multilingual Pretraining and Finetuning" (2020).
BART with pre-norm layers and a norm after the last one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config_enums import NormPlace
from . import bart, fairseq
from .checkpoint import Checkpoint

STYLE = replace(
    bart.STYLE,
    family="mbart",
    norm_place=NormPlace.PRE,
    final_norm=True,
    ids={**bart.STYLE.ids, "decoder_start_token_id": None},
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open an mBART directory whose config.json is `config`.  Raises ModelError."""
    return fairseq.load(path, config, dtype, STYLE)
