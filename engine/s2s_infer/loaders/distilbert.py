"""DistilBERT checkpoints of Hugging Face: DistilBertModel and its kin in transformers.

Sanh et al., "DistilBERT, a distilled version of BERT" (2019).  No token types, no pooler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import Activation
from .checkpoint import Checkpoint
from .encoder_only import Dense, HeadStyle, Style
from .encoder_only import load as load_encoder_only

STYLE = Style(
    family="distilbert",
    prefix="distilbert.",
    classes={
        "DistilBertModel": (),
        "DistilBertForMaskedLM": ("masked_lm",),
        "DistilBertForSequenceClassification": ("classifier",),
    },
    keys={
        "d_model": "dim",
        "n_layers": "n_layers",
        "n_heads": "n_heads",
        "d_ffn": "hidden_dim",
        "activation": "activation",
    },
    aliases={
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
    },
    layer="transformer.layer.{}",
    tensors={
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "out": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "ffn_norm": "output_layer_norm",
    },
    masked_lm=HeadStyle(Dense("vocab_transform", None, "vocab_layer_norm"), "vocab_projector"),
    classifier=HeadStyle(Dense("pre_classifier", Activation.RELU), "classifier"),
    n_token_types=None,
    mask="[MASK]",
    norm_eps=None,
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a DistilBERT directory whose config.json is `config`.  Raises ModelError."""
    return load_encoder_only(path, config, dtype, STYLE)
