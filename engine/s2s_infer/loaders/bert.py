"""BERT checkpoints of Hugging Face: BertModel and its kin in transformers.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint
from .encoder_only import Dense, HeadStyle, Style
from .encoder_only import load as load_encoder_only

KEYS = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ffn": "intermediate_size",
    "activation": "hidden_act",
}
LAYER = "encoder.layer.{}"
TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
STYLE = Style(
    family="bert",
    prefix="bert.",
    classes={
        "BertModel": ("pooler",),
        "BertForMaskedLM": ("masked_lm",),
        "BertForPreTraining": ("pooler", "masked_lm"),
        "BertForSequenceClassification": ("pooler", "classifier"),
    },
    keys=KEYS,
    layer=LAYER,
    tensors=TENSORS,
    masked_lm=HeadStyle(
        Dense("cls.predictions.transform.dense", None, "cls.predictions.transform.LayerNorm"),
        "cls.predictions.decoder",
        ("cls.predictions.bias",),
    ),
    classifier=HeadStyle(None, "classifier"),
    n_token_types=2,
    mask="[MASK]",
    norm_eps="layer_norm_eps",
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a BERT directory whose config.json is `config`.  Raises ModelError."""
    return load_encoder_only(path, config, dtype, STYLE)
