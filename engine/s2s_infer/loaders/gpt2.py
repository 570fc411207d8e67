"""GPT-2 checkpoints of Hugging Face: GPT2LMHeadModel in transformers; GPT-BigCode uses this too.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).  A decoder alone:
pre-norm layers, learned positions, one matrix for queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, StackConfig
from ..config_enums import NormPlace, Positions
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .weights import Weights, open_weights

_IDS = {"bos_token_id": 50256, "eos_token_id": 50256}

Split = Callable[[Linear, StackConfig], tuple[Linear, Linear, Linear]]


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a GPT-2 directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    model = model_config(fields, "gelu_new")
    by_layer = fields.boolean("scale_attn_by_inverse_layer_idx", False)
    tensors = pack(
        open_weights(path), model, fields, dtype, _split, transposed=True, scale_by_layer=by_layer
    )
    return assemble(fields, model, tensors, family="gpt2", dtype=dtype, ids=_IDS)


def model_config(fields: Fields, activation: str, n_kv_heads: int | None = None) -> ModelConfig:
    """n_kv_heads: None: as many as heads.  Raises ModelError."""
    fields.refuse("add_cross_attention", False)
    fields.refuse("is_encoder_decoder", False)
    fields.refuse("quantization_config")
    d_model = fields.integer("n_embd", 1, 1 << 16, alias="hidden_size")
    n_heads = fields.integer("n_head", 1, 1024, alias="num_attention_heads")
    if d_model % n_heads:
        raise fields.error("n_head", f"n_embd = {d_model} is not a multiple of it")
    d_head = d_model // n_heads
    vocab_size = fields.integer("vocab_size", 1)
    decoder = StackConfig(
        n_layers=fields.integer("n_layer", 1, 256, alias="num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        d_head=d_head,
        d_ffn=fields.integer("n_inner", 1, 1 << 20, default=4 * d_model),
        activation=fields.choice("activation_function", ACTIVATIONS, activation),
        norm_place=NormPlace.PRE,
        embed_norm=False,
        final_norm=True,
        positions=Positions.LEARNED,
        max_positions=fields.integer(
            "n_positions", 1, 1 << 20, default=1024, alias="max_position_embeddings"
        ),
        window=0,
        embed_scale=1.0,
        attention_scale=d_head**-0.5 if fields.boolean("scale_attn_weights", True) else 1.0,
        norm_eps=fields.number("layer_norm_epsilon", default=1e-5),
    )
    return ModelConfig.decoder_alone(vocab_size, d_model, decoder)


def _split(fused: Linear, stack: StackConfig) -> tuple[Linear, Linear, Linear]:
    """All queries, then all keys, then all values."""
    assert fused.bias is not None
    q, k, v = (
        Linear(w, b)
        for w, b in zip(np.split(fused.weight, 3), np.split(fused.bias, 3), strict=True)
    )
    return q, k, v


def pack(
    weights: Weights,
    model: ModelConfig,
    fields: Fields,
    dtype: str,
    split: Split,
    *,
    transposed: bool,
    scale_by_layer: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """split: takes queries, keys and values out of c_attn.  transposed: matrices are [n_in, n_out]
    (GPT-2's Conv1D).  scale_by_layer: scores of layer i are divided by i + 1, which goes into its
    queries here."""
    d, stack = model.d_model, model.decoder
    p = "transformer." if weights.has_prefix("transformer.") else ""
    packer = Packer(dtype)

    def linear(name: str, n_out: int, n_in: int) -> Linear:
        shape = (n_in, n_out) if transposed else (n_out, n_in)
        weight = weights.get(f"{p}{name}.weight", *shape)
        return Linear(weight.T if transposed else weight, weights.get(f"{p}{name}.bias", n_out))

    def norm(ours: str, theirs: str) -> None:
        packer.norm(
            ours, weights.get(f"{p}{theirs}.weight", d), weights.get(f"{p}{theirs}.bias", d)
        )

    embed = weights.get(f"{p}wte.weight", model.vocab_size, d)
    head, output = "lm_head.weight", embed
    if head in weights:
        output = weights.get(head, model.vocab_size, d)
    elif not fields.boolean("tie_word_embeddings", True):
        output = weights.get(head, model.vocab_size, d)  # is missing, and says so
    packer.embeddings(None, embed, output)
    packer.vector("decoder.positions", weights.get(f"{p}wpe.weight", stack.max_positions, d))
    n_qkv = (stack.n_heads + 2 * stack.n_kv_heads) * stack.d_head
    unused = []
    for i in range(stack.n_layers):
        theirs, ours = f"h.{i}", f"decoder.{i}"
        q, k, v = split(linear(f"{theirs}.attn.c_attn", n_qkv, d), stack)
        if scale_by_layer:
            assert q.bias is not None
            q = Linear(q.weight / np.float32(i + 1), q.bias / np.float32(i + 1))
        out = linear(f"{theirs}.attn.c_proj", d, stack.n_heads * stack.d_head)
        packer.self_attention(f"{ours}.self_attn", stack, q, k, v, out)
        norm(f"{ours}.self_attn.norm", f"{theirs}.ln_1")
        packer.linear(f"{ours}.ffn.up", linear(f"{theirs}.mlp.c_fc", stack.d_ffn, d))
        packer.linear(f"{ours}.ffn.down", linear(f"{theirs}.mlp.c_proj", d, stack.d_ffn))
        norm(f"{ours}.ffn.norm", f"{theirs}.ln_2")
        unused += [f"{p}{theirs}.attn.bias", f"{p}{theirs}.attn.masked_bias"]  # masks of old files
    norm("decoder.final_norm", "ln_f")
    weights.check_all_used(unused)
    return packer.tensors
