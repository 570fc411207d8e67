"""T5Gemma checkpoints of Hugging Face: T5GemmaForConditionalGeneration in transformers.

Zhang et al., "Encoder-Decoder Gemma" (2025).  Gemma 2 layers on both sides: RMS norms before and
after each block, rotary positions, grouped-query attention whose scores are capped, a gated
feed-forward block, windows in every other layer.  Encoder and decoder may differ in all but their
width.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from .rope import Rotary, read_rotary
from .weights import Weights, open_weights

_SIDES = ("encoder", "decoder")
_FULL, _SLIDING = "full_attention", "sliding_attention"


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a T5Gemma directory whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    if not fields.encodes_only:
        fields.refuse("is_encoder_decoder", True)
    fields.refuse("quantization_config")
    sides = {side: _side(fields, side) for side in _SIDES[: 1 if fields.encodes_only else 2]}
    d_model = sides["encoder"].integer("hidden_size", 1, 1 << 16)
    last = sides.get("decoder", sides["encoder"])  # of the stacks there are
    if last.integer("hidden_size", 1, 1 << 16) != d_model:
        raise last.error(
            "hidden_size",
            f"the encoder's is {d_model}: stacks of different widths are not supported",
        )
    rotary = {side: read_rotary(sides[side], _d_head(sides[side], d_model)) for side in sides}
    stacks = {side: _stack(sides[side], d_model, rotary[side]) for side in sides}
    model = ModelConfig(
        vocab_size=last.integer("vocab_size", 1),
        source_vocab_size=sides["encoder"].integer("vocab_size", 1),
        d_model=d_model,
        output_bias=False,
        encoder=stacks["encoder"],
        decoder=stacks.get("decoder") or StackConfig.absent(),
        output_softcap=_softcap(last, "final_logit_softcapping", 30.0),
    )
    tensors = _pack(open_weights(path), model, fields, dtype, rotary)
    ids: dict[str, int | None] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    for name in ids:  # the decoder's, where the top has none
        ids[name] = last.integer(name, 0, default=ids[name])
    start = fields.integer("decoder_start_token_id", 0, default=ids["bos_token_id"])
    ids["decoder_start_token_id"] = start
    return assemble(fields, model, tensors, family="t5gemma", dtype=dtype, ids=ids)


def _side(fields: Fields, side: str) -> Fields:
    values = fields.raw(side)
    if not isinstance(values, dict):
        raise fields.error(side, "it must be the configuration of that side")
    return Fields(values, fields.path)


def _d_head(side: Fields, d_model: int) -> int:
    n_heads = side.integer("num_attention_heads", 1, 1024)
    d_head: int = side.integer("head_dim", 1, 4096, default=d_model // n_heads)
    return d_head


def _softcap(side: Fields, key: str, default: float) -> float:
    """A cap: absent is the family's default, null is none."""
    if key in side.values and side.raw(key) is None:
        return 0.0
    return _positive(side, key, default)


def _positive(side: Fields, key: str, default: float) -> float:
    value = side.number(key, default=default)
    if value <= 0:
        raise side.error(key, "it must be above 0")
    return value


def _stack(side: Fields, d_model: int, rotary: Rotary) -> StackConfig:
    n_layers = side.integer("num_hidden_layers", 1, 256)
    n_heads = side.integer("num_attention_heads", 1, 1024)
    kinds = side.raw("layer_types")
    if kinds is None:
        kinds = [_FULL if i % 2 else _SLIDING for i in range(n_layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != n_layers
        or any(kind not in (_FULL, _SLIDING) for kind in kinds)
    ):
        raise side.error("layer_types", f"it must name {n_layers} layers {_FULL} or {_SLIDING}")
    # absent is the family's default, null is none
    default = 0 if "sliding_window" in side.values else 4096
    window = side.integer("sliding_window", 1, 1 << 20, default=default)
    if window == 0 or _SLIDING not in kinds:
        window, kinds = 0, []
    bias = side.boolean("attention_bias", False)
    return StackConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=side.key_heads(n_heads),
        d_head=_d_head(side, d_model),
        d_ffn=side.integer("intermediate_size", 1, 1 << 20),
        activation=side.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        norm_place=NormPlace.SANDWICH,
        embed_norm=False,
        final_norm=True,
        positions=Positions.ROTARY,
        max_positions=side.integer("max_position_embeddings", 1, 1 << 20, default=8192),
        window=window,
        embed_scale=d_model**0.5,
        attention_scale=_positive(side, "query_pre_attn_scalar", 256.0) ** -0.5,
        norm_eps=side.number("rms_norm_eps", default=1e-6),
        norm_kind=NormKind.RMS,
        ffn_gated=True,
        qkv_bias=bias,
        out_bias=bias,
        ffn_bias=False,
        d_rotary=2 * len(rotary.inv_freq),
        rotary_scale=rotary.scale,
        full_layers=tuple(i for i, kind in enumerate(kinds) if kind == _FULL),
        attention_softcap=_softcap(side, "attn_logit_softcapping", 50.0),
    )


