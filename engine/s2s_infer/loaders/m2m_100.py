"""M2M100 and NLLB checkpoints of Hugging Face: M2M100ForConditionalGeneration in transformers.

Fan et al., "Beyond English-Centric Multilingual Machine Translation" (2020); NLLB Team, "No
Language Left Behind" (2022).  Pre-norm layers with a norm after the last one, fairseq's sinusoidal
positions, no bias on the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config_enums import NormPlace, Positions
from . import fairseq
from .checkpoint import Checkpoint
from .fields import Fields

STYLE = fairseq.Style(
    family="m2m_100",
    activation="relu",
    norm_place=NormPlace.PRE,
    embed_norm=False,
    final_norm=True,
    positions=Positions.SINUSOIDAL_FAIRSEQ,
    output_bias=False,
    scale_embedding=True,
    ids={
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    ignored=("encoder.embed_positions.weights", "decoder.embed_positions.weights"),
)


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open an M2M100 or NLLB directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    fields.refuse("pad_token_id", 1)  # transformers counts positions from the padding token's id
    if fields.raw("decoder_start_token_id") == 1:
        raise fields.error("decoder_start_token_id", "the padding token has no position")
    fields.integer("d_model", 4, 1 << 20, alias="hidden_size")
    return fairseq.load(path, config, dtype, STYLE)
