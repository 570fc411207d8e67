"""RoBERTa checkpoints of Hugging Face: RobertaModel and its kin in transformers.

Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach" (2019).  Positions count from
pad_token_id + 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import Activation
from .bert import KEYS, LAYER, TENSORS
from .checkpoint import Checkpoint
from .encoder_only import Dense, HeadStyle, Style
from .encoder_only import load as load_encoder_only

STYLE = Style(
    family="roberta",
    prefix="roberta.",
    classes={
        "RobertaModel": ("pooler",),
        "RobertaForMaskedLM": ("masked_lm",),
        "RobertaForSequenceClassification": ("classifier",),
    },
    keys=KEYS,
    layer=LAYER,
    tensors=TENSORS,
    masked_lm=HeadStyle(
        Dense("lm_head.dense", Activation.GELU, "lm_head.layer_norm"),
        "lm_head.decoder",
        ("lm_head.bias",),
    ),
    classifier=HeadStyle(Dense("classifier.dense", Activation.TANH), "classifier.out_proj"),
    n_token_types=2,
    mask="<mask>",
    norm_eps="layer_norm_eps",
    positions_after_padding=True,
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a RoBERTa directory whose config.json is `config`.  Raises ModelError."""
    return load_encoder_only(path, config, dtype, STYLE)