def _pack(
    weights: Weights, model: ModelConfig, fields: Fields, dtype: str, rotary: Mapping[str, Rotary]
) -> dict[str, npt.NDArray[Any]]:
    d = model.d_model
    p = "model." if weights.has_prefix("model.") else ""
    packer = Packer(dtype)
    _pack_embeddings(packer, weights, model, fields, p)

    def linear(name: str, n_out: int, n_in: int, has_bias: bool) -> Linear:
        return Linear(
            weights.get(f"{p}{name}.weight", n_out, n_in),
            weights.get(f"{p}{name}.bias", n_out) if has_bias else None,
        )

    def norm(ours: str, theirs: str) -> None:
        packer.norm(ours, np.float32(1) + weights.get(f"{p}{theirs}.weight", d))

    for side in rotary:
        stack: StackConfig = getattr(model, side)
        d_attention, d_kv = stack.n_heads * stack.d_head, stack.n_kv_heads * stack.d_head

        def attention(
            name: str, stack: StackConfig = stack, d_attention: int = d_attention, d_kv: int = d_kv
        ) -> tuple[Linear, Linear, Linear, Linear]:
            q, k, v = (
                linear(f"{name}.{part}_proj", n, d, stack.qkv_bias)
                for part, n in (("q", d_attention), ("k", d_kv), ("v", d_kv))
            )
            return q, k, v, linear(f"{name}.o_proj", d, d_attention, stack.out_bias)

        packer.vector(f"{side}.rotary.inv_freq", rotary[side].inv_freq)
        for i in range(stack.n_layers):
            theirs, ours = f"{side}.layers.{i}", f"{side}.{i}"
            packer.self_attention(f"{ours}.self_attn", stack, *attention(f"{theirs}.self_attn"))
            blocks = [("self_attn", "self_attn"), ("ffn", "feedforward")]
            if side == "decoder":
                packer.cross_attention(
                    f"{ours}.cross_attn", stack, *attention(f"{theirs}.cross_attn")
                )
                blocks.append(("cross_attn", "cross_attn"))
            gate, up = (
                linear(f"{theirs}.mlp.{part}_proj", stack.d_ffn, d, False)
                for part in ("gate", "up")
            )
            packer.gated(f"{ours}.ffn.up", gate, up)
            down = linear(f"{theirs}.mlp.down_proj", d, stack.d_ffn, False)
            packer.linear(f"{ours}.ffn.down", down)
            for block, name in blocks:
                norm(f"{ours}.{block}.norm", f"{theirs}.pre_{name}_layernorm")
                norm(f"{ours}.{block}.post_norm", f"{theirs}.post_{name}_layernorm")
        norm(f"{side}.final_norm", f"{side}.norm")
    unused = [f"{p}{side}.embed_tokens.weight" for side in _SIDES]
    if not model.has_decoder:
        unused += [*weights.names(f"{p}decoder."), *weights.names("lm_head.")]
    weights.check_all_used(unused)
    return packer.tensors


def _pack_embeddings(
    packer: Packer, weights: Weights, model: ModelConfig, fields: Fields, prefix: str
) -> None:
    d = model.d_model
    source = weights.get(f"{prefix}encoder.embed_tokens.weight", model.source_vocab_size, d)
    if not model.has_decoder:
        packer.matrix("shared.embed", source)
        return
    name = f"{prefix}decoder.embed_tokens.weight"
    if name in weights or model.vocab_size != model.source_vocab_size:
        target = weights.get(name, model.vocab_size, d)
    else:
        target = source
    head = next((h for h in ("lm_head.out_proj.weight", "lm_head.weight") if h in weights), None)
    if head is None and not fields.boolean("tie_word_embeddings", True):
        head = "lm_head.out_proj.weight"  # is missing, and says so
    output = target if head is None else weights.get(head, model.vocab_size, d)
    packer.embeddings(source, target, output)
