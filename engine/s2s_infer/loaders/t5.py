"""The T5 family of Hugging Face: T5, T5 v1.1, Flan-T5, ByT5 (all model_type t5), mT5 and UMT5.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(2020).  Pre-norm layers with RMS norms and no biases; positions enter as a bias on the scores of
self-attention, by buckets of distance; scores are not scaled.  From v1.1 on the feed-forward block
is gated.  UMT5 has its own position biases in each layer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, StackConfig
from ..config_enums import NormKind, NormPlace, Positions
from ..formats.files import shown
from .assemble import assemble
from .checkpoint import Checkpoint
from .fields import ACTIVATIONS, Fields
from .packing import Linear, Packer
from .weights import Weights, open_weights

MAX_POSITIONS = 1 << 16
"""Relative positions have no limit of their own; this one only bounds what is reserved."""

_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}

_Array = npt.NDArray[np.float32]


def load(path: Path, config: dict[str, Any], dtype: str) -> Checkpoint:
    """Open a directory of the T5 family whose config.json is `config`.  Raises ModelError."""
    fields = Fields(config, path / "config.json")
    family = config.get("model_type") or "t5"
    model = _model_config(fields, per_layer=family == "umt5")
    tensors = _pack(open_weights(path), model, fields, dtype, _scales_output(fields, family))
    return assemble(fields, model, tensors, family=family, dtype=dtype, ids=_IDS)


def _scales_output(fields: Fields, family: str) -> bool:
    """Whether the decoder's output is multiplied by d_model ** -0.5 before the logits.

    Models with tied embeddings were trained so.  tie_word_embeddings says it even where the file
    has an output matrix of its own; what transformers 5 saves of a T5 says it in a key of its own,
    and ties always.  mT5 has an output matrix always, whatever its config says.
    """
    if family == "mt5":
        return False
    is_tied = fields.boolean("tie_word_embeddings", True)
    return fields.boolean("scale_decoder_outputs", is_tied) if family == "t5" else is_tied


def _model_config(fields: Fields, per_layer: bool) -> ModelConfig:
    if not fields.encodes_only:
        fields.refuse("is_encoder_decoder", True)
    fields.refuse("is_decoder", False)
    fields.refuse("quantization_config")
    d_model = fields.integer("d_model", 1, 1 << 16, alias="hidden_size")
    vocab_size = fields.integer("vocab_size", 1)
    n_layers = fields.integer("num_layers", 1, 256, alias="num_hidden_layers")
    n_heads = fields.integer("num_heads", 1, 1024, alias="num_attention_heads")
    gated, activation = _feed_forward(fields)

    def stack(n_layers: int) -> StackConfig:
        return StackConfig(
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=fields.integer("d_kv", 1, 4096, default=64),
            d_ffn=fields.integer("d_ff", 1, 1 << 20),
            activation=activation,
            norm_place=NormPlace.PRE,
            embed_norm=False,
            final_norm=True,
            positions=Positions.RELATIVE,
            max_positions=MAX_POSITIONS,
            window=0,
            embed_scale=1.0,
            attention_scale=1.0,
            norm_eps=fields.number("layer_norm_epsilon", default=1e-6),
            norm_kind=NormKind.RMS,
            ffn_gated=gated,
            qkv_bias=False,
            out_bias=False,
            ffn_bias=False,
            max_distance=fields.integer("relative_attention_max_distance", 2, 1 << 16, default=128),
            relative_per_layer=per_layer,
        )

    n_decoder_layers = fields.integer("num_decoder_layers", 1, 256, default=n_layers)
    return ModelConfig(
        vocab_size=vocab_size,
        source_vocab_size=vocab_size,
        d_model=d_model,
        output_bias=False,
        encoder=stack(n_layers),
        decoder=StackConfig.absent() if fields.encodes_only else stack(n_decoder_layers),
    )


def _feed_forward(fields: Fields) -> tuple[bool, Any]:
    """feed_forward_proj: an activation, or gated-ACTIVATION; gated-gelu means the tanh one.

    dense_act_fn and is_gated_act, which transformers derives and saves beside it, must agree.
    """
    choices: dict[str, tuple[bool, str]] = {name: (False, a) for name, a in ACTIVATIONS.items()}
    choices |= {f"gated-{name}": (True, a) for name, a in ACTIVATIONS.items()}
    choices["gated-gelu"] = (True, "gelu_tanh")
    gated, activation = fields.choice("feed_forward_proj", choices, "relu")
    contradiction = f"feed_forward_proj to {shown(fields.raw('feed_forward_proj'))}"
    if fields.boolean("is_gated_act", gated) != gated:
        raise fields.error("is_gated_act", contradiction)
    is_named = fields.raw("dense_act_fn") is not None
    if is_named and fields.choice("dense_act_fn", ACTIVATIONS, "") != activation:
        raise fields.error("dense_act_fn", contradiction)
    return gated, activation


def buckets(
    distances: npt.NDArray[np.int64], n_buckets: int, max_distance: int, two_sided: bool
) -> npt.NDArray[np.int64]:
    """The bucket of each distance, key position minus query position.

    Half of the buckets are for single distances, the others grow with the logarithm up to
    max_distance.  two_sided: half of the buckets are for keys after the query (encoder); else those
    count as distance 0.  In float32, as transformers computes it: that decides near a bound.
    """
    result = np.zeros_like(distances)
    if two_sided:
        n_buckets //= 2
        result += np.where(distances > 0, n_buckets, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    n_exact = n_buckets // 2
    with np.errstate(divide="ignore"):
        logarithm = np.log(distances.astype(np.float32) / np.float32(n_exact))
    share = logarithm / np.float32(math.log(max_distance / n_exact))
    far = n_exact + np.maximum(share * np.float32(n_buckets - n_exact), 0).astype(np.int64)
    return result + np.where(distances < n_exact, distances, np.minimum(far, n_buckets - 1))


def _pack(
    weights: Weights, model: ModelConfig, fields: Fields, dtype: str, scales_output: bool
) -> dict[str, npt.NDArray[Any]]:
    d = model.d_model
    n_buckets = fields.integer("relative_attention_num_buckets", 4, 1 << 16, default=32)
    packer = Packer(dtype)
    _pack_embeddings(packer, weights, model)

    def linear(name: str, n_out: int, n_in: int) -> Linear:
        return Linear(weights.get(f"{name}.weight", n_out, n_in), None)

    sides = [("encoder", model.encoder), ("decoder", model.decoder)]
    for side, stack in sides if model.has_decoder else sides[:1]:
        d_attention = stack.n_heads * stack.d_head

        def attention(name: str, n: int = d_attention) -> tuple[Linear, Linear, Linear, Linear]:
            q, k, v = (linear(f"{name}.{part}", n, d) for part in "qkv")
            return q, k, v, linear(f"{name}.o", d, n)

        def norm(ours: str, theirs: str) -> None:
            packer.norm(ours, weights.get(f"{theirs}.layer_norm.weight", d))

        if stack.max_distance <= n_buckets // (4 if side == "encoder" else 2):
            raise fields.error(
                "relative_attention_max_distance",
                f"with relative_attention_num_buckets = {n_buckets} it must be larger",
            )
        distances = np.arange(-stack.max_distance, stack.max_distance + 1)
        bucket = buckets(distances, n_buckets, stack.max_distance, side == "encoder")
        for i in range(stack.n_layers):
            theirs, ours = f"{side}.block.{i}.layer", f"{side}.{i}"
            if i == 0 or stack.relative_per_layer:
                bias = weights.get(
                    f"{theirs}.0.SelfAttention.relative_attention_bias.weight",
                    n_buckets,
                    stack.n_heads,
                )
                where = f"{ours}.self_attn" if stack.relative_per_layer else side
                packer.vector(f"{where}.relative_bias", bias[bucket].T)
            attn = attention(f"{theirs}.0.SelfAttention")
            packer.self_attention(f"{ours}.self_attn", stack, *attn)
            norm(f"{ours}.self_attn.norm", f"{theirs}.0")
            if side == "decoder":
                attn = attention(f"{theirs}.1.EncDecAttention")
                packer.cross_attention(f"{ours}.cross_attn", stack, *attn)
                norm(f"{ours}.cross_attn.norm", f"{theirs}.1")
            theirs = f"{theirs}.{1 if side == 'encoder' else 2}"
            inner = f"{theirs}.DenseReluDense"
            if stack.ffn_gated:
                gate, up = (linear(f"{inner}.{part}", stack.d_ffn, d) for part in ("wi_0", "wi_1"))
                packer.gated(f"{ours}.ffn.up", gate, up)
            else:
                packer.linear(f"{ours}.ffn.up", linear(f"{inner}.wi", stack.d_ffn, d))
            packer.linear(f"{ours}.ffn.down", linear(f"{inner}.wo", d, stack.d_ffn))
            norm(f"{ours}.ffn.norm", theirs)
        final = weights.get(f"{side}.final_layer_norm.weight", d)
        if side == "decoder" and scales_output:
            final = final * np.float32(d**-0.5)
        packer.norm(f"{side}.final_norm", final)
    unused = [*_EMBEDDINGS, *_UNUSED]
    if not model.has_decoder:
        unused += weights.names("decoder.")  # of the whole model's file
    weights.check_all_used(unused)
    return packer.tensors


_EMBEDDINGS = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
)
_UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""Of old files; transformers drops it too."""


def _pack_embeddings(packer: Packer, weights: Weights, model: ModelConfig) -> None:
    """Each use of the embeddings reads its own tensor where the file has one, else the shared."""
    shared, encoder, decoder, head = _EMBEDDINGS

    found: dict[str, _Array] = {}

    def find(*names: str) -> _Array:
        name = next((name for name in names if name in weights), shared)
        if name not in found:
            found[name] = weights.get(name, model.vocab_size, model.d_model)
        return found[name]

    source = find(encoder, shared, decoder, head)
    if not model.has_decoder:
        packer.matrix("shared.embed", source)
        return
    packer.embeddings(
        source,
        find(decoder, shared, encoder, head),
        find(head, shared, decoder, encoder),
    )
