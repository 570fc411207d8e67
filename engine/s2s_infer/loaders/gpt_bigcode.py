"""GPT-BigCode checkpoints of Hugging Face (StarCoder's first kind): GPTBigCodeForCausalLM.

GPT-2 with one key and value head for all query heads: multi-query attention (Shazeer, "Fast
Transformer Decoding: One Write-Head is All You Need", 2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..config import StackConfig
from . import gpt2
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import Fields
from .packing import Linear
from .weights import open_weights

_IDS = {"bos_token_id": 50256, "eos_token_id": 50256}


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a GPT-BigCode directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    multi_query = fields.boolean("multi_query", True)
    model = gpt2.model_config(fields, "gelu_pytorch_tanh", 1 if multi_query else None)
    split = _split_multi_query if multi_query else _split_heads
    tensors = gpt2.pack(open_weights(path), model, fields, dtype, split, transposed=False)
    return assemble(fields, model, tensors, family="gpt_bigcode", dtype=dtype, ids=_IDS)


def _split_multi_query(fused: Linear, stack: StackConfig) -> tuple[Linear, Linear, Linear]:
    """All queries, then the one key, then the one value."""
    assert fused.bias is not None
    at = [stack.n_heads * stack.d_head, (stack.n_heads + 1) * stack.d_head]
    weights, biases = np.split(fused.weight, at), np.split(fused.bias, at)
    q, k, v = (Linear(w, b) for w, b in zip(weights, biases, strict=True))
    return q, k, v


def _split_heads(fused: Linear, stack: StackConfig) -> tuple[Linear, Linear, Linear]:
    """Head by head its query, key and value."""
    assert fused.bias is not None
    n_in = fused.weight.shape[1]
    weight = fused.weight.reshape(stack.n_heads, 3, stack.d_head, n_in)
    bias = fused.bias.reshape(stack.n_heads, 3, stack.d_head)
    q, k, v = (
        Linear(weight[:, part].reshape(-1, n_in), bias[:, part].reshape(-1)) for part in range(3)
    )
    return q, k, v
