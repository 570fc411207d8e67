"""DeepSeek-V2 and V3 checkpoints of Hugging Face whose layers are all dense.

DeepSeek-AI, "DeepSeek-V2" (2024).  Llama's layers with multi-head latent attention: what is cached
of a position is a short latent vector and one rotary key, whatever the number of heads.  Layers of
a mixture of experts are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, StackConfig
from ..config_enums import NormKind, NormPlace, Positions
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .rope import Rotary, read_rotary, yarn_scale
from .weights import Matrix, Weights, open_weights

_IDS: dict[str, dict[str, int | None]] = {
    "deepseek_v2": {"bos_token_id": 1, "eos_token_id": 2},
    "deepseek_v3": {"bos_token_id": 0, "eos_token_id": 1},
}
_NORM_EPS = 1e-6  # transformers' norms of latents have it whatever rms_norm_eps is


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a DeepSeek directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    family = config.get("model_type") or "deepseek_v3"
    rotary = read_rotary(fields, fields.integer("qk_rope_head_dim", 2, 4096, default=64))
    model = _model_config(fields, family, rotary)
    tensors = _pack(open_weights(path), model, fields, family, dtype, rotary)
    return assemble(fields, model, tensors, family=family, dtype=dtype, ids=_IDS[family])


def _model_config(fields: Fields, family: str, rotary: Rotary) -> ModelConfig:
    fields.refuse("is_encoder_decoder", False)
    fields.refuse("quantization_config")
    n_layers = fields.integer("num_hidden_layers", 1, 256)
    n_dense = fields.integer("first_k_dense_replace", 0, default=3 if family.endswith("3") else 0)
    if n_dense < n_layers:
        raise fields.error(
            "first_k_dense_replace",
            f"it must be at least num_hidden_layers ({n_layers}): layers of a mixture of experts "
            "are not supported",
        )
    if fields.number("rms_norm_eps", default=_NORM_EPS) != _NORM_EPS:
        raise fields.error("rms_norm_eps", f"only {_NORM_EPS} is supported")
    d_model = fields.integer("hidden_size", 1, 1 << 16)
    n_heads = fields.integer("num_attention_heads", 1, 1024)
    d_head = fields.integer("qk_nope_head_dim", 1, 4096, default=128)
    vocab_size = fields.integer("vocab_size", 1)
    bias = fields.boolean("attention_bias", False)
    decoder = StackConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        # every head has keys and values of its own, made of the one latent
        n_kv_heads=fields.integer("num_key_value_heads", n_heads, n_heads, default=n_heads),
        d_head=d_head,
        d_ffn=fields.integer("intermediate_size", 1, 1 << 20),
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        norm_place=NormPlace.PRE,
        embed_norm=False,
        final_norm=True,
        positions=Positions.ROTARY,
        max_positions=fields.integer(
            "max_position_embeddings",
            1,
            1 << 20,
            default=4096 if family.endswith("3") else 2048,  # as transformers has it
        ),
        window=0,
        embed_scale=1.0,
        attention_scale=_attention_scale(rotary, d_head),
        norm_eps=_NORM_EPS,
        norm_kind=NormKind.RMS,
        ffn_gated=True,
        qkv_bias=bias,
        out_bias=bias,
        ffn_bias=family == "deepseek_v2" and fields.boolean("mlp_bias", False),
        d_rotary=2 * len(rotary.inv_freq),
        rotary_scale=rotary.scale,
        kv_rank=fields.integer("kv_lora_rank", 1, 4096, default=512),
        q_rank=0
        if "q_lora_rank" in fields.values and fields.raw("q_lora_rank") is None
        else fields.integer("q_lora_rank", 1, 1 << 16, default=1536),
        d_value=fields.integer("v_head_dim", 1, 4096, default=128),
    )
    return ModelConfig.decoder_alone(vocab_size, d_model, decoder)


def _attention_scale(rotary: Rotary, d_head: int) -> float:
    """The usual one, turned up where the positions were stretched."""
    scale: float = (d_head + 2 * len(rotary.inv_freq)) ** -0.5
    mscale = rotary.parameters.number("mscale_all_dim", default=0.0)
    if rotary.parameters.raw("rope_type") != "default" and mscale:
        scale *= yarn_scale(rotary.parameters.number("factor"), mscale) ** 2
    return scale


def _pack(
    weights: Weights,
    model: ModelConfig,
    fields: Fields,
    family: str,
    dtype: str,
    rotary: Rotary,
) -> dict[str, npt.NDArray[Any]]:
    d, stack = model.d_model, model.decoder
    n, d_query = stack.n_heads, stack.d_head + stack.d_rotary
    p = "model." if weights.has_prefix("model.") else ""
    # Pairs that turn together lie side by side; the core wants them half a part from each other.
    in_pairs = family == "deepseek_v2" or fields.boolean("rope_interleave", True)
    packer = Packer(dtype)

    def linear(name: str, n_out: int, n_in: int, has_bias: bool) -> Linear:
        return Linear(
            weights.get(f"{p}{name}.weight", n_out, n_in),
            weights.get(f"{p}{name}.bias", n_out) if has_bias else None,
        )

    def vector(ours: str, theirs: str, n: int) -> None:
        packer.norm(ours, weights.get(f"{p}{theirs}.weight", n))

    embed = weights.get(f"{p}embed_tokens.weight", model.vocab_size, d)
    head = "lm_head.weight"
    is_tied = fields.boolean("tie_word_embeddings", False) and head not in weights
    packer.embeddings(None, embed, embed if is_tied else weights.get(head, model.vocab_size, d))
    packer.vector("decoder.rotary.inv_freq", rotary.inv_freq)
    for i in range(stack.n_layers):
        theirs, ours = f"layers.{i}.self_attn", f"decoder.{i}.self_attn"
        q_down = None
        if stack.q_rank:
            q_down = linear(f"{theirs}.q_a_proj", stack.q_rank, d, stack.qkv_bias)
            vector(f"{ours}.q_norm", f"{theirs}.q_a_layernorm", stack.q_rank)
        name = "q_b_proj" if stack.q_rank else "q_proj"
        q = linear(f"{theirs}.{name}", n * d_query, stack.q_rank or d, False)
        kv_down = linear(
            f"{theirs}.kv_a_proj_with_mqa", stack.kv_rank + stack.d_rotary, d, stack.qkv_bias
        )
        if in_pairs:
            rows = q.weight.reshape(n, d_query, -1)
            q = Linear(_halves(rows, 1, stack.d_head).reshape(n * d_query, -1), None)
            bias = kv_down.bias
            kv_down = Linear(
                _halves(kv_down.weight, 0, stack.kv_rank),
                None if bias is None else _halves(bias, 0, stack.kv_rank),
            )
        vector(f"{ours}.kv_norm", f"{theirs}.kv_a_layernorm", stack.kv_rank)
        kv_up = weights.get(
            f"{p}{theirs}.kv_b_proj.weight", n * (stack.d_head + stack.d_value), stack.kv_rank
        )
        out = linear(f"{theirs}.o_proj", d, n * stack.d_value, stack.out_bias)
        packer.latent_attention(ours, stack, q_down, q, kv_down, kv_up, out)
        gate, up = (
            linear(f"layers.{i}.mlp.{part}_proj", stack.d_ffn, d, stack.ffn_bias)
            for part in ("gate", "up")
        )
        packer.gated(f"decoder.{i}.ffn.up", gate, up)
        down = linear(f"layers.{i}.mlp.down_proj", d, stack.d_ffn, stack.ffn_bias)
        packer.linear(f"decoder.{i}.ffn.down", down)
        for block, norm in (("self_attn", "input"), ("ffn", "post_attention")):
            vector(f"decoder.{i}.{block}.norm", f"layers.{i}.{norm}_layernorm", d)
    vector("decoder.final_norm", "norm", d)
    weights.check_all_used()
    return packer.tensors


def _halves(array: Matrix, axis: int, first: int) -> Matrix:
    """The elements from `first` on: those of even number, then those of odd number."""
    n = array.shape[axis]
    order = [*range(first), *range(first, n, 2), *range(first + 1, n, 2)]
    return np.take(array, order, axis)
