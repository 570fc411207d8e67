"""Llama and its kin of Hugging Face: model_type llama, mistral, qwen2.

Touvron et al., "LLaMA" (2023).  A decoder alone: pre-norm layers with RMS norms, rotary positions,
a gated feed-forward block, and key and value heads that several query heads share: grouped-query
attention (Ainslie et al., 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..config import ModelConfig, StackConfig
from ..config_enums import NormKind, NormPlace, Positions
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .rope import Rotary, read_rotary
from .weights import Weights, open_weights

_IDS: dict[str, dict[str, int | None]] = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {},
}
_MAX_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768}
"""Where config.json names none, as transformers has it."""


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a directory of a Llama kind whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    family = config.get("model_type") or "llama"
    d_model = fields.integer("hidden_size", 1, 1 << 16)
    n_heads = fields.integer("num_attention_heads", 1, 1024)
    if fields.raw("head_dim") is None and d_model % n_heads:
        raise fields.error("num_attention_heads", f"hidden_size = {d_model} is no multiple of it")
    d_head = fields.integer("head_dim", 1, 4096, default=d_model // n_heads)
    rotary = read_rotary(fields, d_head)
    model = _model_config(fields, family, d_model, n_heads, d_head, rotary)
    tensors = _pack(open_weights(path), model, fields, dtype, rotary)
    return assemble(fields, model, tensors, family=family, dtype=dtype, ids=_IDS[family])


def _model_config(
    fields: Fields, family: str, d_model: int, n_heads: int, d_head: int, rotary: Rotary
) -> ModelConfig:
    fields.refuse("is_encoder_decoder", False)
    fields.refuse("add_cross_attention", False)
    fields.refuse("quantization_config")
    vocab_size = fields.integer("vocab_size", 1)
    all_biases = family == "llama" and fields.boolean("attention_bias", False)
    n_layers = fields.integer("num_hidden_layers", 1, 256)
    decoder = StackConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.key_heads(n_heads),
        d_head=d_head,
        d_ffn=fields.integer("intermediate_size", 1, 1 << 20),
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        norm_place=NormPlace.PRE,
        embed_norm=False,
        final_norm=True,
        positions=Positions.ROTARY,
        max_positions=fields.integer(
            "max_position_embeddings", 1, 1 << 20, default=_MAX_POSITIONS[family]
        ),
        window=_window(fields, family, n_layers),
        embed_scale=1.0,
        attention_scale=d_head**-0.5,
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        norm_kind=NormKind.RMS,
        ffn_gated=True,
        qkv_bias=all_biases or family == "qwen2",
        out_bias=all_biases,
        ffn_bias=family == "llama" and fields.boolean("mlp_bias", False),
        d_rotary=2 * len(rotary.inv_freq),
        rotary_scale=rotary.scale,
    )
    return ModelConfig.decoder_alone(vocab_size, d_model, decoder)


def _window(fields: Fields, family: str, n_layers: int) -> int:
    """The last positions that a layer sees; 0: all."""
    if family == "llama":
        return 0
    if family == "qwen2" and not fields.boolean("use_sliding_window", False):
        return 0
    # absent is the families' default, null is none
    default = 0 if "sliding_window" in fields.values else 4096
    window: int = fields.integer("sliding_window", 1, 1 << 20, default=default)
    kinds = fields.raw("layer_types")
    if kinds is None and family == "qwen2":
        first = fields.integer("max_window_layers", 0, default=28)
        kinds = ["full_attention"] * min(first, n_layers) + ["sliding_attention"] * (
            n_layers - first
        )
    if kinds is None or not window:
        return window
    if kinds == ["full_attention"] * n_layers and family == "qwen2":
        return 0
    if kinds != ["sliding_attention"] * n_layers:
        raise fields.error("layer_types", "layers of more than one kind are not supported")
    return window


def _pack(
    weights: Weights, model: ModelConfig, fields: Fields, dtype: str, rotary: Rotary
) -> dict[str, npt.NDArray[Any]]:
    d, stack = model.d_model, model.decoder
    d_attention, d_kv = stack.n_heads * stack.d_head, stack.n_kv_heads * stack.d_head
    p = "model." if weights.has_prefix("model.") else ""
    packer = Packer(dtype)

    def linear(name: str, n_out: int, n_in: int, has_bias: bool) -> Linear:
        return Linear(
            weights.get(f"{p}{name}.weight", n_out, n_in),
            weights.get(f"{p}{name}.bias", n_out) if has_bias else None,
        )

    embed = weights.get(f"{p}embed_tokens.weight", model.vocab_size, d)
    head = "lm_head.weight"
    is_tied = fields.boolean("tie_word_embeddings", False) and head not in weights
    packer.embeddings(None, embed, embed if is_tied else weights.get(head, model.vocab_size, d))
    packer.vector("decoder.rotary.inv_freq", rotary.inv_freq)
    unused = []
    for i in range(stack.n_layers):
        theirs, ours = f"layers.{i}", f"decoder.{i}"
        q, k, v = (
            linear(f"{theirs}.self_attn.{part}_proj", n, d, stack.qkv_bias)
            for part, n in (("q", d_attention), ("k", d_kv), ("v", d_kv))
        )
        out = linear(f"{theirs}.self_attn.o_proj", d, d_attention, stack.out_bias)
        packer.self_attention(f"{ours}.self_attn", stack, q, k, v, out)
        gate, up = (
            linear(f"{theirs}.mlp.{part}_proj", stack.d_ffn, d, stack.ffn_bias)
            for part in ("gate", "up")
        )
        packer.gated(f"{ours}.ffn.up", gate, up)
        down = linear(f"{theirs}.mlp.down_proj", d, stack.d_ffn, stack.ffn_bias)
        packer.linear(f"{ours}.ffn.down", down)
        for block, name in (("self_attn", "input"), ("ffn", "post_attention")):
            weight = weights.get(f"{p}{theirs}.{name}_layernorm.weight", d)
            packer.norm(f"{ours}.{block}.norm", weight)
        unused.append(f"{p}{theirs}.self_attn.rotary_emb.inv_freq")  # of old files
    packer.norm("decoder.final_norm", weights.get(f"{p}norm.weight", d))
    weights.check_all_used(unused)
    return packer.tensors
